"""The bootstrap corpus of the plan language: generated cards, real skills, edits that follow by stated rules.

It stands in until evolution has recorded edits that helped a backbone. Nothing in it was measured: every sample
is marked synthetic, and `docs/bootstrap.md` states the rules.
"""

from __future__ import annotations

from masa_training.bootstrap.behaviours import Vocabulary, load_vocabulary
from masa_training.bootstrap.corpus import (
    Corpus,
    CorpusConfig,
    KnownFacts,
    SkillGroup,
    build,
    check_disjoint,
    edit_counts,
    load_environments,
    skill_groups,
)
from masa_training.bootstrap.rules import Traits, needs_of, plan_for, traits_of

__all__ = [
    "Corpus",
    "CorpusConfig",
    "KnownFacts",
    "SkillGroup",
    "Traits",
    "Vocabulary",
    "build",
    "check_disjoint",
    "edit_counts",
    "load_environments",
    "load_vocabulary",
    "needs_of",
    "plan_for",
    "skill_groups",
    "traits_of",
]
