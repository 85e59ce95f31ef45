"""Do the same edits to every skill of a bank, as the offline teacher does: for comparing banks by hand.

python scripts/edit_bank.py training/masa_training/configs/banks/household/moderate.json out.json steps
python scripts/edit_bank.py bank.json out.json "limit 1" shorten --environment lookup
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from masa.edits import EDITS, EditCall, apply_plan
from masa.errors import MasaError
from masa.files import write_atomic
from masa.formats import load_bank
from masa.formats.bank_json import dump_bank
from masa_training.bank_groups import WHOLE, part, with_part
from masa_training.environments import open_environment
from masa_training.teacher.operators import plan_of


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bank", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("edits", nargs="+", metavar="EDIT", help=f"of {', '.join(EDITS)}")
    parser.add_argument("--environment", default="household", help="whose facts the edits may use")
    given = parser.parse_args(arguments)
    calls = [EditCall(*text.split(" ", 1)) for text in given.edits]
    for call in calls:
        if call.name not in EDITS:
            parser.error(f"no edit is called {call.name!r}; there are {', '.join(EDITS)}")
    try:
        bank = load_bank(given.bank)
        world = open_environment(given.environment)
        facts = world.facts()
        world.close()
        whole = part(bank, WHOLE)
        plan = plan_of(whole, calls, facts)
        if plan is None:
            print(f"{given.bank}: these edits change nothing in it", file=sys.stderr)
            return 1
        write_atomic(given.output, dump_bank(with_part(bank, WHOLE, apply_plan(whole, plan, facts).group)))
    except MasaError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
