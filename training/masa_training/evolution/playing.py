"""Episodes of a search: played once each, kept, and never played again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from masa.codec import group_to_json
from masa.skills import SkillBank
from masa_training.agents import AgentConfig
from masa_training.environments import Split, Task
from masa_training.evolution.config import EvolveConfig
from masa_training.evolution.ledger import Ledger, Played
from masa_training.evolution.noise import FeedbackNoise
from masa_training.models import Model
from masa_training.rollouts import Arm, Episode, Job, WorkerSpec
from masa_training.rollouts.executors import Executor, InProcess
from masa_training.search import SearchStopped


class Arena:
    """Plays banks on tasks. What the folder has already is not played."""

    def __init__(
        self,
        config: EvolveConfig,
        folder: Ledger,
        *,
        model: Model | None = None,
        executor: Executor | None = None,
        stop: Callable[[], str | None] = lambda: None,
        progress: Callable[[Episode], None] = lambda episode: None,
    ) -> None:
        """`stop` gives a reason to stop here and now, or None; `model` is shared by all episodes of this process."""
        self._config = config
        self._folder = folder
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
        return [self._noise.told(played, self._folder.episodes[played]) for played in wanted]

    def _known(self, played: Played) -> bool:
        found = self._folder.episodes.get(played)
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
                self._folder.episode(played, kept, told=self._noise.told(played, kept).success if noisy else None)
                self._progress(episode)
        finally:
            self._folder.tick()
        if ended and any(played not in self._folder.episodes for played in left):
            raise SearchStopped(ended[0])


def fingerprint(bank: SkillBank | None) -> str:
    """A name for what an agent could be shown of a bank: the same skills have the same name."""
    if bank is None:
        return "no-skill"
    content = [group_to_json(group) for group in bank.groups()]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()[:16]
