"""How tokens are chosen: all that a caller sets of the decoding loop, which only a rewrite that decodes imports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen and how sequences share the machine.

    Attributes:
        temperature: 0 is greedy (the default); otherwise softmax sampling at this temperature.
        seed: with a temperature, each job draws from a generator seeded by (seed, salt), so that the outcome
            depends neither on the neighbours nor on the order.
        parallel: most sequences decoded side by side; default by the output language (`PARALLEL`).
        draft: most tokens guessed ahead by prompt lookup and verified in the same step (greedy only); 0 turns it off.
            It is meant to change speed only, but several tokens in one pass round otherwise than one by one, so
            where two tokens are about equally likely the other one may be chosen.
        forced: feed tokens that the constraint leaves no choice about without asking the model; the same holds.
    """

    temperature: float = 0.0
    seed: int = 0
    parallel: int | None = None
    draft: int = 0
    forced: bool = True

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature {self.temperature} is negative; 0 is greedy")
        if self.parallel is not None and self.parallel < 1:
            raise ValueError(f"parallel {self.parallel} is below 1")
        if self.draft < 0:
            raise ValueError(f"draft {self.draft} is negative; 0 turns it off")
