"""From what a backbone wrote to the action it means."""

from __future__ import annotations

import re
from collections.abc import Sequence

from masa_training.environments.tool_calls import read_call

_TAGGED = re.compile(r"<action>(.*?)(?:</action>|\Z)", re.DOTALL | re.IGNORECASE)
_NAMED = re.compile(r"^\W*(?:action|next action|command)\W*:\s*(.+)$", re.IGNORECASE | re.MULTILINE)
_WRAPPING = "`\"'*_ \t\r\n"


def parse_action(text: str, admissible: Sequence[str] | None = None) -> str:
    """The action in free text; empty if there is none.

    In this order: the last `<action>…</action>` (an unclosed one counts, since a stop or a length limit may cut it),
    the last line that begins with "Action:", an admissible action that a line of the text is, the last line that is
    not empty. Quotes and Markdown around it are removed. Case and blanks follow the admissible action that it equals
    without them.
    """
    tagged = _TAGGED.findall(text)
    named = _NAMED.findall(text)
    lines = [line for line in (_bare(line) for line in text.splitlines()) if line]
    known = {_plain(action): action for action in admissible or ()}
    if tagged:
        found = _bare(tagged[-1])
    elif named:
        found = _bare(named[-1])
    else:
        listed = [line for line in lines if _plain(line) in known]
        found = (listed or lines or [""])[-1]
    first, *_ = found.splitlines() or [""]
    return known.get(_plain(first), first.strip())


def parse_call(text: str) -> tuple[str, str]:
    """The first call of a tool in free text, as the environment takes it, and the text up to its end.

    Without a call both are the text, of which the environment says that it is none.
    """
    found = read_call(text)
    if found is None:
        return text.strip(), text.strip()
    call, end = found
    return call.text, text[:end].strip()


def _bare(text: str) -> str:
    return text.strip(_WRAPPING)


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".")
