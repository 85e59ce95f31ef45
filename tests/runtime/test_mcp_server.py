"""The MCP server around a scripted model: the skills extension, tools, progress, cancelling, what a client may name."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.artifact_samples import write_artifact
from tests.support import Script, ScriptedBackend

from masa.artifact import load_artifact
from masa.cards import ModelCard
from masa.mcp_server import EXTENSION, MODEL_KEY, make_server
from masa.rewriter import Rewriter
from masa.served_skills import Library

pytest.importorskip("mcp")

CARD = ModelCard(family="Sample", variant="1B", weaknesses="skips steps")
BODY = "# Use\n\nOpen the file `a.csv`. Read every line of it. Then close the file again.\n"
Made = tuple[Library, ScriptedBackend]


def skill_md(name: str, body: str = BODY, more: str = "") -> str:
    return f"---\nname: {name}\ndescription: Does {name}.\n{more}---\n{body}"


def steps(prompt: str) -> str:
    return "\n".join(f"{n} steps" for n in range(1, prompt.count("## [") + 1))


@pytest.fixture
def skills(tmp_path: Path) -> Path:
    """Four skills, one of them inside another, one with a date, one with a name that the extension does not allow."""
    root = tmp_path / "skills"
    for path, text in {
        "csv/SKILL.md": skill_md("csv", more="license: MIT\nmetadata:\n  since: 2026-01-02\n  version: '1.0'\n"),
        "csv/references/form at.md": "# Form\n",
        "csv/assets/dot.bin": "\udc80",
        "csv/inner/SKILL.md": skill_md("inner"),
        "team/post/SKILL.md": skill_md("post"),
        "Bad/SKILL.md": skill_md("Bad Name"),
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(text.encode("utf-8", "surrogateescape"))
    return root


@pytest.fixture
def make(tmp_path: Path, skills: Path) -> Iterator[Callable[..., Made]]:
    opened: list[Rewriter] = []

    def build(script: Script = steps, *, cards: dict[str, ModelCard] | None = None) -> Made:
        backend = ScriptedBackend(script)
        artifact = load_artifact(write_artifact(tmp_path / "rewriter"), verify=False)
        rewriter = Rewriter(artifact, lambda: backend, cautious=False)
        opened.append(rewriter)
        return Library([skills], {"mine": CARD} if cards is None else cards, rewriter), backend

    yield build
    for rewriter in opened:
        rewriter.close()


def session(library: Library, talk: Callable[[Any], Awaitable[Any]], *, mode: str = "auto") -> Any:
    """What `talk` returns, which is given a client of the SDK that is connected to a server of the library."""
    from mcp import Client

    async def run() -> Any:
        async with Client(make_server(library), mode=mode) as client:
            return await talk(client)

    return asyncio.run(run())


async def ask(client: Any, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
    """The result of a request of the extension, as it is on the wire."""
    import mcp_types

    class Answer(mcp_types.Result, extra="allow"):
        pass

    class Request(mcp_types.Request[dict[str, Any], str]):
        pass

    result = await client.session.send_request(Request(method=method, params=params or {}), Answer)
    return dict(result.model_dump(by_alias=True, exclude_none=True))


def tool(library: Library, name: str, **arguments: Any) -> Any:
    """What a tool answers: the object, or its error as text."""

    async def talk(client: Any) -> Any:
        result = await client.call_tool(name, arguments)
        text = result.content[0].text
        if not result.is_error:
            assert result.structured_content == json.loads(text)
        return text if result.is_error else result.structured_content

    return session(library, talk)


def listed(library: Library, **params: Any) -> dict[str, dict[str, Any]]:
    """The entries of `skills/list` by path, each checked against what `resources/read` gives."""

    async def talk(client: Any) -> dict[str, Any]:
        found = await ask(client, "skills/list", params)
        assert found["resultType"] == "complete" and found["cacheScope"] == "private" and found["ttlMs"] == 0
        for entry in found["skills"]:
            assert (await ask(client, "skills/get", {"uri": entry["uri"]}))["skill"] == entry
            for file in entry["resources"]:
                content = (await client.read_resource(file["uri"])).contents[0]
                data = content.text.encode() if hasattr(content, "text") else base64.b64decode(content.blob)
                assert file["digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}" and file["size"] == len(data)
                if file["uri"] == entry["uri"]:
                    entry["text"] = data.decode()
        return {entry["uri"].removesuffix("/SKILL.md"): entry for entry in found["skills"]}

    return dict(session(library, talk))


def test_skills_are_listed_adapted_with_the_digest_of_every_file(make: Callable[..., Made], skills: Path) -> None:
    library, _ = make()
    found = listed(library)
    assert list(found) == ["skill://csv", "skill://csv/inner", "skill://team/post"]
    csv = found["skill://csv"]
    assert "1. Open the file `a.csv`.\n2. Read" in csv["text"]
    uris = [file["uri"] for file in csv["resources"]]
    assert uris[0] == "skill://csv/SKILL.md" and sorted(uris) == sorted(
        f"skill://csv/{p}" for p in ("SKILL.md", "assets/dot.bin", "inner/SKILL.md", "references/form%20at.md")
    )
    assert csv["frontmatter"] == {
        "name": "csv",
        "description": "Does csv.",
        "license": "MIT",
        "metadata": {"since": "2026-01-02", "version": "1.0"},
    }
    inner = {file["uri"]: file["digest"] for file in csv["resources"]}["skill://csv/inner/SKILL.md"]
    assert inner == found["skill://csv/inner"]["resources"][0]["digest"], "one address has one content"
    assert (skills / "csv/SKILL.md").read_text() == skill_md(
        "csv", more="license: MIT\nmetadata:\n  since: 2026-01-02\n  version: '1.0'\n"
    )


def test_a_server_for_no_model_serves_skills_as_they_are(make: Callable[..., Made]) -> None:
    library, backend = make(cards={})
    assert listed(library)["skill://csv/inner"]["text"] == skill_md("inner")
    assert backend.sessions == []


def test_a_client_names_its_model_in_the_request_or_in_the_address(make: Callable[..., Made]) -> None:
    prompts: list[str] = []

    def noting(prompt: str) -> str:
        prompts.append(prompt)
        return steps(prompt)

    library, _ = make(noting, cards={"mine": CARD, "other": ModelCard(family="Other", variant="2B")})
    assert next(iter(listed(library, _meta={MODEL_KEY: "Other-2B"}))) == "skill://model=Other-2B/csv"
    assert all("Other" in prompt and "skips steps" not in prompt for prompt in prompts)
    tool(library, "adapt", skill="post", model="qwen3-4b")
    assert "Qwen3" in prompts[-1]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_errors_of_the_protocol_have_its_codes(make: Callable[..., Made], mode: str) -> None:
    from mcp.shared.exceptions import MCPError

    library, _ = make()
    wrong = [
        ("skills/get", {"uri": "skill://nothing/SKILL.md"}),
        ("skills/get", {"uri": "skill://csv/references/form%20at.md"}),
        ("skills/get", {"uri": "skill://model=NoSuchModel/csv/SKILL.md"}),
        ("skills/get", {"uri": "file:///etc/passwd"}),
        ("skills/get", {}),
        ("resources/read", {"uri": "skill://csv/../Bad/SKILL.md"}),
        ("resources/read", {"uri": "skill://csv/assets"}),
        ("resources/directory/read", {"uri": "skill://csv/SKILL.md"}),
        ("resources/directory/read", {"uri": "skill://csv/none"}),
    ]

    async def talk(client: Any) -> list[int]:
        codes = []
        for method, params in wrong:
            with pytest.raises(MCPError) as caught:
                await ask(client, method, params)
            codes.append(caught.value.code)
        return codes

    assert session(library, talk, mode=mode) == [-32602] * len(wrong)


def test_folders_are_listed(make: Callable[..., Made]) -> None:
    async def talk(client: Any) -> list[list[tuple[str, str]]]:
        folders = []
        for uri in ("skill://csv", "skill://csv/references", "skill://model=Qwen3-4B/csv/inner"):
            found = (await ask(client, "resources/directory/read", {"uri": uri}))["resources"]
            folders.append(sorted((one["uri"].removeprefix(uri), one["mimeType"]) for one in found))
        return folders

    assert session(make()[0], talk) == [
        [
            ("/SKILL.md", "text/markdown"),
            *((f"/{name}", "inode/directory") for name in ("assets", "inner", "references")),
        ],
        [("/form%20at.md", "text/markdown")],
        [("/SKILL.md", "text/markdown")],
    ]


def test_a_skill_that_changes_on_disk_is_adapted_anew(make: Callable[..., Made], skills: Path) -> None:
    library, backend = make()
    listed(library)
    before = len(backend.sessions)
    (skills / "team/post/SKILL.md").write_text(skill_md("post", BODY.replace("a.csv", "b.csv")))
    (skills / "csv/references/form at.md").unlink()
    found = listed(library)
    assert "1. Open the file `b.csv`." in found["skill://team/post"]["text"]
    assert len(found["skill://csv"]["resources"]) == 3 and len(backend.sessions) == before + 1


def test_tools_answer_with_one_object(make: Callable[..., Made]) -> None:
    library, _ = make()
    found = tool(library, "list")
    assert [skill["name"] for skill in found["skills"]] == ["csv", "inner", "post"]
    assert found["models"] == ["Sample-1B"] and any("Bad Name" in p["message"] for p in found["problems"])
    (adapted,) = tool(library, "adapt", skill="post")["skills"]
    assert adapted["changed"] and "1. Open" in adapted["text"] and adapted["sections"][0]["edits"] == ["steps"]
    assert "masa profile" in tool(library, "adapt", model="Qwen3-4B")["note"]
    assert "1. Open" in tool(library, "select", query="post")["text"]
    assert tool(library, "inspect", skill="csv")["sections"][0]["protected"] == ["`a.csv`"]
    assert tool(library, "card")["card"]["weaknesses"] == "skips steps"


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("adapt", {"skill": "pots"}, 'did you mean "post"'),
        ("adapt", {"model": "../../etc/passwd"}, "shipped model card"),
        ("adapt", {"model": "http://127.0.0.1:1#x"}, "shipped model card"),
        ("adapt", {"model": 4}, "model"),
        ("adapt", {"output": "/tmp/x"}, "output"),
        ("select", {}, "query"),
        ("inspect", {}, "skill"),
    ],
)
def test_a_mistake_is_an_error_of_the_tool_in_one_sentence(
    make: Callable[..., Made], name: str, arguments: dict[str, Any], says: str
) -> None:
    told = tool(make()[0], name, **arguments)
    assert isinstance(told, str) and says in told and "\n" not in told


def test_a_folder_that_is_gone_is_an_error_of_the_tool(make: Callable[..., Made], skills: Path) -> None:
    library, _ = make()
    skills.rename(skills.with_name("elsewhere"))
    assert "does not exist" in tool(library, "list")


def test_progress_grows_and_names_the_whole(make: Callable[..., Made]) -> None:
    async def talk(client: Any) -> list[tuple[float, float | None]]:
        told: list[tuple[float, float | None]] = []

        async def progress(done: float, total: float | None, message: str | None) -> None:
            told.append((done, total))

        await client.call_tool("adapt", {}, progress_callback=progress)
        return told

    told = session(make()[0], talk)
    assert told and told[-1][0] <= 3 and all(total == 3 for _, total in told)
    assert [done for done, _ in told] == sorted({done for done, _ in told})


def test_cancelling_a_call_stops_the_rewriter_and_the_next_call_is_served(make: Callable[..., Made]) -> None:
    endless = "1 " + "steps " * 10_000

    def slow(prompt: str) -> str:
        time.sleep(0.01)
        return endless

    library, backend = make(slow)

    async def talk(client: Any) -> dict[str, Any]:
        begun = asyncio.Event()

        async def progress(*_: Any) -> None:
            begun.set()

        call = asyncio.create_task(client.call_tool("adapt", {}, progress_callback=progress))
        await asyncio.wait_for(begun.wait(), 20)
        call.cancel()
        await asyncio.wait([call])
        backend.script = steps
        return dict((await asyncio.wait_for(client.call_tool("adapt", {"skill": "post"}), 20)).structured_content)

    assert session(library, talk)["skills"][0]["changed"]
    assert all(one.closed for one in backend.sessions[:-1])


def test_nothing_is_written_beside_the_skills(make: Callable[..., Made], skills: Path) -> None:
    def everything() -> list[tuple[str, int]]:
        found = (Path(folder, name) for folder, _, names in os.walk(skills.parent) for name in names)
        return sorted((str(path), path.stat().st_mtime_ns) for path in found)

    library, _ = make()
    before = everything()
    listed(library)
    tool(library, "select", query="post")
    assert everything() == before
    assert EXTENSION == "io.modelcontextprotocol/skills"
