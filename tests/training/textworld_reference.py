"""Plays a game on TextWorld's own environment, as ALFWorld does, in a process where masa has replaced nothing.

python textworld_reference.py GAME ACTIONS: prints a JSON list of [feedback, won, admissible commands], the first for
the reset. Run by tests, which compare it with masa's engine.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(game: str, actions: str) -> None:
    """Both arguments are paths of JSON files."""
    import textworld
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler, AlfredInfos

    wanted = textworld.EnvInfos(won=True, admissible_commands=True, feedback=True)
    environment = textworld.start(game, wanted, wrappers=[AlfredDemangler(), AlfredInfos()])
    state = environment.reset()
    told = [[state.feedback, state["won"], state["admissible_commands"]]]
    for action in json.loads(Path(actions).read_text("utf-8")):
        state, _, _ = environment.step(action)
        told.append([state.feedback, state["won"], state["admissible_commands"]])
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
