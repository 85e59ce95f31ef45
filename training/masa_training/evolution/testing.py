"""The final comparison, on tasks that nothing was chosen by: played once, when the search is over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from masa.skills import SkillBank
from masa_training.environments import Task
from masa_training.evaluate.banks.config import NO_SKILL, Backbone, Trial, choose_tasks
from masa_training.evaluate.banks.report import report
from masa_training.evolution.config import EvolveConfig
from masa_training.evolution.playing import Arena
from masa_training.rollouts import Arm, Job

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
