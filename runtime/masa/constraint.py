"""Constrained decoding: which tokens may come next so that the output is in the language (llguidance)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from masa.errors import BackendError, MissingExtraError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Constraint:
    """The state of one sequence in a grammar.

    Greedy decoding asks `allows` about the most likely token first and computes a mask only when it is
    refused, since a mask costs from tens of microseconds to a millisecond and a refusal is rare.
    """

    def __init__(self, tokenizer: Any, grammar: str, *, regex: bool = False) -> None:
        """`grammar` is in llguidance's Lark dialect, or one regular expression if `regex`.

        Raises:
            BackendError: if the grammar is not valid.
        """
        try:
            from llguidance import LLMatcher
        except ImportError:
            raise MissingExtraError("constrained decoding", "llama") from None
        compiled = LLMatcher.grammar_from_regex(grammar) if regex else LLMatcher.grammar_from_lark(grammar)
        self._matcher = LLMatcher(tokenizer, compiled, log_level=0)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise BackendError(f"constraint: {self._matcher.get_error().splitlines()[0]}")

    def allows(self, token: int) -> bool:
        """Whether `token` may come next (a stop token may where the output is complete)."""
        return bool(self._matcher.validate_tokens([token]) == 1)

    def advance(self, token: int) -> None:
        """`token` was chosen.

        Raises:
            BackendError: if it is not allowed here.
        """
        self._matcher.consume_token(token)
        self._check()

    def forced(self) -> list[int]:
        """Tokens that must follow whatever the weights say; empty where there is a choice. Not consumed."""
        return list(self._matcher.compute_ff_tokens())

    @property
    def complete(self) -> bool:
        """Whether the output so far is in the language."""
        return bool(self._matcher.is_accepting())

    @property
    def finished(self) -> bool:
        """Whether nothing but a stop token may follow."""
        return bool(self._matcher.is_stopped())

    def admitted(self, size: int, stop: Sequence[int]) -> NDArray[np.bool_]:
        """For each of `size` tokens of the vocabulary whether it may come next."""
        import numpy as np

        words = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.unpackbits(words, bitorder="little")[:size].astype(bool)
        if len(allowed) < size:
            allowed = np.pad(allowed, (0, size - len(allowed)))
        # A vocabulary may call the token that ends an answer text; it ends one all the same.
        allowed[list(stop)] = self.complete
        self._check()
        return allowed

    def mask(self, logits: NDArray[np.float32], stop: Sequence[int]) -> NDArray[np.float32]:
        """A copy of `logits` with −inf at every token that may not come next."""
        import numpy as np

        return np.where(self.admitted(logits.shape[0], stop), logits, np.float32(-np.inf))
