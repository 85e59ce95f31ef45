"""Playing episodes: as many side by side as the model takes at once, each in an environment object of its own."""

from __future__ import annotations

import contextlib
import random
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from masa.skills import SkillBank
from masa_training.agents import Agent, AgentConfig, Dialogue
from masa_training.environments import Environment, Split, Step, Task
from masa_training.environments.worker import EnvironmentLostError
from masa_training.errors import TrainingError
from masa_training.models import Model, ModelError, Reply, Request, Stream, stream_of
from masa_training.rollouts.episodes import Episode, Job, Turn

ATTEMPTS = 3
"""How often an episode is begun before it counts as missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """What is compared: a bank or none, the interface facts or not, or the random policy.

    Attributes:
        bank: the skills; None for none.
        facts: the agent is told the environment's action forms and rules, also where it would know them otherwise.
        random: actions are drawn from the admissible ones, and no model is asked.
    """

    name: str
    bank: SkillBank | None = None
    facts: bool = False
    random: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """All that is needed to play episodes, in this process or in another: it can be pickled.

    Attributes:
        environment, options: for `open_environment`; `isolated` puts every object in a process of its own.
        split: where the tasks of the jobs are from.
        model, model_options: for `open_model`; an empty model will do where all arms are random.
        arms: by name.
        slots: episodes side by side; 0 takes what the model says.
    """

    environment: str
    split: Split
    model: str
    arms: Mapping[str, Arm]
    options: Mapping[str, Any] = field(default_factory=dict)
    model_options: Mapping[str, Any] = field(default_factory=dict)
    agent: AgentConfig = field(default_factory=AgentConfig)
    isolated: bool = False
    slots: int = 0
    attempts: int = ATTEMPTS
    keep_turns: bool = True


class _Playing:
    """An episode that goes on."""

    def __init__(self, job: Job, task: Task, world: Environment, attempts: int, give_up: int) -> None:
        self.job = job
        self._give_up = give_up
        self.task = task
        self.world = world
        self.attempts = attempts
        self.began = time.monotonic()
        self.turns: list[Turn] = []
        self.model_seconds = self.environment_seconds = 0.0
        self.prompt_tokens = self.completion_tokens = self.cached_tokens = 0
        self.last: Step | None = None
        self.dialogue: Dialogue | None = None

    def begin(self, agent: Agent | None) -> None:
        self.last = self._timed(lambda: self.world.reset(self.task, self.job.seed))
        self.dialogue = agent.begin(self.task, self.last) if agent else None

    def request(self) -> Request:
        assert self.dialogue is not None
        return self.dialogue.request(seed_of(self.job, len(self.turns)))

    def random_action(self) -> str:
        assert self.last is not None
        if not self.last.admissible:
            raise TrainingError(f"task {self.task.id}: lists no admissible actions, so there is no random policy")
        return random.Random(seed_of(self.job, len(self.turns))).choice(self.last.admissible)

    def take(self, action: str, reply: Reply | None) -> None:
        step = self._timed(lambda: self.world.step(action))
        self.turns.append(Turn(action, step.observation, step.changed, step.valid))
        if reply is not None:
            self.prompt_tokens += reply.prompt_tokens
            self.completion_tokens += reply.completion_tokens
            self.cached_tokens += reply.cached_tokens
            assert self.dialogue is not None
            self.dialogue.answer(reply, action, step)
        self.last = step

    @property
    def over(self) -> bool:
        assert self.last is not None
        idle = self.turns[-self._give_up :] if self._give_up else []
        stuck = len(self.turns) >= self._give_up > 0 and not any(turn.changed for turn in idle)
        return self.last.done or len(self.turns) >= self.world.max_steps or stuck

    def episode(self, keep_turns: bool) -> Episode:
        assert self.last is not None
        return Episode(
            job=self.job,
            task_type=self.task.type,
            outcome="finished",
            success=self.last.success,
            reward=self.last.reward,
            steps=len(self.turns),
            unchanged=sum(not turn.changed for turn in self.turns),
            invalid=sum(not turn.valid for turn in self.turns),
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cached_tokens=self.cached_tokens,
            model_seconds=round(self.model_seconds, 4),
            environment_seconds=round(self.environment_seconds, 4),
            seconds=round(time.monotonic() - self.began, 4),
            skills=self.dialogue.skills if self.dialogue else (),
            attempts=self.attempts,
            turns=tuple(self.turns) if keep_turns else (),
        )

    def _timed(self, act: Callable[[], Step]) -> Step:
        began = time.monotonic()
        try:
            return act()
        finally:
            self.environment_seconds += time.monotonic() - began


class Player:
    """Plays jobs with one model and as many environment objects as it has slots. Not for several threads."""

    def __init__(
        self,
        spec: WorkerSpec,
        *,
        model: Model | None,
        make_environment: Callable[[], Environment],
    ) -> None:
        """`model` may be None where all arms are random."""
        self._spec = spec
        self._model = model
        self._make = make_environment
        self._free: list[Environment] = []
        first = self._world()
        self._free.append(first)
        self._tasks = {task.id: task for task in first.tasks(spec.split)}
        facts = first.facts()
        tools: Sequence[Mapping[str, Any]] = getattr(first, "tools", tuple)()
        self._agents: dict[str, Agent | None] = {
            name: None
            if arm.random
            else Agent(first.description, spec.agent, bank=arm.bank, facts=facts, always=arm.facts, tools=tools)
            for name, arm in spec.arms.items()
        }
        if model is None and any(self._agents.values()):
            raise TrainingError("no model is given, but not every arm is the random policy; name a backbone")
        self.slots = spec.slots or (model.concurrency if model else 8)

    def play(self, jobs: Iterable[Job], *, cancel: Callable[[], bool] = lambda: False) -> Iterator[Episode]:
        """The episodes as they end; after `cancel()` those under way are given up and not yielded.

        Raises:
            TrainingError: for a job that cannot be played at all: an unknown task or arm, a model that refuses it.
        """
        waiting = deque((job, 1) for job in jobs)
        active: dict[int, _Playing] = {}
        stream = stream_of(self._model) if self._model else None
        try:
            while (waiting or active) and not cancel():
                while waiting and len(active) < self.slots:
                    began = self._begin(*waiting.popleft(), waiting)
                    if isinstance(began, Episode):
                        yield began
                    elif began is not None:
                        active[id(began)] = began
                        _ask(stream, began)
                for playing, lost in self._step(stream, active):
                    if lost or playing.over:
                        del active[id(playing)]
                    if lost:
                        yield from self._again(playing.job, playing.task, playing.attempts, lost, waiting)
                    elif playing.over:
                        self._free.append(playing.world)
                        yield playing.episode(self._spec.keep_turns)
                    else:
                        _ask(stream, playing)
        finally:
            if stream:
                stream.close()
            self._free += [playing.world for playing in active.values()]

    def close(self) -> None:
        """Close the environments; the model is its owner's."""
        for world in self._free:
            world.close()
        self._free.clear()

    def _begin(self, job: Job, attempt: int, waiting: deque[tuple[Job, int]]) -> _Playing | Episode | None:
        task = self._tasks.get(job.task)
        if task is None:
            raise TrainingError(f"{self._spec.environment}: no task {job.task!r} in its {self._spec.split} split")
        if job.arm not in self._agents:
            raise TrainingError(f"no arm is called {job.arm!r}; there are {', '.join(self._agents)}")
        world = self._free.pop() if self._free else self._world()
        playing = _Playing(job, task, world, attempt, self._spec.agent.give_up)
        try:
            playing.begin(self._agents[job.arm])
        except EnvironmentLostError as error:
            _close(playing.world)
            return next(self._again(job, task, attempt, str(error), waiting), None)
        return playing

    def _step(self, stream: Stream | None, active: Mapping[int, _Playing]) -> Iterator[tuple[_Playing, str]]:
        """Those active episodes one step further that have a reply or need none, with the reason if one was lost."""
        asking = [playing for playing in active.values() if playing.dialogue is not None]
        replied: list[tuple[_Playing, Reply | ModelError | None]] = [
            (playing, None) for playing in active.values() if playing.dialogue is None
        ]
        if asking:
            assert stream is not None
            began = time.monotonic()
            replied += [(active[key], reply) for key, reply in stream.ready()]
            seconds = (time.monotonic() - began) / len(asking)
            for playing in asking:
                playing.model_seconds += seconds
        for playing, reply in replied:
            if isinstance(reply, ModelError):
                if not reply.retryable:
                    raise TrainingError(str(reply))
                self._free.append(playing.world)
                yield playing, str(reply)
                continue
            try:
                action = playing.dialogue.action(reply) if playing.dialogue and reply else playing.random_action()
                playing.take(action, reply)
            except EnvironmentLostError as error:
                _close(playing.world)
                yield playing, str(error)
                continue
            yield playing, ""

    def _again(
        self, job: Job, task: Task, attempt: int, reason: str, waiting: deque[tuple[Job, int]]
    ) -> Iterator[Episode]:
        """Try the job again later, or report it as missing."""
        if attempt < self._spec.attempts:
            waiting.append((job, attempt + 1))
            return
        yield Episode(job=job, task_type=task.type, outcome="missing", reason=reason, attempts=attempt)

    def _world(self) -> Environment:
        return self._make()


