"""What an artifact is tried on: held-out samples of a data set, chat messages, or groups of the shipped example.

A data set is the folder that `masa distill dataset` wrote (its test split, else validation) or a JSON Lines file. A
line has `messages` (system, user and, where there is a target, assistant), and in a folder the `request` they were
rendered from. Without a request there is no card to exchange and no group to guard: such samples serve for tokens and
logits alone.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from masa.errors import FormatError
from masa.facts import load_facts
from masa.files import parse_json, read_text
from masa.languages import LANGUAGES
from masa.prompt import ChatTemplate, Prompt, Request, Segment, render_prompt
from masa.rewording import wording_request
from masa_export.errors import ExportError
from masa_training.samples import card_key, request_from_json

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
"""The folder `examples` of a checkout; an installation from a wheel has none."""
_SPLITS = ("test.jsonl", "validation.jsonl")
_DEFAULT_CARDS = ("SmolLM2-360M-Instruct", "Qwen3-4B", "Llama-3.2-1B-Instruct", "gemma-3-12b-it", "Qwen3-32B")
_DEFAULT_WEAKNESSES = (
    "repeats an action that has just failed",
    "follows short instructions only",
    "stops before the task is done",
    "loses track of places that were searched",
    None,
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One thing to ask.

    `request` is None where only messages are known; `system` and `user` are then their texts. `target` is the output
    that should come, None where it is to be the checkpoint's own. `language` is None where the line does not tell.
    """

    id: str
    request: Request | None
    system: str
    user: str
    target: str | None
    language: str | None

    def prompt(self, language: str, template: ChatTemplate, version: int, card: Mapping[str, object] | None) -> Prompt:
        """The prompt, with another `card` where one is given (only samples with a request have one)."""
        if self.request is None:
            shared = (*template.before_system, Segment(self.system), *template.before_user)
            return Prompt(shared, (Segment(self.user), *template.before_assistant))
        request = self.request if card is None else replace(self.request, card=card)
        return render_prompt(request, language, template, version=version)


@dataclass(frozen=True, slots=True)
class Samples:
    """The chosen samples; `where` names their source, `sha256` is that of the file (of the requests, by default)."""

    where: str
    sha256: str
    available: int
    chosen: tuple[Sample, ...]

    def wrong_cards(self, most: int, seed: int) -> Mapping[str, tuple[Mapping[str, object], ...]]:
        """For every sample with a request up to `most` cards of other samples, of other content than its own."""
        cards = {card_key(s.request.card): s.request.card for s in self.chosen if s.request is not None}
        found = {}
        for sample in self.chosen:
            if sample.request is not None:
                own = card_key(sample.request.card)
                others = [card for key, card in cards.items() if key != own]
                drawn = random.Random(f"cards/{seed}/{sample.id}")
                found[sample.id] = tuple(drawn.sample(others, min(most, len(others))))
        return found


def read_samples(given: Path | None, *, limit: int, seed: int = 0, language: str | None = None) -> Samples:
    """At most `limit` samples of what is `given`, drawn by `seed`; of the shipped example if None.

    `language` is what the checkpoint writes, if that is known.

    Raises:
        ExportError: if there is no sample in it, a line is none or for a rewriter of another kind, or there is no
            shipped example here.
    """
    if given is None:
        every = _default_wordings() if language == "wording" else _default()
        digest = hashlib.sha256(repr(every).encode()).hexdigest()
        where = "the shipped example bank and cards"
    else:
        path = _file(given)
        try:
            text = read_text(path)
        except FormatError as error:
            raise ExportError(str(error)) from None
        lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
        every = [parse_sample(line, f"{path}, line {number}") for number, line in lines]
        # A plan and a text are asked for the same groups, a rewording is not.
        strange = [s for s in every if language and s.request and bool(s.request.operation) != (language == "wording")]
        if strange:
            raise ExportError(
                f"{path}: {strange[0].id} is no sample for a rewriter that writes {language}; give the data set that "
                "it was trained on, or leave --prompts away"
            )
        digest, where = hashlib.sha256(text.encode("utf-8")).hexdigest(), str(path)
        if not every:
            raise ExportError(
                f"{path}: holds no samples; give a data set of masa distill dataset, or leave --prompts away"
            )
    drawn = random.Random(f"samples/{seed}").sample(range(len(every)), min(limit, len(every)))
    return Samples(where, digest, len(every), tuple(every[index] for index in sorted(drawn)))


def _file(given: Path) -> Path:
    if not given.is_dir():
        return given
    for name in _SPLITS:
        if (given / name).is_file() and (given / name).stat().st_size:
            return given / name
    raise ExportError(
        f"{given}: has neither {' nor '.join(_SPLITS)}; give a folder of masa distill dataset, or a JSONL file"
    )


def parse_sample(line: str, where: str) -> Sample:
    """One line of a data set; `where` it is, for errors.

    Raises:
        ExportError: if it is no sample.
    """
    try:
        value = parse_json(line)
        texts = {message["role"]: _text(message["content"]) for message in value["messages"]}
        request = None if value.get("request") is None else request_from_json(value["request"])
        language = value.get("language")
        if language is not None and language not in LANGUAGES:
            raise ValueError(f"unknown output language {language!r}")
        return Sample(
            id=str(value.get("id", where)),
            request=request,
            system=texts.get("system", ""),
            user=texts["user"],
            target=texts.get("assistant"),
            language=language,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        why = f"missing {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise ExportError(
            f"{where}: no sample ({why[:120]}); a line is a JSON object with `messages` of a system, a user and an "
            "assistant"
        ) from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.40} where a text belongs")
    return value


def _default() -> Sequence[Sample]:
    """Every group of the example bank for five readers."""
    from masa.cards import find_shipped
    from masa.formats import load_bank

    facts = load_facts(_example("facts/household.yaml"))
    found = []
    for name, weakness in zip(_DEFAULT_CARDS, _DEFAULT_WEAKNESSES, strict=True):
        card: dict[str, object] = dict(find_shipped(name).fields())
        if weakness is not None:
            card["weaknesses"] = weakness
        for group in load_bank(_example("banks/household.json")).groups():
            found.append(Sample(f"{group.key} for {name}", Request(group, card, facts=facts), "", "", None, None))
    return found


def _default_wordings() -> Sequence[Sample]:
    """Every skill of the example bank in steps, and explained."""
    from masa.formats import load_bank

    skills = [skill for group in load_bank(_example("banks/household.json")).groups() for skill in group.skills]
    return [
        Sample(f"{skill.skill_id}/{operation}", wording_request([skill], operation), "", "", None, None)
        for operation in ("steps", "explain")
        for skill in skills
    ]


def _example(name: str) -> Path:
    if not (EXAMPLES / name).is_file():
        raise ExportError(
            f"{EXAMPLES}: this installation has no examples; give held-out samples with --prompts, or run from a "
            "checkout of masa"
        )
    return EXAMPLES / name
