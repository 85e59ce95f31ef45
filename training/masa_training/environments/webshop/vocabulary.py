"""Lists of words that rules of the shop need."""

from __future__ import annotations


def _words(text: str) -> list[str]:
    return text.split()


COLOURS = tuple(
    _words(
        "alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown burgundy camel "
        "camo caramel champagne charcoal cheetah chestnut chocolate christmas coffee cognac copper coral cranberry "
        "cream crystal dark denim eggplant elephant espresso fuchsia gold granite grape graphite grass gray green "
        "grey heather indigo ivory ivy khaki lavender lemon leopard light lilac lime magenta maroon mauve merlot "
        "midnight mint mocha multicolor mushroom mustard natural navy nude olive orange peach pewter pink plum purple "
        "rainbow red rose royal rust sand sapphire seashell silver skull slate steel stone stonewash sunflower tan "
        "taupe teal tiger turquoise violet walnut wheat white wine yellow"
    )
)
"""The colour words of the published engine (web_agent_site/engine/normalize.py, MIT), in the order it tries them."""

FUNCTION_WORDS = frozenset(
    _words(
        "a all also and any are as at be both but by each every for from he her his how if in into is it its just "
        "less me more most my no nor not of off on only onto or our out over per plus she so than that the their them "
        "then these they this those to too under up us very via was we were what when where which while who will with "
        "without you your s t"
    )
)
"""Determiners, prepositions, conjunctions, pronouns and auxiliaries: what a title never uses as a noun."""

ASKING_WORDS = frozenset(
    _words(
        "am buy can could find get give hello hi i i'd i'm kind like looking me my need one order pair place please "
        "search should show some something want would you"
    )
)
"""Words of an instruction that only ask."""

FOOTWEAR = frozenset(
    _words("boots clogs flats footwear heels loafers moccasins mules oxfords pumps sandals shoes slippers sneakers")
)
"""Words of queries for footwear."""

ACCESSORIES = frozenset(
    _words(
        "backpacks belts gloves handbags hats jewelry luggage neckties purses scarves sunglasses umbrellas wallets "
        "watches"
    )
)
"""Words of queries for what is worn with clothes or carried."""
