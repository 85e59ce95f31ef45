"""The tokenizer of an ONNX artifact: `tokenizer.json`, read by the library `tokenizers`.

`masa export onnx` writes the file from the base's GGUF and proves it equal to llama.cpp's tokenizer.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masa.backends.llama_library import give_memory_back
from masa.backends.tokenizing import grammar_vocabulary, text_but
from masa.errors import BackendError, MasaError, MissingExtraError
from masa.files import read_text

if TYPE_CHECKING:
    from masa.prompt import Segment

TOKENIZER_NAME = "tokenizer.json"

_PRINTED = (*range(33, 127), *range(161, 173), *range(174, 256))
_BYTES = {256 + place: byte for place, byte in enumerate(byte for byte in range(256) if byte not in _PRINTED)}
"""The byte of each character that stands for another than its own, as in GPT-2's vocabulary."""


def parse_tokenizer(path: Path) -> tuple[str, Any]:
    """The text of a tokenizer.json, and the library's `Tokenizer`.

    Raises:
        MissingExtraError: without the library.
        BackendError: if the file is no tokenizer.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise MissingExtraError("the ONNX backend", "onnx") from None
    try:
        text = read_text(path)
        return text, Tokenizer.from_str(text)
    except MasaError as error:
        raise BackendError(str(error)) from None
    except Exception as error:  # the library raises nothing more special
        raise BackendError(
            f"{path}: the library tokenizers cannot read this ({error}); export the artifact again"
        ) from None


class JsonTokenizer:
    """Turns segments into token ids and back; text never becomes a special token."""

    def __init__(self, path: Path, *, vocabulary: int, eos: int, parsed: tuple[str, Any] | None = None) -> None:
        """`vocabulary` is how many tokens the model knows, `eos` the one that ends its texts; `parsed` is what
        `parse_tokenizer` made of the file, if that was done already.

        Raises:
            MissingExtraError: without the library.
            BackendError: if the file is no tokenizer.
        """
        text, tokenizer = parsed or parse_tokenizer(path)
        from tokenizers import decoders

        tokenizer.no_truncation()
        tokenizer.no_padding()
        # Control tokens are found by `tokenize` alone, and only where a segment is meant as control.
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self._vocabulary, self._eos = vocabulary, eos
        added = tokenizer.get_added_tokens_decoder().items()
        # Tokens that were added and are not special are text, as the user-defined ones of a GGUF are.
        self._controls = {token.content: number for number, token in sorted(added) if token.special}
        self._special = frozenset(self._controls.values())
        self._by_bytes = isinstance(tokenizer.decoder, decoders.ByteLevel)
        self._json = "" if self._by_bytes else text
        # llguidance marks special tokens by this byte, which is in no UTF-8, and spells the byte itself as nothing.
        byte = tokenizer.token_to_id("ÿ" if self._by_bytes else "<0xFF>")
        self._byte_ff = None if byte in self._special else byte

    def tokenize(self, segments: Sequence[Segment]) -> list[int]:
        """Token ids of the segments, one after the other; only control segments may yield special tokens."""
        tokens: list[int] = []
        for segment in segments:
            if not segment.control:
                tokens += self._encode(segment.text)
                continue
            for piece in self._pattern.split(segment.text):
                known = self._controls.get(piece)
                tokens += self._encode(piece) if known is None else [known]
        return tokens

    def detokenize(self, tokens: Sequence[int]) -> bytes:
        """The bytes that the tokens spell; special tokens spell nothing."""
        found = bytearray()
        run: list[int] = []
        for token in tokens:
            if token == self._byte_ff:
                found += self.grammar_tokenizer().decode_bytes(run) + b"\xff"
                run = []
            elif token not in self._special:
                run.append(token)
        return bytes(found + self.grammar_tokenizer().decode_bytes(run))

    def token_id(self, text: str) -> int | None:
        """The special token spelled `text`, or None if the vocabulary has none."""
        return self._controls.get(text)

    def control_tokens(self) -> tuple[str, ...]:
        """Spellings of all special tokens, in the order of their ids."""
        return tuple(self._controls)

    def grammar_tokenizer(self) -> Any:
        """The vocabulary as llguidance's `LLTokenizer`; made once."""
        return self._grammar_tokenizer

    @functools.cached_property
    def _grammar_tokenizer(self) -> Any:
        try:
            from llguidance import LLTokenizer
        except ImportError:
            raise MissingExtraError("constrained decoding", "onnx") from None
        if self._by_bytes:
            made = grammar_vocabulary(self._spellings(), self._special, self._eos, self._encode)
        else:
            plain = LLTokenizer(self._json, n_vocab=self._vocabulary, eos_token=self._eos, slices=[])
            made = text_but(self._special, plain, self._encode)
        give_memory_back()  # of spelling the vocabulary
        return made

    def _spellings(self) -> tuple[bytes, ...]:
        """The bytes of every token, where a character of a token stands for a byte.

        llguidance finds the same in the JSON, which it reads and keeps a second time.
        """
        found = [b""] * self._vocabulary
        added = self._tokenizer.get_added_tokens_decoder()
        for token, number in self._tokenizer.get_vocab(with_added_tokens=True).items():
            if number < self._vocabulary and number != self._byte_ff:
                # What was added is spelled as it is.
                found[number] = token.encode() if number in added else token.translate(_BYTES).encode("latin-1")
        return tuple(found)

    @functools.cached_property
    def _pattern(self) -> re.Pattern[str]:
        """Finds special tokens, longer ones first."""
        names = sorted(self._controls, key=len, reverse=True)
        return re.compile("(" + "|".join(map(re.escape, names)) + ")" if names else "(?!)")

    def _encode(self, text: str) -> list[int]:
        if not text:
            return []
        # Half a surrogate pair is no text in UTF-8; llama.cpp's backend writes a question mark, too.
        text = text.encode("utf-8", "replace").decode("utf-8")
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)
