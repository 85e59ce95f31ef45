"""How often a rewriter that reads some skills of each kind chooses the edits that it chooses when it reads all.

    python benchmarks/kinds.py [BANK] [WEAKNESSES …]

Prints, per weakness, the share of skills for which both ways choose the same edits, and the processor seconds of each.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from masa import ModelCard, Rewriter, load_bank
from masa.kinds import rewrite_by_kind
from masa.provenance import RewriteResult

BANK = Path(__file__).parents[1] / "examples" / "banks" / "household.json"
WEAKNESSES = ("skips steps", "overlooks instructions", "applies rules where they do not hold")


def edits(result: RewriteResult) -> list[tuple[str, ...]]:
    structural = ("keep", "first")
    fates = (fate for group in result.groups for fate in group.fates)
    return [tuple(edit for edit in fate.edits if edit not in structural) for fate in fates]


def main() -> None:
    bank = load_bank(sys.argv[1] if len(sys.argv) > 1 else BANK)
    with Rewriter.load("smollm2-135m", cache=False) as rewriter:
        for words in sys.argv[2:] or WEAKNESSES:
            card = ModelCard(family="Sample", variant="1.5B", parameter_count="1.5B", weaknesses=words)
            begun = time.process_time()
            some = rewrite_by_kind(rewriter, bank, card, enough=0)
            between = time.process_time()
            whole = rewriter.rewrite(bank, card)
            seconds = (between - begun, time.process_time() - between)
            same = sum(one == other for one, other in zip(edits(some), edits(whole), strict=True))
            print(
                f"{words}: the same edits for {same} of {len(bank)} skills, {some.read} read;"
                f" {seconds[0]:.1f} s of processor time by kind, {seconds[1]:.1f} s for all",
                flush=True,
            )


if __name__ == "__main__":
    main()
