"""Tool lists and prompt templates: what is a skill in them, and that nothing else changes, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.artifact_samples import write_artifact
from tests.support import ScriptedBackend

from masa.artifact import load_artifact
from masa.cards import ModelCard
from masa.errors import FormatError
from masa.formats import dump, load_bank, save_bank
from masa.rewriter import Rewriter

TEXT = "Open the file `{path}`. Read every line of it. Then close the file again."
SCHEMA = {"type": "object", "properties": {"description": {"type": "string", "description": "of the tool"}}}
OPENAI = [{"type": "function", "function": {"name": "read", "description": TEXT, "parameters": SCHEMA, "strict": True}}]
RESPONSES = [{"type": "function", "name": "read", "description": TEXT, "parameters": SCHEMA}]
MCP = {"tools": [{"name": "read", "inputSchema": SCHEMA, "description": TEXT, "annotations": {"title": "R"}}]}
FORMS: dict[str, Any] = {
    "openai": OPENAI,
    "openai request": {"model": "m", "tools": OPENAI},
    "responses": RESPONSES,
    "mcp": MCP,
    "mcp answer": {"jsonrpc": "2.0", "id": 1, "result": {**MCP, "nextCursor": "x"}},
    "anthropic": [{"name": "read", "description": TEXT, "input_schema": SCHEMA}],
}
LAYOUTS: dict[str, Callable[[Any], str]] = {
    "compact": lambda value: json.dumps(value, separators=(",", ":")),
    "indented": lambda value: json.dumps(value, indent=2) + "\n",
    "odd": lambda value: json.dumps(value, indent="\t").replace('": ', '"  :\n') + "\n\n",
}


def rewriting(tmp_path: Path, script: Callable[[str], str]) -> Rewriter:
    artifact = load_artifact(write_artifact(tmp_path / "rewriter"), verify=False)
    return Rewriter(artifact, lambda: ScriptedBackend(script), cautious=False)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", FORMS)
def test_the_description_changes_and_no_other_byte(tmp_path: Path, form: str, layout: str) -> None:
    path = tmp_path / "tools.json"
    path.write_text(LAYOUTS[layout](FORMS[form]))
    bank = load_bank(path)
    assert dump(bank) == path.read_bytes()
    with rewriting(tmp_path, lambda prompt: "1 steps") as rewriter:
        result = rewriter.rewrite(bank, ModelCard(family="F"))
    save_bank(result.bank, tmp_path / "out.json")
    before, after = path.read_text(), (tmp_path / "out.json").read_text()
    numbered = "1. Open the file `{path}`.\n2. Read every line of it.\n3. Then close the file again."
    assert after == before.replace(json.dumps(TEXT), json.dumps(numbered)) != before


def test_no_edit_drops_merges_moves_or_adds_a_tool(tmp_path: Path) -> None:
    path = tmp_path / "tools.json"
    tools = [{"name": name, "description": "Please always go there.", "inputSchema": {}} for name in ("a", "b")]
    path.write_text(json.dumps(tools))
    for plan in ("1 drop", "1 merge-up", "1 keep\n+ warn loop"):
        with rewriting(tmp_path, lambda prompt, plan=plan: plan) as rewriter:
            result = rewriter.rewrite(load_bank(path), ModelCard(family="F"))
        assert [len(group.output) for group in result.groups if group.key != "general_skills"] == [1, 1]
        assert not any(group.added for group in result.groups)
        assert {group.status for group in result.groups} == {"kept"}, "no other edit instead"
        assert [tool["name"] for tool in json.loads(dump(result.bank))] == ["a", "b"]


def test_a_bank_whose_skill_is_gone_keeps_the_description(tmp_path: Path) -> None:
    path = tmp_path / "tools.json"
    path.write_text(json.dumps(MCP))
    bank = load_bank(path)
    assert dump(replace(bank, task_specific={"read": ()})) == path.read_bytes()


def test_tools_without_a_description_stay_and_are_told(tmp_path: Path) -> None:
    path = tmp_path / "tools.json"
    tools = [{"name": "a", "inputSchema": {}}, {"name": "b", "inputSchema": {}, "description": "Go."}]
    path.write_text(json.dumps([*tools, {"name": "b", "inputSchema": {}, "description": "Stay."}]))
    bank = load_bank(path)
    assert list(bank.task_specific) == ["b"]
    assert [problem.severity for problem in bank.problems] == ["note", "warning"]
    path.write_text(json.dumps(tools[:1]))
    with pytest.raises(FormatError, match="no tool has a description"):
        load_bank(path)


def test_an_original_is_never_overwritten(tmp_path: Path) -> None:
    for name, text in (("tools.json", json.dumps(MCP)), ("prompt.md", "# A\n\nGo.\n")):
        path = tmp_path / name
        path.write_text(text)
        with pytest.raises(FormatError, match="never overwritten"):
            save_bank(load_bank(path), path)


TEMPLATE = """You help {{user}} with ${PRODUCT}.

# Read

Open {path}. Read every line of <file>. Then close it again.

# Answer

Say {answer}.
"""


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("front", ["", "---\nmode: agent\n---\n"])
def test_a_template_is_rewritten_by_section_and_keeps_its_placeholders(tmp_path: Path, front: str, ending: str) -> None:
    path = tmp_path / "help.prompt.md"
    path.write_bytes((front + TEMPLATE).replace("\n", ending).encode())
    bank = load_bank(path)
    assert dump(bank) == path.read_bytes() and len(bank) == 3
    with rewriting(tmp_path, lambda prompt: "1 keep\n2 steps\n3 keep") as rewriter:
        result = rewriter.rewrite(bank, ModelCard(family="F"))
    save_bank(result.bank, tmp_path / "out.md")
    steps = "1. Open {path}.\n2. Read every line of <file>.\n3. Then close it again."
    expected = (front + TEMPLATE).replace("Open {path}. Read every line of <file>. Then close it again.", steps)
    assert (tmp_path / "out.md").read_bytes() == expected.replace("\n", ending).encode()


def test_a_template_that_is_empty_or_not_utf_8_is_told(tmp_path: Path) -> None:
    for data in (b"", b"\n\n", b"\xff\xfea"):
        (tmp_path / "prompt.txt").write_bytes(data)
        with pytest.raises(FormatError):
            load_bank(tmp_path / "prompt.txt")
