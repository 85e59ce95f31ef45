"""The tokenizing part of a backend whose tokenizer is an object of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from masa.prompt import Segment


class Tokenizer(Protocol):
    """The tokenizing part of `masa.backends.Backend`."""

    def tokenize(self, segments: Sequence[Segment]) -> list[int]: ...

    def detokenize(self, tokens: Sequence[int]) -> bytes: ...

    def token_id(self, text: str) -> int | None: ...

    def control_tokens(self) -> tuple[str, ...]: ...

    def grammar_tokenizer(self) -> Any: ...


class Tokenizing:
    """Asks the tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def tokenize(self, segments: Sequence[Segment]) -> list[int]:
        return self._tokenizer.tokenize(segments)

    def detokenize(self, tokens: Sequence[int]) -> bytes:
        return self._tokenizer.detokenize(tokens)

    def token_id(self, text: str) -> int | None:
        return self._tokenizer.token_id(text)

    def control_tokens(self) -> tuple[str, ...]:
        return self._tokenizer.control_tokens()

    def grammar_tokenizer(self) -> Any:
        return self._tokenizer.grammar_tokenizer()
