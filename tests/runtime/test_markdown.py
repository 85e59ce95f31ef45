"""Markdown is cut into blocks and sentences without losing a byte, and protected spans are found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skill_samples import principles

from masa.markdown import blocks, is_plain, join, protected_ranges, protected_spans, sentences

texts = st.one_of(principles, st.text(max_size=60), st.text("ab.!?(1)'\" \n\r\t`~#>-*|\\<>[]", max_size=60))

DOCUMENT = """\
# Title

Intro with two
lines. And a sentence.

- item one
- item two

  inner paragraph
  ```sh
  rm -rf {dir}
  ```
1) ordered

> a quote

| a | b |
|---|---|
| 1 | 2 |

<div>
html
</div>

    indented code
"""


@settings(max_examples=200, deadline=None)
@given(texts)
def test_blocks_are_the_text(text: str) -> None:
    assert join(blocks(text)) == text
    assert all(block.text.strip() for block in blocks(text) if block.prose)


@settings(max_examples=200, deadline=None)
@given(texts)
def test_sentences_are_the_text_and_cut_no_literal(text: str) -> None:
    pieces = sentences(text)
    assert "".join(pieces) == text
    cuts = set()
    position = 0
    for piece in pieces:
        position += len(piece)
        cuts.add(position)
    assert not any(start < cut < end for start, end in protected_ranges(text) for cut in cuts)


@settings(max_examples=100, deadline=None)
@given(texts)
def test_protected_spans_are_in_the_text_in_order(text: str) -> None:
    position = 0
    for span in protected_spans(text):
        position = text.index(span, position) + len(span)


def test_blocks_tell_prose_from_the_rest() -> None:
    kinds = [block.kind for block in blocks(DOCUMENT) if block.raw.strip()]
    assert " ".join(kinds) == "heading paragraph item item inner code item quote table html code"
    assert [block.prefix for block in blocks(DOCUMENT) if block.prose] == ["", "- ", "- ", "  ", "1) "]
    assert not is_plain(DOCUMENT)
    assert is_plain("One line. Two sentences.")


@pytest.mark.parametrize(
    "pieces",
    [
        ["Try e.g. a desk, i.e. a table etc. before you go. ", "Then stop."],
        ["Steps: ", "(1) Find it. ", "(2) Take it. ", "Done."],
        ["Do it in order: ", "1. Find it. ", "2. Go to desk 1. ", "3. Stop."],
        ["'take X' works. ", "Don't stop. ", "The players' cups stay. ", "Go."],
        ['It says "Nothing happens." ', "Then try again."],
        ["Find X → take X → go to Y. ", "Never hold two."],
        ["See https://a.org/b.c?d=1. ", "Run scripts/x.py. ", "Use v1.2.3 now."],
        ["Use `a. B`. ", "Fill {x. Y}. ", "Write <answer>It is. Yes</answer>. ", "End"],
        ["Find X. ", "(2) Go to desk 1. ", "Really? ", "Yes!"],
        ["A hard\nwrapped line. ", "And\nmore."],
        ["One.\n\n", "Two."],
        ["(An aside.) ", "Step 1: go. ", "Step 2: stop."],
        ["**Never guess.** ", "Look in the fridge first."],
        ["*Stop.* ", "Then __wait.__ ", "Go (now). ", "End."],
        ["**Open it. Close it.** ", "Go."],
        ["> **Ask *one* question.** ", "Wait for _it._ ", "Go."],
        ["Say „Halt. Stopp.“ and wait. ", "Go."],
        ["Open the fridge.\\\n", "Then close it."],
        ["Take 2 * 3 cups. ", "Put 4 * 5 back."],
        ["Use snake_case. ", "Call a_b. ", "Stop."],
        ["✅ Ship it. ", "❌ Never skip it. ", "➡️ Go on."],
        ["Wait 1.5 s. ", "Cells show #DIV/0! and #REF! there. ", "Retry at most 3 times. ", "Stop."],
    ],
)
def test_sentences_end_where_a_reader_ends_them(pieces: list[str]) -> None:
    assert sentences("".join(pieces)) == pieces


LITERALS = """
    `make x` | {name} | {{slot}} | ${HOME} | $USER | $1 | $ARGUMENTS | %s | %(name)s | %PATH% | <object> | </tag>
    [Entity] | [text](a/b.md) | https://a.org/x | s3://bucket/key | me@example.org | git@github.com:me/x.git
    scripts/run.py | ../data/in.csv | SKILL.md | ~/.ssh/config | ./gradlew | /usr/local/bin | /review-pr
    src/components | @docs/STYLE | .env | Makefile | **/*.ts | C:\\temp\\x | mcp__github__search_issues | OPENAI_API_KEY
    snake_case | camelCase | GitHub | GitHub:create_issue | std::vector | a.b.c
    obj.run() | print(x) | row=1 | #DIV/0! | #REF!
    git push --force-with-lease | npm install | docker compose up -d | --dry-run | -x | --level=3 | Ctrl+C | deadbeef01
    30 s | 1.5 GB | 20–30 °C | 5% | $5 | #ff8800 | #fff | v1.2.3 | >=3.11 | 3:30 | 0,0,255 | at most 3 times | a < b
    up to two files | three minutes | no later than 5 pm | =SUM(A1:B2) | "quoted words" | 'take mug 1' | „Halt“
"""


@pytest.mark.parametrize("literal", [part.strip() for part in LITERALS.replace("\n", "|").split("|") if part.strip()])
def test_a_literal_is_protected_quoted_or_not(literal: str) -> None:
    for text in (f"Do this ({literal}).", f"Say {literal} and go.", f"**Mind {literal}**, then go."):
        spans = protected_spans(text)
        held = [span for span in spans if literal in span]
        assert held, spans


def test_protected_spans_come_in_order_and_leave_prose_alone() -> None:
    text = "Run `make x` with {name} and <object>. See https://a.org/x, scripts/run.py and [text](a/b.md)."
    assert protected_spans(text) == (
        *("`make x`", "{name}", "<object>", "https://a.org/x", "scripts/run.py", "[text](a/b.md)"),
    )
    assert protected_spans("Not and/or, i.e. nothing; file(s), don't, well-known, _Open_ it — **now**. (a) One.") == ()
    assert protected_spans("1. Take it.\n2. (1) Find it, (2) go to it. Step 3: stop.") == ()


def test_a_fence_below_a_tag_is_code_and_what_follows_is_prose() -> None:
    text = "<Good>\n```ts\nconst x = 1;\n\n# no heading\n```\nClear name.\n</Good>\n\nRun it. Then stop."
    assert [block.kind for block in blocks(text) if block.raw.strip()] == ["other", "code", "paragraph", "paragraph"]
    assert join(blocks(text)) == text
    quiet = "<pre>\n```\nx\n</pre>\n\nGo."
    assert [block.kind for block in blocks(quiet) if block.raw.strip()] == ["html", "paragraph"]


def test_a_code_block_is_one_span_even_unclosed() -> None:
    assert protected_spans("Do:\n\n```py\nx = {1}\n```\nGo.") == ("```py\nx = {1}\n```",)
    assert protected_spans("Do:\n\n~~~\nx = `1`\n") == ("~~~\nx = `1`",)


def test_published_principles_are_cut_into_whole_sentences(shared_data: Path) -> None:
    count = 0
    for path in sorted(shared_data.glob("skillrl/*.json")):
        for entry in json.loads(path.read_text("utf-8"))["general_skills"]:
            text = entry["principle"]
            assert is_plain(text)
            assert "".join(sentences(text)) == text
            assert all(len(piece.split()) > 2 for piece in sentences(text))
            count += 1
    assert count > 30
