"""Token counts of samples with the tokenizer of the base model, and the refusal of samples that do not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from masa.backends.tokenizing import Tokenizer
from masa.prompt import ChatTemplate
from masa_training.encoding import encode
from masa_training.errors import TrainingError
from masa_training.samples import Sample


class Base(Protocol):
    """What is needed of `masa_training.bases.Base`."""

    @property
    def spec(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def context_length(self) -> int: ...

    @property
    def template(self) -> ChatTemplate: ...

    def tokenizer(self) -> Tokenizer: ...


@dataclass(frozen=True, slots=True)
class Length:
    """Tokens of one sample: of its prompt, and of its target with the token that ends it."""

    id: str
    prompt: int
    target: int

    @property
    def total(self) -> int:
        return self.prompt + self.target


def lengths(
    samples: Iterable[Sample], base: Base, context_length: int, progress: Callable[[int], None] | None = None
) -> list[Length]:
    """The length of every sample, in order. `progress` gets the number of samples that were counted.

    Raises:
        TrainingError: if the base has a shorter context, or samples do not fit: it names the longest one with both
            numbers. Nothing is ever cut.
    """
    if base.context_length < context_length:
        raise TrainingError(
            f"context_length is {context_length}, but {base.name} was made for {base.context_length} tokens; "
            "lower it or choose another base"
        )
    tokenizer = base.tokenizer()
    measured = []
    for number, sample in enumerate(samples, start=1):
        encoded = encode(sample, tokenizer, base.template)
        measured.append(Length(sample.id, len(encoded.prompt), len(encoded.target)))
        if progress is not None:
            progress(number)
    too_long = [length for length in measured if length.total > context_length]
    if too_long:
        worst = max(too_long, key=lambda length: length.total)
        raise TrainingError(
            f"sample {worst.id} has {worst.total} tokens ({worst.prompt} of the prompt, {worst.target} of the target), "
            f"context_length is {context_length}, and {len(too_long)} of {len(measured)} samples do not fit; "
            f"raise context_length to {worst.total} or lower the numbers of samples"
        )
    return measured


def summarized(measured: Sequence[Length]) -> Mapping[str, Any]:
    """p50, p95 (nearest rank) and maximum of prompt, target and both, and the id of the longest sample."""
    if not measured:
        return {}
    told: dict[str, Any] = {}
    for name in ("prompt", "target", "total"):
        values = sorted(int(getattr(length, name)) for length in measured)
        told[name] = {"p50": _rank(values, 50), "p95": _rank(values, 95), "max": values[-1], "sum": sum(values)}
    told["longest"] = max(measured, key=lambda length: length.total).id
    return told


def _rank(values: Sequence[int], percent: int) -> int:
    """The nearest-rank percentile of sorted values."""
    return values[max(0, -(-percent * len(values) // 100) - 1)]
