"""TextWorld's text generation, with what it computes again and again computed once.

The PDDL engine parses the same short templates and queries with a parser generator at every step, and copies whole
games to evaluate them: 50 to 200 ms a step, nearly all of it here. `memoize` replaces four functions of
`textworld.envs.pddl.textgen` in this process by ones that give the same results from a memo; a test compares them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from textworld.envs.pddl import textgen

_ENTRIES = 20_000


@functools.cache
def memoize() -> None:
    """Replace the functions; a second call does nothing."""
    textgen._parse_and_convert = _fresh(functools.lru_cache(maxsize=_ENTRIES)(textgen._parse_and_convert))
    textgen.Rule = _Queries(textgen.Rule)
    textgen.copy_context = _copy_context
    textgen.EvalSymbol.derive = _derive_value


def _fresh(parse: Callable[..., Any]) -> Callable[..., Any]:
    """Symbols are given a context when they are derived, so every caller gets its own."""

    def parsed(text: str, rule_name: str, trace: bool = False) -> Any:
        del trace  # prints what TatSu does; nothing else depends on it
        return deepcopy(parse(text, rule_name=rule_name))

    return parsed


class _Queries:
    """Stands for `textworld.logic.Rule` where only its queries are asked for. A parsed query never changes."""

    def __init__(self, rule: Any) -> None:
        self.parse_conjunctive_query = functools.lru_cache(maxsize=_ENTRIES)(rule.parse_conjunctive_query)


def _copy_context(context: dict[str, Any]) -> dict[str, Any]:
    """As the original, but variables and placeholders, which never change, are shared."""
    return {**context, "variables": dict(context["variables"]), "mapping": dict(context["mapping"])}


def _derive_value(symbol: Any, context: dict[str, Any] | None = None) -> list[Any]:
    """As the original, without its detour over `locals()`, which Python 3.13 no longer allows."""
    names = (context or symbol.context)["variables"]
    return [textgen.TerminalSymbol(eval(_code(symbol.expression), {}, names))]


@functools.lru_cache(maxsize=_ENTRIES)
def _code(expression: str) -> Any:
    return compile(expression.strip(), "<grammar>", "eval")
