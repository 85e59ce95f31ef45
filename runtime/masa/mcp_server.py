"""masa as an MCP server: tools, and skills by the extension `io.modelcontextprotocol/skills` (SEP-2640).

Specification: modelcontextprotocol/ext-skills, specification/stable/skills.mdx at commit 0682b7b. Every skill is
adapted to the backbone that the client names, or to the first one that the server was started for.

Needs the extra `mcp` (SDK 2.x).
"""

from __future__ import annotations

import asyncio
import base64
import json
import mimetypes
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from masa import __version__, asynchronous
from masa.cards import FIELDS, ModelCard, explain
from masa.errors import CardError, MasaError, MissingExtraError, UnknownNameError
from masa.formats.skill_md_tree import FILE_NAME, is_skill_file
from masa.served_skills import SCHEME, Adapted, Library, ServedSkill, Shelf

if TYPE_CHECKING:
    from mcp.server import Server

    from masa.progress import Progress

EXTENSION = "io.modelcontextprotocol/skills"
MODEL_KEY = "masa.skills/model"
"""Key of a request's `_meta` under which a client names its backbone for `skills/list`."""
LOOPBACK = "127.0.0.1"
_FOLDER = "inode/directory"
_UNPROBED = "its card names no weaknesses, so nothing calls for an edit; `masa profile MODEL --probe` measures them"
_MODEL = {
    "type": "string",
    "description": "The model that will read the skills, by the name of its card. Default: the one the server is for.",
}
_SKILL = {"type": "string", "description": "Name of a skill, as `list` tells it. Default: all skills."}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Call:
    """What a tool is given: its arguments, what is served, and how to tell progress and hear of cancelling."""

    library: Library
    shelf: Shelf
    arguments: Mapping[str, Any]
    watch: Mapping[str, Any]

    @property
    def model(self) -> str | None:
        return self.arguments.get("model")

    def skills(self) -> Sequence[ServedSkill]:
        name = self.arguments.get("skill")
        return list(self.shelf.skills.values()) if name is None else [self.shelf.find(name)]


@dataclass(frozen=True, slots=True)
class _Tool:
    """A tool: `run` works in a thread and gives a JSON object. All of them only read."""

    name: str
    description: str
    properties: Mapping[str, Any]
    required: tuple[str, ...]
    run: Callable[[_Call], dict[str, Any]]

    @property
    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": dict(self.properties),
            "required": list(self.required),
            "additionalProperties": False,
        }


def _list(call: _Call) -> dict[str, Any]:
    skills = [
        {"name": s.name, "uri": s.uri(call.model), "description": s.frontmatter["description"], "files": len(s.files)}
        for s in call.skills()
    ]
    problems = [{"severity": p.severity, "message": str(p)} for p in call.shelf.problems]
    models = [card.name for card in call.library.cards.values()]
    return {"skills": skills, "models": models, "problems": problems}


def _adapt(call: _Call) -> dict[str, Any]:
    card = _needed_card(call)
    found = call.library.adapt(call.skills(), card, **call.watch)
    told: dict[str, Any] = {"model": card.name, "skills": [_account(adapted, call.model) for adapted in found.values()]}
    if card.weaknesses is None:
        told["note"] = f"{card.name}: {_UNPROBED}"
    return told


def _account(adapted: Adapted, model: str | None) -> dict[str, Any]:
    result = adapted.result
    sections = [] if result is None else [
        {"section": fate.skill_id, "status": fate.status, "edits": list(fate.edits), "lost": list(fate.lost)}
        for fate in result.fates
    ]  # fmt: skip
    return {
        "name": adapted.skill.name,
        "uri": adapted.skill.uri(model),
        "changed": adapted.data != adapted.skill.raw,
        "reason": adapted.problem,
        "sections": sections,
        "text": adapted.data.decode("utf-8"),
    }


def _select(call: _Call) -> dict[str, Any]:
    from masa.retrieval import render, select
    from masa.skills import SkillBank

    query, most = call.arguments["query"], call.arguments.get("sections", 5)
    whole = SkillBank((), {path: skill.group.skills for path, skill in call.shelf.skills.items()})
    picked = select(whole, query).task_type
    if picked is None:
        return {"skill": None, "text": "", "reason": "no word of the query is in any skill; see `list`"}
    skill = call.shelf.skills[picked]
    card = call.library.card(call.model)
    result = call.library.adapt([skill], card, **call.watch)[picked].result
    group = skill.group if result is None else result.output
    chosen = select(SkillBank((), {skill.name: group.skills}), query, task_type=skill.name, specific=most)
    return {"skill": skill.name, "uri": skill.uri(call.model), "text": render(chosen)}


