"""From samples to token ids, the same ids that the runtime feeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from masa.prompt import ChatTemplate, Request, Segment, render_prompt
from masa_training.bases import Base, Tokenizer
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
    """

    id: str
    prompt: tuple[int, ...]
    fork: int
    target: tuple[int, ...]

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


def encode_all(samples: Iterable[Sample], base: Base, context_length: int, *, card: str = "full") -> list[Encoded]:
    """All samples in token ids.

    Raises:
        TrainingError: naming the first sample that is longer than the context; nothing is ever cut.
    """
    tokenizer = base.tokenizer()
    encoded = [encode(sample, tokenizer, base.template, card=card) for sample in samples]
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
