"""What artifact and checkpoint write, greedily, through the engine, grammar and guard of the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from masa.engine import Engine
from masa.group_rewrite import Work, prepare
from masa.progress import Tracker
from masa.prompt import ChatTemplate, Prompt
from masa.provenance import GroupResult, edit_distance
from masa.sampling import Sampling
from masa_export.verify.samples import Sample

_TOGETHER = 8


@dataclass(frozen=True, slots=True)
class Written:
    """One output. `valid`: finished and parses. `guarded`: it also passed the guard."""

    text: str
    valid: bool
    guarded: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Outputs:
    """Both, over all groups.

    Attributes:
        groups: how many were written.
        valid, guarded: share of the artifact's outputs; `reference_valid`, `reference_guarded` of the checkpoint's.
        same: share of outputs that are equal, character by character.
        distance: mean edit distance of the two outputs, in words divided by the longer one's words: 0 to 1.
        reasons: why outputs of the artifact were refused, each reason once.
        margins: for outputs that differ, by how much the checkpoint preferred its own where they part, in nats.
    """

    groups: int
    valid: float
    guarded: float
    reference_valid: float
    reference_guarded: float
    same: float
    distance: float
    reasons: tuple[str, ...]
    margins: tuple[float, ...] = ()

    @property
    def valid_loss(self) -> float:
        return self.reference_valid - self.valid

    @property
    def guard_loss(self) -> float:
        return self.reference_guarded - self.guarded


def write_outputs(
    engine: Engine,
    template: ChatTemplate,
    version: int,
    language: str,
    samples: Sequence[Sample],
    *,
    cautious: bool,
    step: Callable[[], None] = lambda: None,
) -> dict[str, Written]:
    """What the engine's model writes for every sample that has a request, by the sample's id.

    `step` is called after each. Groups that share their setting are decoded side by side.
    """
    found = {}
    for together in _together(samples, template, version, language):
        works: list[Work] = []
        for sample in together:
            assert sample.request is not None
            works.append(prepare(sample.request, frozenset(), language, cautious=cautious))
        for index, result in engine.run(works, Sampling(), Tracker(len(works), None), lambda: False):
            found[together[index].id] = _written(result)
            step()
    return found


def compare_outputs(ours: dict[str, Written], theirs: dict[str, Written]) -> Outputs:
    """Compare outputs by sample; both have the same keys, at least one."""
    pairs = [(ours[key], theirs[key]) for key in theirs]
    count = len(pairs)
    return Outputs(
        groups=count,
        valid=sum(mine.valid for mine, _ in pairs) / count,
        guarded=sum(mine.guarded for mine, _ in pairs) / count,
        reference_valid=sum(wanted.valid for _, wanted in pairs) / count,
        reference_guarded=sum(wanted.guarded for _, wanted in pairs) / count,
        same=sum(mine.text == wanted.text for mine, wanted in pairs) / count,
        distance=sum(distance(mine.text, wanted.text) for mine, wanted in pairs) / count,
        reasons=tuple(dict.fromkeys(mine.reason for mine, _ in pairs if mine.reason)),
    )


def distance(left: str, right: str) -> float:
    """Levenshtein distance in words, from 0 (equal) to 1."""
    a, b = left.split(), right.split()
    found = edit_distance(a, b)
    assert found is not None  # there is no limit
    return found / max(len(a), len(b), 1)


def _written(result: GroupResult) -> Written:
    valid = result.status != "fell back" or bool(result.violations)
    guarded = result.status != "fell back" and not result.violations
    return Written(result.raw, valid, guarded, "" if guarded else result.reason)


def _together(samples: Sequence[Sample], template: ChatTemplate, version: int, language: str) -> Iterator[list[Sample]]:
    """Samples whose prompts have the same shared part, which one session requires, a few at a time."""
    groups: dict[Prompt, list[Sample]] = {}
    for sample in samples:
        if sample.request is not None:
            shared = sample.prompt(language, template, version, None).shared
            groups.setdefault(Prompt(shared, ()), []).append(sample)
    for members in groups.values():
        for start in range(0, len(members), _TOGETHER):
            yield members[start : start + _TOGETHER]
