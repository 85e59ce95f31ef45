"""The downstream study: what a rewritten bank is worth to the backbone that it was rewritten for.

For every reader (a backbone with its card, and the run of `masa evolve` that searched for it or just a bank) the same
tasks are played without skills, with the bank that the search began with, with what it found and parts of that, with
the banks of other readers, and with what each rewriter makes of the first bank: told the right card, each other
reader's card, or none. Where a reader has several cards, an arm has a bank for each and its success is their mean.
Banks with the same skills are played once.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

from pydantic import Field

from masa.cards import FIELDS, ModelCard
from masa.errors import CardError, MasaError
from masa.formats import load_bank
from masa.provenance import RewriteResult, SkillStatus
from masa.rewriter import Rewriter
from masa.skills import GENERAL, SkillBank
from masa_training.agents import AgentConfig
from masa_training.bank_groups import WHOLE, with_part
from masa_training.environments import Split, open_environment
from masa_training.errors import TrainingError
from masa_training.evaluate.banks.config import BANKS, Backbone, Trial
from masa_training.evaluate.banks.running import Progress, file_name, run, tasks_of
from masa_training.evolution.config import card_fields
from masa_training.evolution.playing import fingerprint
from masa_training.evolution.run_log import read_run
from masa_training.models.keys import check_keyless
from masa_training.rollouts import Arm, Episode
from masa_training.rollouts.executors import Cancel, Executor
from masa_training.settings import Count, make, nearest, overridden, read_yaml, settings
from masa_training.studies.granularity import comparison


@settings
class ReaderConfig:
    """A backbone, its card (fields or a file), and the folder of the run that searched for it, or a bank.

    Attributes:
        run: a finished run of `masa evolve`: the bank that it began with, and what it found.
        bank: a bank file, or a shipped one (`household/prose`), where nothing was searched.
        weaknesses: wordings of what the reader is bad at; each makes a card of its own, the card with these words in
            place of its weaknesses. Success with "the card" is then the mean over these.
        wrong: names of the readers whose cards are wrong for this one; empty for all with other cards.
    """

    name: str
    spec: str
    card: Mapping[str, Any] | str
    run: str = ""
    bank: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    weaknesses: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_keyless(self.spec, self.options, f"reader {self.name}")
        if bool(self.run) == bool(self.bank):
            raise TrainingError(f"reader {self.name}: it needs run (a folder of masa evolve) or bank, one of the two")
        if not isinstance(self.card, str):
            if unknown := [key for key in self.card if key not in FIELDS]:
                hint = nearest(unknown[0], list(FIELDS), "its fields")
                raise TrainingError(f"reader {self.name}: card has no field {unknown[0]!r}; {hint}")
            try:
                ModelCard(**self.card)
            except CardError as error:
                raise TrainingError(f"reader {self.name}: card: {error}; correct it") from None


@settings
class DownstreamConfig:
    """A study. `rewriters` are artifacts by the name that the report gives them; paths begin at the study's file."""

    name: str
    environment: str
    readers: Annotated[tuple[ReaderConfig, ...], Field(min_length=1)]
    rewriters: Mapping[str, str]
    options: Mapping[str, Any] = field(default_factory=dict)
    agent: Mapping[str, Any] = field(default_factory=dict)
    split: Split = "test"
    tasks: Count = 100
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        make(AgentConfig, dict(self.agent), "agent")
        names = [reader.name for reader in self.readers]
        folders = [folder_name(name) for name in names]
        if doubled := [name for name, its in zip(names, folders, strict=True) if folders.count(its) > 1]:
            raise TrainingError(f"two readers are called {doubled[0]!r}, or have one folder; give them different names")
        for reader in self.readers:
            if unknown := sorted(set(reader.wrong) - set(names)):
                raise TrainingError(f"reader {reader.name}: wrong names {unknown[0]!r}, which is not a reader")


def load_downstream(path: str, overrides: Sequence[str] = ()) -> tuple[DownstreamConfig, Path]:
    """The study in a YAML file, with `key=value` overrides, and the folder that its paths start at.

    Raises:
        TrainingError: for a missing file, an unknown key, a value that does not fit, or readers of one name.
    """
    where = Path(path)
    return make(DownstreamConfig, overridden(read_yaml(where), overrides), path), where.parent


def folder_name(text: str) -> str:
    """A reader's name as that of a folder, as a trial calls the folder of a backbone."""
    return file_name(text) or "reader"


