"""The environment `lookup`: questions about an invented world, answered by searching short passages."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache

from masa.facts import ActionForm, Facts
from masa_training.environments.answer_matching import match
from masa_training.environments.lookup.kinds import BY_KEY, POOLS, YEARS
from masa_training.environments.lookup.names import LARGEST
from masa_training.environments.lookup.questions import (
    TASK_TYPES,
    Question,
    from_payload,
    make_questions,
    queries,
    route,
    tried,
)
from masa_training.environments.lookup.world import World, open_world
from masa_training.environments.protocol import Split, Step, Task
from masa_training.errors import TrainingError

SMALLEST = 40


class Lookup:
    """Question answering over a generated world of invented facts.

    `search QUERY` shows the best passages by BM25, `answer TEXT` ends the episode; it succeeds if the text equals the
    right answer after SQuAD's normalisation. `changed` is False when a search shows no passage that is new in the
    episode. The seed of an episode draws the wrong answers among the admissible actions and nothing else.
    """

    name = "lookup"
    description = "an archive of short passages about invented people, towns, companies and books"
    task_types = TASK_TYPES

    def __init__(self, *, seed: int = 0, size: int = 240, passages: int = 2, max_steps: int = 6) -> None:
        """A world of `size` entities a split, made from `seed`; a search shows at most `passages` passages.

        Raises:
            TrainingError: for an option out of its range.
        """
        _check("size", size, SMALLEST, LARGEST)
        _check("passages", passages, 1, 20)
        _check("max_steps", max_steps, 1, 1000)
        _check("seed", seed, 0, 2**63)
        self.max_steps = max_steps
        self._seed, self._size, self._passages = seed, size, passages
        self._episode: _Episode | None = None

    def tasks(self, split: Split) -> Sequence[Task]:
        """100 of each type where the world is large enough, the types taking turns."""
        return _tasks(self._seed, self._size, split)

    def facts(self) -> Facts:
        """The two actions, and the rules that follow from the options."""
        return Facts(
            environment=self.name,
            actions=(
                ActionForm(
                    "search {query}",
                    f"shows up to {self._passages} passages that share words with the query",
                    "search Mona Tilley profession",
                ),
                ActionForm("answer {text}", "gives the final answer and ends the episode", "answer weaver"),
            ),
            rules=(
                "Each passage states one fact about one entity.",
                "A search is by words: it finds what is spelt alike, and the same query finds the same passages.",
                "Several entities have similar names.",
                "The first answer counts; it must be the name, word or year alone, without a sentence around it.",
                f"An episode ends after {self.max_steps} actions.",
            ),
        )

    def reset(self, task: Task, seed: int) -> Step:
        """Begin with nothing read."""
        if task.payload.get("world") != [self._seed, self._size]:
            raise TrainingError(
                f"lookup: task {task.id} belongs to another world than seed {self._seed} and size {self._size}; "
                "take tasks from an environment with the same options"
            )
        world = open_world(self._seed, self._size, task.split)
        question = from_payload(task.type, task.goal, task.payload)
        rng = random.Random(f"{task.id} {seed}")
        self._episode = _Episode(world, question, make_fillers(question, world, rng), self._passages)
        return self._episode.begin()

    def step(self, action: str) -> Step:
        """Search or answer."""
        if self._episode is None:
            raise RuntimeError("step before reset")
        return self._episode.step(action)

    def solution(self, task: Task, seed: int) -> Sequence[str]:
        """Searches for every fact that is needed, one each, then the answer; all of them admissible."""
        question = from_payload(task.type, task.goal, task.payload)
        found = route(question, open_world(self._seed, self._size, task.split))
        return [*(f"search {query}" for query in found or ()), f"answer {question.answer}"]

    def uninformed_solution(self, task: Task, seed: int) -> Sequence[str]:
        """As one solves a task who does not know which of two words a passage uses: in the order they are listed.

        Where what is read on the way crowds out a needed search, the shortest solution.
        """
        question = from_payload(task.type, task.goal, task.payload)
        world = open_world(self._seed, self._size, task.split)
        actions = [
            *(f"search {query}" for query in tried(question, world, self._passages)),
            f"answer {question.answer}",
        ]
        episode = _Episode(world, question, (), self._passages)
        step = episode.begin()
        for action in actions:
            if action not in (step.admissible or ()):
                return self.solution(task, seed)
            step = episode.step(action)
        return actions

    def close(self) -> None:
        """Forget the episode."""
        self._episode = None


class _Episode:
    """What was read so far, and whether it has ended."""

    def __init__(self, world: World, question: Question, fillers: Sequence[str], count: int) -> None:
        self._world = world
        self._question = question
        self._fillers = fillers
        self._count = count
        self._read: list[int] = []
        self._done = False
        self._success = False

    def begin(self) -> Step:
        return self._answered("Nothing read yet.")

    def step(self, action: str) -> Step:
        if self._done:
            return self._answered("The episode has ended.", changed=False, valid=False)
        verb, _, rest = action.strip().partition(" ")
        text = " ".join(rest.split())
        if verb.lower() == "search" and text:
            return self._search(text)
        if verb.lower() == "answer" and text:
            self._done = True
            self._success = match(text, [self._question.answer]).exact == 1.0
            return self._answered("That is right." if self._success else "That is wrong.")
        return self._answered("Not understood. Use search QUERY or answer TEXT.", changed=False, valid=False)

    def _search(self, query: str) -> Step:
        found = self._world.search.best(query, self._count)
        if not found:
            return self._answered("Nothing found.", changed=False)
        changed = not set(found) <= set(self._read)
        self._read = [*found, *(number for number in self._read if number not in found)]
        texts = "\n".join(self._world.passages[number].text for number in found)
        return self._answered(texts if changed else f"Nothing new.\n{texts}", changed=changed)

    def _answered(self, observation: str, *, changed: bool = True, valid: bool = True) -> Step:
        admissible = () if self._done else choices(self._question, self._world, self._read, self._fillers)
        return Step(
            observation,
            reward=float(self._success),
            done=self._done,
            success=self._success,
            changed=changed,
            valid=valid,
            admissible=admissible,
        )


@lru_cache(maxsize=12)
def _tasks(seed: int, size: int, split: Split) -> tuple[Task, ...]:
    questions = make_questions(open_world(seed, size, split), random.Random(f"questions {seed} {size} {split}"))
    return tuple(
        Task(
            id=f"{split}-{number:03d}-{question.type}",
            type=question.type,
            goal=question.text,
            split=split,
            payload={"world": [seed, size], **question.payload()},
        )
        for number, question in enumerate(questions)
    )


def _check(option: str, value: int, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise TrainingError(f"lookup: {option} is {value!r}; give a whole number from {least} to {most}")


MOST_SEARCHES = 6
LEAST_ANSWERS, MOST_ANSWERS = 3, 4
_MOST_READ = 2


def choices(question: Question, world: World, read: Sequence[int], fillers: Sequence[str]) -> tuple[str, ...]:
    """Sensible searches, then plausible answers, each in an order that tells nothing.

    `read` has the numbers of the passages read so far, the last ones first. An answer is offered once it was read,
    beside `fillers`; for a comparison the two entities are offered from the start.
    """
    searches = sorted(_searches(question, world, read)[:MOST_SEARCHES])
    answers = sorted(_answers(question, world, read, fillers))
    return (*(f"search {query}" for query in searches), *(f"answer {text}" for text in answers))


def make_fillers(question: Question, world: World, rng: random.Random) -> tuple[str, ...]:
    """Wrong answers of the right kind: for a comparison, entities with similar names."""
    wrong = {question.answer, *question.entities}
    kind = BY_KEY[question.asked].value
    if question.type == "comparison":
        similar = [name for entity in question.entities for name in world.relatives[entity]]
        # A family may be one name short, so that others have to help out.
        pool: Sequence[str] = [*similar, *world.of_kind(BY_KEY[question.asked].kind)]
        return tuple(name for name in dict.fromkeys(pool) if name not in wrong)[: MOST_ANSWERS - 2]
    pool = [str(year) for year in YEARS] if kind == "year" else POOLS.get(kind) or world.of_kind(kind)
    drawn = rng.sample(pool, LEAST_ANSWERS + len(wrong))
    return tuple(text for text in drawn if text not in wrong)[:LEAST_ANSWERS]


def _searches(question: Question, world: World, read: Sequence[int]) -> list[str]:
    asked, entities = question.asked, question.entities
    if question.type == "comparison":
        first, second = (queries(entity, asked) for entity in entities)
        return [*first, *second, *entities]
    found = _entities(question, world, read)
    if not question.hop:
        return [*queries(entities[0], asked), entities[0], *found[:_MOST_READ]]
    onwards = [name for name in found if world.kinds[name] == BY_KEY[asked].kind][:_MOST_READ]
    ahead = [query for name in onwards for query in queries(name, asked)]
    # Asking for the last hop straight away is the mistake that this task type is about.
    return [*queries(entities[0], question.hop), *ahead, entities[0], queries(entities[0], asked)[0]]


def _entities(question: Question, world: World, read: Sequence[int]) -> list[str]:
    """Those that were read and that the question does not name, the last ones first."""
    passages = [world.passages[number] for number in read]
    names = dict.fromkeys(name for passage in passages for name in (passage.entity, passage.value))
    return [name for name in names if name in world.kinds and name not in question.entities]


def _answers(question: Question, world: World, read: Sequence[int], fillers: Sequence[str]) -> list[str]:
    if question.type == "comparison":
        return [*question.entities, *fillers]
    kind = BY_KEY[question.asked].value
    if kind in POOLS or kind == "year":
        passages = [world.passages[number] for number in read]
        seen = [passage.value for passage in passages if BY_KEY[passage.attribute].value == kind]
    else:
        seen = [name for name in _entities(question, world, read) if world.kinds[name] == kind]
    several = list(dict.fromkeys(seen))[:MOST_ANSWERS]
    others = [text for text in fillers if text not in several]
    return [*several, *others[: max(LEAST_ANSWERS - len(several), MOST_ANSWERS - len(several) - 1, 0)]]
