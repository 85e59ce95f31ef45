"""A skill is made to fit its reader: nothing is lost, the body says where the rest is, descriptions keep their use."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.agent_folders import LONG, TOPICS, skill_md
from tests.runtime.skill_samples import principles

from masa.errors import FormatError
from masa.fitting import fit, shorter_description
from masa.formats.skill_md_document import parse_document
from masa.guard.survival import protected
from masa.skill_cost import body_of, skill_cost
from masa.token_counts import estimating

count = estimating("").count
WHERE = "skills/long/SKILL.md"


def long_skill(extra: str = "") -> bytes:
    return skill_md([name for name, *_ in TOPICS].index(LONG[0]), 45, 14).encode() + extra.encode()


def words(text: str) -> list[str]:
    return sorted(re.findall(r"\S+", text))


def test_a_body_over_its_budget_keeps_every_word_in_the_body_or_behind_its_links() -> None:
    raw = long_skill()
    fitted = fit(raw, WHERE, count, body=4_000, description=None)
    body = body_of(parse_document(fitted.text, WHERE))
    assert not fitted.told and count(body) <= 4_000
    for name, data in fitted.added.items():
        assert f"]({name})" in body and re.fullmatch(r"references/[a-z0-9-]+\.md", name) and data.endswith(b"\n")
    everything = body + "".join(data.decode() for data in fitted.added.values())
    held = {span for _, span in protected(everything)}
    assert {span for _, span in protected(body_of(parse_document(raw, WHERE)))} <= held
    for section in parse_document(raw, WHERE).sections:
        assert section.text in everything and section.heading.strip() in everything
    # Front matter and what comes first stay as they are.
    assert fitted.text.startswith(raw[: raw.index(b"## Find the input 2")])


def test_a_body_within_its_budget_is_not_touched() -> None:
    raw = long_skill()
    fitted = fit(raw, WHERE, count, body=100_000, description=1_000)
    assert (fitted.text, fitted.added, fitted.told) == (raw, {}, ())


def test_asides_move_before_orders_that_must_not_be_missed() -> None:
    filler = "Some background on how the format came about, told at length. " * 20
    rule = "Never delete a file that the user did not name. " * 20
    raw = f"---\nname: long\ndescription: d\n---\n# Top\n\nDo it.\n\n## Safety\n\n{rule}\n\n## History\n\n{filler}\n"
    fitted = fit(raw.encode(), WHERE, count, body=320, description=None)
    assert list(fitted.added) == ["references/history.md"] and rule.strip().encode() in fitted.text
    both = fit(raw.encode(), WHERE, count, body=60, description=None)
    assert set(both.added) == {"references/history.md", "references/safety.md"}
    (told,) = fit(raw.encode(), WHERE, count, body=10, description=None).told
    assert "no more of it may move" in told


def test_sections_below_go_with_theirs_and_names_do_not_clash() -> None:
    part = "Look at it closely and write down what you see there. " * 12
    body = f"# Top\n\nDo it.\n\n## Same\n\n{part}\n\n### Below\n\n{part}\n\n## Same\n\n{part}\n"
    raw = f"---\nname: long\ndescription: d\n---\n{body}"
    fitted = fit(raw.encode(), WHERE, count, body=50, description=None, taken=["references/Same.md"])
    assert sorted(fitted.added) == ["references/same-2.md", "references/same-3.md"]
    assert any(b"### Below" in data for data in fitted.added.values()) and b"### Below" not in fitted.text


def test_link_definitions_stay_with_the_text_that_uses_them() -> None:
    part = "Look at [the page][p] and write down what you see there. " * 12
    raw = f"---\nname: long\ndescription: d\n---\n# Top\n\nDo it.\n\n## One\n\n{part}\n\n[p]: https://example.org/p\n"
    fitted = fit(raw.encode(), WHERE, count, body=30, description=None)
    assert fitted.added == {} and fitted.told


def test_paths_in_what_moved_are_said_to_start_at_the_skill() -> None:
    part = "Read [the table](references/table.md) and compare it. " * 12
    raw = f"---\nname: long\ndescription: d\n---\n# Top\n\nDo it.\n\n## Compare\n\n{part}\n"
    (data,) = fit(raw.encode(), WHERE, count, body=60, description=None).added.values()
    assert data.startswith(b"## Compare\n\nPaths on this page start at the folder of SKILL.md.\n\nRead [the table]")


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_file_keeps_its_line_ends(ending: str) -> None:
    raw = long_skill().replace(b"\n", ending.encode())
    fitted = fit(raw, WHERE, count, body=4_000, description=None)
    for data in (fitted.text, *fitted.added.values()):
        assert (b"\r\n" in data) == (ending == "\r\n") and data.replace(b"\r\n", b"").count(b"\r") == 0
        assert ending == "\n" or data.replace(b"\r\n", b"").count(b"\n") == 0


@given(st.lists(principles, min_size=2, max_size=6), st.integers(10, 200))
def test_whatever_the_sections_hold_they_survive(parts: list[str], most: int) -> None:
    body = "\n\n".join(f"## Part {number}\n\n{part}" for number, part in enumerate(parts))
    raw = f"---\nname: long\ndescription: d\n---\n{body}\n".encode()
    try:
        before = parse_document(raw, WHERE)
        fitted = fit(raw, WHERE, count, body=most, description=None)
    except FormatError:
        return
    everything = "\n".join((fitted.text.decode(), *(data.decode() for data in fitted.added.values())))
    for section in before.sections:
        assert section.text.strip() in everything
    again = parse_document(fitted.text, WHERE)
    cost = skill_cost(again, None, count, extra={name: data.decode() for name, data in fitted.added.items()})
    assert not set(cost.missing) & set(fitted.added) and not set(cost.unreferenced) & set(fitted.added)


# --- descriptions ---------------------------------------------------------------------------------------------

DESCRIPTION = (
    "Works on invoices step by step. It was made with great care over the years. Use it when the user asks to check "
    "invoices, or says 'dunning'. Everyone in the office is fond of it. Reads .csv and XLSX files. Do not use it for "
    "letters."
)


def test_a_description_keeps_what_it_is_for_and_when() -> None:
    shorter = shorter_description(DESCRIPTION, count, 45)
    assert count(shorter) <= 45
    assert shorter.startswith("Works on invoices step by step.") and "fond" not in shorter
    assert all(kept in shorter for kept in ("Use it when", "'dunning'", ".csv and XLSX", "Do not use it for letters."))
    assert shorter_description(DESCRIPTION, count, 1) == shorter_description(DESCRIPTION, count, 45)
    assert shorter_description(DESCRIPTION, count, 500) == DESCRIPTION


@pytest.mark.parametrize(
    "written",
    [
        f"description: {DESCRIPTION}\nlicense: x",
        f'description: "{DESCRIPTION}"\nlicense: x',
        "description: >-\n  " + DESCRIPTION.replace(". ", ".\n  ") + "\nlicense: x",
        "license: x\ndescription: |\n  " + DESCRIPTION.replace(". ", ".\n  "),
    ],
)
def test_front_matter_keeps_all_but_the_description(written: str) -> None:
    raw = f"---\nname: long\n# a comment\n{written}\nmetadata:\n  version: 1.10\n---\n# Top\n\nDo it.\n".encode()
    fitted = fit(raw, WHERE, count, body=None, description=45)
    before, after = parse_document(raw, WHERE), parse_document(fitted.text, WHERE)
    assert "fond" not in after.description and "dunning" in after.description
    assert {**before.fields, "description": ""} == {**after.fields, "description": ""}
    assert b"# a comment\n" in fitted.text and fitted.text.endswith(b"---\n# Top\n\nDo it.\n")


def test_what_cannot_be_shorter_is_told() -> None:
    raw = b"---\nname: long\ndescription: Use it when the user asks for a report on invoices.\n---\n# Top\n\nDo it.\n"
    fitted = fit(raw, WHERE, count, body=None, description=5)
    assert fitted.text == raw and "5 were asked for" in fitted.told[0]
