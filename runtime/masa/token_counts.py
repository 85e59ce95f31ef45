"""How many tokens a text is to a backbone: by its own tokenizer where it can be had, else an estimate that says so."""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masa.errors import MasaError

logger = logging.getLogger(__name__)

_BYTES = 4
"""Bytes a token, for an estimate: English prose and Markdown take 4 to 4.5 with the tokenizers of today."""


@dataclass(frozen=True, slots=True)
class TokenCounter:
    """Counts the tokens of a text. `source` says by whose tokenizer; `exact` is whether that is the backbone's own."""

    count: Callable[[str], int]
    exact: bool
    source: str


def estimating(why: str) -> TokenCounter:
    """A counter for want of a tokenizer; `why` is told with every figure."""
    return TokenCounter(
        lambda text: -(-len(text.encode("utf-8", "replace")) // _BYTES), False, f"{_BYTES} bytes a token; {why}"
    )


def backbone_counter(
    spec: str | os.PathLike[str], *, model: str | None = None, api_key: str | None = None, timeout: float = 10.0
) -> TokenCounter:
    """The tokenizer of what a user names as a backbone: a GGUF file, weights that were pulled, a folder, a server.

    A card alone has none, and neither has a server without `/tokenize` (Ollama, LM Studio): then it estimates. Nothing
    is raised: a backbone that cannot be asked has its error elsewhere.
    """
    spec = os.fspath(spec)
    try:
        if re.match(r"https?://", spec, re.IGNORECASE):
            return _of_server(spec, model, api_key, timeout)
        path = Path(spec).expanduser()
        if path.is_dir():
            return _of_folder(path)
        from masa.formats.gguf_header import is_gguf
        from masa.weights import find_weights, list_weights

        if not path.is_file() and spec in list_weights():
            path = find_weights(spec, verify=False)
        if path.is_file() and is_gguf(path):
            return _of_gguf(path)
    except (MasaError, OSError) as error:
        return estimating(str(error))
    return estimating("a card has no tokenizer; name the model's file or its server")


def _of_gguf(path: Path) -> TokenCounter:
    from masa.backends.llama import LlamaBackend
    from masa.prompt import Segment

    backend = LlamaBackend.load(path, vocab_only=True)

    @functools.lru_cache(maxsize=4096)
    def count(text: str) -> int:
        return len(backend.tokenize([Segment(text)]))

    return TokenCounter(count, True, path.name)


def _of_folder(path: Path) -> TokenCounter:
    file = path / "tokenizer.json"
    if not file.is_file():
        return estimating(f"{path} has no tokenizer.json")
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return estimating("the library tokenizers is not installed: pip install tokenizers")
    try:
        tokenizer: Any = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing more special
        return estimating(f"{file} cannot be read ({error})")
    tokenizer.encode_special_tokens = True
    return TokenCounter(lambda text: len(tokenizer.encode(text, add_special_tokens=False)), True, str(file))


def _of_server(spec: str, model: str | None, api_key: str | None, timeout: float) -> TokenCounter:
    from masa.servers import server_tokenizer

    ask = server_tokenizer(spec, model=model, timeout=timeout, api_key=api_key)
    if ask is None:
        return estimating("this server has no /tokenize")
    failed: list[str] = []
    fallback = estimating("")

    @functools.lru_cache(maxsize=4096)
    def count(text: str) -> int:
        if not failed:
            try:
                return ask(text)
            except MasaError as error:
                failed.append(str(error))
                logger.warning("%s; tokens are estimated from here on", error)
        return fallback.count(text)

    return TokenCounter(count, True, f"{spec.partition('#')[0]}/tokenize")
