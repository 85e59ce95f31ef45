"""The search for one group: what the search algorithms ask, put to arena and teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from masa.facts import Facts
from masa.languages import render_plan
from masa.skills import GENERAL, Group, SkillBank
from masa_training.environments import Task
from masa_training.evolution.config import EvolveConfig
from masa_training.evolution.ledger import Ledger
from masa_training.evolution.playing import Arena, fingerprint
from masa_training.rollouts.episodes import reward_of
from masa_training.search import (
    Event,
    Failure,
    Proposal,
    Situation,
    Trace,
    Verdict,
    hill_climb,
    replay,
    tree_search,
)
from masa_training.teacher import Asked, Seen, Teacher, TeacherError
from masa_training.teacher.protocol import words_of


@dataclass(frozen=True, slots=True)
class Told:
    """What happened in a search, for a person: which group, which node, what was decided."""

    group: str
    event: Event[Group]


@dataclass(frozen=True)
class GroupSearch:
    """The search for the group `key` of `bank`, whose other groups stay as they are.

    Attributes:
        train, val: tasks that the teacher sees, and tasks that decide; of all types for the general skills.
    """

    config: EvolveConfig
    folder: Ledger
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
        config, start = self.config, self.bank.group(self.key)
        recorded = list(self.folder.searches[self.key])
        propose, evaluate = replay(recorded, self._propose, self._evaluate)
        left = len(recorded)

        def observe(event: Event[Group]) -> None:
            nonlocal left
            if left:
                left -= 1
            else:
                self.folder.search(self.key, event, self._played_as(event))
                self.told(Told(self.key, event))

        common: dict[str, Any] = {
            "propose": propose,
            "evaluate": evaluate,
            "accept": config.accept.acceptance(),
            "shown": config.shown,
            "stop": self.stop,
            "observe": observe,
        }
        if self.key == GENERAL:
            return hill_climb(start, rounds=config.rounds, patience=config.patience, **common)
        return tree_search(start, iterations=config.iterations, exploration=config.exploration, **common)

    def _played_as(self, event: Event[Group]) -> str | None:
        """The fingerprint of the bank of a new node, by which a reader of the record finds its episodes."""
        if not isinstance(event, Proposal) or event.candidate is None:
            return None
        return fingerprint(self.bank.with_groups({self.key: event.candidate}))

    def _evaluate(self, candidate: Group, first: int, count: int) -> list[float | None]:
        """Episode i is task i modulo their number, with as many seeds as that takes."""
        jobs = [(self.val[i % len(self.val)], i // len(self.val)) for i in range(first, first + count)]
        episodes = self.arena.play(self.bank.with_groups({self.key: candidate}), "val", jobs)
        return [reward_of(episode, self.config.penalty) for episode in episodes]

    def _propose(self, situation: Situation[Group]) -> Group | Failure:
        group = situation.node.candidate
        watched = [(self.train[i % len(self.train)], i // len(self.train)) for i in range(self.config.watched)]
        episodes = self.arena.play(self.bank.with_groups({self.key: group}), "train", watched)
        start = self.bank.group(self.key)
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
                failed: dict[str, Any] = {"source": "group", "plan": None, "note": str(error), "attribution": {}}
                self._said(situation, {**failed, "tokens": error.tokens, "dollars": error.dollars})
            return Failure(str(error))
        self._said(
            situation,
            {
                "source": rewrite.source,
                "plan": render_plan(rewrite.plan) if rewrite.plan else None,
                "note": rewrite.note,
                "attribution": dict(rewrite.attribution),
                "tokens": rewrite.tokens,
                "dollars": rewrite.dollars,
            },
        )
        return rewrite.group

    def _said(self, situation: Situation[Group], values: dict[str, Any]) -> None:
        self.folder.rewrite(self.key, {"round": situation.round, "parent": situation.node.number, **values})


def _inert(situation: Situation[Group]) -> int:
    """How many of the newest nodes in a row were refused with no difference of the means at all."""
    newest = max(node.number for node in (situation.node, *situation.best, *situation.refused))
    count = 0
    for node in reversed(situation.refused):
        if node.number != newest - count or node.decision is None or node.decision.difference != 0:
            break
        count += 1
    return count


def nodes_of(key: str, trace: Trace[Group], rewrites: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The evaluated nodes of a search as data sets read them, parents before children."""
    accepted = {0} | {e.node for e in trace.events if isinstance(e, Verdict) and e.decision.verdict is True}
    rounds = {e.node: e.round for e in trace.events if isinstance(e, Proposal) and e.node is not None}
    said = {values["round"]: values for values in rewrites}
    found = []
    for node in trace.nodes:
        rewrite = said.get(rounds.get(node.number, 0), {})
        # A plan counts from the node's parent; one that began with the first group anew is that node's child.
        from_first = rewrite.get("source") == "original"
        parent = None if node.parent is None else f"{key}-{0 if from_first else node.parent}"
        found.append(
            {
                "id": f"{key}-{node.number}",
                "parent": parent,
                "skills": [
                    {
                        "skill_id": skill.skill_id,
                        "title": skill.title,
                        "principle": skill.principle,
                        "when_to_apply": skill.when_to_apply,
                    }
                    for skill in node.candidate.skills
                ],
                "plan": rewrite.get("plan"),
                "reward": node.mean,
                "episodes": len(node.known),
                "accepted": node.number in accepted,
            }
        )
    return found
