#!/usr/bin/env bash
# mcp 2.3.0, the Python SDK of the Model Context Protocol: a server's extensions (SEP-2133) are told by `server/discover`
# alone. The answer to `initialize`, by which a client of an older revision connects, leaves them out without a word,
# though the server goes on to answer the extension's methods. A host that connects so never asks for them.
# Exits 0 while that holds, 1 once it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mcp==2.3.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import sys
from importlib.metadata import version

import mcp_types as types
from mcp import Client
from mcp.server import Server


async def listed(ctx, params):
    return {"skills": []}


async def resources(ctx, params):
    return types.ListResourcesResult(resources=[])


class Answer(types.Result, extra="allow"):
    pass


class Request(types.Request[dict, str]):
    pass


async def seen(mode):
    server = Server("sample", on_list_resources=resources)
    server.add_request_handler("skills/list", types.PaginatedRequestParams, listed)
    server.extensions["io.modelcontextprotocol/skills"] = {}
    async with Client(server, mode=mode) as client:
        answer = await client.session.send_request(Request(method="skills/list", params={}), Answer)
        return client.protocol_version, client.server_capabilities.extensions, answer.model_dump().get("skills")


print("mcp", version("mcp"))
modern, legacy = asyncio.run(seen("auto")), asyncio.run(seen("legacy"))
print("discover:  ", *modern)
print("initialize:", *legacy)
held = bool(modern[1]) and not legacy[1] and modern[2] == legacy[2] == []
print("as described" if held else "changed")
sys.exit(not held)
PYTHON
