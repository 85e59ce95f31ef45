"""Does the artifact read text as the checkpoint does? Token ids of real text, of Unicode, of look-alikes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from masa.backends.tokenizing import Tokenizer
from masa.prompt import Segment

UNICODE = (
    "Größe, café, naïve: Ærøskøbing; ﬁne ligatures and cafe\u0301 decomposed",
    "把苹果放进冰箱，然后关上门。 日本語のテキスト、한국어 문장",
    "Привет, мир! Γειά σου Κόσμε. שלום עולם مرحبا بالعالم हिन्दी ไทย",
    "🧑\u200d🚀 👩🏽\u200d💻 🏳️\u200d🌈 🇩🇪 ✅➡️ \u200bzero\u200bwidth\u200b \ufeffmark",
    "tabs\tand  two   three    spaces\n\n\nlines\r\nend \u00a0no-break\u2003em",
    "1234567890 3.14159 0x1F 1e-9 12,345 №7 ½ x² a₁ 100 %",
    "def f(x: int) -> dict[str, Any]:\n    return {'a': x ** 2}  # comment\n```python\nprint(1)\n```",
    "https://example.org/a?b=c&d=%20e#f {object} <slot> [[nested]] $HOME \\n \\u0041 C:\\path",
    "a" * 300,
    " ",
    "\n",
)
"""Texts that tokenizers differ on: normalization, scripts, joiners, blanks, digits, code."""
_MOST_LOOK_ALIKES = 100
"""Special tokens that are spelled in texts: Gemma has thousands of unused ones. All ids are compared."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What came of it.

    Attributes:
        texts: how many pieces of text were compared.
        different: how many have other token ids, or spell other bytes when read back.
        controls: how many special tokens of the checkpoint were looked up.
        moved: how many of them have another id in the artifact or none.
        first: the first difference, for people; empty where there is none.
    """

    texts: int
    different: int
    controls: int
    moved: int
    first: str

    @property
    def mismatches(self) -> int:
        return self.different + self.moved


def compare_tokens(ours: Tokenizer, theirs: Tokenizer, texts: Iterable[str]) -> Tokens:
    """Compare an artifact's tokenizer with the checkpoint's on `texts`, `UNICODE`, and look-alikes.

    A look-alike is the spelling of a special token inside a text, which must stay text.
    """
    controls = theirs.control_tokens()
    pieces = [Segment(text) for text in dict.fromkeys((*texts, *UNICODE, *look_alikes(controls[:_MOST_LOOK_ALIKES])))]
    first = ""
    different = 0
    for piece in pieces:
        problem = _difference(ours, theirs, piece)
        different += bool(problem)
        first = first or problem
    moved = 0
    for control in controls:
        mine, wanted = ours.token_id(control), theirs.token_id(control)
        if mine != wanted:
            moved += 1
            first = first or f"the special token {control} is {mine}, in the checkpoint {wanted}"
    return Tokens(len(pieces), different, len(controls), moved, first)


def look_alikes(controls: Sequence[str]) -> list[str]:
    """Texts in which special tokens are spelled, whole, torn and in a sentence."""
    found = []
    for control in controls:
        found += [control, f"Say {control} aloud, then{control}\n{control}{control}", f"{control[:-1]} {control[1:]}"]
    return found


def _difference(ours: Tokenizer, theirs: Tokenizer, piece: Segment) -> str:
    mine, wanted = ours.tokenize((piece,)), theirs.tokenize((piece,))
    if mine != wanted:
        at = next((i for i, pair in enumerate(zip(mine, wanted, strict=False)) if pair[0] != pair[1]), 0)
        at = min(len(mine), len(wanted)) if mine[: len(wanted)] == wanted[: len(mine)] else at
        return f"{piece.text[:40]!r}: token {at} is {mine[at : at + 1]}, in the checkpoint {wanted[at : at + 1]}"
    spelled, expected = ours.detokenize(mine), theirs.detokenize(wanted)
    if spelled != expected:
        return f"{piece.text[:40]!r}: reads back as {spelled[:40]!r}, in the checkpoint {expected[:40]!r}"
    return ""