NO_SKILL, START, FACTS, ONE_SHOT = "no skills", "start", "facts only", "one-shot"
GENERAL_ONLY, TREES_ONLY, EVOLVED = "general search only", "task-specific search only", "evolved"
LEVEL = 0.95
_Cards = Sequence[Mapping[str, Any]]
"""The cards of a reader."""
_CHANGED: tuple[SkillStatus, ...] = ("rewritten", "edited", "merged")


@dataclass(frozen=True, slots=True)
class ReaderArms:
    """What a reader plays: by arm its banks (None is no skills), and what each rewrite did.

    Attributes:
        banks: one, or one for each card that a rewriter was told.
        rewrites: by arm the share of skills that were changed, of groups that the guard sent back, and the seconds
            that writing took (for what comes from the cache, those of the first time). Means over the cards.
        search: the episodes and minutes of the search for this reader; empty where there was none.
    """

    reader: ReaderConfig
    banks: Mapping[str, Sequence[SkillBank | None]]
    rewrites: Mapping[str, Mapping[str, float]]
    search: Mapping[str, float] = field(default_factory=dict)


def searched_banks(folder: Path) -> dict[str, SkillBank]:
    """The banks of a finished run of `masa evolve`: where it began, what it found, and parts of that.

    "one-shot" has the teacher's first rewrite of every group, unjudged.

    Raises:
        TrainingError: if there is no run, or it is not finished.
        FormatError: if its bank cannot be read.
    """
    searches = read_run(folder).searches
    if not searches or not all(search.finished for search in searches.values()):
        raise TrainingError(f"{folder}: the run is not finished; go on with masa evolve … --resume")
    evolved = start = load_bank(folder / "banks" / "evolved.json")
    # Backwards: what was searched first has the last word on where the run began.
    for key, group in reversed(searches.items()):
        start = with_part(start, key, group.state.nodes[0].candidate)
    first = start
    keys = [WHOLE] if WHOLE in searches else list(searches)
    for key in keys:
        nodes = searches[key].state.nodes
        first = with_part(first, key, nodes[min(1, len(nodes) - 1)].candidate)
    general = evolved.group(GENERAL)
    return {
        START: start,
        ONE_SHOT: first,
        GENERAL_ONLY: start.with_groups({GENERAL: general}),
        TREES_ONLY: evolved.with_groups({GENERAL: start.group(GENERAL)}),
        EVOLVED: evolved,
    }


def arms_of(
    config: DownstreamConfig,
    folder: Path,
    *,
    told: Callable[[str], None] = lambda text: None,
    cancel: Cancel = lambda: False,
) -> list[ReaderArms]:
    """Every reader's arms; the rewriters write here, and what they wrote before comes from the user's cache.

    Raises:
        TrainingError, MasaError: if a run, a card or a rewriter cannot be read, or there are no tasks to play; that is
            told before anything is written.
    """
    cards = {reader.name: _cards(reader, folder) for reader in config.readers}
    searched = {reader.name: _banks(reader, folder) for reader in config.readers}
    banks: dict[str, dict[str, Sequence[SkillBank | None]]] = {}
    for reader in config.readers:
        mine = searched[reader.name]
        others = {
            f"evolved for {other.name}": searched[other.name][EVOLVED]
            for other in config.readers
            if cards[other.name] != cards[reader.name] and EVOLVED in searched[other.name]
        }
        fixed: dict[str, SkillBank | None] = {NO_SKILL: None, FACTS: mine[START], **mine, **others}
        banks[reader.name] = {arm: (bank,) for arm, bank in fixed.items()}
    tasks_of(_trial(config, config.readers[0], Arm(name=NO_SKILL)))
    world = open_environment(config.environment, **config.options)
    try:
        facts, description = world.facts(), world.description
    finally:
        world.close()
    rewrites: dict[str, dict[str, Mapping[str, float]]] = defaultdict(dict)
    for name, artifact in config.rewriters.items():
        path = folder / artifact
        with Rewriter.load(path if path.is_dir() else artifact) as rewriter:
            for reader in config.readers:
                start = searched[reader.name][START]
                for kind, some in _told_cards(reader, config.readers, cards).items():
                    told(f"{name} writes for {reader.name}: {kind}")
                    arm, results = f"{name}, {kind}", []
                    for card in some:
                        result = rewriter.rewrite(
                            start, ModelCard(**card), environment=description, facts=facts, cancel=cancel
                        )
                        if result.cancelled:
                            raise KeyboardInterrupt
                        results.append(result)
                    banks[reader.name][arm] = tuple(result.bank for result in results)
                    rewrites[reader.name][arm] = _did(results)
    return [
        ReaderArms(reader, banks[reader.name], rewrites[reader.name], _search(reader, folder))
        for reader in config.readers
    ]


