"""Skill bank JSON: byte-stable round trips of both dialects, and one clear sentence for everything else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masa.errors import FormatError, MasaError
from masa.formats import load_bank, save_bank
from masa.formats.bank_json import dump_bank, loads_bank
from masa.skills import GENERAL, Group, Skill, SkillBank

DOCUMENT = {
    "general_skills": [
        {"skill_id": "gen_001", "title": "Look “first”", "principle": "Open it.", "when_to_apply": "Always."},
        {"title": "No id", "principle": "Füße → x", "confidence": 0.5, "tags": ["a", {"b": None}]},
    ],
    "task_specific_skills": {
        "clean": [{"principle": "Wash.\nRinse.", "skill_id": "c1", "title": "Clean", "when_to_apply": ""}],
        "empty": [],
    },
    "common_mistakes": [{"mistake_id": "m1", "description": "d", "severity": 3}],
    "metadata": {"source": "x", "n": 1.0},
    "future": [1, 2],
}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts, lambda c: st.lists(c, max_size=3), max_leaves=4
)
skills = st.fixed_dictionaries(
    {"title": texts, "principle": texts},
    optional={"skill_id": texts, "when_to_apply": texts, "weight": values, "zz": values},
).flatmap(lambda item: st.permutations(list(item)).map(lambda keys: {key: item[key] for key in keys}))
documents = st.fixed_dictionaries(
    {"general_skills": st.lists(skills, min_size=1, max_size=3)},
    optional={
        "task_specific_skills": st.dictionaries(texts.filter(lambda t: t != GENERAL), st.lists(skills, max_size=2)),
        "common_mistakes": st.lists(st.dictionaries(texts, values, max_size=3), max_size=2),
        "metadata": values,
    },
)
layouts = st.fixed_dictionaries(
    {
        "indent": st.sampled_from([None, 1, 2, 4, "\t"]),
        "ensure_ascii": st.booleans(),
    }
)


@given(documents, layouts, st.sampled_from(["", "\n", "\n\n"]), st.booleans())
def test_an_unchanged_bank_is_written_back_byte_for_byte(document, layout, ending: str, bom: bool) -> None:
    data = (json.dumps(document, **layout) + ending).encode()
    data = b"\xef\xbb\xbf" + data if bom else data
    assert dump_bank(loads_bank(data)) == data


@given(documents, layouts)
def test_a_changed_bank_differs_in_the_change_only(document, layout) -> None:
    bank = loads_bank((json.dumps(document, **layout) + "\n").encode())
    first = bank.general[0]
    changed = bank.with_groups({GENERAL: Group(None, (replace(first, principle="NEW"), *bank.general[1:]))})
    expected = json.loads(json.dumps(document))
    expected["general_skills"][0]["principle"] = "NEW"
    written = dump_bank(changed)
    assert json.loads(written) == expected
    assert list(json.loads(written)["general_skills"][0]) == list(document["general_skills"][0])
    assert dump_bank(loads_bank(written)) == written
    if first.principle == "NEW":
        return
    restored = changed.with_groups({GENERAL: Group(None, bank.general)})
    assert dump_bank(restored) == dump_bank(bank)


def test_layout_escaping_and_unknown_fields_survive_a_change() -> None:
    data = json.dumps(DOCUMENT, indent=4, ensure_ascii=True).encode() + b"\n"
    bank = loads_bank(data)
    changed = bank.with_groups({"clean": Group("clean", (replace(bank.task_specific["clean"][0], title="Wash"),))})
    assert dump_bank(changed) == data.replace(b'"title": "Clean"', b'"title": "Wash"')
    assert bank.common_mistakes == tuple(DOCUMENT["common_mistakes"])
    assert bank.general[1].skill_id == ""


def test_mixed_escapes_stay_mixed() -> None:
    data = b'{"general_skills": [{"title": "\\u2019 t", "principle": "\xe2\x80\x99 p"}]}'
    bank = loads_bank(data)
    changed = bank.with_groups({GENERAL: Group(None, (replace(bank.general[0], when_to_apply="now"),))})
    assert dump_bank(changed) == data.replace(b'p"}', b'p", "when_to_apply": "now"}')


def test_the_search_dialect_keeps_its_key() -> None:
    data = json.dumps({"general_skills": [], "query_type_skills": {"a": [{"title": "t", "principle": "p"}]}}).encode()
    bank = loads_bank(data)
    assert list(bank.task_specific) == ["a"]
    changed = bank.with_groups({"a": Group("a", (Skill("n", "t2", "p2"),))})
    assert "query_type_skills" in json.loads(dump_bank(changed))


def test_a_bank_made_in_code_is_written_in_the_common_form() -> None:
    bank = SkillBank((Skill("g1", "T", "P", "W"),), {"clean": (Skill("c", "t", "p"),)})
    again = loads_bank(dump_bank(bank))
    assert again == bank and dump_bank(again) == dump_bank(bank)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff\xfe{}", "not UTF-8"),
        (b"{", "not JSON"),
        (b"[1, 2]", "a JSON list"),
        (b'{"name": "x"}', "not a skill bank"),
        (b'{"general_skills": []}', "empty"),
        (b'{"general_skills": {}}', "expected a list"),
        (b'{"general_skills": [1]}', "expected a skill"),
        (b'{"general_skills": [{"title": "t"}]}', "no 'principle'"),
        (b'{"general_skills": [{"title": 1, "principle": "p"}]}', "expected text"),
        (b'{"general_skills": [{"title": "t", "title": "u", "principle": "p"}]}', "twice"),
        (b'{"general_skills": [], "task_specific_skills": []}', "expected an object"),
        (b'{"task_specific_skills": {}, "query_type_skills": {}}', "keep one"),
        (b'{"general_skills": [{"title":"t","principle":"p"}], "common_mistakes": 3}', "common_mistakes"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_everything_else_gets_one_clear_sentence(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "bank.json"
    path.write_bytes(data)
    with pytest.raises(FormatError) as caught:
        load_bank(path)
    message = str(caught.value)
    assert words in message and str(path) in message and "\n" not in message


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no such file"):
        load_bank(tmp_path / "none.json")
    with pytest.raises(FormatError, match=r"no SKILL\.md"):
        load_bank(tmp_path)


def test_one_loader_and_one_saver_serve_banks_and_folders(tmp_path: Path) -> None:
    data = b'{"general_skills": [{"title": "A", "principle": "Do a."}], "task_specific_skills": {"b": []}}\n'
    (tmp_path / "bank.json").write_bytes(data)
    (tmp_path / "pdf").mkdir()
    text = "---\nname: pdf\ndescription: x\n---\nDo b.\n"
    (tmp_path / "pdf" / "SKILL.md").write_text(text)
    (tmp_path / "pdf" / "more.txt").write_text("kept")
    bank = load_bank(tmp_path / "bank.json")
    folders = [load_bank(tmp_path / place) for place in ("pdf", "pdf/SKILL.md", "")]
    assert [list(folder.task_specific) for folder in folders] == [["pdf"]] * 3

    save_bank(bank, tmp_path / "copy.json")
    assert (tmp_path / "copy.json").read_bytes() == data
    save_bank(folders[0], tmp_path / "copy")
    assert (tmp_path / "copy" / "SKILL.md").read_text() == text and (tmp_path / "copy" / "more.txt").exists()
    save_bank(SkillBank((Skill("g", "T", "P"),), {}), tmp_path / "made.json")
    assert load_bank(tmp_path / "made.json").general[0].title == "T"
    for original, target in ((bank, "bank.json"), (folders[0], "pdf"), (folders[0], "copy")):
        with pytest.raises(FormatError, match=target):
            save_bank(original, tmp_path / target)
    with pytest.raises(MasaError, match="nowhere"):
        save_bank(bank, tmp_path / "nowhere" / "x.json")
    assert (tmp_path / "bank.json").read_bytes() == data


def test_empty_parts_are_named_with_their_line(tmp_path: Path) -> None:
    text = """{"general_skills": [{"title": "A", "principle": " "}, {"title": "B", "principle": "Do b."}],
    "task_specific_skills": {
      "clean": [{"title": "C", "principle": "Do c."}],
      "h\u00e9at": [],
      "cool": [
      ]
    }}"""
    for written in (text, text.replace("\\u00e9", "é")):
        (tmp_path / "bank.json").write_text(written, encoding="utf-8")
        bank = load_bank(tmp_path / "bank.json", strict=True)
        assert [(p.line, p.severity) for p in bank.problems] == [(None, "note"), (4, "note"), (5, "note")]
        assert "skill 1" in bank.problems[0].message and "héat" in bank.problems[1].message


def test_published_banks_round_trip_byte_for_byte(shared_data: Path) -> None:
    paths = sorted([*shared_data.glob("skillrl/*.json"), *shared_data.glob("masa_banks/*/*.json")])
    assert len(paths) == 21
    for path in paths:
        bank = load_bank(path)
        assert dump_bank(bank) == path.read_bytes()
        first = next(group for group in bank.groups() if len(group))
        renamed = Group(first.task_type, (replace(first.skills[0], title="@@"), *first.skills[1:]))
        written = dump_bank(bank.with_groups({first.key: renamed})).splitlines()
        before = path.read_bytes().splitlines()
        assert len(written) == len(before)
        assert sum(a != b for a, b in zip(before, written, strict=True)) == 1, path
