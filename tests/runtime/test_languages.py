"""Both output languages: exact round trips, and a constraint and a parser that agree on every string."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import STOP, byte_tokenizer

from masa.constraint import Constraint
from masa.edits import EDITS, WARN_KINDS, EditCall, Plan, PlanLine, apply_plan
from masa.languages import (
    MAX_EDITS_PER_LINE,
    Block,
    ParseError,
    numbered,
    parse_blocks,
    parse_plan,
    plan_grammar,
    render_blocks,
    render_plan,
    skills_from_blocks,
    text_pattern,
)
from masa.skills import Group, Skill

plain = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
# Everything that the format gives a meaning to, in every combination.
tricky = st.lists(
    st.sampled_from([*"\\#n [1]\r\n:", "## ", "When: ", "## [1] x", "\n\n"]), min_size=1, max_size=30
).map("".join)
words = st.one_of(plain, tricky)


@st.composite
def block_lists(draw: st.DrawFn) -> tuple[int, list[Block]]:
    count = draw(st.integers(1, 12))
    sources = st.lists(st.integers(1, count), unique=True, max_size=3).map(tuple)
    block = st.builds(Block, sources, words, st.one_of(st.just(""), words), words)
    return count, draw(st.lists(block, min_size=1, max_size=5))


@given(block_lists())
def test_rendered_blocks_parse_back_exactly(case: tuple[int, list[Block]]) -> None:
    count, blocks = case
    text = render_blocks(blocks)
    assert re.fullmatch(text_pattern(count), text)
    assert list(parse_blocks(text, count)) == blocks


def accepted(grammar: str, text: str, *, regex: bool) -> bool:
    constraint = Constraint(byte_tokenizer(), grammar, regex=regex)
    for token in text.encode():
        if not constraint.allows(token):
            return False
        constraint.advance(token)
    return constraint.complete


def walk(grammar: str, *, regex: bool, seed: int, limit: int = 400, prefer: bytes = b"") -> str | None:
    """A random string of the language, or None if it did not end within `limit` bytes."""
    import numpy as np

    constraint = Constraint(byte_tokenizer(), grammar, regex=regex)
    rng = random.Random(seed)
    output = bytearray()
    for _ in range(limit):
        if constraint.complete and (constraint.finished or rng.random() < 0.15):
            return output.decode()
        allowed = np.flatnonzero(np.isfinite(constraint.mask(np.zeros(258, np.float32), [STOP])))
        choices = [int(t) for t in allowed if t < 256]
        favoured = [t for t in choices if t in prefer]
        token = rng.choice(favoured if favoured and rng.random() < 0.9 else choices)
        constraint.advance(token)
        output.append(token)
    return None


def mutated(text: str, rng: random.Random) -> str:
    position = rng.randrange(len(text) + 1)
    kind = rng.random()
    if kind < 0.35 and text:
        return text[:position] + text[position + 1 :]
    if kind < 0.7:
        return text[:position] + rng.choice("\n#[]+,12 \\Wk") + text[position:]
    lines = text.split("\n")
    rng.shuffle(lines)
    return "\n".join(lines)


def parses(text: str, count: int) -> bool:
    try:
        parse_blocks(text, count)
    except ParseError:
        return False
    return True


@pytest.mark.parametrize("seed", range(30))
def test_text_constraint_and_parser_agree(seed: int) -> None:
    count = 1 + seed % 11
    pattern = text_pattern(count)
    rng = random.Random(seed)
    written = walk(pattern, regex=True, seed=seed, prefer=b"#[1]+ \nWhen: x\\")
    samples = [written] if written is not None else []
    base = written or render_blocks([Block((1,), "t", "w", "a\n\nb"), Block((), "u", "", "c")])
    samples += [mutated(base, rng) for _ in range(12)]
    for text in samples:
        assert parses(text, count) == accepted(pattern, text, regex=True), repr(text)
    assert written is None or parses(written, count)


edit_sets = st.lists(
    st.lists(st.sampled_from([n for n in EDITS if n != "keep"]), unique=True, max_size=7).map(lambda e: ["keep", *e]),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60)
@given(edit_sets, st.integers(0, 10_000))
def test_every_plan_the_constraint_allows_covers_every_skill_once(allowed: list[list[str]], seed: int) -> None:
    text = walk(plan_grammar(allowed), regex=False, seed=seed)
    assert text is not None, "a plan is a short finite string"
    plan = parse_plan(text, allowed)
    assert [line.source for line in plan.lines] == list(range(1, len(allowed) + 1))
    assert render_plan(plan) == text
    for line, names in zip(plan.lines, allowed, strict=True):
        assert 1 <= len(line.edits) <= MAX_EDITS_PER_LINE
        assert {call.name for call in line.edits} <= set(names)
    assert len(set(plan.warnings)) == len(plan.warnings) <= 2


@settings(max_examples=60)
@given(edit_sets, st.integers(0, 10_000))
def test_plan_constraint_and_parser_agree_on_damaged_plans(allowed: list[list[str]], seed: int) -> None:
    grammar = plan_grammar(allowed)
    rng = random.Random(seed)
    text = walk(grammar, regex=False, seed=seed) or ""
    for _ in range(6):
        damaged = mutated(text, rng)
        try:
            parse_plan(damaged, allowed)
            parsed = True
        except ParseError:
            parsed = False
        assert parsed == accepted(grammar, damaged, regex=False), repr(damaged)


def test_a_plan_cannot_drop_everything_nor_merge_into_nothing() -> None:
    allowed = [["keep", "drop", "merge-up"], ["keep", "drop", "merge-up"]]
    for text in ("1 drop\n2 drop", "1 merge-up\n2 keep", "1 drop\n2 merge-up"):
        with pytest.raises(ParseError):
            parse_plan(text, allowed)
        assert not accepted(plan_grammar(allowed), text, regex=False)
    for text in ("1 drop\n2 keep", "1 keep\n2 merge-up", "1 keep\n2 drop"):
        assert parse_plan(text, allowed)
        assert accepted(plan_grammar(allowed), text, regex=False)


def test_plans_that_parse_can_be_applied() -> None:
    group = Group("clean", tuple(Skill(f"c{i}", f"Title {i}", f"Go there. Take it {i}. Then stop.") for i in range(4)))
    allowed = [["keep", "drop", "merge-up", "first", "shorten", "limit"]] * 4
    for seed in range(40):
        text = walk(plan_grammar(allowed), regex=False, seed=seed)
        assert text is not None
        planned = apply_plan(group, parse_plan(text, allowed))
        named = sorted([n for sources in planned.sources for n in sources] + list(planned.dropped))
        assert named == [1, 2, 3, 4]


def test_a_plan_is_written_as_the_design_shows() -> None:
    plan = Plan(
        (
            PlanLine(1, (EditCall("shorten"),)),
            PlanLine(2, (EditCall("steps"), EditCall("syntax"))),
            PlanLine(3, (EditCall("warn", WARN_KINDS[0]),)),
        ),
        (WARN_KINDS[0],),
    )
    assert render_plan(plan) == "1 shorten\n2 steps syntax\n3 warn loop\n+ warn loop"


def test_blocks_keep_the_identity_of_their_sources() -> None:
    group = Group(
        None,
        (Skill("gen_001", "A", "a", extra={"note": 1}), Skill("gen_002", "B", "b"), Skill("gen_003", "C", "c")),
    )
    blocks = parse_blocks(
        "## [2,1] Joined\nWhen: x\nab\n\n## [2] Second half\nWhen:\nb\n\n"
        "## [1] Other half\nWhen:\na\n\n## [+] New\nWhen:\nn",
        3,
    )
    skills = skills_from_blocks(blocks, group)
    assert [s.skill_id for s in skills] == ["gen_002", "gen_004", "gen_001", "gen_005"]
    assert skills[2].extra == {"note": 1}
    assert [b.sources for b in numbered(group)] == [(1,), (2,), (3,)]
