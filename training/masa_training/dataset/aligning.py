"""Which skills of an input a skill of the target comes from: the numbers in the headings of the text language.

Published banks do not say it, and share few words with what they came from, so the numbers are an estimate: cosine
similarity of the content words (crudely stemmed), each weighted by its rarity in the input group. A source is named
where its similarity reaches `THRESHOLD` and 0.7 of the best one's, at most three, the best first; where none does, the
heading says `[+]`, a new skill.
"""

from __future__ import annotations

import math

from masa.edits.english import content_words
from masa.languages import Block
from masa.skills import Group, Skill

THRESHOLD = 0.1
_NEAR_BEST = 0.7
_MOST_SOURCES = 3


def aligned_blocks(target: Group, source: Group) -> tuple[Block, ...]:
    """The target's skills as blocks of the text language, with the numbers of their sources in `source`."""
    words = [content_words(skill.text) for skill in source.skills]
    rarity = {
        word: math.log(1 + len(words) / sum(word in others for others in words)) for word in frozenset().union(*words)
    }
    return tuple(
        Block(_sources(skill, words, rarity), skill.title, skill.when_to_apply, skill.principle)
        for skill in target.skills
    )


def _sources(skill: Skill, words: list[frozenset[str]], rarity: dict[str, float]) -> tuple[int, ...]:
    wanted = content_words(skill.text)
    # A word that the input does not know at all is as rare as one that a single skill has.
    unknown = math.log(1 + len(words))

    def square(some: frozenset[str]) -> float:
        # Sorted, because sums of floats depend on their order and sets of texts have none.
        return math.fsum(sorted(rarity.get(word, unknown) ** 2 for word in some))

    scores = []
    for number, others in enumerate(words, start=1):
        product = math.sqrt(square(wanted) * square(others))
        scores.append((square(wanted & others) / product if product else 0.0, number))
    ranked = sorted(scores, key=lambda item: (-item[0], item[1]))
    best = ranked[0][0] if ranked else 0.0
    chosen = [n for score, n in ranked[:_MOST_SOURCES] if score >= max(THRESHOLD, _NEAR_BEST * best)]
    return tuple(chosen)
