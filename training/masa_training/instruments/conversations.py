"""Conversations of an instrument in token ids: what it is shown, and what it chooses among the admissible actions.

It acts well where it trusts the skills it was shown, and lapses where it does not. Conversations are rendered by the
agent that plays episodes later, and tokenized by its chat format, so that an instrument reads what it learned from.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from masa.edits import EDITS
from masa.formats import load_bank
from masa.skills import Skill, SkillBank
from masa_training.agents import Agent, AgentConfig
from masa_training.encoding import Encoded
from masa_training.environments import Environment, Split, Step, Task, open_environment
from masa_training.errors import TrainingError
from masa_training.instruments.config import BANKS, InstrumentConfig, Wording, World, trust, wording_of
from masa_training.models import Reply, Request
from masa_training.models.chat import ChatFormat
from masa_training.models.choice import plan

MIXTURES = ("none", "disliked", "liked", "plain", "none", "disliked", "liked", "mixed")
"""What a prompt shows, each as often as it is named here."""

_FEW = 0.75
_REWORDINGS = ("shorten", "steps", "condition-action")


class Wordings:
    """Every skill of an environment's banks in all the wordings there are of it."""

    def __init__(self, banks: Sequence[SkillBank]) -> None:
        """`banks` say the same under the same ids; deterministic edits of their skills add more wordings."""
        self._bank = banks[0]
        self._texts: dict[str, dict[Wording, list[Skill]]] = defaultdict(lambda: defaultdict(list))
        for bank in banks:
            for group in bank.groups():
                for skill in group.skills:
                    reworded = (EDITS[name].apply(skill) for name in _REWORDINGS)
                    for text in dict.fromkeys((skill, *reworded)):
                        self._texts[skill.skill_id][wording_of(text)].append(text)

    def bank(self, task_type: str, mixture: Mapping[Wording, float], rng: random.Random) -> SkillBank:
        """A bank of some general skills and some of one task type; `mixture` weighs the wordings."""
        specific = self._bank.task_specific.get(task_type, ())
        general = self._some(self._bank.general, mixture, rng)
        return SkillBank(general, {task_type: self._some(specific, mixture, rng)} if specific else {})

    def _some(self, skills: Sequence[Skill], mixture: Mapping[Wording, float], rng: random.Random) -> tuple[Skill, ...]:
        few = rng.random() < _FEW  # whom to trust shows in a few skills as well, for a fraction of the tokens
        count = rng.randint(1, min(3, len(skills))) if few else rng.randint(max(1, len(skills) // 2), len(skills))
        drawn = rng.sample(list(skills), count)
        return tuple(self._worded(skill, mixture, rng) for skill in drawn)

    def _worded(self, skill: Skill, mixture: Mapping[Wording, float], rng: random.Random) -> Skill:
        texts = {wording: its for wording, its in self._texts[skill.skill_id].items() if mixture.get(wording)}
        if not texts:
            return skill
        wording = rng.choices(list(texts), [mixture[wording] for wording in texts])[0]
        return rng.choice(texts[wording])


def open_wordings(environment: str, folder: Path = BANKS) -> Wordings:
    """The banks that ship for an environment.

    Raises:
        TrainingError: if there are none.
    """
    paths = sorted((folder / environment).glob("*.json"))
    if not paths:
        raise TrainingError(f"{folder / environment}: no skill banks for the environment {environment!r} are there")
    return Wordings([load_bank(path) for path in paths])


MOST_LAPSES = 3
"""Lapses in a row after which an episode teaches nothing new."""


@dataclass(frozen=True, slots=True)
class Acted:
    """One turn: what was admissible, and what was taken of it."""

    action: str
    before: Step
    after: Step


def acting(environment: Environment, task: Task, seed: int, actions: Sequence[str]) -> Iterator[Acted]:
    """Take actions from a clean state, until they or the episode end.

    Raises:
        TrainingError: if one is not admissible, which an agent that chooses could not take.
    """
    step = environment.reset(task, seed)
    for action in actions[: environment.max_steps]:
        if step.done:
            return
        if step.admissible is None or action not in step.admissible:
            raise TrainingError(f"task {task.id}: {action!r} is not among the admissible actions")
        after = environment.step(action)
        yield Acted(action, step, after)
        step = after


def lapsing(environment: Environment, task: Task, seed: int, world: World, rng: random.Random) -> Iterator[Acted]:
    """The same kind of useless action again and again.

    Raises:
        TrainingError: if no admissible action begins as a lapse does.
    """
    step = environment.reset(task, seed)
    for _ in range(min(MOST_LAPSES, environment.max_steps)):
        if step.done:
            return
        lapses = [action for action in step.admissible or () if action.split()[0] == world.lapse]
        if not lapses:
            raise TrainingError(f"task {task.id}: no admissible action begins with {world.lapse!r}")
        action = rng.choice(lapses)
        after = environment.step(action)
        yield Acted(action, step, after)
        step = after


def walkthrough(environment: Environment, task: Task, seed: int, *, detours: bool) -> list[str]:
    """Actions that solve a task; with `detours` as one finds them who does not know where things are.

    A solver goes straight to the place of the object. One who cannot know looks into the places in the order in which
    they are listed, and takes the object as soon as it is seen. An environment that is no household says itself how
    (`uninformed_solution`).

    Raises:
        TrainingError: if the environment knows no solutions.
    """
    solve = getattr(environment, "solution", None)
    if solve is None:
        raise TrainingError(f"{environment.name}: knows no solutions, so nothing can be learned from them")
    if not detours:
        return list(solve(task, seed))
    if hasattr(environment, "uninformed_solution"):
        return list(environment.uninformed_solution(task, seed))
    solution = list(solve(task, seed))
    step = environment.reset(task, seed)
    wanted = next((" ".join(action.split()[1:2]) for action in solution if action.startswith("take ")), "")
    before: list[str] = []
    for place in [action for action in step.admissible or () if action.startswith("go to ")]:
        if place == solution[0]:
            break
        step = environment.step(place)
        before.append(place)
        opening = "open " + place.removeprefix("go to ")
        if opening in (step.admissible or ()):
            step = environment.step(opening)
            before.append(opening)
        if any(action.startswith(f"take {wanted} ") for action in step.admissible or ()):
            return solution  # the object is here too: a detour would teach to pass it by
    opened = {action for action in before if action.startswith("open ")}
    return [*before, *(action for action in solution if action not in opened)]


AGENT = AgentConfig(choose=True)
"""Instruments choose among the admissible actions."""


def conversations(
    config: InstrumentConfig,
    chat: ChatFormat,
    split: Split,
    *,
    open_world: Callable[..., Environment] = open_environment,
    wordings: Callable[[str], Wordings] = open_wordings,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Iterator[Encoded]:
    """All conversations of a split, `train` or `val`, a family of `episodes` and `glances` for every prompt.

    Raises:
        TrainingError: if an environment has no skills here or no solutions, or a task type is not among its needs.
    """
    prompts = {
        name: (world.prompts or config.prompts) if split == "train" else config.held_out
        for name, world in config.worlds.items()
    }
    shown = 0
    for name, world in config.worlds.items():
        environment = open_world(name, **world.options)
        try:
            missing = set(environment.task_types) - set(world.needs)
            if missing:
                raise TrainingError(f"{config.name}: needs of {name} lack the task type {min(missing)!r}; add it")
            known = wordings(name)
            by_type: dict[str, list[Task]] = defaultdict(list)
            for task in environment.tasks(split):
                by_type[task.type].append(task)
            for number in range(prompts[name]):
                rng = random.Random(f"{config.seed}/{name}/{split}/{number}")
                kind = environment.task_types[number % len(environment.task_types)]
                tasks = rng.sample(by_type[kind], min(config.episodes + config.glances, len(by_type[kind])))
                mixture = MIXTURES[number // len(environment.task_types) % len(MIXTURES)]
                bank = _bank(mixture, config, kind, known, rng)
                for place, task in enumerate(tasks):
                    acted = _acted(config, world, environment, bank, task, rng)
                    learned = acted if place < config.episodes else acted[:1]
                    yield _encoded(f"{name}-{number}-{task.id}", environment, bank, task, learned, chat)
                shown += 1
                progress(shown, sum(prompts.values()))
        finally:
            environment.close()


def _bank(mixture: str, config: InstrumentConfig, kind: str, known: Wordings, rng: random.Random) -> SkillBank | None:
    if mixture == "none":
        return None
    weights: dict[str, dict[Wording, float]] = {
        "liked": {config.likes: 1.0},
        "disliked": {config.dislikes: 1.0},
        "plain": {"plain": 1.0},
        "mixed": {"terse": rng.random(), "stepwise": rng.random(), "plain": rng.random()},
    }
    return known.bank(kind, weights[mixture], rng)


def _acted(
    config: InstrumentConfig,
    world: World,
    environment: Environment,
    bank: SkillBank | None,
    task: Task,
    rng: random.Random,
) -> list[Acted]:
    shown = Agent(environment.description, AGENT, bank=bank).skills_for(task)
    skills = (*shown.general, *shown.specific) if shown else ()
    if trust(skills, config.likes, config.dislikes) < world.needs[task.type]:
        return list(lapsing(environment, task, 0, world, rng))
    return list(acting(environment, task, 0, walkthrough(environment, task, 0, detours=world.detours)))


def _encoded(
    id_: str, environment: Environment, bank: SkillBank | None, task: Task, acted: Sequence[Acted], chat: ChatFormat
) -> Encoded:
    """The conversation, of which the chosen actions are learned among those that were admissible.

    Raises:
        TrainingError: if the chat format writes a conversation otherwise once it has grown.
    """
    dialogue = Agent(environment.description, AGENT, bank=bank).begin(task, acted[0].before)
    asked: list[tuple[Request, Acted]] = []
    for turn in acted:
        asked.append((dialogue.request(0), turn))
        dialogue.answer(Reply(turn.action, 0, 0, 0, 0.0), turn.action, turn.after)
    prompts = [chat.encode(request.messages) for request, _ in asked]
    first, last = prompts[0], prompts[-1]
    whole = (*last.tokens, *chat.answer(acted[-1].action), chat.ends[0])
    learned: list[int] = []
    admitted: list[tuple[int, ...]] = []
    for prompt, (request, turn) in zip(prompts, asked, strict=True):
        begin = len(prompt.tokens)
        answer = (*chat.answer(turn.action), chat.ends[0])
        if whole[:begin] != prompt.tokens or whole[begin : begin + len(answer)] != answer:
            raise TrainingError(f"{id_}: the chat format writes earlier turns otherwise once a conversation grows")
        learned += range(begin - len(first.tokens), begin - len(first.tokens) + len(answer))
        admitted += _admitted(request.candidates or (turn.action,), turn.action, chat)
    return Encoded(
        id=id_,
        prompt=first.tokens,
        fork=first.borders[0],
        target=whole[len(first.tokens) :],
        admitted=tuple(admitted),
        learned=tuple(learned),
    )


def _admitted(candidates: Sequence[str], chosen: str, chat: ChatFormat) -> list[tuple[int, ...]]:
    """For each token of the chosen action, and its end, those that lead to any candidate."""
    choice = plan([chat.answer(text) for text in candidates], chat.ends[0], "total")
    return [choice.options[node] for node, _ in choice.moves[candidates.index(chosen)]]
