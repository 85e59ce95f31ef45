"""The search for one group: what the search algorithms ask, put to arena and teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from masa.facts import Facts
from masa.skills import Group, SkillBank
from masa_training.bank_groups import climbs, part, with_part
from masa_training.environments import Task
from masa_training.evolution.config import EvolveConfig
from masa_training.evolution.playing import Arena, fingerprint
from masa_training.evolution.run_log import Answer, SearchLog
from masa_training.rollouts.episodes import reward_of
from masa_training.search import Event, Failure, Proposal, Situation, Trace, hill_climb, replay, tree_search
from masa_training.teacher import Asked, Seen, Teacher, TeacherError
from masa_training.teacher.protocol import words_of


@dataclass(frozen=True, slots=True)
class Told:
    """What happened in a search, for a person: which group, which node, what was decided."""

    group: str
    event: Event[Group]


@dataclass(frozen=True)
class GroupSearch:
    """The search for the group `key` of `bank`, whose other groups stay as they are; for `WHOLE` it has all skills.

    Attributes:
        train, val: tasks that the teacher sees, and tasks that decide; of all types where the search climbs.
    """

    config: EvolveConfig
    log: SearchLog
    arena: Arena
    teacher: Teacher
    bank: SkillBank
    key: str
    train: Sequence[Task]
    val: Sequence[Task]
    facts: Facts | None = None
    card: Any = None
    stop: Callable[[], str | None] = lambda: None
    told: Callable[[Told], None] = lambda told: None

    def run(self) -> Trace[Group]:
        """The trace; what is recorded of an earlier session is not asked or played again."""
        config, start = self.config, part(self.bank, self.key)
        recorded = self.log.recorded(self.key)
        propose, evaluate = replay(recorded, self._propose, self._evaluate)
        left = len(recorded)

        def observe(event: Event[Group]) -> None:
            nonlocal left
            if left:
                left -= 1
            else:
                self.log.search(self.key, event, self._played_as(event))
                self.told(Told(self.key, event))

        common: dict[str, Any] = {
            "propose": propose,
            "evaluate": evaluate,
            "accept": config.accept.acceptance(),
            "shown": config.shown,
            "stop": self.stop,
            "observe": observe,
        }
        if climbs(self.key):
            return hill_climb(start, rounds=config.most_rounds(self.key), patience=config.patience, **common)
        return tree_search(start, iterations=config.iterations, exploration=config.exploration, **common)

    def _played_as(self, event: Event[Group]) -> str | None:
        """The fingerprint of the bank of a new node, by which a reader of the record finds its episodes."""
        if not isinstance(event, Proposal) or event.candidate is None:
            return None
        return fingerprint(with_part(self.bank, self.key, event.candidate))

    def _evaluate(self, candidate: Group, first: int, count: int) -> list[float | None]:
        """Episode i is task i modulo their number, with as many seeds as that takes."""
        jobs = [(self.val[i % len(self.val)], i // len(self.val)) for i in range(first, first + count)]
        episodes = self.arena.play(with_part(self.bank, self.key, candidate), "val", jobs)
        return [reward_of(episode, self.config.penalty, self.config.score) for episode in episodes]

    def _propose(self, situation: Situation[Group]) -> Group | Failure:
        group = situation.node.candidate
        watched = [(self.train[i % len(self.train)], i // len(self.train)) for i in range(self.config.watched)]
        episodes = self.arena.play(with_part(self.bank, self.key, group), "train", watched)
        start = part(self.bank, self.key)
        asked = Asked(
            group=group,
            original=start,
            environment=self.config.environment,
            card=self.card or {},
            facts=self.facts,
            seen=tuple(Seen(task, episode) for (task, _), episode in zip(watched, episodes, strict=True)),
            best=tuple((node.candidate, node.mean or 0.0) for node in situation.best),
            refused=tuple(
                (node.candidate, node.decision.reason if node.decision else "") for node in situation.refused
            ),
            inert=_inert(situation),
            problems=situation.problems,
            words=max(1, int(self.config.growth * words_of(start))),
        )
        try:
            rewrite = self.teacher.rewrite(asked)
        except TeacherError as error:
            if error.tokens or error.dollars:  # what was spent counts, whatever came of it
                self._said(situation, note=str(error), tokens=error.tokens, dollars=error.dollars)
            return Failure(str(error))
        self._said(
            situation,
            source=rewrite.source,
            plan=rewrite.plan,
            note=rewrite.note,
            attribution=dict(rewrite.attribution),
            tokens=rewrite.tokens,
            dollars=rewrite.dollars,
        )
        return rewrite.group

    def _said(self, situation: Situation[Group], **said: Any) -> None:
        self.log.answer(self.key, Answer(round=situation.round, parent=situation.node.number, **said))


def _inert(situation: Situation[Group]) -> int:
    """How many of the newest nodes in a row were refused with no difference of the means at all."""
    newest = max(node.number for node in (situation.node, *situation.best, *situation.refused))
    count = 0
    for node in reversed(situation.refused):
        if node.number != newest - count or node.decision is None or node.decision.difference != 0:
            break
        count += 1
    return count