def _did(results: Sequence[RewriteResult]) -> dict[str, float]:
    """What the rewrites of one arm did, in the mean."""
    changed = [
        sum(result.count(s) for s in _CHANGED) / max(1, sum(len(g.source) for g in result.groups)) for result in results
    ]
    back = [sum(g.status == "fell back" for g in result.groups) / len(result.groups) for result in results]
    seconds = [sum(g.seconds for g in result.groups) for result in results]
    return {"rewritten": fmean(changed), "groups_sent_back": fmean(back), "seconds": fmean(seconds)}


def play(
    config: DownstreamConfig,
    arms: Sequence[ReaderArms],
    folder: Path,
    executor: Executor,
    *,
    progress: Callable[[str, Progress], None] = lambda arm, at: None,
    cancel: Cancel = lambda: False,
) -> dict[str, dict[str, list[Episode]]]:
    """By reader and arm the episodes; those that the folder has are not played again.

    Every different bank of a reader has a record of its own, so that a further rewriter costs its arms alone.
    """
    played: dict[str, dict[str, list[Episode]]] = {}
    for one in arms:
        mine = played.setdefault(one.reader.name, {})
        done: dict[str, list[Episode]] = {}
        for name, bank in ((name, bank) for name, banks in one.banks.items() for bank in banks):
            key = _key(name, bank)
            if key not in done:
                trial = _trial(config, one.reader, Arm(name=key, bank=bank, facts=name == FACTS))
                where = folder / folder_name(one.reader.name) / key

                def shown(at: Progress, arm: str = name) -> None:
                    progress(arm, at)

                done[key] = run(trial, executor, where, resume=True, progress=shown, cancel=cancel)[one.reader.name]
            mine[name] = [*mine.get(name, ()), *done[key]]
    return played


def report(
    config: DownstreamConfig,
    arms: Sequence[ReaderArms],
    played: Mapping[str, Mapping[str, Sequence[Episode]]],
    *,
    resamples: int = 2000,
) -> dict[str, Any]:
    """Rates and differences as JSON values, computed from the episodes alone.

    Intervals are over tasks, 95 % each. Readers play the same tasks, so that of all readers together a task is still
    one cluster. How much other cards would change is in no interval: `by_card` has the rate with each.
    """
    rows, differences = [], []
    # By whose readers (of one backbone, or "" for all), what is compared, and task.
    pooled: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in arms:
        reader, spec = one.reader.name, one.reader.spec
        rates = {arm: _rates(episodes) for arm, episodes in played[reader].items()}
        keys = {arm: [_key(arm, bank) for bank in banks] for arm, banks in one.banks.items()}
        for arm, by_task in rates.items():
            rows.append(
                {
                    "reader": reader,
                    "arm": arm,
                    "banks": keys[arm],
                    "tasks": len(by_task),
                    "missing": sum(e.outcome != "finished" for e in played[reader][arm]),
                    "SR": comparison(by_task, level=LEVEL, resamples=resamples),
                    **({"by_card": _by_card(keys[arm], played[reader][arm])} if len(keys[arm]) > 1 else {}),
                    **({"rewrite": dict(one.rewrites[arm])} if arm in one.rewrites else {}),
                }
            )

        def compared(
            name: str, first: str, seconds: Sequence[str], rates: Any = rates, reader: str = reader, spec: str = spec
        ) -> None:
            by_task = _difference(rates[first], [rates[second] for second in seconds])
            differences.append(
                {
                    "reader": reader,
                    "what": name,
                    "first": first,
                    "second": list(seconds),
                    **comparison(by_task, level=LEVEL, resamples=resamples),
                }
            )
            for task, value in by_task.items():
                pooled["", name][task].append(value)
                pooled[spec, name][task].append(value)

        if EVOLVED in rates:
            compared("evolved − start", EVOLVED, [START])
            compared("evolved − no skills", EVOLVED, [NO_SKILL])
        for rewriter in config.rewriters:
            right = f"{rewriter}, right card"
            wrong = [arm for arm in rates if arm.startswith(f"{rewriter}, card of ")]
            compared(f"{rewriter}: right card − start", right, [START])
            compared(f"{rewriter}: right card − no skills", right, [NO_SKILL])
            compared(f"{rewriter}: right card − no card", right, [f"{rewriter}, no card"])
            if wrong:
                compared(f"{rewriter}: right card − wrong cards", right, wrong)
            if EVOLVED in rates:
                compared(f"{rewriter}: right card − evolved", right, [EVOLVED])
    together: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for (spec, name), of_task in pooled.items():
        means = {task: fmean(values) for task, values in of_task.items()}
        told = {"backbone": spec, "what": name, **comparison(means, level=LEVEL, resamples=resamples)}
        together["backbone" if spec else ""].append(told)
    backbones = {one.reader.spec for one in arms}
    # All arms play the same tasks: where one has fewer, somebody stopped.
    complete = not any(row["missing"] for row in rows) and len({row["tasks"] for row in rows}) == 1 and rows[0]["tasks"]
    return {
        "name": config.name,
        "settings": json.loads(json.dumps(asdict(config))),
        "complete": bool(complete),
        "rows": rows,
        "searches": {one.reader.name: dict(one.search) for one in arms if one.search},
        "differences": differences,
        "by_backbone": together["backbone"] if 1 < len(backbones) < len(arms) else [],
        "all_readers": together[""] if len(arms) > 1 else [],
    }