def _inspect(call: _Call) -> dict[str, Any]:
    from masa.edits import available_edits
    from masa.formats.skill_md import validate_skill_folder
    from masa.markdown import protected_spans

    (skill,) = call.skills()
    sections = [
        {
            "section": section.skill_id,
            "title": section.title,
            "characters": len(section.text),
            "protected": list(dict.fromkeys(protected_spans(section.text))),
            "edits": list(available_edits(section, None)),
        }
        for section in skill.group.skills
    ]
    problems = [str(problem) for problem in validate_skill_folder(skill.files[FILE_NAME])]
    return {
        "name": skill.name,
        "uri": skill.uri(),
        "files": list(skill.files),
        "sections": sections,
        "problems": problems,
    }


def _card(call: _Call) -> dict[str, Any]:
    card = _needed_card(call)
    told: dict[str, Any] = {
        "name": card.name,
        "fingerprint": card.fingerprint,
        "card": {name: getattr(card, name) for name in FIELDS},
        "origins": {row.field: row.origin for row in explain(card) if row.origin},
    }
    if card.weaknesses is None:
        told["note"] = f"{card.name}: {_UNPROBED}"
    return told


def _needed_card(call: _Call) -> ModelCard:
    card = call.library.card(call.model)
    if card is None:
        raise MasaError("no model is named and this server was started for none; name one as `model`")
    return card


_TOOLS = (
    _Tool("list", "List the skills that are served, and what is wrong with others.", {"model": _MODEL}, (), _list),
    _Tool(
        "adapt",
        "Rewrite skills for the model that will read them. Gives each SKILL.md as adapted and what was done to every "
        "section. Commands, code, links and placeholders survive; what a guard refuses keeps its text.",
        {"skill": _SKILL, "model": _MODEL},
        (),
        _adapt,
    ),
    _Tool(
        "select",
        "The sections of the one skill that fit a task best, adapted, as Markdown for a prompt.",
        {
            "query": {"type": "string", "minLength": 1, "description": "The task, in the user's words."},
            "sections": {"type": "integer", "minimum": 1, "description": "Most sections. Default: 5."},
            "model": _MODEL,
        },
        ("query",),
        _select,
    ),
    _Tool(
        "inspect",
        "What a skill holds: files, sections, protected text, the edits that each section admits, problems.",
        {"skill": {"type": "string", "description": "Name of the skill, as `list` tells it."}},
        ("skill",),
        _inspect,
    ),
    _Tool("card", "What is known of a model, and its weaknesses, which call for edits.", {"model": _MODEL}, (), _card),
)


