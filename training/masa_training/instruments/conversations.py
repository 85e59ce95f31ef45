"""Conversations of an instrument in token ids: what it is shown, and what it chooses among the admissible actions.

They are rendered by the very agent that plays episodes later, and tokenized by the very chat format, so that an
instrument reads when it plays what it read when it learned.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from masa.skills import SkillBank
from masa_training.agents import Agent, AgentConfig
from masa_training.encoding import Encoded
from masa_training.environments import Environment, Split, Task, open_environment
from masa_training.errors import TrainingError
from masa_training.instruments.banks import MIXTURES, Wordings, open_wordings
from masa_training.instruments.behaviour import Acted, acting, lapsing, walkthrough
from masa_training.instruments.config import InstrumentConfig, World
from masa_training.instruments.wording import Wording, trust
from masa_training.models import Reply, Request
from masa_training.models.chat import ChatFormat
from masa_training.models.choice import plan

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
