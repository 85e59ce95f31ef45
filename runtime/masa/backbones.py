"""The model card of whatever a user names as a backbone: a file, a folder, a server, or a shipped card."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import replace
from pathlib import Path

from masa.cards import ModelCard, find_shipped, load_card, merge, shipped_cards
from masa.errors import CardError

_log = logging.getLogger(__name__)


def resolve_backbone(
    spec: str | os.PathLike[str],
    *,
    model: str | None = None,
    user: ModelCard | None = None,
    timeout: float = 10.0,
    api_key: str | None = None,
) -> ModelCard:
    """The card of whatever a user names as a backbone.

    Args:
        spec: a GGUF file; a Hugging Face folder; the address of an Ollama or OpenAI-compatible server
            with the model behind a `#` ("http://localhost:11434#qwen3:4b"); a card file; the name of a shipped
            card; or that of a backbone whose weights can be pulled. A file or folder wins over a name.
        model: the model on the server, instead of behind `#`.
        user: values that win over what is detected and shipped.
        timeout: seconds for all requests to a server together.
        api_key: sent to the server as a bearer token.

    What is detected is completed from the shipped card that the model's own names and its architecture
    point to, if there is one. A card file is taken as it is.

    Raises:
        CardError: if nothing fits, or what was found cannot be read.
        FormatError: if a GGUF file is damaged.
    """
    spec = os.fspath(spec)
    if not spec.strip():
        raise CardError("the backbone is empty; name a GGUF file, a folder, a server, a card file or a card")
    if re.match(r"https?://", spec, re.IGNORECASE):
        from masa import servers

        detected = servers.detect_server(spec, model=model, timeout=timeout, api_key=api_key)
    else:
        if model is not None:
            raise CardError(f"{spec}: a model name ({model!r}) goes with the address of a server, not with this")
        path = _existing(spec)
        if path is None:
            from masa.weights import list_weights, named_weights

            if spec not in list_weights():
                return _corrected(find_shipped(spec), user)
            named = named_weights(spec)
            path = named.path
            if not path.is_file():  # the shipped card says what the weights would
                return _corrected(find_shipped(named.card), user)
        if path.suffix.lower() in (".yaml", ".yml", ".json") and path.name != "config.json" and path.is_file():
            return _corrected(_as_user(path), user)
        from masa.detect import detect_gguf
        from masa.formats.gguf_header import is_gguf, join_parts
        from masa.huggingface_folder import detect_folder

        if path.is_dir() or path.name == "config.json":
            detected = detect_folder(path if path.is_dir() else path.parent)
        elif path.suffix.lower() == ".gguf" or is_gguf(path) or join_parts(path):
            detected = detect_gguf(path)
        else:
            raise CardError(
                f"{path}: neither a GGUF model nor a model card; give a .gguf file, a folder with "
                "config.json, or a card that ends in .yaml"
            )
    from masa.model_names import match

    found = match(detected, shipped_cards())
    return _corrected(merge(found.detected, found.shipped), user)


def _corrected(found: ModelCard, user: ModelCard | None) -> ModelCard:
    """The card with the user's values, which win; one that makes another model of it is told in the log."""
    if user is None:
        return found
    from masa.model_names import differing

    if names := differing(user, found):
        said = [" and ".join(f"{name} {getattr(card, name)}" for name in names) for card in (user, found)]
        _log.warning(
            "the card says %s, the model itself %s; the card wins, so leave these lines out of it to keep the model's",
            *said,
        )
    return merge(found, user=user)


def _as_user(path: Path) -> ModelCard:
    card = load_card(path)
    return replace(card, origins=dict.fromkeys(card.fields(), "user"))


def _existing(spec: str) -> Path | None:
    """The file or folder that `spec` names, None if it can only be the name of a card.

    Raises:
        CardError: if it is written like a path and nothing is there.
    """
    try:
        path = Path(spec).expanduser()
        if "\0" in spec:
            raise ValueError("a null character")
        if path.exists():
            return path
    except (OSError, ValueError, RuntimeError) as error:
        raise CardError(f"{spec!r}: not a usable path ({error})") from None
    if path.suffix.lower() == ".gguf":
        from masa.formats.gguf_header import parts_instead

        if advice := parts_instead(path):
            raise CardError(f"{spec}: no such file, but parts of it; {advice}")
    if path.suffix.lower() in (".gguf", ".yaml", ".yml", ".json") or spec.startswith((".", "/", "~", "\\")):
        raise CardError(f"{spec}: no such file or folder; check the path")
    return None
