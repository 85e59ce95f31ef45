"""Agent Skills folders: what loading sees, and that saving changes nothing but the sections that changed."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masa.errors import FormatError
from masa.formats import load_bank
from masa.formats.skill_md import (
    client_fields,
    is_skill_folder,
    load_skill_folder,
    save_skill_folder,
    validate_skill_folder,
)
from masa.formats.skill_md_document import (
    EXTRA,
    Document,
    _headings,
    _split_front_matter,
    parse_document,
)
from masa.formats.skill_md_render import render_document
from masa.formats.skill_md_tree import fingerprint
from masa.skills import Group, Skill, SkillBank

FRONT = "---\nname: pdf\ndescription: Reads PDF files. Use for PDFs.\n---\n"
BODY = """\

# Working with PDF

## First look

Open the file with `scripts/open.py`.

```bash
# not a heading
---
```

Steps
-----
1. Look.
2. Answer.
   > # quoted, no section

### Details ###

See [the reference](references/REFERENCE.md).
"""


def folder(path: Path, text: str | bytes = FRONT + BODY) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "SKILL.md").write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def titles(markdown: bytes) -> list[str]:
    return [section.title for section in parse_document(markdown, "test").sections]


def rewrite(text: str, *skills: Skill) -> str:
    return render_document(parse_document(text.encode(), "test"), skills, "test").decode()


def skills_of(text: str) -> list[Skill]:
    return list(parse_document(text.encode(), "test").skills())


# -- loading ---------------------------------------------------------------------------------------------


def test_a_skill_folder_is_one_group_of_sections(tmp_path: Path) -> None:
    bank = load_skill_folder(folder(tmp_path / "pdf"))

    assert bank.general == ()
    assert list(bank.task_specific) == ["pdf"]
    skills = bank.task_specific["pdf"]
    assert [(s.title, s.extra[EXTRA]["level"]) for s in skills] == [
        ("First look", 2),
        ("Steps", 2),
        ("Details", 3),
    ]
    assert skills[1].principle == "1. Look.\n2. Answer.\n   > # quoted, no section"
    assert "# not a heading\n---\n```" in skills[0].principle
    assert {s.when_to_apply for s in skills} == {""}
    assert len({s.skill_id for s in skills}) == 3
    assert skills[0].extra[EXTRA]["description"] == "Reads PDF files. Use for PDFs."


def test_text_before_the_first_heading_is_a_section_called_like_the_skill() -> None:
    skills = skills_of(FRONT + "\nRead this first.\n\n# Then\n\nthis\n")
    assert [(s.title, s.principle) for s in skills] == [("pdf", "Read this first."), ("Then", "this")]


def test_a_folder_of_skill_folders_gives_one_group_each_and_passes_over_the_rest(tmp_path: Path) -> None:
    folder(tmp_path / "b", "---\nname: b\ndescription: B\n---\nDo b.\n")
    folder(tmp_path / "a", "---\nname: a\ndescription: A\n---\nDo a.\n")
    folder(tmp_path / ".masa" / "a", "---\nname: hidden\n---\nx\n")
    (tmp_path / "notes").mkdir()
    (tmp_path / "README.md").write_text("# no skill\n")

    assert list(load_skill_folder(tmp_path).task_specific) == ["a", "b"]
    assert is_skill_folder(tmp_path)
    assert is_skill_folder(tmp_path / "a" / "SKILL.md")
    assert not is_skill_folder(tmp_path / "notes")


def test_the_skill_md_itself_stands_for_its_folder(tmp_path: Path) -> None:
    assert len(load_skill_folder(folder(tmp_path / "pdf") / "SKILL.md")) == 3


def test_dashes_inside_the_yaml_and_the_body_do_not_end_the_front_matter() -> None:
    text = "---\nname: x\nnote: |\n  one\n  ---\n  two --- three\n--- \t\nbody\n\n---\n\nmore\n"
    document = parse_document(text.encode(), "test")
    assert document.fields["note"] == "one\n---\ntwo --- three\n"
    assert [s.text for s in document.sections] == ["body\n\n---\n\nmore"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# Title\n\ntext\n", "no front matter"),
        ("", "no front matter"),
        ("\n---\nname: x\n---\nb\n", "no front matter"),
        ("---\nname: x\n\n# Title\n", "not terminated"),
        ("---\nname: x\nno colon here\nlicense: MIT\n---\nbody\n", "SKILL.md, line 3.*not valid YAML"),
        ("---\nname: x\n\tkey: tab\n---\nbody\n", "line 3.*not valid YAML"),
        ("---\nname: x\nkey: " + "[" * 2000 + "\n---\nbody\n", "not valid YAML"),
        ("---\nname: \x01\n---\nbody\n", "not valid YAML"),
        ("---\n- name\n---\nbody\n", "list"),
        ("---\nname: x\n---\n", "no text"),
        ("---\nname: x\n---\n\n# Only\n\n## Headings\n", "no text"),
        (b"---\nname: x\n---\nfine\n\xff\xfe\n", "line 5: not UTF-8"),
        ("---\nname: x\n---\nbody\n".encode("utf-16"), "line 1: not UTF-8"),
    ],
)
def test_a_broken_skill_md_gets_one_clear_sentence(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = folder(tmp_path / "x", text)
    with pytest.raises(FormatError, match=message) as caught:
        load_skill_folder(path)
    assert "SKILL.md" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_skill_md_and_no_folder_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"no SKILL\.md"):
        load_skill_folder(tmp_path)
    with pytest.raises(FormatError, match="does not exist"):
        load_skill_folder(tmp_path / "nowhere")
    (tmp_path / "bank.json").write_text("{}")
    with pytest.raises(FormatError, match="is no folder"):
        load_skill_folder(tmp_path / "bank.json")


def test_two_skills_with_one_name_are_both_read_and_told(tmp_path: Path) -> None:
    folder(tmp_path / "a")
    folder(tmp_path / "plugins" / "b")
    folder(tmp_path / "plugins" / "c", FRONT.replace("pdf", "general_skills") + "Do c.\n")
    bank = load_skill_folder(tmp_path)
    assert list(bank.task_specific) == ["pdf", "plugins/b", "plugins/c"]
    assert [(p.severity, p.line) for p in bank.problems] == [("warning", 2), ("warning", 2)]
    ids = [skill.skill_id for skills in bank.task_specific.values() for skill in skills]
    assert len(set(ids)) == len(ids)
    save_skill_folder(bank, tmp_path.parent / f"{tmp_path.name}-out")


# -- saving ----------------------------------------------------------------------------------------------


def with_skills(bank_path: Path, skills: Sequence[Skill], out: Path) -> bytes:
    bank = load_skill_folder(bank_path)
    name = next(iter(bank.task_specific))
    save_skill_folder(bank.with_groups({name: Group(name, tuple(skills))}), out)
    return (out / "SKILL.md").read_bytes()


def test_a_copy_keeps_every_other_file_byte_for_byte(tmp_path: Path) -> None:
    path = folder(tmp_path / "pdf")
    (path / "scripts").mkdir()
    (path / "scripts" / "open.py").write_bytes(b"#!/usr/bin/env python\r\nprint()\n\xff")
    (path / "scripts" / "open.py").chmod(0o755)
    (path / "references" / "deep").mkdir(parents=True)
    (path / "references" / "deep" / "SKILL.md").write_bytes(b"no front matter")
    (path / "references" / "again.py").symlink_to("../scripts/open.py")
    (path / "absolute").symlink_to(path / "scripts")
    (tmp_path / "outside.txt").write_text("private")
    (path / "leak").symlink_to(tmp_path / "outside.txt")
    (path / "dangling").symlink_to("nothing")
    (path / ".masa").mkdir()
    (path / ".masa" / "old").write_text("variant")
    before = (path / "SKILL.md").read_bytes()

    out = tmp_path / "out" / "pdf"
    save_skill_folder(load_skill_folder(path), out)

    assert (out / "SKILL.md").read_bytes() == before
    assert (path / "SKILL.md").read_bytes() == before
    assert (out / "scripts" / "open.py").read_bytes() == (path / "scripts" / "open.py").read_bytes()
    assert os.access(out / "scripts" / "open.py", os.X_OK)
    assert (out / "references" / "deep" / "SKILL.md").read_bytes() == b"no front matter"
    assert (out / "references" / "again.py").readlink() == Path("../scripts/open.py")
    assert (out / "absolute").resolve() == (out / "scripts").resolve()
    left_out = {"leak", "dangling", ".masa"}
    assert {p.name for p in path.iterdir()} - {p.name for p in out.iterdir()} == left_out
    assert [p.name for p in out.parent.iterdir()] == ["pdf"]


def test_only_the_rewritten_section_changes(tmp_path: Path) -> None:
    path = folder(tmp_path / "pdf")
    skills = list(load_skill_folder(path).task_specific["pdf"])
    skills[1] = replace(skills[1], principle="Look, then answer.")
    written = with_skills(path, skills, tmp_path / "out").decode()
    old = "1. Look.\n2. Answer.\n   > # quoted, no section"
    assert written == FRONT + BODY.replace(old, "Look, then answer.")


def test_a_new_title_keeps_the_level_and_a_new_skill_gets_the_commonest() -> None:
    skills = skills_of(FRONT + BODY)
    skills[1] = replace(skills[1], title="How to go on")
    skills[2] = replace(skills[2], title="Sharp #")
    skills.append(Skill("new", "Warning", "Do not loop."))
    document = parse_document(rewrite(FRONT + BODY, *skills).encode(), "test")
    assert [(s.title, s.level, s.text) for s in document.sections[1:]] == [
        ("How to go on", 2, skills[1].principle),
        ("Sharp #", 3, skills[2].principle),
        ("Warning", 2, "Do not loop."),
    ]
    assert "# Working with PDF" in document.head


def test_headings_without_text_stay_before_the_section_they_preceded() -> None:
    text = FRONT + "# Guide\n\n## A\n\na\n\n## Part\n\n### B\n\nb\n\n### C\n\nc\n"
    a, b, c = skills_of(text)
    assert rewrite(text, c, a, b) == FRONT + "# Guide\n\n### C\n\nc\n\n## A\n\na\n\n## Part\n\n### B\n\nb\n"
    assert rewrite(text, a, c) == FRONT + "# Guide\n\n## A\n\na\n\n## Part\n\n### C\n\nc\n"
    assert rewrite(text, a) == FRONT + "# Guide\n\n## A\n\na\n\n## Part\n\n"


def test_text_without_a_heading_gets_one_when_it_moves_or_is_renamed() -> None:
    text = FRONT + "Intro.\n\n### A\n\na\n"
    intro, a = skills_of(text)
    assert rewrite(text, a, intro) == FRONT + "### A\n\na\n\n### pdf\n\nIntro.\n"
    assert rewrite(text, replace(intro, title="New"), a) == FRONT + "### New\n\nIntro.\n\n### A\n\na\n"
    shorter = replace(intro, principle="In.")
    assert rewrite(text, shorter, a) == FRONT + "In.\n\n### A\n\na\n"


def test_a_condition_becomes_the_first_paragraph_and_the_front_matter_stays() -> None:
    text = FRONT + "# A\n\na\n"
    (a,) = skills_of(text)
    assert rewrite(text, replace(a, when_to_apply="it\nrains")) == FRONT + "# A\n\nWhen: it rains\n\na\n"


def test_the_origin_is_found_by_identifier_where_extra_was_lost() -> None:
    text = FRONT + "# A\n\na\n\n#### B\n\nb"
    a, b = (Skill(s.skill_id, s.title, s.principle) for s in skills_of(text))
    assert rewrite(text, a, b) == text
    assert rewrite(text, a, replace(b, title="X")) == FRONT + "# A\n\na\n\n#### X\n\nb"


@pytest.mark.parametrize("newline", ["\r\n", "\r"])
def test_a_rewrite_uses_the_line_ends_of_the_file(newline: str) -> None:
    text = (FRONT + "# A\n\nx\ny\n\n# B\n\nb\n").replace("\n", newline)
    a, b = skills_of(text)
    assert a.principle == "x\ny"
    written = rewrite(text, replace(a, title="N", principle="1\n\n2"), b)
    assert written == (FRONT + "# N\n\n1\n\n2\n\n# B\n\nb\n").replace("\n", newline)


@pytest.mark.parametrize(
    ("damage", "end"),
    [
        ("```py\nx = 1", "```"),
        ("~~~~\n```\nx", "~~~~"),
        ("<!-- note", "-->"),
        ("<pre>\nx", "</pre>"),
        ("<SCRIPT>\nx", "</SCRIPT>"),
        ("<?php x", "?>"),
        ("<!DOCTYPE x", ">"),
        ("<![CDATA[ x", "]]>"),
    ],
)
def test_a_block_left_open_by_a_rewrite_does_not_swallow_what_follows(damage: str, end: str) -> None:
    text = FRONT + "# A\n\na\n\n# B\n\nb\n"
    a, b = skills_of(text)
    written = rewrite(text, replace(a, principle=damage), b)
    assert titles(written.encode()) == ["A", "B"]
    assert f"{damage}\n{end}\n" in written


def test_an_indented_heading_does_not_become_part_of_a_list_now_above_it() -> None:
    text = FRONT + "# A\n\na\n\n   # B\n\nb\n"
    a, b = skills_of(text)
    assert titles(rewrite(text, replace(a, principle="- one\n- two"), b).encode()) == ["A", "B"]


def test_a_section_added_after_trailing_blanks_starts_on_its_own_line() -> None:
    text = FRONT + "# A\n\na\n\n \t"
    (a,) = skills_of(text)
    assert titles(rewrite(text, a, Skill("n", "B", "b")).encode()) == ["A", "B"]


def test_sections_that_cannot_be_written_are_refused() -> None:
    (a,) = skills_of(FRONT + "# A\n\na\n")
    for skills, message in (
        ((), "no section is left"),
        ((replace(a, title=" "),), "no title"),
        ((replace(a, principle="\n"),), "no text"),
        ((replace(a, principle="\ud800"),), "no Unicode text"),
    ):
        with pytest.raises(FormatError, match=message):
            rewrite(FRONT + "# A\n\na\n", *skills)


def test_originals_and_existing_files_are_never_overwritten(tmp_path: Path) -> None:
    path = folder(tmp_path / "all" / "pdf")
    bank = load_skill_folder(path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "alias").symlink_to(path)
    for out in ("all/pdf", "all/pdf/../pdf", "all/pdf/copy", "all", "full", "full/x", "link", "alias"):
        with pytest.raises(FormatError):
            save_skill_folder(bank, tmp_path / out)
    assert (path / "SKILL.md").read_text() == FRONT + BODY
    assert (tmp_path / "full" / "x").read_text() == "mine"
    assert not (tmp_path / "elsewhere").exists()

    (tmp_path / "empty").mkdir()
    save_skill_folder(bank, tmp_path / "empty")
    assert (tmp_path / "empty" / "SKILL.md").exists()


def test_a_failing_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder(tmp_path / "pdf")
    (path / "data").write_text("x")
    bank = load_skill_folder(path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("masa.formats.skill_md_tree.shutil.copy2", full)
    with pytest.raises(OSError, match="No space"):
        save_skill_folder(bank, tmp_path / "out" / "pdf")
    assert list((tmp_path / "out").iterdir()) == []


def test_banks_that_do_not_belong_to_the_folder_are_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "pdf")
    bank = load_skill_folder(path)
    for wrong in (replace(bank, source=None), replace(bank, general=(Skill("g", "t", "p"),))):
        with pytest.raises(FormatError, match="bank JSON"):
            save_skill_folder(wrong, tmp_path / "out")
    (path / "SKILL.md").write_text(FRONT + "Changed meanwhile.\n")
    with pytest.raises(FormatError, match="changed since it was loaded"):
        save_skill_folder(bank, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# -- finding ---------------------------------------------------------------------------------------------


def skill(path: Path, name: str = "", body: str = "Open the file before you read it.\n") -> Path:
    return folder(path, f"---\nname: {name or path.name}\ndescription: Does it.\n---\n\n{body}")


def told(bank: SkillBank, severity: str = "") -> list[str]:
    """The places of a bank's problems, relative to its folder."""
    root = bank.source.root
    return [str(Path(p.file).relative_to(root)) for p in bank.problems if severity in ("", p.severity)]


