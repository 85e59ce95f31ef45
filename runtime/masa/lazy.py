"""A bank that is rewritten group by group, when a group is first asked for."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from masa.provenance import GroupResult
from masa.skills import Group, SkillBank

if TYPE_CHECKING:
    from masa.cards import ModelCard
    from masa.rewriter import Options, Rewriter


class LazyBank:
    """A bank whose groups are rewritten when they are first asked for; made by `Rewriter.lazy`."""

    def __init__(self, rewriter: Rewriter, bank: SkillBank, card: ModelCard, options: Options) -> None:
        self._rewriter = rewriter
        self._bank = bank
        self._card = card
        self._options = options
        self._results: dict[str, GroupResult] = {}
        self._lock = threading.Lock()

    def group(self, key: str) -> Group:
        """The rewritten group called `key`."""
        return self.results(key)[key].output

    def bank(self, *keys: str) -> SkillBank:
        """The bank with these groups rewritten and the others as they were."""
        results = self.results(*keys)
        return self._bank.with_groups({key: result.output for key, result in results.items()})

    def results(self, *keys: str) -> Mapping[str, GroupResult]:
        """The accounts of these groups; those not rewritten yet are, together."""
        with self._lock:
            missing = [key for key in keys if key not in self._results]
            if missing:
                options: Options = {**self._options, "only": missing}
                result = self._rewriter.rewrite(self._bank, self._card, **options)
                # A cancelled group is asked for again next time.
                self._results.update({g.key: g for g in result.groups if g.status != "cancelled"})
                return {**{g.key: g for g in result.groups}, **self._results}
            return dict(self._results)
