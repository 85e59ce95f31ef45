"""Conversations kept between requests: which slot of an engine goes on with which request."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
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

    Attributes:
        exact: what a slot's sequence yields depends on how it was fed, never on the other slots. Engines that write
            give that up: sequences share passes, and what they yield differs by rounding.
    """

    slots: int
    length: int
    exact: bool

    def start(self, slot: int, prefix: Sequence[int]) -> bool:
        """Make the slot's sequence this prefix if it is kept, else leave it alone; whether it is kept."""
        ...

    def keep(self, slot: int, prefix: Sequence[int]) -> None:
        """Keep the slot's sequence, which is this prefix, for `start`; engines keep a bounded number."""
        ...

    def cut(self, slot: int, tokens: int) -> None:
        """Keep only the first `tokens` tokens of a sequence."""
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

    def assign(self, prompts: Sequence[Encoded], busy: Collection[int] = ()) -> list[int]:
        """A slot for each prompt, of those not busy: where its conversation is, or the longest unused one."""
        free = set(range(self.engine.slots)) - set(busy)
        found: dict[int, int] = {}
        for i, prompt in enumerate(prompts):
            # A slot that holds no more than what all conversations begin with may as well go to another.
            common = prompt.shared or prompt.borders[0]
            kept = {slot: keep for slot in free if (keep := self._kept(prompt, slot)) > common}
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
        keep = self._kept(prompt, slot)
        # Until all is done the slot counts as empty: an error in between must leave nothing that is believed.
        before, self._live[slot] = self._live[slot], ()
        shared = [border for border in prompt.borders[:-1] if border <= prompt.shared]
        found = next((b for b in reversed(shared) if b > keep and self.engine.start(slot, prompt.tokens[:b])), 0)
        if found:
            keep = found
        elif keep < len(before) or not keep:
            self.engine.cut(slot, keep)
        cached = keep
        for border in prompt.borders[:-1] if self.engine.exact else shared:
            if border > keep:
                self.engine.append(slot, prompt.tokens[keep:border])
                keep = border
                if border in shared:
                    self.engine.keep(slot, prompt.tokens[:border])
        return Placed(slot, prompt.tokens[keep:], cached)

    def settle(self, prompt: Encoded, slot: int, written: Sequence[int] = ()) -> None:
        """The prompt is in the slot, and behind it tokens that were written.

        An answer comes back as text in the next request. An exact engine computes it again with what follows it: a
        conversation's numbers follow from its texts, whatever tokens the answer was written in.
        """
        if written and self.engine.exact:
            self.engine.cut(slot, len(prompt.tokens))
            written = ()
        self._live[slot] = (*prompt.tokens, *written)

    def forget(self) -> None:
        """Believe nothing of what the slots hold, after a failure in the middle of a pass."""
        self._live = [()] * self.engine.slots

    def _kept(self, prompt: Encoded, slot: int) -> int:
        """How many of the prompt's tokens a slot has, all but the last at most; in exact engines up to a border."""
        live, wanted = self._live[slot], prompt.tokens[:-1]
        if not self.engine.exact:
            differing = (i for i, pair in enumerate(zip(live, wanted, strict=False)) if pair[0] != pair[1])
            return next(differing, min(len(live), len(wanted)))
        for border in reversed(prompt.borders[:-1]):
            if len(live) >= border and live[:border] == prompt.tokens[:border]:
                return border
        return 0
