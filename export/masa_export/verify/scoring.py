"""Artifact and checkpoint read the same token ids: logits of the target's places, and how likely each makes it.

Token ids are the checkpoint's, so what is compared here is the weights; `tokens` compares the tokenizers. The card
comes last in a prompt, so what comes before it is computed once for all cards of a sample.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from masa.backends import Backend
from masa.prompt import ChatTemplate, Segment
from masa_export.errors import ExportError
from masa_export.likeness import Likeness, likeness, pool
from masa_export.verify.asked import Asked, Reader
from masa_export.verify.samples import Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Nll:
    """Negative log likelihood of one target in nats, summed over its tokens, by artifact and checkpoint."""

    ours: float
    theirs: float


@dataclass(frozen=True, slots=True)
class Score:
    """One sample: `tokens` of its target and the token that ends it; `wrong` has an entry per wrong card."""

    id: str
    tokens: int
    likeness: Likeness
    right: Nll
    wrong: tuple[Nll, ...]


@dataclass(frozen=True, slots=True)
class Asking:
    """How samples become prompts: as the checkpoint was trained to be asked."""

    language: str
    template: ChatTemplate
    version: int


def score(
    ours: Backend,
    checkpoint: Asked,
    sample: Sample,
    target: str,
    asking: Asking,
    wrong: Sequence[Mapping[str, object]] = (),
) -> Score:
    """Score `target` after the sample's prompt, with its own card and with each of the cards `wrong`.

    Raises:
        ExportError: if the checkpoint's tokenizer has no token that ends an answer, or the sample is too long.
    """
    theirs = checkpoint.backend()
    stop = theirs.token_id(asking.template.stop[0])
    if stop is None:
        raise ExportError(f"the checkpoint has no special token {asking.template.stop[0]}; its template is another's")
    rows = []
    for card in (None, *wrong):
        prompt = sample.prompt(asking.language, asking.template, asking.version, card)
        rows.append(theirs.tokenize((*prompt.shared, *prompt.own)))
    common = _common(rows)
    answer = (*theirs.tokenize((Segment(target),)), stop)
    length = max(map(len, rows)) + len(answer)
    if length > min(ours.context_length, theirs.context_length):
        raise ExportError(f"sample {sample.id}: needs {length} tokens, which exceeds the context; leave it out")
    shared = rows[0][:common]
    with (
        contextlib.closing(Reader(ours, length, shared)) as mine,
        contextlib.closing(checkpoint.reader(length, shared)) as reference,
    ):
        parts, right = _compare(mine, reference, rows[0][common:], answer)
        others = tuple(_compare(mine, reference, row[common:], answer)[1] for row in rows[1:])
    return Score(sample.id, len(answer), pool(parts), right, others)


def margin(backend: Backend, sample: Sample, asking: Asking, own: str, other: str) -> float | None:
    """How much likelier the model makes its own text than another where they part, in nats.

    That is the difference of two logits at the first place where the texts have other tokens: near 0, it might as well
    have written the other one. The texts are read as the tokenizer would; None where the model, which chose greedily,
    must have written other tokens than those.
    """
    stop = backend.token_id(asking.template.stop[0])
    prompt = sample.prompt(asking.language, asking.template, asking.version, None)
    asked = backend.tokenize((*prompt.shared, *prompt.own))
    rows = [[*backend.tokenize((Segment(text),)), *([] if stop is None else [stop])] for text in (own, other)]
    place = next((i for i, pair in enumerate(zip(*rows, strict=False)) if pair[0] != pair[1]), None)
    if place is None or len(asked) + place > backend.context_length:
        return None
    with contextlib.closing(backend.session(slots=1, length=len(asked) + place)) as session:
        session.share(asked[:-1])
        logits = session.begin(0, [asked[-1], *rows[0][:place]])
    found = float(logits[rows[0][place]]) - float(logits[rows[1][place]])
    return found if found > 0 else None


def _common(rows: Sequence[Sequence[int]]) -> int:
    """How many first tokens all rows share, one less than the shortest has at most: something must begin."""
    common = min(map(len, rows)) - 1
    for row in rows[1:]:
        common = next((i for i in range(common) if row[i] != rows[0][i]), common)
    return common


def _compare(mine: Reader, reference: Reader, own: Sequence[int], answer: Sequence[int]) -> tuple[list[Likeness], Nll]:
    parts, nll_ours, nll_theirs = [], 0.0, 0.0
    for (ours, tokens), (theirs, _) in zip(mine.walk(own, answer), reference.walk(own, answer), strict=True):
        parts.append(likeness(ours, theirs))
        nll_ours += _nll(ours, tokens)
        nll_theirs += _nll(theirs, tokens)
    return parts, Nll(nll_ours, nll_theirs)


def _nll(logits: NDArray[np.float32], tokens: Sequence[int]) -> float:
    import numpy as np

    total = 0.0
    for row, token in zip(logits, tokens, strict=True):
        shifted = row.astype(np.float64) - float(row.max())
        total += float(np.log(np.exp(shifted).sum()) - shifted[token])
    return total