def _banks(reader: ReaderConfig, folder: Path) -> dict[str, SkillBank]:
    if reader.run:
        return searched_banks(folder / reader.run)
    places = [BANKS / f"{reader.bank}.json", folder / reader.bank]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise TrainingError(f"reader {reader.name}: no bank {places[1]}, and none of that name comes with masa")
    return {START: load_bank(path)}


def _search(reader: ReaderConfig, folder: Path) -> dict[str, float]:
    if not reader.run:
        return {}
    spent = read_run(folder / reader.run).spent
    return {"episodes": spent.episodes, "minutes": spent.minutes}


def _told_cards(
    reader: ReaderConfig, readers: Sequence[ReaderConfig], cards: Mapping[str, _Cards]
) -> dict[str, _Cards]:
    """By what an arm is called the cards that the rewriter is told; those of each other reader once."""
    told: dict[str, _Cards] = {"right card": cards[reader.name], "no card": [{}]}
    for other in readers:
        named = other.name in reader.wrong if reader.wrong else True
        if named and cards[other.name] not in told.values():
            told[f"card of {other.name}"] = cards[other.name]
    return told


def _cards(reader: ReaderConfig, folder: Path) -> _Cards:
    card = reader.card
    if isinstance(card, str) and (folder / card).is_file():
        card = str(folder / card)
    try:
        fields = card_fields(card)
    except MasaError as error:
        raise TrainingError(f"reader {reader.name}: {error}") from None
    return [{**fields, "weaknesses": words} for words in reader.weaknesses] or [fields]


def _trial(config: DownstreamConfig, reader: ReaderConfig, arm: Arm) -> Trial:
    checksum = hashlib.sha256(arm.name.encode()).hexdigest()
    return Trial(
        environment=config.environment,
        arms=(arm,),
        backbones=(Backbone(reader.name, reader.spec, reader.options),),
        options=config.options,
        split=config.split,
        tasks=config.tasks,
        agent=AgentConfig(**config.agent),
        banks={arm.name: checksum},
    )


def _key(arm: str, bank: SkillBank | None) -> str:
    """What tells the skills of an arm apart from those of others."""
    return "facts-" + fingerprint(bank) if arm == FACTS else "none" if bank is None else fingerprint(bank)


def _rates(episodes: Sequence[Episode]) -> dict[str, float]:
    by_task: dict[str, list[float]] = defaultdict(list)
    for episode in episodes:
        if episode.outcome == "finished":
            by_task[episode.job.task].append(float(episode.success))
    return {task: sum(some) / len(some) for task, some in by_task.items()}


def _by_card(keys: Sequence[str], episodes: Sequence[Episode]) -> list[float | None]:
    """The success rate with the bank of every card, in the order of the cards; None where nothing was finished."""
    rates = {key: _rates([e for e in episodes if e.job.arm == key]) for key in set(keys)}
    return [fmean(rates[key].values()) if rates[key] else None for key in keys]


def _difference(first: Mapping[str, float], seconds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """By task, the first rate less the mean of the others, on tasks that all played."""
    tasks = [task for task in first if all(task in second for second in seconds)]
    return {task: first[task] - sum(second[task] for second in seconds) / len(seconds) for task in tasks}
