"""The tokenizing part of a backend whose tokenizer is an object of its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
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


def text_but(controls: Collection[int], vocabulary: Any, encode: Callable[[str], list[int]]) -> Any:
    """An `LLTokenizer` like `vocabulary`, made from the library tokenizers' JSON, in which only `controls` are no text.

    llguidance takes every added token that is spelled `<…>` for a control token: no text matches it, and a grammar that
    spells it has the token forced and then refused (findings/llguidance_added_tokens.sh).
    """
    tokens = tuple(vocabulary.decode_bytes([token]) for token in range(vocabulary.vocab_size))
    return grammar_vocabulary(tokens, controls, vocabulary.eos_token, encode)


def grammar_vocabulary(
    tokens: Sequence[bytes], controls: Collection[int], eos: int, encode: Callable[[str], list[int]]
) -> Any:
    """An `LLTokenizer` of tokens that are spelled so, of which `controls` are no text and `eos` ends one."""
    from llguidance import LLTokenizer, TokenizerWrapper

    class Vocabulary:
        eos_token_id = eos
        bos_token_id = None
        special_token_ids = tuple(controls)

        def __init__(self) -> None:
            self.tokens = tokens

        def __call__(self, text: str) -> list[int]:
            return encode(text)

    # Slices make masks of free text cheaper, but take as long to make as everything else here; a mask is rarely asked
    # for (`Constraint`).
    vocabulary = Vocabulary()
    made = LLTokenizer(TokenizerWrapper(vocabulary), slices=[])
    vocabulary.tokens = ()  # read once; it would keep tens of thousands of texts
    return made


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
