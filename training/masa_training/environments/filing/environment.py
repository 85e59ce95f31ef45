"""The environment `filing`: papers that come in, each dealt with by one or two commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from masa.facts import ActionForm, Facts
from masa_training.environments.changes import Record, share_right
from masa_training.environments.filing import conventions as ways
from masa_training.environments.filing.papers import TASK_TYPES, make_papers
from masa_training.environments.protocol import Split, Step, Task
from masa_training.errors import TrainingError

DRAWERS = (*ways.BILLS, *ways.LETTERS, *ways.RECEIPTS, ways.WARRANTIES)
PEOPLE = ("lena", "mira", "otto", "paul")
COLOURS = ("red", "blue", "green")
_FORMS = (
    ActionForm(
        "file {drawer} {name}", f"puts the paper into a drawer ({', '.join(DRAWERS)}) under a name", "file car x"
    ),
    ActionForm("pass {person}", f"gives the paper to who deals with it ({', '.join(PEOPLE)})", "pass lena"),
    ActionForm(
        "label {colour}", f"marks a paper with which something is left to do ({', '.join(COLOURS)})", "label red"
    ),
    ActionForm("discard", "throws a paper away that nobody wants", "discard"),
)
_USE = "; ".join(form.form for form in _FORMS)


class Filing:
    """Bills, letters, receipts, warranties, post and adverts, by commands written as text.

    What name, whom and which label: such conventions of the office stand in skills alone; the commands
    are told to every agent. An episode succeeds when exactly what the paper calls for is done; it ends then, or after
    as many commands that did something as it calls for. The reward is the share of values that are right, the command
    among them. The seed of an episode changes nothing.
    """

    name = "filing"
    description = "an office that deals with the papers that come in"
    max_steps = 4
    task_types = TASK_TYPES

    def __init__(self, *, seed: int = 0, difficulty: float = 0.15) -> None:
        """Papers made from `seed`.

        Args:
            difficulty: from 0 to 1, how often a bill, a letter or post needs a label, too.

        Raises:
            TrainingError: for an option out of its range.
        """
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise TrainingError(f"filing: seed is {seed!r}; give a whole number from 0")
        if isinstance(difficulty, bool) or not isinstance(difficulty, int | float) or not 0 <= difficulty <= 1:
            raise TrainingError(f"filing: difficulty is {difficulty!r}; give a number from 0 to 1")
        self._seed, self._difficulty = seed, float(difficulty)
        self._asked: list[Record] | None = None
        self._made: list[Record] = []
        self._done = False

    def tasks(self, split: Split) -> Sequence[Task]:
        """100 of each type, the types taking turns. Splits share no firm, person, subject or wording."""
        return _tasks(self._seed, self._difficulty, split)

    def facts(self) -> Facts:
        """The commands, and the rules of an episode."""
        return Facts(
            environment=self.name,
            actions=_FORMS,
            rules=(
                "What the paper calls for has to be done, and nothing else.",
                f"An episode ends after as many commands as the paper calls for, or after {self.max_steps} tries.",
            ),
        )

    def reset(self, task: Task, seed: int) -> Step:
        """Begin with the paper on the desk."""
        if "commands" not in task.payload:
            raise TrainingError(f"task {task.id}: is not one of filing; take tasks from the environment itself")
        found = [_read(command) for command in task.payload["commands"]]
        self._asked = [record for record in found if record is not None]
        self._made, self._done = [], False
        return Step("Nothing is done yet.")

    def step(self, action: str) -> Step:
        """One command."""
        if self._asked is None:
            raise RuntimeError("step before reset")
        if self._done:
            return self._answer("The episode has ended.", changed=False, valid=False)
        record = _read(action)
        if record is None:
            return self._answer(f"Not understood. Use {_USE}.", changed=False, valid=False)
        if record in self._made:
            return self._answer("That is so already.", changed=False)
        self._made.append(record)
        more = len(self._made) < len(self._asked)
        return self._answer("Done. More is to be done." if more else "Done.")

    def solution(self, task: Task, seed: int) -> Sequence[str]:
        """The commands that the paper calls for."""
        return list(task.payload["commands"])

    def close(self) -> None:
        """Forget the episode."""
        self._asked = None

    def _answer(self, observation: str, *, changed: bool = True, valid: bool = True) -> Step:
        assert self._asked is not None
        reward = share_right(self._asked, self._made)
        success = reward == 1
        self._done |= success or len(self._made) >= len(self._asked)
        return Step(observation, reward=reward, done=self._done, success=success, changed=changed, valid=valid)


def _read(action: str) -> Record | None:
    """A command as a change; None if it is not understood. Capital letters make no difference."""
    verb, *words = action.lower().split()[:20] or [""]
    values: Mapping[str, str]
    if verb == "discard" and not words:
        values = {}
    elif verb == "pass" and len(words) == 1 and words[0] in PEOPLE:
        values = {"person": words[0]}
    elif verb == "label" and len(words) == 1 and words[0] in COLOURS:
        values = {"colour": words[0]}
    elif verb == "file" and len(words) > 1 and words[0] in DRAWERS:
        values = {"drawer": words[0], "name": " ".join(words[1:])}
    else:
        return None
    return verb, {"command": verb, **values}


@lru_cache(maxsize=12)
def _tasks(seed: int, difficulty: float, split: Split) -> tuple[Task, ...]:
    return tuple(
        Task(f"{split}-{number:03d}-{paper.type}", paper.type, paper.text, split, {"commands": list(paper.commands)})
        for number, paper in enumerate(make_papers(seed, difficulty, split))
    )
