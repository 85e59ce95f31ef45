"""Agent Skills folders: what loading sees, and that saving changes nothing but the sections that changed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masa.errors import FormatError
from masa.formats.skill_md import (
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
from masa.skills import Group, Skill

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
        ("---\nname: x\nlist: [1, 2\n---\nbody\n", "SKILL.md, line 4.*not valid YAML"),
        ("---\nname: x\n\tkey: tab\n---\nbody\n", "line 3.*not valid YAML"),
        ("---\nname: x\nwhen: 2024-99-99\n---\nbody\n", "not valid YAML"),
        ("---\nname: x\nkey: " + "[" * 2000 + "\n---\nbody\n", "not valid YAML"),
        ("---\nname: \x01\n---\nbody\n", "not valid YAML"),
        ("---\ndescription: y\n---\nbody\n", "no name"),
        ("---\n---\nbody\n", "no name"),
        ("---\nname: 12\n---\nbody\n", "12, not a text"),
        ("---\nname: ''\n---\nbody\n", "not a text"),
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


def test_two_folders_with_one_name_are_refused(tmp_path: Path) -> None:
    folder(tmp_path / "a")
    folder(tmp_path / "b")
    with pytest.raises(FormatError, match="also called 'pdf'"):
        load_skill_folder(tmp_path)


def test_a_skill_md_that_links_out_of_the_folder_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(FRONT + "secret\n")
    (tmp_path / "pdf").mkdir()
    (tmp_path / "pdf" / "SKILL.md").symlink_to(tmp_path / "secret")
    with pytest.raises(FormatError, match="link out of the skill folder"):
        load_skill_folder(tmp_path / "pdf")


# -- saving ----------------------------------------------------------------------------------------------


def with_skills(bank_path: Path, skills: Sequence[Skill], out: Path) -> bytes:
    bank = load_skill_folder(bank_path)
    name = next(iter(bank.task_specific))
    save_skill_folder(bank.with_groups({name: Group(name, tuple(skills))}), bank_path, out)
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
    save_skill_folder(load_skill_folder(path), path, out)

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
            save_skill_folder(bank, path, tmp_path / out)
    assert (path / "SKILL.md").read_text() == FRONT + BODY
    assert (tmp_path / "full" / "x").read_text() == "mine"
    assert not (tmp_path / "elsewhere").exists()

    (tmp_path / "empty").mkdir()
    save_skill_folder(bank, path, tmp_path / "empty")
    assert (tmp_path / "empty" / "SKILL.md").exists()


def test_a_failing_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder(tmp_path / "pdf")
    (path / "data").write_text("x")
    bank = load_skill_folder(path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("masa.formats.skill_md_tree.shutil.copy2", full)
    with pytest.raises(OSError, match="No space"):
        save_skill_folder(bank, path, tmp_path / "out" / "pdf")
    assert list((tmp_path / "out").iterdir()) == []


def test_banks_that_do_not_belong_to_the_folder_are_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "pdf")
    bank = load_skill_folder(path)
    for wrong in (replace(bank, source=None), replace(bank, general=(Skill("g", "t", "p"),))):
        with pytest.raises(FormatError, match="bank JSON"):
            save_skill_folder(wrong, path, tmp_path / "out")
    (path / "SKILL.md").write_text(FRONT + "Changed meanwhile.\n")
    with pytest.raises(FormatError, match="changed since it was loaded"):
        save_skill_folder(bank, path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# -- validation ------------------------------------------------------------------------------------------


def test_a_folder_that_follows_the_specification_has_no_messages(tmp_path: Path) -> None:
    front = (
        "---\nname: my-skill2\ndescription: Does x.\nlicense: MIT\ncompatibility: Needs git\n"
        'metadata:\n  version: "1.0"\nallowed-tools:\n  - Read\n---\n'
    )
    assert validate_skill_folder(folder(tmp_path / "my-skill2", front + "Do x.\n")) == []
    assert validate_skill_folder(folder(tmp_path / "技能", "---\nname: 技能\ndescription: x\n---\ny\n")) == []


@pytest.mark.parametrize(
    ("front", "message"),
    [
        ("name: pdf", "no description"),
        ("description: x", "no name"),
        ("name: PDF\ndescription: x", "lower-case"),
        ("name: a_b\ndescription: x", "lower-case"),
        ("name: -pdf\ndescription: x", "hyphen"),
        ("name: a--b\ndescription: x", "hyphen"),
        ("name: other\ndescription: x", "differs from its folder 'pdf'"),
        (f"name: {'a' * 65}\ndescription: x", "65 characters, the limit is 64"),
        (f"name: pdf\ndescription: {'x' * 1025}", "1025 characters"),
        ("name: pdf\ndescription: ''", "description must be a text"),
        (f"name: pdf\ndescription: x\ncompatibility: {'x' * 501}", "501 characters"),
        ("name: pdf\ndescription: x\nlicense: 3", "license must be a text"),
        ("name: pdf\ndescription: x\nmetadata:\n  version: 1.0", "metadata must map"),
        ("name: pdf\ndescription: x\nallowed-tools: [1]", "allowed-tools"),
        ("name: pdf\ndescription: x\nlicence: MIT", "unknown field 'licence'"),
        ("name: [", "not valid YAML"),
    ],
)
def test_each_breach_of_the_specification_is_named(tmp_path: Path, front: str, message: str) -> None:
    messages = validate_skill_folder(folder(tmp_path / "pdf", f"---\n{front}\n---\nbody\n"))
    assert any(message in m for m in messages), messages
    assert all("SKILL.md" in m for m in messages)


def test_links_out_of_the_folder_and_missing_files_are_messages(tmp_path: Path) -> None:
    path = folder(tmp_path / "pdf")
    (path / "leak").symlink_to(tmp_path)
    assert [m for m in validate_skill_folder(path) if "leads out" in m]
    assert validate_skill_folder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "no SKILL.md" in validate_skill_folder(tmp_path / "empty")[0]


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
