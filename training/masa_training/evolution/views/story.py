"""What the events of a run tell, read without touching them: the run may be finished, killed or going on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from masa.errors import FormatError
from masa.files import parse_json, parse_yaml, read_bytes, read_text
from masa.skills import Group
from masa_training.bank_groups import climbs
from masa_training.errors import TrainingError
from masa_training.evolution.ledger import Played
from masa_training.evolution.run_folder import (
    CONFIG,
    EVENTS,
    SEARCHING,
    Spent,
    ended_by,
    episode_from_json,
    search_from_json,
)
from masa_training.rollouts import Episode
from masa_training.rollouts.episodes import Score, reward_of
from masa_training.search import State


@dataclass(slots=True)
class GroupStory:
    """The search for one group.

    Attributes:
        rewrites: by round what the teacher said; the last word counts.
        teacher: every answer of the teacher, also those of a round that was asked again after a kill.
        banks: by node the fingerprint of the bank that played for it; empty in old runs.
        finished: whether the search named its best node.
    """

    key: str
    state: State[Group] = field(default_factory=State)
    rewrites: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    teacher: list[Mapping[str, Any]] = field(default_factory=list)
    banks: dict[int, str] = field(default_factory=dict)
    finished: bool = False

    @property
    def kind(self) -> str:
        return "hill climbing" if climbs(self.key) else "tree search"


@dataclass(slots=True)
class Story:
    """A run as far as it got.

    Attributes:
        about: the event "run".
        settings: `config.yaml`; empty if it cannot be read.
        groups: in the order of the run, those not begun yet included where the run says that they will be.
        episodes: without their turns.
        test: the final comparison, as `trials.report.report` makes it; empty until it was played.
        events: how many there are.
        torn: whether the last line is not whole: written at this moment, or when the run was killed.
    """

    about: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    groups: dict[str, GroupStory] = field(default_factory=dict)
    episodes: dict[Played, Episode] = field(default_factory=dict)
    spent: Spent = field(default_factory=Spent)
    test: Mapping[str, Any] = field(default_factory=dict)
    events: int = 0
    torn: bool = False

    @property
    def penalty(self) -> float:
        """λ of the run's rewards."""
        return float(self.settings.get("penalty", 0.0))

    @property
    def score(self) -> Score:
        """What the run's rewards are made of."""
        return "reward" if self.settings.get("score") == "reward" else "success"

    def reward(self, episode: Episode) -> float | None:
        """R of an episode, as the run decides by it; None for a missing one."""
        return reward_of(episode, self.penalty, self.score)

    @property
    def finished(self) -> bool:
        return bool(self.test) and all(group.finished for group in self.groups.values())


def read_story(folder: Path) -> Story:
    """The story of the run in a folder. Nothing there is changed, so that another process may write meanwhile.

    Raises:
        TrainingError: if there is no run, or a line that is not the last one is damaged.
    """
    path = folder / EVENTS
    if not path.is_file():
        raise TrainingError(f"{folder}: no {EVENTS} in it, so it is no run; give the folder that masa evolve made")
    try:
        *lines, rest = read_bytes(path).split(b"\n")
    except FormatError as error:
        raise TrainingError(str(error)) from None
    story = Story(settings=_settings(folder / CONFIG), torn=bool(rest.strip()))
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            _take(story, parse_json(line.decode("utf-8", "replace")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"missing {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:120]
            raise TrainingError(
                f"{path}: line {number} is no event of masa evolve ({reason}); restore the file from a copy, or cut it "
                "off before that line"
            ) from None
        story.events += 1
    return story


def _take(story: Story, event: dict[str, Any]) -> None:
    kind = event["event"]
    if kind == "run":
        story.about = event
        for key in event.get("groups", ()):
            _group(story, key)
    elif kind == "episode":
        event["turns"] = ()
        played, episode = episode_from_json(event)
        story.spent.add_episode(played.split, episode, story.episodes.get(played))
        story.episodes[played] = episode
    elif kind in SEARCHING:
        key, found, bank = search_from_json(event)
        group = _group(story, key)
        group.state.add(found)
        if bank is not None:
            group.banks[len(group.state.nodes) - 1] = str(bank)
    elif kind == "rewrite":
        group = _group(story, event["group"])
        group.rewrites[int(event["round"])] = event
        group.teacher.append(event)
        story.spent.add_rewrite(event)
    elif kind == "spent":
        story.spent.add_time(event)
    elif (search := ended_by(event)) is not None:
        _group(story, search[0]).finished = True
    elif kind == "test":
        story.test = event


def _group(story: Story, key: str) -> GroupStory:
    if not isinstance(key, str):
        raise TypeError(f"found {key!r} where the name of a group belongs")
    return story.groups.setdefault(key, GroupStory(key))


def _settings(path: Path) -> dict[str, Any]:

    try:
        values = parse_yaml(read_text(path))
    except (FormatError, OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
