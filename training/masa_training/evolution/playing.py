"""Episodes of a search, played once each and kept, and the final comparison on tasks that nothing was chosen by.

With feedback noise, search and teacher are told some outcomes wrongly, as by an environment whose judge errs. The
record keeps the truth, and beside it what was told; the final test is never told wrongly.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from masa.codec import group_to_json
from masa.skills import SkillBank
from masa_training.agents import AgentConfig
from masa_training.environments import Split, Task
from masa_training.evaluate.banks.config import NO_SKILL, Backbone, Trial, choose_tasks
from masa_training.evaluate.banks.report import report
from masa_training.evolution.config import EvolveConfig
from masa_training.evolution.run_log import Played, SearchLog
from masa_training.models import Model
from masa_training.rollouts import Arm, Episode, Job, WorkerSpec
from masa_training.rollouts.executors import Executor, InProcess
from masa_training.search import SearchStopped


@dataclass(frozen=True, slots=True)
class FeedbackNoise:
    """Every episode's outcome is told wrongly with this probability, each independently of all others.

    Which ones follows from the seed and the episode alone (bank, split, task and seed), whenever and wherever it is
    played. What is flipped at one probability is flipped at every higher one, so that runs differ by the level only.
    """

    probability: float
    seed: int

    def told(self, played: Played, episode: Episode) -> Episode:
        """The episode as search and teacher see it: its success and reward perhaps turned round."""
        if not self.concerns(played, episode) or self._draw(played) >= self.probability:
            return episode
        return replace(episode, success=not episode.success, reward=1 - episode.reward)

    def concerns(self, played: Played, episode: Episode) -> bool:
        """Whether the outcome may be told wrongly: not in the final test, and not where there is none."""
        return self.probability > 0 and played.split != "test" and episode.outcome == "finished"

    def _draw(self, played: Played) -> float:
        """A number from 0 to 1, below 1."""
        text = json.dumps([self.seed, *played], ensure_ascii=False)
        return int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8], "big") / 2**64


class Arena:
    """Plays banks on tasks. What the log has already is not played."""

    def __init__(
        self,
        config: EvolveConfig,
        log: SearchLog,
        *,
        model: Model | None = None,
        executor: Executor | None = None,
        stop: Callable[[], str | None] = lambda: None,
        progress: Callable[[Episode], None] = lambda episode: None,
    ) -> None:
        """`stop` gives a reason to stop here and now, or None; `model` is shared by all episodes of this process."""
        self._config = config
        self._log = log
        self._noise = FeedbackNoise(config.feedback_noise, config.noise_seed)
        self._executor = executor or InProcess(model)
        self._stop = stop
        self._progress = progress

    def play(self, bank: SkillBank | None, split: Split, jobs: Sequence[tuple[Task, int]]) -> list[Episode]:
        """The episodes of these tasks and seeds, in order, as they are told; missing ones are tried again by a run
        that goes on.

        Raises:
            SearchStopped: if there is a reason to stop before all are played; those that were are kept.
        """
        name = fingerprint(bank)
        wanted = [Played(name, split, task.id, seed) for task, seed in jobs]
        left = [played for played in wanted if not self._known(played)]
        if left:
            self._play(name, bank, split, left)
        return [self._noise.told(played, self._log.episodes[played]) for played in wanted]

    def _known(self, played: Played) -> bool:
        found = self._log.episodes.get(played)
        return found is not None and found.outcome == "finished"

    def _play(self, name: str, bank: SkillBank | None, split: Split, left: Sequence[Played]) -> None:
        reason = self._stop()
        if reason:
            raise SearchStopped(reason)
        config = self._config
        spec = WorkerSpec(
            environment=config.environment,
            options=config.options,
            split=split,
            model=config.backbone.spec,
            model_options=config.backbone.options,
            arms={name: Arm(name=name, bank=bank)},
            agent=AgentConfig(**config.agent),
            isolated=config.isolated,
            slots=config.slots,
        )
        jobs = [Job(name, played.task, played.seed) for played in left]
        ended: list[str] = []

        def cancel() -> bool:
            found = self._stop()
            if found and not ended:
                ended.append(found)
            return bool(ended)

        try:
            for episode in self._executor.run(spec, jobs, cancel=cancel):
                # The teacher reads turns of `train`; those of the other splits would only fill the disk.
                kept = episode if split == "train" else replace(episode, turns=())
                played = Played(name, split, episode.job.task, episode.job.seed)
                noisy = self._noise.concerns(played, kept)
                self._log.episode(played, kept, told=self._noise.told(played, kept).success if noisy else None)
                self._progress(episode)
        finally:
            self._log.tick()
        if ended and any(played not in self._log.episodes for played in left):
            raise SearchStopped(ended[0])


def fingerprint(bank: SkillBank | None) -> str:
    """A name for what an agent could be shown of a bank: the same skills have the same name."""
    if bank is None:
        return "no-skill"
    content = [group_to_json(group) for group in bank.groups()]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()[:16]


BASE, EVOLVED = "base", "evolved"


def final_test(
    config: EvolveConfig, arena: Arena, base: SkillBank, evolved: SkillBank, tasks: Sequence[Task]
) -> dict[str, Any]:
    """As `masa evaluate` reports it: the evolved bank and no skills against the bank that the search began with.

    Raises:
        SearchStopped: if the person stops it; what was played is kept.
    """
    backbone = Backbone(config.backbone.name, config.backbone.spec, config.backbone.options)
    banks = {BASE: base, NO_SKILL: None, EVOLVED: evolved}
    trial = Trial(
        environment=config.environment,
        arms=tuple(Arm(name=name, bank=bank) for name, bank in banks.items()),
        backbones=(backbone,),
        options=config.options,
        split="test",
        tasks=config.test_tasks,
        seeds=config.test_seeds,
        penalty=config.penalty,
        score=config.score,
        agent=config.agent_config(),
    )
    jobs = [(task, seed) for seed in range(config.test_seeds) for task in choose_tasks(tasks, config.test_tasks)]
    episodes = [
        replace(episode, job=Job(name, episode.job.task, episode.job.seed))
        for name, bank in banks.items()
        for episode in arena.play(bank, "test", jobs)
    ]
    return report(trial, {backbone.name: episodes}, complete=all(e.outcome == "finished" for e in episodes))
