"""From samples to token ids, the same ids that the runtime feeds."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from masa.backends.tokenizing import Tokenizer
from masa.constraint import Constraint
from masa.facts import Facts
from masa.group_rewrite import prepare
from masa.prompt import ChatTemplate, Request, Segment, render_prompt
from masa.skills import Group
from masa_training.bases import Base
from masa_training.errors import TrainingError
from masa_training.samples import Sample

SHORT_CARD = ("family", "variant", "parameter_count", "base_or_instruct", "strengths", "weaknesses")
"""Fields of the short card, a remedy to try where a rewriter ignores long ones."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A sample in token ids.

    Attributes:
        prompt: everything before the output.
        fork: how many tokens of the prompt come before the model card. Samples that differ in their card alone
            share them, because segments are tokenized one by one.
        target: the output and the token that ends it.
        admitted: for each token to be learned which tokens constrained decoding would have let come there, itself
            among them; empty where the output is free.
        learned: the places in `target` that are learned, in ascending order; empty for all. What an environment
            answers in the middle of a conversation is read and not learned.
    """

    id: str
    prompt: tuple[int, ...]
    fork: int
    target: tuple[int, ...]
    admitted: tuple[tuple[int, ...], ...] = ()
    learned: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.prompt) + len(self.target)


def with_fields(request: Request, fields: Sequence[str] | None) -> Request:
    """The request with these fields of its card only; None leaves all."""
    if fields is None:
        return request
    return replace(request, card={key: value for key, value in request.card.items() if key in fields})


def encode(sample: Sample, tokenizer: Tokenizer, template: ChatTemplate, *, card: str = "full") -> Encoded:
    """Token ids of a sample as the runtime would feed them; `card` is "full", "short" or "none".

    Raises:
        TrainingError: if the template's stop token is none of the tokenizer's.
    """
    fields = {"full": None, "short": SHORT_CARD, "none": ()}[card]
    prompt = render_prompt(with_fields(sample.request, fields), sample.language, template)
    before = tokenizer.tokenize((*prompt.shared, prompt.own[0]))
    rest = tokenizer.tokenize(prompt.own[1:])
    stop = tokenizer.token_id(template.stop[0])
    if stop is None:
        raise TrainingError(
            f"the chat template ends an answer with {template.stop[0]!r}, which is no special token of this base "
            "model; give another `template`"
        )
    target = (*tokenizer.tokenize([Segment(sample.target)]), stop)
    return Encoded(sample.id, (*before, *rest), len(before), target)


def admitted_tokens(sample: Sample, target: Sequence[int], grammar_tokenizer: Any) -> tuple[tuple[int, ...], ...]:
    """For each token of a plan (the last one ends it) the tokens that constrained decoding lets come there.

    Raises:
        TrainingError: if the sample's target is no plan that its group admits.
    """
    import numpy as np

    constraint = Constraint(grammar_tokenizer, _plan_grammar(sample.request.group, sample.request.facts))
    stop = target[-1]
    found = []
    for token in target:
        allowed = constraint.admitted(int(grammar_tokenizer.vocab_size), [stop])
        if not allowed[token]:
            raise TrainingError(
                f"sample {sample.id}: its target is no plan that its skills admit; build the data again"
            )
        found.append(tuple(np.flatnonzero(allowed).tolist()))
        if token != stop:
            constraint.advance(token)
    return tuple(found)


@functools.lru_cache(maxsize=1024)
def _plan_grammar(group: Group, facts: Facts | None) -> str:
    """The samples of a tree have one group, and trying its edits takes longer than all else here."""
    return prepare(Request(group, {}, facts=facts), frozenset(), "plan").grammar()[0]


def encode_all(
    samples: Iterable[Sample], base: Base, context_length: int, *, card: str = "full", constrained: bool = False
) -> list[Encoded]:
    """All samples in token ids; if `constrained`, plans with what constrained decoding admits.

    Raises:
        TrainingError: naming the first sample that is longer than the context; nothing is ever cut.
    """
    tokenizer = base.tokenizer()
    encoded = []
    for sample in samples:
        ids = encode(sample, tokenizer, base.template, card=card)
        if constrained and sample.language == "plan":
            ids = replace(ids, admitted=admitted_tokens(sample, ids.target, tokenizer.grammar_tokenizer()))
        encoded.append(ids)
    longest = max(encoded, key=len, default=None)
    if longest is not None and len(longest) > context_length:
        raise TrainingError(
            f"sample {longest.id} has {len(longest)} tokens, the context is {context_length}; "
            "raise `context_length` or leave the sample out of the data set"
        )
    return encoded


def prove_tokenizer(samples: Iterable[Sample], base: Base, reference: Tokenizer) -> int:
    """Compare the base's token ids with llama.cpp's on every prompt and target. Returns how many texts were compared.

    Raises:
        TrainingError: naming the first sample with a text that they tokenize differently.
    """
    tokenizer = base.tokenizer()
    compared = 0
    for sample in samples:
        prompt = render_prompt(sample.request, sample.language, base.template)
        for segment in (*prompt.shared, *prompt.own, Segment(sample.target)):
            ours, theirs = tokenizer.tokenize([segment]), reference.tokenize([segment])
            compared += 1
            if ours != theirs:
                raise TrainingError(
                    f"{base.path}: its tokenizer and llama.cpp's differ in sample {sample.id} "
                    f"(at {segment.text[:40]!r}); what is trained so would not run on the device"
                )
    return compared
