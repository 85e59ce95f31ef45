"""Conversations kept between requests: which slot of an engine goes on with which request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from masa_training.models.chat import Encoded
from masa_training.models.choice import EMPTY, Tree

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Ask:
    """Append `tokens` (at least one) to a slot, look at a tree behind them, and forget the tree again.

    Logits are float32 of shape (rows of the tree, vocabulary).
    """

    slot: int
    tokens: Sequence[int]
    tree: Tree = EMPTY


class Engine(Protocol):
    """Key-value caches of `slots` sequences of up to `length` tokens, and the model that fills them.

    What a slot's sequence yields depends on how it was fed, never on the other slots.
    """

    slots: int
    length: int

    def start(self, slot: int, prefix: Sequence[int]) -> bool:
        """Make the slot's sequence this prefix, as others have it; whether it was copied instead of computed."""
        ...

    def cut(self, slot: int, tokens: int) -> None:
        """Keep only the first `tokens` tokens (more than none) of a sequence."""
        ...

    def append(self, slot: int, tokens: Sequence[int]) -> None:
        """Append tokens in one pass; nobody asks what follows."""
        ...

    def run(self, asks: Sequence[Ask]) -> Iterator[NDArray[np.float32]]:
        """Logits for every ask, each of another slot. An array is the caller's until the next one is taken."""
        ...

    def close(self) -> None:
        """Free the memory. Calling it twice is allowed."""
        ...


@dataclass(frozen=True, slots=True)
class Placed:
    """A request that has a slot: `rest` are the tokens of its last pass, `cached` those that needed no computing."""

    slot: int
    rest: tuple[int, ...]
    cached: int


class Slots:
    """Knows what every slot of an engine holds."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._live: list[tuple[int, ...]] = [()] * engine.slots
        self._used = [0] * engine.slots
        self._clock = 0

    def assign(self, prompts: Sequence[Encoded]) -> list[int]:
        """A slot for each of at most `engine.slots` prompts: where its conversation is, or the longest unused one."""
        free = set(range(self.engine.slots))
        found: dict[int, int] = {}
        for i, prompt in enumerate(prompts):
            # A slot that holds no more than what all conversations begin with may as well go to another.
            kept = {slot: keep for slot in free if (keep := _kept(prompt, self._live[slot])) > prompt.borders[0]}
            if kept:
                found[i] = max(kept, key=lambda slot: (kept[slot], -len(self._live[slot])))
                free.remove(found[i])
        for i in range(len(prompts)):
            if i not in found:
                found[i] = min(free, key=lambda slot: (self._used[slot], slot))
                free.remove(found[i])
        return [found[i] for i in range(len(prompts))]

    def place(self, prompt: Encoded, slot: int) -> Placed:
        """Bring a slot to where only the last pass of the prompt is missing."""
        self._clock += 1
        self._used[slot] = self._clock
        keep = cached = _kept(prompt, self._live[slot])
        # Until all is done the slot counts as empty: an error in between must leave nothing that is believed.
        before, self._live[slot] = self._live[slot], ()
        if keep == 0 and len(prompt.borders) > 1:
            keep = prompt.borders[0]
            cached = keep if self.engine.start(slot, prompt.tokens[:keep]) else 0
        elif keep == 0:
            self.engine.start(slot, ())
        elif keep < len(before):
            self.engine.cut(slot, keep)
        for border in prompt.borders[:-1]:
            if border > keep:
                self.engine.append(slot, prompt.tokens[keep:border])
                keep = border
        return Placed(slot, prompt.tokens[keep:], cached)

    def settle(self, prompt: Encoded, slot: int, *, written: int = 0) -> None:
        """The prompt is in the slot, with `written` tokens behind it that are forgotten.

        An answer comes back as text in the next request and is computed again with what follows it: a conversation's
        numbers follow from its texts, whatever tokens the answer was written in.
        """
        if written:
            self.engine.cut(slot, len(prompt.tokens))
        self._live[slot] = prompt.tokens

    def forget(self) -> None:
        """Believe nothing of what the slots hold, after a failure in the middle of a pass."""
        self._live = [()] * self.engine.slots


def _kept(prompt: Encoded, live: tuple[int, ...]) -> int:
    """The last border before the end of the prompt up to which a slot's tokens are the prompt's, or 0."""
    for border in reversed(prompt.borders[:-1]):
        if len(live) >= border and live[:border] == prompt.tokens[:border]:
            return border
    return 0
