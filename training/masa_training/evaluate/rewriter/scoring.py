"""Scoring: how likely a model makes a sample's target under each card.

NLL is the negative natural logarithm of the probability of the target's tokens and of the token that ends it, given
the prompt, without any constraint. The card comes last in the prompt (`masa.prompt`), so what comes before it is
computed once for all cards of a sample: the longest common prefix of the token ids, whatever it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from masa.backends import Session
from masa.backends.tokenizing import Tokenizer
from masa.prompt import ChatTemplate, Prompt, Segment
from masa_training.errors import TrainingError

SLOTS = 4
"""Cards scored side by side; memory grows with it."""

PIECE = 64
"""Target tokens per pass: logits of a whole text target would take a gigabyte with a large vocabulary."""


class Score(NamedTuple):
    """NLL of a target in nats, summed over `tokens` tokens; `hits` of them were the model's first choice."""

    nll: float
    tokens: int
    hits: int


@dataclass(frozen=True, slots=True)
class Prompts:
    """Token ids of a sample under several cards: `shared`, then `own[i]` (never empty), then `target` with its end."""

    shared: tuple[int, ...]
    own: tuple[tuple[int, ...], ...]
    target: tuple[int, ...]

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence; the token that ends the target is never fed."""
        return len(self.shared) + max(map(len, self.own)) + len(self.target) - 1

    @property
    def computed(self) -> int:
        """Tokens that go through the model."""
        return len(self.shared) + sum(len(own) + len(self.target) - 1 for own in self.own)

    @property
    def passes(self) -> int:
        """Forward passes that `score` takes with `SLOTS` slots."""
        batches = -(-len(self.own) // SLOTS)
        return 1 + len(self.own) + batches * -(-(len(self.target) - 1) // PIECE)


def tokenized(asked: Sequence[Prompt], target: str, tokenizer: Tokenizer, template: ChatTemplate) -> Prompts:
    """The prompts of a sample's variants and its target in token ids, as the runtime would feed them.

    Raises:
        TrainingError: if the token that ends an answer is none of the tokenizer's.
    """
    stop = tokenizer.token_id(template.stop[0]) if template.stop else None
    if stop is None:
        raise TrainingError(
            f"the model has no special token {template.stop[:1]}, with which its chat template ends an answer; "
            "the base model and the checkpoint do not belong together"
        )
    rows = [tokenizer.tokenize((*prompt.shared, *prompt.own)) for prompt in asked]
    common = min(len(row) for row in rows) - 1
    for row in rows[1:]:
        while row[:common] != rows[0][:common]:
            common = next(i for i in range(common) if row[i] != rows[0][i])
    return Prompts(
        tuple(rows[0][:common]),
        tuple(tuple(row[common:]) for row in rows),
        (*tokenizer.tokenize([Segment(target)]), stop),
    )


def score(session: Session, prompts: Prompts) -> list[Score]:
    """The target's score under each variant, in their order.

    The session needs room for `prompts.longest` tokens and is left without sequences.
    """
    session.share(prompts.shared)
    scores = []
    slots = min(SLOTS, session.slots)
    for start in range(0, len(prompts.own), slots):
        some = prompts.own[start : start + slots]
        totals = [Score(0.0, 0, 0)] * len(some)
        for slot, logits, tokens in target_logits(session, some, prompts.target):
            totals[slot] = _add(totals[slot], score_of(logits, tokens))
        scores += totals
    return scores


def target_logits(
    session: Session, owns: Sequence[Sequence[int]], target: Sequence[int]
) -> Iterator[tuple[int, NDArray[np.float32], Sequence[int]]]:
    """Feed `target` behind each of `owns`, one a slot; yields slot, logits, and the tokens that stand there.

    The logits come in pieces (tokens x vocabulary), each valid until the next one is taken. The session's slots are
    free at the end.
    """
    for slot, own in enumerate(owns):
        yield slot, session.begin(slot, own)[None], target[:1]
    for start in range(0, len(target) - 1, PIECE):
        piece = target[start : min(start + PIECE, len(target) - 1)]
        rows = session.step([(slot, piece) for slot in range(len(owns))], [len(piece)] * len(owns))
        for slot, logits in enumerate(rows):
            yield slot, logits, target[start + 1 : start + 1 + len(piece)]
    for slot in range(len(owns)):
        session.release(slot)


def score_of(logits: NDArray[np.float32], tokens: Sequence[int]) -> Score:
    """The score of `tokens`; row i of `logits` is what the model expected where `tokens[i]` stands."""
    nll = 0.0
    hits = 0
    for row, token in zip(logits, tokens, strict=True):
        shifted = row.astype(np.float64) - float(row.max())
        nll += float(np.log(np.exp(shifted).sum()) - shifted[token])
        hits += int(row.argmax()) == token
    return Score(nll, len(tokens), hits)


def _add(left: Score, right: Score) -> Score:
    return Score(left.nll + right.nll, left.tokens + right.tokens, left.hits + right.hits)