@contextlib.contextmanager
def opened(spec: WorkerSpec, model: Model | None = None) -> Iterator[Player]:
    """A player in this process, with the model of the spec or the one that is given, which then stays open.

    Raises:
        TrainingError: if the environment or the model cannot be opened.
    """
    from masa_training.environments import open_environment

    def make() -> Environment:
        if spec.isolated:
            from masa_training.environments.worker import in_worker

            return in_worker(spec.environment, spec.options)
        return open_environment(spec.environment, **spec.options)

    with contextlib.ExitStack() as stack:
        if model is None and spec.model:
            from masa_training.models import open_model

            model = open_model(spec.model, **spec.model_options)
            stack.callback(model.close)
        player = Player(spec, model=model, make_environment=make)
        stack.callback(player.close)
        yield player


def _ask(stream: Stream | None, playing: _Playing) -> None:
    if playing.dialogue is not None:
        assert stream is not None
        stream.put(id(playing), playing.request())


def seed_of(job: Job, step: int) -> int:
    """A seed for one step of an episode: the same in every process, and the same for all arms of a task."""
    return zlib.crc32(f"{job.task}/{job.seed}/{step}".encode())


def _close(world: Environment) -> None:
    """Of a world that was lost: it may not even close."""
    try:
        world.close()
    except (EnvironmentLostError, OSError):
        return
