"""What is done to texts that a model wrote: reasoning taken out, candidates recognised."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_CLOSED = re.compile(r"<think>.*?</think>", re.DOTALL)
_TAG = re.compile(r"</?(?:action|answer)>", re.IGNORECASE)
_LABEL = re.compile(r"^(?:action|answer|choice)\s*:\s*", re.IGNORECASE)
_QUOTES = "\"'`*“”‘’«» \t\n"


def without_reasoning(text: str) -> str:
    """The text without `<think>…</think>`.

    A template may have opened the block in the prompt, so text up to a lone `</think>` goes too; a block that was
    never closed (cut at the token limit) leaves nothing behind it. Text without such a block comes back unchanged.
    """
    if "<think>" not in text and "</think>" not in text:
        return text
    text = _CLOSED.sub("", text)
    text = text.rsplit("</think>", 1)[-1]
    return text.split("<think>", 1)[0].strip()


def match(text: str, candidates: Sequence[str]) -> str | None:
    """The candidate that a free text means, or None.

    The text must be the candidate itself, but for letter case, blanks, Unicode forms, quotation marks, a full stop at
    the end, `<action>` or `<answer>` tags and a label such as "Action:". Two candidates that cannot be told apart
    that way are matched only by their exact spelling.
    """
    if text in candidates:
        return text
    wanted = _plain(text)
    found = [candidate for candidate in dict.fromkeys(candidates) if _plain(candidate) == wanted]
    return found[0] if len(found) == 1 else None


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFKC", text)
    text = _TAG.sub(" ", text).strip(_QUOTES)
    text = _LABEL.sub("", text).strip(_QUOTES).rstrip(".").strip(_QUOTES)
    return " ".join(text.casefold().split())
