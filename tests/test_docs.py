"""The pages: links lead to files and headings that exist, and the commands shown parse."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
# What is hidden is not ours: environments bring the pages of their packages along.
PAGES = sorted(
    page
    for page in ROOT.rglob("*.md")
    if not any(part.startswith(".") or part in {"tests", "node_modules"} for part in page.relative_to(ROOT).parts)
    and "configs" not in page.parts
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ +(.+)$", page.read_text("utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"^(`{3,}).*?^\1", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in LINK.findall(re.sub(r"`[^`\n]*`", "", prose)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name) if name else page
        assert file.exists(), f"{target}: no such file"
        assert not anchor or anchor in anchors(file), f"{target}: no such heading"


def test_the_map_names_every_page() -> None:
    docs = ROOT / "docs"
    named = {(docs / target).resolve() for target in LINK.findall((docs / "README.md").read_text("utf-8"))}
    assert [page.name for page in docs.rglob("*.md") if page.resolve() not in {*named, docs / "README.md"}] == []


def shown_commands(page: Path) -> list[str]:
    """The lines that begin with `masa` in a page's code, comments and what follows a pipe left out."""
    text = page.read_text("utf-8")
    blocks = re.findall(r"^ *(`{3,})(?:sh|console|)\n(.*?)^ *\1", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for _, block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`(masa [^`\n]+)`", re.sub(r"^ *(`{3,}).*?^ *\1", "", text, flags=re.MULTILINE | re.DOTALL))
    found = (re.match(r"\s*(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?(masa .*)", line) for line in lines)
    return [re.split(r" [|#&;] ?|\s+#", match[1])[0] for match in found if match]


def test_every_help_page_has_examples_that_parse_and_name_what_there_is() -> None:
    """Whole command lines, and what a fresh clone has: files of it, and shipped banks as ENVIRONMENT/NAME."""
    click = pytest.importorskip("click")
    from masa.cli import root
    from masa_training.evaluate.banks.config import BANKS

    def pages(command: Any, context: Any) -> Iterator[tuple[str, Any]]:
        yield context.command_path, command
        if not isinstance(command, click.Group):
            return
        assert not re.search(r"\w\.\.\.$", command.get_help(context), re.MULTILINE), "a line is cut"
        for name in command.list_commands(context):
            if (found := command.get_command(context, name)).hidden:
                continue
            yield from pages(found, click.Context(found, info_name=name, parent=context))

    for path, page in pages(root, click.Context(root, info_name="masa")):
        shown = re.findall(r"^  (masa .*)", (page.epilog or "").replace("\\\n", ""), flags=re.MULTILINE)
        assert shown, f"{path} --help has no examples"
        for line in shown:
            words = shlex.split(re.split(r" [|] | +# ", line)[0])[1:]
            command, context = root, click.Context(root, info_name="masa")
            while words and isinstance(command, click.Group):
                name, command, words = command.resolve_command(context, words)
                context = click.Context(command, info_name=name, parent=context)
            if not isinstance(command, click.Group):
                command.make_context(name, list(words), parent=context.parent)
            for word in (word.rpartition("=")[2] for word in words):
                if re.match(r"(examples|models/rewriters)/", word):
                    assert (ROOT / word).exists(), line
                if re.fullmatch(r"(lookup|assistant|household|filing)/\w+", word):
                    assert (BANKS / f"{word}.json").is_file(), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_a_page_parse(page: Path) -> None:
    click = pytest.importorskip("click")
    from masa.cli import root

    for line in shown_commands(page):
        if re.search(r"COMMAND|CONFIG\b|ARTIFACT\b|…|\.\.\.", line):
            continue  # a form, not a command
        words = shlex.split(line)[1:]
        command = root
        context = click.Context(command, info_name="masa")
        while words and isinstance(command, click.Group) and not words[0].startswith("-"):
            name, command, words = command.resolve_command(context, words)
            context = click.Context(command, info_name=name, parent=context)
        if words and not isinstance(command, click.Group):
            command.make_parser(context).parse_args(args=words)