def make_server(library: Library) -> Server[Any]:
    """The server of a library, for any transport of the SDK.

    Raises:
        MissingExtraError: if the SDK is not installed.
    """
    try:
        import mcp_types as types
        from mcp.server import Server
        from mcp.server.context import ServerRequestContext
        from mcp.shared.exceptions import MCPError
        from mcp_types.version import MODERN_PROTOCOL_VERSIONS
        from pydantic import Field
    except ModuleNotFoundError as error:
        raise MissingExtraError("masa mcp", "mcp") from error

    Context = ServerRequestContext[Any, Any]  # noqa: N806

    class GetParams(types.RequestParams):
        uri: str = Field(min_length=1)

    class DirectoryParams(types.PaginatedRequestParams):
        uri: str = Field(min_length=1)

    async def in_thread(ctx: Context, work: Callable[[Shelf, Mapping[str, Any]], T]) -> T:
        """`work` in a thread, given what is served and the options by which it is watched and stopped."""
        loop, ticks = asyncio.get_running_loop(), asyncio.Queue[Any]()

        def started(stopped: Callable[[], bool]) -> T:
            def tell(progress: Progress) -> None:
                loop.call_soon_threadsafe(ticks.put_nowait, progress)

            return work(library.shelf(), {"on_progress": tell, "cancel": stopped})

        async def report() -> None:
            told = -1.0
            while True:
                progress = await ticks.get()
                done = progress.groups + _part(progress)
                if done > told:  # a progress notification must be above the one before it
                    told = done
                    message = f"{progress.groups} of {progress.total} skills, {progress.tokens} tokens"
                    await ctx.session.report_progress(done, progress.total, message)

        reporter = asyncio.create_task(report())
        try:
            return await asynchronous.run(started)
        finally:
            reporter.cancel()

    async def protocol(ctx: Context, work: Callable[[Shelf, Mapping[str, Any]], T]) -> T:
        """The same for requests of the protocol, whose errors have codes."""
        try:
            return await in_thread(ctx, work)
        except (UnknownNameError, CardError) as error:
            raise MCPError(types.INVALID_PARAMS, str(error)) from error
        except MasaError as error:
            raise MCPError(types.INTERNAL_ERROR, str(error)) from error

    def cached(ctx: Context, result: dict[str, Any]) -> dict[str, Any]:
        # A skill may change on disk at any time. Older revisions of the protocol have no such fields.
        modern = ctx.protocol_version in MODERN_PROTOCOL_VERSIONS
        return {**result, "ttlMs": 0, "cacheScope": "private"} if modern else result

    async def list_tools(ctx: Context, params: Any) -> types.ListToolsResult:
        hints = types.ToolAnnotations(read_only_hint=True, open_world_hint=False)
        return types.ListToolsResult(
            tools=[
                types.Tool(name=t.name, description=t.description, input_schema=t.schema, annotations=hints)
                for t in _TOOLS
            ]
        )

    async def call_tool(ctx: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        def failed(message: str) -> types.CallToolResult:
            return types.CallToolResult(content=[types.TextContent(type="text", text=message)], is_error=True)

        tool = next((tool for tool in _TOOLS if tool.name == params.name), None)
        if tool is None:
            raise MCPError(
                types.INVALID_PARAMS, f"no tool {params.name!r}; there are: {', '.join(t.name for t in _TOOLS)}"
            )
        arguments = params.arguments or {}
        if wrong := _wrong(tool, arguments):
            return failed(f"{tool.name}: {wrong}")
        run = tool.run
        try:
            result = await in_thread(ctx, lambda shelf, watch: run(_Call(library, shelf, arguments, watch)))
        except MasaError as error:
            return failed(str(error))
        text = json.dumps(result, ensure_ascii=False, indent=1)
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)], structured_content=result)

    async def list_resources(ctx: Context, params: Any) -> types.ListResourcesResult:
        def work(shelf: Shelf, _: Any) -> list[types.Resource]:
            return [_resource(skill, file) for skill in shelf.skills.values() for file in skill.files]

        def _resource(skill: ServedSkill, file: str) -> types.Resource:
            own = file == FILE_NAME
            return types.Resource(
                uri=skill.uri(file=file),
                name=skill.name if own else file.rpartition("/")[2],
                description=skill.frontmatter["description"] if own else None,
                mime_type=_mime_type(file),
            )

        return types.ListResourcesResult(resources=await protocol(ctx, work))

    async def list_templates(ctx: Context, params: Any) -> types.ListResourceTemplatesResult:
        template = types.ResourceTemplate(
            uri_template=f"{SCHEME}model={{model}}/{{+skill}}/{FILE_NAME}",
            name="skill for a model",
            description="A skill adapted to the model of that name.",
            mime_type="text/markdown",
        )
        return types.ListResourceTemplatesResult(resource_templates=[template])

    async def read_resource(ctx: Context, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        uri = str(params.uri)

        def work(shelf: Shelf, watch: Mapping[str, Any]) -> tuple[str, bytes]:
            skill, file, model = library.locate(uri, shelf)
            if file not in skill.files:
                raise UnknownNameError(f"{uri} is a folder; resources/directory/read lists it")
            return _mime_type(file), library.read(skill, file, library.card(model), shelf, **watch)

        kind, data = await protocol(ctx, work)
        try:
            content: Any = types.TextResourceContents(uri=uri, mime_type=kind, text=data.decode("utf-8"))
        except UnicodeDecodeError:
            content = types.BlobResourceContents(uri=uri, mime_type=kind, blob=base64.b64encode(data).decode())
        return types.ReadResourceResult(contents=[content])

    async def list_skills(ctx: Context, params: types.PaginatedRequestParams) -> dict[str, Any]:
        model = (ctx.meta or {}).get(MODEL_KEY)
        if model is not None and not isinstance(model, str):
            raise MCPError(types.INVALID_PARAMS, f"{MODEL_KEY} must be a text, the name of a model")

        def work(shelf: Shelf, watch: Mapping[str, Any]) -> list[dict[str, Any]]:
            skills = list(shelf.skills.values())
            library.adapt(skills, library.card(model), **watch)  # all at once, which is faster
            return [library.entry(skill, model, shelf, **watch) for skill in skills]

        return cached(ctx, {"skills": await protocol(ctx, work)})

    async def get_skill(ctx: Context, params: GetParams) -> dict[str, Any]:
        def work(shelf: Shelf, watch: Mapping[str, Any]) -> dict[str, Any]:
            skill, file, model = library.locate(params.uri, shelf)
            if file != FILE_NAME:
                raise UnknownNameError(f"{params.uri} is not the {FILE_NAME} of a skill")
            return library.entry(skill, model, shelf, **watch)

        return cached(ctx, {"skill": await protocol(ctx, work)})

    async def read_directory(ctx: Context, params: DirectoryParams) -> dict[str, Any]:
        def work(shelf: Shelf, watch: Any) -> list[dict[str, str]]:
            uri = params.uri.removesuffix("/")
            skill, place, _ = library.locate(uri, shelf)
            if place in skill.files:
                raise UnknownNameError(f"{params.uri} is a file, not a folder")
            inside = [
                file.removeprefix(f"{place}/") for file in skill.files if not place or file.startswith(f"{place}/")
            ]
            names = dict.fromkeys(file.partition("/")[0] for file in inside)
            return [
                {"uri": f"{uri}/{name}", "name": name, "mimeType": _mime_type(name) if name in inside else _FOLDER}
                for name in names
            ]

        return {"resources": await protocol(ctx, work)}

    server: Server[Any] = Server(
        "masa",
        version=__version__,
        title="masa",
        instructions="Skills, rewritten for the model that reads them: name it as `model`, or take the server's.",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_list_resource_templates=list_templates,
        on_read_resource=read_resource,
    )
    extension: list[tuple[str, type[types.RequestParams], Callable[..., Awaitable[dict[str, Any]]]]] = [
        ("skills/list", types.PaginatedRequestParams, list_skills),
        ("skills/get", GetParams, get_skill),
        ("resources/directory/read", DirectoryParams, read_directory),
    ]
    for method, kind, handler in extension:
        server.add_request_handler(method, kind, handler)
    server.extensions[EXTENSION] = {"directoryRead": True}
    return server


def serve_stdio(library: Library) -> None:
    """Serve one client over stdin and stdout until it closes them."""
    server = make_server(library)
    from mcp.server.stdio import stdio_server

    async def run() -> None:
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())

    asyncio.run(run())


