"""Which teacher: the offline one, a recording, or a language model and how it is asked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Annotated, Any

from pydantic import Field

from masa_training.errors import TrainingError
from masa_training.models.keys import check_keyless
from masa_training.settings import Amount, Positive, settings

OPERATORS = "operators"
RECORDED = "recorded:"
_KNOWN = f"{OPERATORS}, {RECORDED}FILE, or a model such as openai:http://localhost:8000/v1#MODEL"
_MODEL = re.compile(r"(?:openai|llama|transformers|checkpoint|replay):.+|https?://.+", re.DOTALL)


@settings
class TeacherConfig:
    """A teacher; all but `model`, `words` and `record` is for language models only.

    Attributes:
        model: `operators`, `recorded:FILE`, or what `open_model` takes.
        options: of `open_model`; `retries` as a mapping of `masa_training.models.limits.Retries`.
        api_key_env: the environment variable that holds the server's key; the key itself is never written down.
        prices: US dollars for a million tokens read and a million tokens written; empty where they are not known.
        temperature, max_tokens: of one answer.
        attempts: how often one question is asked until its answer can be used.
        episodes: most failed episodes that one question shows.
        characters: most characters of episodes, and as many again of earlier groups, that one question shows.
        words: for `operators`, an artifact of the wording language: it carries out operations that no edit can.
        record: a file to which every answer is appended; `recorded:FILE` gives them again.
    """

    model: str = OPERATORS
    options: Mapping[str, Any] = field(default_factory=dict)
    api_key_env: str = ""
    prices: Sequence[Amount] = ()
    temperature: Amount = 0.7
    max_tokens: Positive = 4096
    attempts: Positive = 3
    episodes: Positive = 8
    characters: Annotated[int, Field(ge=500)] = 24_000
    words: str = ""
    record: str = ""

    def __post_init__(self) -> None:
        if not (self.local or _MODEL.fullmatch(self.model)):
            raise TrainingError(f"teacher is {self.model!r}; it must be one of {_KNOWN}")
        if self.words and self.model != OPERATORS:
            raise TrainingError(f"teacher.words goes with the model {OPERATORS}, not with {self.model}; leave it out")
        for key, better in (("api_key", "put the key into a variable and name that in"), ("prices", "write them into")):
            if key in self.options:
                setting = "teacher.api_key_env" if key == "api_key" else "teacher.prices"
                raise TrainingError(f"teacher: options has {key}; {better} {setting}")
        check_keyless(self.model, self.options, "teacher")
        if len(self.prices) not in (0, 2):
            raise TrainingError(
                f"teacher: prices is {list(self.prices)}; give two numbers, for a million tokens read and written"
            )

    @property
    def local(self) -> bool:
        """Whether no language model is asked."""
        return self.model == OPERATORS or self.model.startswith(RECORDED)

    def dollars(self, read: int, written: int) -> float:
        """What so many tokens cost; 0 where prices are not known."""
        if not self.prices:
            return 0.0
        return (self.prices[0] * read + self.prices[1] * written) / 1e6