def saved(bank: SkillBank, out: Path) -> dict[str, str]:
    """The bank written with every section replaced: text of each file of the copy, links not followed."""
    groups = {
        key: Group(key, tuple(replace(skill, principle=f"New {key}.") for skill in skills))
        for key, skills in bank.task_specific.items()
    }
    save_skill_folder(bank.with_groups(groups), out)
    return {
        str(path.relative_to(out)): "link" if path.is_symlink() else path.read_text(errors="replace")
        for path in sorted(out.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def test_skills_are_found_at_any_depth_and_below_other_skills(tmp_path: Path) -> None:
    root = tmp_path / "lib"
    for place in ("flat", "ios/one", "ios/two", ".curated/x", "deep/" + "d/" * 60 + "y"):
        skill(root / place)
    skill(root, "lib")
    skill(root / "ios" / "one" / "skills" / "inner")
    bank = load_skill_folder(root)
    assert list(bank.task_specific) == ["lib", "x", "y", "flat", "one", "inner", "two"]
    assert not bank.problems
    files = saved(bank, tmp_path / "out")
    assert len(files) == 7 and all("New " in text for text in files.values())


@pytest.mark.parametrize("spelling", ["Skill.md", "skill.md", "SKILL.MD"])
def test_other_spellings_are_read_with_a_warning(tmp_path: Path, spelling: str) -> None:
    skill(tmp_path / "a")
    (tmp_path / "a" / "SKILL.md").rename(tmp_path / "a" / spelling)
    assert is_skill_folder(tmp_path / "a" / spelling)
    for path in (tmp_path, tmp_path / "a", tmp_path / "a" / spelling):
        bank = load_skill_folder(path)
        assert list(bank.task_specific) == ["a"]
        assert [(p.severity, "rename" in p.message) for p in bank.problems] == [("warning", True)]
    assert "New a." in saved(bank, tmp_path / "out")[spelling]


def test_of_two_spellings_in_one_folder_one_is_read_and_the_other_named(tmp_path: Path) -> None:
    skill(tmp_path / "a")
    (tmp_path / "a" / "skill.md").write_text("no front matter")
    bank = load_skill_folder(tmp_path)
    assert list(bank.task_specific) == ["a"] and told(bank, "warning") == ["a/skill.md"]


def test_resources_of_a_skill_and_installed_packages_are_named_as_passed_over(tmp_path: Path) -> None:
    skill(tmp_path / "maker")
    for place in ("maker/assets/template", "maker/references/other", "node_modules/package/skills/s"):
        skill(tmp_path / place)
    skill(tmp_path / "assets" / "real")  # no skill above it whose resource it could be
    bank = load_skill_folder(tmp_path)
    assert list(bank.task_specific) == ["real", "maker"]
    assert len(told(bank, "note")) == 3 == len(bank.problems)
    (tmp_path / "linked").symlink_to("node_modules/package/skills/s")
    bank = load_skill_folder(tmp_path)
    assert list(bank.task_specific) == ["real", "s", "maker"]
    files = saved(bank, tmp_path.parent / f"{tmp_path.name}-out")
    assert files["linked"] == "link" and "New s." in files["node_modules/package/skills/s/SKILL.md"]
    assert "New" not in files["maker/assets/template/SKILL.md"]


def test_links_that_stay_inside_are_read_once(tmp_path: Path) -> None:
    root = tmp_path / "project"
    skill(root / ".agents" / "skills" / "one")
    (root / ".claude" / "skills").mkdir(parents=True)
    (root / ".claude" / "skills" / "one").symlink_to("../../.agents/skills/one")
    bank = load_skill_folder(root)
    assert list(bank.task_specific) == ["one"] and told(bank, "note") == [".claude/skills/one"]
    files = saved(bank, tmp_path / "out")
    assert files[".claude/skills/one"] == "link"
    assert "New one." in (tmp_path / "out" / ".claude" / "skills" / "one" / "SKILL.md").read_text()


def test_links_out_to_skills_are_followed_and_become_folders_of_the_copy(tmp_path: Path) -> None:
    """What an installer leaves: the folder of a client holds links to the folders of the skills."""
    store, root = tmp_path / ".agents" / "skills", tmp_path / ".claude" / "skills"
    for name in ("one", "two", "three"):
        (skill(store / name) / "notes.txt").write_text(name)
    (store / "one" / "leak").symlink_to(tmp_path / "private")
    (tmp_path / "private").write_text("secret")
    root.mkdir(parents=True)
    (root / "one").symlink_to("../../.agents/skills/one")
    (root / "again").symlink_to(store / "one")
    (root / "all").symlink_to(store)
    bank = load_skill_folder(root)
    assert list(bank.task_specific) == ["one", "three", "two"]
    assert (
        sorted(told(bank)) == ["again/leak", "all/one", "one"] == sorted([*told(bank, "warning"), *told(bank, "note")])
    )
    before = fingerprint(root)
    files = saved(bank, tmp_path / "out")
    assert {name for name, text in files.items() if text == "link"} == {"all/one", "one"}
    assert files["again/notes.txt"] == "one" and "secret" not in "".join(files.values())
    for name in ("again", "one", "all/one", "all/two", "all/three"):
        assert "New " in (tmp_path / "out" / name / "SKILL.md").read_text()
        assert (tmp_path / "out" / name).resolve().is_relative_to(tmp_path / "out")
    assert "New" not in (store / "one" / "SKILL.md").read_text(), "nothing is written outside the output"
    (store / "two" / "notes.txt").write_text("changed")
    assert fingerprint(root) != before, "a variant of linked skills grows stale with them"
    for out in (store / "one" / "new", store / "three"):
        with pytest.raises(FormatError, match="never overwritten"):
            save_skill_folder(bank, out)


def test_a_linked_skill_md_is_read_and_nothing_else_that_leads_out(tmp_path: Path) -> None:
    (tmp_path / "mine.md").write_text(FRONT + "Read me.\n")
    root = tmp_path / "root"
    (root / "pdf").mkdir(parents=True)
    (root / "pdf" / "SKILL.md").symlink_to(tmp_path / "mine.md")
    (root / "up").symlink_to(tmp_path)
    bank = load_skill_folder(root)
    assert list(bank.task_specific) == ["pdf"] and told(bank, "warning") == ["up"]
    files = saved(bank, tmp_path / "out")
    assert list(files) == ["pdf/SKILL.md"] and "New pdf." in files["pdf/SKILL.md"]
    assert "New" not in (tmp_path / "mine.md").read_text()


def test_loops_of_links_end_and_are_told(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    skill(outside / "a")
    (outside / "a" / "self").symlink_to(".")
    (outside / "a" / "around").symlink_to(outside)
    (outside / "a" / "root").symlink_to(root)
    skill(root / "b")
    (root / "b" / "up").symlink_to("../..")
    (root / "b" / "here").symlink_to("..")
    (root / "ring").symlink_to("ring")
    (root / "ping").symlink_to("pong")
    (root / "pong").symlink_to("ping")
    (root / "gone").symlink_to("nowhere")
    (root / "all").symlink_to(outside)
    bank = load_skill_folder(root)
    assert list(bank.task_specific) == ["a", "b"]
    lost = {"ring", "ping", "pong", "gone"}
    assert lost <= set(told(bank, "warning"))
    assert {"b/here", "all/a/self", "all/a/root", "b/up", "all/a/around"} <= set(told(bank))
    files = saved(bank, tmp_path / "out")
    assert not lost & set(files)
    assert all((tmp_path / "out" / name).resolve().is_relative_to(tmp_path / "out") for name in files)


@pytest.mark.parametrize("what", ["folder", "pipe", "loop", "nothing"])
def test_a_skill_md_that_is_no_file_is_named_and_the_others_are_read(tmp_path: Path, what: str) -> None:
    skill(tmp_path / "good")
    (tmp_path / "bad").mkdir()
    bad = tmp_path / "bad" / "SKILL.md"
    if what == "folder":
        bad.mkdir()
    elif what == "pipe":
        os.mkfifo(bad)
    else:
        bad.symlink_to("SKILL.md" if what == "loop" else "gone.md")
    bank = load_skill_folder(tmp_path)
    assert list(bank.task_specific) == ["good"] and told(bank, "error") == ["bad/SKILL.md"]
    assert "bad/SKILL.md" in str(bank.problems[0])
    save_skill_folder(bank, tmp_path.parent / f"{tmp_path.name}-out")


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX users")
def test_what_may_not_be_read_is_named_and_not_copied() -> None:
    root = Path(tempfile.mkdtemp())  # pytest's own folders are closed to other users
    try:
        root.chmod(0o755)
        for name in ("good", "closed", "shut"):
            skill(root / "s" / name)
        (root / "s" / "good" / "key").write_text("x")
        for path in ("s/good/key", "s/closed/SKILL.md", "s/shut"):
            (root / path).chmod(0)
        load_skill_folder(root / "s" / "good")  # imports what it needs
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            bank, mark = load_skill_folder(root / "s"), fingerprint(root / "s")
        finally:
            os.seteuid(user)
        assert list(bank.task_specific) == ["good"]
        assert told(bank, "error") == ["closed/SKILL.md"]
        assert told(bank, "warning") == ["good/key", "shut"]
        assert len(mark) == 64
    finally:
        for path in root.rglob("*"):
            path.chmod(0o755)
        shutil.rmtree(root)


# -- problems --------------------------------------------------------------------------------------------


def test_forty_broken_skills_stop_nothing_and_are_told_at_once(tmp_path: Path) -> None:
    skill(tmp_path / "good")
    texts = [
        "# No front matter\n",
        "---\nname: x\n",
        "---\n- a\n---\nb\n",
        "---\nno colon\nx: y\n---\nb\n",
        b"---\nname: \xff\n",
    ]
    for number in range(40):
        folder(tmp_path / f"bad{number:02}", texts[number % len(texts)])
    bank = load_skill_folder(tmp_path)
    assert list(bank.task_specific) == ["good"]
    assert told(bank, "error") == [f"bad{number:02}/SKILL.md" for number in range(40)]
    assert all(problem.line and ";" in problem.message for problem in bank.problems), "each has its line and remedy"
    out = tmp_path.parent / f"{tmp_path.name}-out"
    assert "New good." in saved(bank, out)["good/SKILL.md"]
    for number in range(40):
        name = f"bad{number:02}/SKILL.md"
        assert (out / name).read_bytes() == (tmp_path / name).read_bytes(), "what was passed over stays as it is"
    assert list(load_bank(tmp_path).task_specific) == ["good"]
    with pytest.raises(FormatError, match="40 problems") as caught:
        load_bank(tmp_path, strict=True)
    assert str(caught.value).count("SKILL.md") == 40
    shutil.rmtree(tmp_path / "good")
    with pytest.raises(FormatError) as caught:
        load_skill_folder(tmp_path)
    assert str(caught.value).count("SKILL.md, line") == 40


@pytest.mark.parametrize(
    ("front", "field", "value", "line"),
    [
        ("name: x\ndescription: Use when: asked", "description", "Use when: asked", 3),
        ("name: x\ndescription: Use when\n  the user: asks\nlicense: MIT", "description", "Use when the user: asks", 3),
        ("name: x\ndescription: d\nargument-hint: [file] [line]", "argument-hint", "[file] [line]", 4),
        ("name: x\ndescription: d\npaths: **/*.ts", "paths", "**/*.ts", 4),
        ("name: x\ndescription: d\nmodel: @fast", "model", "@fast", 4),
        ('name: x\ndescription: "PDF" files', "description", '"PDF" files', 3),
        ("name: x\ndescription: it's: 'so'", "description", "it's: 'so'", 3),
        ("name: x\ndescription: d\nmetadata:\n  note: a: b\n  v: 1", "metadata", {"note": "a: b", "v": "1"}, 5),
        ("name: x\ndescription:\tUses a tab", "description", "Uses a tab", 3),
        ("name: x\ndescription: d\nmetadata:\n\tversion: 1.10", "metadata", {"version": "1.10"}, 5),
        ("description: d", "description", "d", 1),
        ("name:\ndescription: d", "name", "", 2),
        ("name: [x]\ndescription: d", "name", ["x"], 2),
        ("name: x", "name", "x", 1),
        ("name: x\ndescription: d\nname: x", "name", "x", 4),
    ],
)  # fmt: skip
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_what_clients_accept_is_read_with_a_warning(
    tmp_path: Path, front: str, field: str, value: object, line: int, newline: str
) -> None:
    text = f"---\n{front}\n---\nDo it.\n".replace("\n", newline)
    bank = load_skill_folder(folder(tmp_path / "x", text))
    assert list(bank.task_specific) == ["x"]
    assert bank.source.documents["x"].fields[field] == value
    assert [(p.severity, p.line) for p in bank.problems] == [("warning", line)]
    save_skill_folder(bank, tmp_path / "out")
    assert (tmp_path / "out" / "SKILL.md").read_bytes() == text.encode(), "front matter is never rewritten"
    with pytest.raises(FormatError, match="1 problem"):
        load_bank(tmp_path / "x", strict=True)


def test_a_skill_without_text_is_a_note(tmp_path: Path) -> None:
    skill(tmp_path / "good")
    folder(tmp_path / "empty", "---\nname: empty\ndescription: d\n---\n\n# Only\n")
    bank = load_bank(tmp_path, strict=True)
    assert list(bank.task_specific) == ["good"] and told(bank, "note") == ["empty/SKILL.md"]


# -- validation ------------------------------------------------------------------------------------------

CLIENTS = (
    "model: opus\nwhen_to_use: Often: always.\ndisable-model-invocation: true\nuser-invocable: false\ncontext: fork\n"
    "agent: Explore\nargument-hint: '[file]'\nhooks:\n  PreToolUse:\n    - matcher: Bash\n"
)


def validated(path: Path, front: str, body: str = "body") -> list[str]:
    return [str(problem) for problem in validate_skill_folder(folder(path, f"---\n{front}\n---\n{body}\n"))]


@pytest.mark.parametrize(
    "front",
    [
        'name: s\ndescription: x\nlicense: MIT\ncompatibility: git\nmetadata:\n  v: "1"\nallowed-tools:\n  - Read',
        "name: s\ndescription: x\nmetadata:\n  version: 1.10",
        "name: s\ndescription: x\nlicense:",
        "name: s\ndescription: 2024-01-01\nlicense: 3\ncompatibility: true\nmetadata:",
        "name: s\ndescription: x\nmetadata:\n  a:\n    b: [c]",
        f"name: s\ndescription: x\n{CLIENTS.replace('Often: always.', 'Often.')}",
    ],
)  # fmt: skip
def test_what_the_reference_implementation_accepts_has_no_messages(tmp_path: Path, front: str) -> None:
    assert validated(tmp_path / "s", front) == []


def test_names_may_be_of_any_script_and_numbers_are_names(tmp_path: Path) -> None:
    assert validated(tmp_path / "技能", "name: 技能\ndescription: x") == []
    assert validated(tmp_path / "12", "name: 12\ndescription: x") == []


def test_fields_of_clients_are_known_and_kept(tmp_path: Path) -> None:
    text = f"---\nname: s\ndescription: x\n{CLIENTS}---\nDo it.\n"
    bank = load_skill_folder(folder(tmp_path / "s", text))
    assert set(client_fields(bank)["s"]) == {line.partition(":")[0] for line in CLIENTS.split("\n") if line[:1].strip()}
    assert not any("unknown" in str(problem) for problem in validate_skill_folder(tmp_path / "s"))
    assert (tmp_path / "s" / "SKILL.md").read_text().startswith(saved(bank, tmp_path / "out")["SKILL.md"][:-10])


@pytest.mark.parametrize(
    ("front", "line", "message"),
    [
        ("name: pdf", 1, "no description"),
        ("description: x", 1, "no name"),
        ("name: PDF\ndescription: x", 2, "lower-case"),
        ("name: a_b\ndescription: x", 2, "lower-case"),
        ("name: -pdf\ndescription: x", 2, "hyphen"),
        ("name: a--b\ndescription: x", 2, "hyphen"),
        ("description: x\nname: other", 3, "differs from its folder 'pdf'"),
        (f"name: {'a' * 65}\ndescription: x", 2, "65 characters, the limit is 64"),
        (f"name: pdf\ndescription: {'x' * 1025}", 3, "1025 characters"),
        ("name: pdf\ndescription: ''", 3, "no description"),
        ("name: pdf\ndescription: [x]", 3, "description must be a text"),
        (f"name: pdf\ndescription: x\ncompatibility: {'x' * 501}", 4, "501 characters"),
        ("name: pdf\ndescription: x\nmetadata: v1", 4, "metadata must be a map"),
        ("name: pdf\ndescription: x\nallowed-tools:\n  a: b", 4, "allowed-tools"),
        ("name: pdf\ndescription: x\nlicence: MIT", 4, "unknown field 'licence'.*'license'"),
        ("name: pdf\ndescription: x\nwhen-to-use: MIT", 4, "unknown field 'when-to-use'.*'when_to_use'"),
        ("name: pdf\ndescription: one --- two", 3, "`---`"),
        ("name: pdf\ndescription: |\n  one\n  ---\n  two", 5, "`---`"),
        ("name: pdf\ndescription: x\nname: pdf", 4, "stands twice"),
        ("[a]: b", 2, "not valid YAML"),
    ],
)
def test_each_breach_of_the_specification_is_named(tmp_path: Path, front: str, line: int, message: str) -> None:
    problems = validate_skill_folder(folder(tmp_path / "pdf", f"---\n{front}\n---\nbody\n"))
    assert any(p.line == line and re.search(message, p.message) for p in problems), problems
    assert all(p.file.endswith("SKILL.md") and ";" in p.message for p in problems)


def test_a_byte_order_mark_is_read_and_told(tmp_path: Path) -> None:
    path = folder(tmp_path / "pdf", "\ufeff" + FRONT + "body")
    assert not load_skill_folder(path).problems
    assert [problem.line for problem in validate_skill_folder(path)] == [1]


def test_links_out_of_the_folder_and_missing_files_are_messages(tmp_path: Path) -> None:
    path = folder(tmp_path / "pdf")
    (path / "leak").symlink_to(tmp_path)
    assert [m for m in validate_skill_folder(path) if "leads out" in m.message]
    assert validate_skill_folder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "no SKILL.md" in str(validate_skill_folder(tmp_path / "empty")[0])


# -- properties ------------------------------------------------------------------------------------------

PIECES = [
    "# One", "## Two ##", "   ### Three", "#", "#no", "Four\n====", "Five\n---", "two\nlines\n---", "---", "***",
    "text", "more *text* and `code`", "- item", "  - nested", "1. first", "> # quoted", "    indented # code",
    "```", "~~~py", "````", "<!-- note", "-->", "<div>", "<pre>", "</pre>", "| a | b |\n|---|---|", "\ttab",
    "", "", "", " ", "\t ", "é 技能 \u2028 \x0b x\x85y", "\x00", "\ufeff", "[link](a.md)", "[ref]: http://x.y", "...",
    "When: x", "text  ", "\\# escaped",
]  # fmt: skip


@st.composite
def markdown(draw: st.DrawFn) -> str:
    newline = st.sampled_from(["\n"] * 6 + ["\r\n", "\r"])
    one = draw(newline)
    mixed = draw(st.booleans())
    text = ""
    for piece in draw(st.lists(st.sampled_from(PIECES), min_size=1, max_size=14)):
        text += piece.replace("\n", one) + (draw(newline) if mixed else one)
    return text if draw(st.booleans()) else text.rstrip("\r\n")


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    bom = draw(st.sampled_from(["", "\ufeff"]))
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    front = draw(st.sampled_from([FRONT, '---  \nname: "a b"\nx: |\n  # c\n\n  ---\n\n---\t\n']))
    return (bom + front.replace("\n", newline) + draw(markdown())).encode()


def parsed(raw: bytes) -> Iterator[tuple[Document, tuple[Skill, ...]]]:
    """Nothing where the generated body has no text, else the document and its skills."""
    try:
        document = parse_document(raw, "test")
    except FormatError as error:
        assert "no text" in str(error)
        return
    yield document, document.skills()


@given(documents())
@settings(max_examples=100, deadline=None)
def test_an_unmodified_bank_is_written_byte_identically(raw: bytes) -> None:
    for document, skills in parsed(raw):
        assert render_document(document, skills, "test") == raw
        assert all(s.title.strip() and s.principle.strip() and "\n" not in s.title for s in skills)


@given(documents(), st.data())
@settings(max_examples=80, deadline=None)
def test_rewriting_one_section_leaves_the_others_byte_identical(raw: bytes, data: st.DataObject) -> None:
    for document, skills in parsed(raw):
        place = data.draw(st.integers(0, len(skills) - 1))
        changed = list(skills)
        changed[place] = replace(skills[place], principle="A sentence of ours.")
        again = parse_document(render_document(document, changed, "test"), "test")
        assert again.head == document.head
        assert again.sections[place].text == "A sentence of ours."
        assert [(s.title, s.level, s.text) for i, s in enumerate(again.sections) if i != place] == [
            (s.title, s.level, s.text) for i, s in enumerate(document.sections) if i != place
        ]


@given(documents(), st.data())
@settings(max_examples=100, deadline=None)
def test_whatever_a_rewrite_does_every_section_is_read_again(raw: bytes, data: st.DataObject) -> None:
    for document, skills in parsed(raw):
        order = data.draw(st.permutations(skills))
        chosen = order[: data.draw(st.integers(1, len(order)))]
        output = []
        for skill in chosen:
            title = data.draw(st.sampled_from([skill.title, "New title", "C #", "- x"]))
            text = data.draw(st.sampled_from([skill.principle, None])) or data.draw(markdown())
            output.append(replace(skill, title=title, principle=text))
        if data.draw(st.booleans()):
            output.append(Skill("new", "Warned", "Do not loop."))
        if not all(skill.principle.strip() for skill in output):
            continue
        try:
            written = render_document(document, output, "test")
        except FormatError as error:
            assert "leaves a block open" in str(error) or "no text" in str(error)
            continue
        again = parse_document(written, "test")
        assert written.startswith(document.head.encode())
        assert again.fields == document.fields
        # Text of ours may bring headings of its own, so the titles are a subsequence of what is read.
        body = _split_front_matter(written.decode(), "test")[2]
        found = iter([title for *_, title in _headings(body)])
        expected = [skill.title for skill in output]
        if output[0].title == document.name and document.sections[0].level == 0:
            expected = expected[1:]
        for title in expected:
            assert title in found, (title, written)  # `in` moves the iterator on


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: ("---\n" + text + "\n---\nx").encode()))
@settings(max_examples=80, deadline=None)
def test_any_bytes_load_or_give_a_format_error(raw: bytes) -> None:
    try:
        document = parse_document(raw, "test")
    except FormatError as error:
        assert "\n" not in str(error)
    else:
        assert render_document(document, document.skills(), "test") == raw
