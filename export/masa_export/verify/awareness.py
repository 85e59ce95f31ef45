"""Does the artifact still read the model card? Likelihood of targets with the right card and with wrong ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from masa_export.verify.scoring import Score

LEAST_GAP = 0.02
"""A checkpoint whose wrong cards cost fewer nats a token does not read the card: there is nothing to survive."""


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
