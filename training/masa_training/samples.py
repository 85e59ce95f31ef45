"""Samples of a fine-tuning data set: what a rewriter is asked, and the output it should give.

A data set file is JSON Lines. Every line carries the conversation as chat messages (the form that TRL, Axolotl
and LLaMA-Factory read) and, beside it, the request the messages were rendered from. masa itself trains on the
request: it renders it with `masa.prompt` and tokenizes the segments, so that training and runtime read the same
ids. A line whose messages are not what its request renders to is refused, because it was edited or is of another
prompt version.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike, fspath
from typing import Any, NamedTuple

from masa.codec import facts_from_json, facts_to_json, group_from_json, group_to_json
from masa.errors import FormatError
from masa.files import parse_json, read_text
from masa.languages import LANGUAGES
from masa.prompt import PROMPT_VERSION, ChatTemplate, Request, Segment, render_prompt

_MARK = Segment("", control=True)
_BARE = ChatTemplate((), (_MARK,), (_MARK,), ())
"""A chat template without any text, whose control segments mark where a message ends."""


class Cell(NamedTuple):
    """What a target is a fact about: an environment, a backbone and a group of the bank."""

    environment: str
    backbone: str
    group: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One (request, target) pair.

    Attributes:
        id: unique within the data set and the same for the same configuration.
        request: group, card fields, task, environment and facts, as the runtime would ask.
        language: output language, one of `masa.languages.LANGUAGES`.
        target: the output to learn, without the token that ends it.
        backbone: name of the backbone that the card describes.
        environment: where the target was found to be good; empty for a bootstrap sample.
        source: which of the four sources the input group came from ("intermediate", "other backbone", "adapter",
            "augmented", or "base"), or "bootstrap".
        synthetic: whether the target follows from stated rules and not from any result in an environment.
        origin: file or run folder that group and target came from.
        tags: further facts for breaking results down, such as the augmentation used.
    """

    id: str
    request: Request
    language: str
    target: str
    backbone: str
    environment: str = ""
    source: str = ""
    synthetic: bool = False
    origin: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def cell(self) -> Cell:
        """Environment, backbone and group key."""
        return Cell(self.environment, self.backbone, self.request.group.key)


def messages(sample: Sample) -> list[dict[str, str]]:
    """System, user and assistant message of a sample."""
    prompt = render_prompt(sample.request, sample.language, _BARE)
    contents = ["", "", sample.target]
    message = 0
    for segment in (*prompt.shared, *prompt.own):
        message += segment.control
        if message < 2:
            contents[message] += segment.text
    return [
        {"role": role, "content": text} for role, text in zip(("system", "user", "assistant"), contents, strict=True)
    ]


def dumps_sample(sample: Sample) -> str:
    """One line of JSON without the line break."""
    request = sample.request
    value = {
        "id": sample.id,
        "messages": messages(sample),
        "prompt_version": PROMPT_VERSION,
        "language": sample.language,
        "environment": sample.environment,
        "backbone": sample.backbone,
        "group": request.group.key,
        "source": sample.source,
        "synthetic": sample.synthetic,
        "origin": sample.origin,
        "tags": dict(sample.tags),
        "request": request_to_json(request),
    }
    return json.dumps(value, ensure_ascii=False)


def loads_sample(line: str, where: str = "sample") -> Sample:
    """The sample on one line; `where` names the line in errors.

    Raises:
        FormatError: if it is no sample, of another prompt version, or its messages are not what its request
            renders to.
    """
    try:
        value = parse_json(line)
        if value["prompt_version"] != PROMPT_VERSION:
            raise FormatError(
                f"{where}: prompt version {value['prompt_version']}, this masa writes {PROMPT_VERSION}; "
                "build the data set again with: masa distill dataset"
            )
        request = request_from_json(value["request"])
        if value["language"] not in LANGUAGES:
            raise ValueError(f"unknown output language {value['language']!r}")
        sample = Sample(
            id=value["id"],
            request=request,
            language=value["language"],
            target=value["messages"][2]["content"],
            backbone=value["backbone"],
            environment=value["environment"],
            source=value["source"],
            synthetic=value["synthetic"],
            origin=value["origin"],
            tags=value["tags"],
        )
        same = messages(sample) == value["messages"] and value["group"] == request.group.key
    except FormatError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise FormatError(f"{where}: not a sample of a masa data set ({_reason(error)}); build it again") from None
    if not same:
        raise FormatError(
            f"{where}: the messages of sample {sample.id} are not what its request renders to; "
            "build the data set again, or change the request and not the messages"
        )
    return sample


def read_samples(path: str | PathLike[str]) -> Iterator[Sample]:
    """The samples of a JSONL file, in order.

    Raises:
        FormatError: if the file cannot be read, or a line is no sample; the message names the line.
    """
    where = fspath(path)
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield loads_sample(line, f"{where}, line {number}")


def dump_samples(samples: Iterable[Sample]) -> bytes:
    """The content of a JSONL file."""
    return "".join(dumps_sample(sample) + "\n" for sample in samples).encode("utf-8")


def request_to_json(request: Request) -> dict[str, Any]:
    """The request of a sample as its line holds it."""
    return {
        **group_to_json(request.group),
        "card": dict(request.card),
        "task": request.task,
        "environment": request.environment,
        "facts": None if request.facts is None else facts_to_json(request.facts),
        **({"operation": request.operation, "keep": list(request.keep)} if request.operation else {}),
    }


def request_from_json(value: Mapping[str, Any]) -> Request:
    """The inverse of `request_to_json`.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: if it is none.
    """
    facts = None if value["facts"] is None else facts_from_json(value["facts"])
    return Request(
        group_from_json(value),
        dict(value["card"]),
        value["task"],
        value["environment"],
        facts,
        value.get("operation", ""),
        tuple(value.get("keep", ())),
    )


def card_key(card: Mapping[str, object]) -> str:
    """Equal for the fields of two cards that say the same."""
    return json.dumps(dict(card), sort_keys=True, default=str)


def _reason(error: Exception) -> str:
    return f"missing {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
