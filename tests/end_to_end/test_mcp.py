"""`masa mcp` as a process: the SDK's client over stdio and HTTP, the official inspector, the conformance tests, and the
session that the documentation shows.

    python -m tests.end_to_end.test_mcp      prints that session
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import npm
from tests.runtime.test_mcp_server import ask

ROOT = Path(__file__).resolve().parents[2]
SKILLS, CARD = "examples/skills", "examples/card.yaml"
ADAPTED = "1. Look for it in the folder that the user names."

pytest.importorskip("mcp")


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "masa.cli", "mcp", *words]


@contextlib.contextmanager
def http_server(*words: str) -> Iterator[str]:
    """The address of a server that is stopped at the end, as a person would stop it."""
    process = subprocess.Popen(command(*words, "--http", "0"), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/mcp", line)
        assert found, line + process.stderr.read()
        yield found[0]
    finally:
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(20) in (0, 130) and "Traceback" not in rest, rest


def over_stdio(talk: Callable[[Any], Awaitable[Any]], *words: str) -> Any:
    from mcp import Client, StdioServerParameters
    from mcp.client.stdio import stdio_client

    async def run() -> Any:
        first, *rest = command(*words)
        server = StdioServerParameters(command=first, args=rest, env=dict(os.environ), cwd=str(ROOT))
        async with Client(stdio_client(server)) as client:
            return await talk(client)

    return asyncio.run(run())


def over_http(talk: Callable[[Any], Awaitable[Any]], *words: str) -> Any:
    from mcp import Client

    async def run(url: str) -> Any:
        async with Client(url) as client:
            return await talk(client)

    with http_server(*words) as url:
        return asyncio.run(run(url))


@pytest.mark.model
@pytest.mark.parametrize("over", [over_stdio, over_http])
def test_a_client_reads_adapted_skills_and_calls_tools(smollm2: Path, over: Callable[..., Any]) -> None:
    told: list[float] = []

    async def talk(client: Any) -> dict[str, Any]:
        async def progress(done: float, *_: Any) -> None:
            told.append(done)

        (entry,) = (await ask(client, "skills/list"))["skills"]
        text = (await client.read_resource(entry["uri"])).contents[0].text
        assert entry["resources"][0]["digest"] == f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
        assert ADAPTED in text
        plain = (await client.read_resource("skill://model=Qwen3-4B/pantry-report/SKILL.md")).contents[0].text
        assert plain == (ROOT / SKILLS / "pantry-report/SKILL.md").read_text()
        result = await client.call_tool("adapt", {"skill": "pantry-report"}, progress_callback=progress)
        wrong = await client.call_tool("adapt", {"skill": "nothing"})
        assert wrong.is_error and "pantry-report" in wrong.content[0].text
        return dict(result.structured_content)

    assert ADAPTED in over(talk, SKILLS, "--backbone", CARD)["skills"][0]["text"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere"], "does not exist"),
        (["docs"], "SKILL.md"),
        ([SKILLS, "--backbone", "nothing-4B"], "shipped"),
        ([SKILLS, "--backbone", CARD, "--rewriter", "none"], "none"),
    ],
)
def test_a_server_that_cannot_start_says_why_in_one_sentence(words: list[str], says: str) -> None:
    done = subprocess.run(command(*words), cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert says in done.stderr and "Traceback" not in done.stderr and done.stderr.startswith("Error: ")


def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = command(SKILLS, "--http", str(taken.getsockname()[1]))
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "another one" in done.stderr and "Traceback" not in done.stderr


def test_the_server_listens_on_the_loopback_address_and_answers_no_other_host() -> None:
    import httpx

    with http_server(SKILLS) as url:
        headers = {"Accept": "application/json, text/event-stream"}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
        assert httpx.post(url, json=body, headers={**headers, "Host": "example.org"}).status_code == 421


def test_the_official_inspector_lists_calls_and_reads(tmp_path: Path) -> None:
    node, folder = npm.installed(npm.INSPECTOR)
    inspector = folder / "node_modules/@modelcontextprotocol/inspector/cli/build/cli.js"

    def inspect(url: str, *words: str) -> Any:
        run = [str(node), str(inspector), "--cli", url, "--transport", "http", "--method", *words]
        done = subprocess.run(run, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    with http_server(SKILLS) as url:
        names = [tool["name"] for tool in inspect(url, "tools/list")["tools"]]
        assert names == ["list", "adapt", "select", "inspect", "card"]
        called = inspect(url, "tools/call", "--tool-name", "inspect", "--tool-arg", "skill=pantry-report")
        assert called["structuredContent"]["name"] == "pantry-report"
        read = inspect(url, "resources/read", "--uri", "skill://pantry-report/SKILL.md")
        assert read["contents"][0]["text"].startswith("---\nname: pantry-report\n")


@pytest.mark.parametrize("scenario", ["enumeration", "manifest", "directory"])
def test_the_conformance_tests_of_the_skills_extension_pass(scenario: str) -> None:
    node, folder = npm.installed(npm.CONFORMANCE)
    conformance = folder / "node_modules/@modelcontextprotocol/conformance/dist/index.js"
    with http_server(SKILLS) as url:
        words = [str(node), str(conformance), "server", "--url", url, "--scenario", f"sep-2640-skills-{scenario}"]
        words += ["--spec-version", "2026-07-28", "--force"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, cwd=folder)
    passed = re.search(r"Passed: (\d+)/(\d+), 0 failed, 0 warnings", done.stdout)
    assert done.returncode == 0 and passed and passed[1] == passed[2] and int(passed[1]) > 5, done.stdout[-2000:]


# --- the session that docs/mcp.md shows -----------------------------------------------------------------

SESSION: tuple[tuple[str, dict[str, Any]], ...] = (
    ("resources/read", {"uri": "skill://model=Qwen3-4B/pantry-report/SKILL.md"}),
    ("tools/call", {"name": "select", "arguments": {"query": "what expires soon", "sections": 1}}),
    ("tools/call", {"name": "adapt", "arguments": {"skill": "pantry"}}),
    ("skills/get", {"uri": "skill://shopping/SKILL.md"}),
)
_WIDEST, _LONGEST = 116, 64


def transcript() -> str:
    """Requests and answers of a session over stdio; without `_meta`, and long texts cut."""
    from mcp.shared.exceptions import MCPError

    lines: list[str] = []

    async def talk(client: Any) -> None:
        for method, params in SESSION:
            lines.append(f"→ {method} {shown(params)}")
            try:
                found = await ask(client, method, params)
                found.pop("_meta", None)
                lines.append(f"← {shown(found)}")
            except MCPError as error:
                lines.append(f"← error {shown({'code': error.error.code, 'message': error.error.message})}")

    over_stdio(talk, SKILLS, "--backbone", CARD, "--no-cache")
    return "\n".join(lines) + "\n"


def shown(value: Any) -> str:
    """JSON on one line, or on several where it is long."""

    def cut(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: cut(item) for key, item in part.items()}
        if isinstance(part, list):
            return [cut(item) for item in part]
        return part[:_LONGEST] + "…" if isinstance(part, str) and len(part) > _LONGEST + 1 else part

    def laid_out(part: Any, indent: int) -> str:
        line = json.dumps(part, ensure_ascii=False)
        if len(line) + indent <= _WIDEST or not isinstance(part, dict | list) or not part:
            return line
        inner = " " * (indent + 2)
        if isinstance(part, dict):
            rows = [f"{inner}{json.dumps(key)}: {laid_out(item, indent + 2)}" for key, item in part.items()]
            return "{\n" + ",\n".join(rows) + "\n" + " " * indent + "}"
        return "[\n" + ",\n".join(inner + laid_out(item, indent + 2) for item in part) + "\n" + " " * indent + "]"

    return laid_out(cut(value), 0)


@pytest.mark.model
def test_the_session_in_the_documentation_is_what_happens(smollm2: Path) -> None:
    page = (ROOT / "docs" / "mcp.md").read_text("utf-8")
    assert transcript() in page, "python -m tests.end_to_end.test_mcp prints what the page should show"


if __name__ == "__main__":
    sys.stdout.write(transcript())