def serve_http(library: Library, port: int, started: Callable[[str], None]) -> None:
    """Serve clients on this machine over streamable HTTP until interrupted.

    Args:
        port: 0 for any free one.
        started: called with the address once clients can connect.

    Raises:
        MasaError: if the port is taken.
    """
    server = make_server(library)
    import uvicorn

    try:
        listening = socket.create_server((LOOPBACK, port))
    except (OSError, OverflowError) as error:
        raise MasaError(f"port {port} cannot be had ({error}); give another one, or 0 for a free one") from None
    app = server.streamable_http_app(host=LOOPBACK)  # which refuses other hosts' names, against DNS rebinding
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
    with listening:
        started(f"http://{LOOPBACK}:{listening.getsockname()[1]}/mcp")
        uvicorn.Server(config).run(sockets=[listening])


def _part(progress: Progress) -> float:
    """The share of one skill that stands for what has been read of the prompts, below 1."""
    if not progress.prompt_total or progress.groups == progress.total:
        return 0.0
    return 0.9 * min(1.0, progress.prompt_tokens / progress.prompt_total)


def _mime_type(file: str) -> str:
    if is_skill_file(file.rpartition("/")[2]) or file.lower().endswith(".md"):
        return "text/markdown"
    return mimetypes.guess_type(file)[0] or "application/octet-stream"


def _wrong(tool: _Tool, arguments: Mapping[str, Any]) -> str:
    """What is wrong with a tool's arguments, in a few words; empty if nothing is."""
    import jsonschema

    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(tool.schema).iter_errors(arguments))
    if error is None:
        return ""
    place = ".".join(map(str, error.absolute_path))
    return f"{place}: {error.message}" if place else error.message
