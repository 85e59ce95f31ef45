"""Artifact and checkpoint read the same token ids: logits of the target's places, and how likely each makes it.

Token ids are the checkpoint's, so what is compared here is the weights; `tokens` compares the tokenizers. With right
and wrong model cards the likelihoods also tell whether the artifact still reads the card.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from masa.backends import Backend
from masa.prompt import ChatTemplate, Segment
from masa_export.errors import ExportError
from masa_export.logits import Likeness, likeness, pool
from masa_export.verify.checkpoint import AskedCheckpoint, Reader
from masa_export.verify.samples import Sample
from masa_training.evaluate.rewriter.scoring import score_of, tokenized

LEAST_GAP = 0.02
"""A checkpoint whose wrong cards cost fewer nats a token does not read the card: there is nothing to survive."""


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


@dataclass(frozen=True, slots=True)
class Awareness:
    """NLL in nats per target token, weighted by tokens; without any constraint.

    Attributes:
        right, wrong: of the artifact, with the sample's own card and averaged over cards of other samples.
        reference_right, reference_wrong: of the checkpoint. The `wrong` ones are None without wrong cards.
        samples: how many there are; `compared` of them have wrong cards.
        kept: the artifact's gap wrong − right as a share of the checkpoint's, over the samples with wrong cards;
            None where the checkpoint's is below `LEAST_GAP`.
    """

    right: float
    reference_right: float
    wrong: float | None
    reference_wrong: float | None
    samples: int
    compared: int
    kept: float | None

    @property
    def loss(self) -> float:
        """By how much the artifact makes the targets less likely than the checkpoint, nats per token."""
        return self.right - self.reference_right


def score(
    ours: Backend,
    checkpoint: AskedCheckpoint,
    sample: Sample,
    target: str,
    asking: Asking,
    wrong: Sequence[Mapping[str, object]] = (),
) -> Score:
    """Score `target` after the sample's prompt, with its own card and with each of the cards `wrong`.

    Raises:
        MasaError: if the checkpoint's tokenizer has no token that ends an answer, or the sample is too long.
    """
    theirs = checkpoint.backend()
    asked = [sample.prompt(asking.language, asking.template, asking.version, card) for card in (None, *wrong)]
    prompts = tokenized(asked, target, theirs, asking.template)
    if prompts.longest > min(ours.context_length, theirs.context_length):
        raise ExportError(
            f"sample {sample.id}: needs {prompts.longest} tokens, which exceeds the context; leave it out"
        )
    with (
        contextlib.closing(Reader(ours, prompts.longest, prompts.shared)) as mine,
        contextlib.closing(checkpoint.reader(prompts.longest, prompts.shared)) as reference,
    ):
        (parts, right), *others = (_compare(mine, reference, own, prompts.target) for own in prompts.own)
    return Score(sample.id, len(prompts.target), pool(parts), right, tuple(nll for _, nll in others))


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


def measure_awareness(scores: Sequence[Score]) -> Awareness:
    """Sum up the scores of at least one sample."""
    tokens = sum(score.tokens for score in scores)
    compared = [score for score in scores if score.wrong]
    wrong = reference_wrong = kept = None
    if compared:
        some = sum(score.tokens for score in compared)
        wrong = sum(sum(nll.ours for nll in s.wrong) / len(s.wrong) for s in compared) / some
        reference_wrong = sum(sum(nll.theirs for nll in s.wrong) / len(s.wrong) for s in compared) / some
        gap = reference_wrong - sum(s.right.theirs for s in compared) / some
        # Written so that a NaN is no gap.
        if gap >= LEAST_GAP:
            kept = (wrong - sum(s.right.ours for s in compared) / some) / gap
    return Awareness(
        right=sum(score.right.ours for score in scores) / tokens,
        reference_right=sum(score.right.theirs for score in scores) / tokens,
        wrong=wrong,
        reference_wrong=reference_wrong,
        samples=len(scores),
        compared=len(compared),
        kept=kept,
    )


def _compare(mine: Reader, reference: Reader, own: Sequence[int], answer: Sequence[int]) -> tuple[list[Likeness], Nll]:
    parts, nll_ours, nll_theirs = [], 0.0, 0.0
    for (ours, tokens), (theirs, _) in zip(mine.walk(own, answer), reference.walk(own, answer), strict=True):
        parts.append(likeness(ours, theirs))
        nll_ours += score_of(ours, tokens).nll
        nll_theirs += score_of(theirs, tokens).nll
    return parts, Nll(nll_ours, nll_theirs)
