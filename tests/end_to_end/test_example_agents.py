"""The agents in examples/agents: on llama.cpp's own server, on a stub of Ollama's API, over MCP, on transformers."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from tests import npm

pytestmark = pytest.mark.model

ROOT = Path(__file__).resolve().parents[2]
AGENTS = ROOT / "examples" / "agents"
CARD = str(ROOT / "examples" / "card.yaml")
QUESTION = "What expires soon?"
ADAPTED = "1. Look for it in the folder that the user names."


def run(script: str, *words: str) -> str:
    command = [sys.executable, str(AGENTS / script), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=dict(os.environ))
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@contextlib.contextmanager
def llama_server(weights: Path) -> Iterator[str]:
    """llama-cpp-python's server: llama.cpp with the API of its `llama-server`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["--model", str(weights), "--host", "127.0.0.1", "--port", str(port), "--n_ctx", "2048"]
    process = subprocess.Popen([sys.executable, "-m", "llama_cpp.server", *words], stderr=subprocess.DEVNULL)
    try:
        for _ in range(240):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5).close()
                break
            assert process.poll() is None
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def test_an_agent_on_llama_cpps_server(smollm2: Path) -> None:
    pytest.importorskip("fastapi")
    with llama_server(smollm2) as address:
        assert run("llama_server.py", address, QUESTION, "--card", CARD, "--tokens", "12").strip()


def test_an_agent_on_ollamas_api(smollm2: Path) -> None:
    """No Ollama can be had here: a stub of its protocol."""
    asked: list[dict[str, Any]] = []

    class Ollama(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/api/show":
                info = {
                    "general.architecture": "qwen3",
                    "qwen3.block_count": 36,
                    "general.parameter_count": 4_000_000_000,
                }
                answer: dict[str, Any] = {"model_info": info}
            else:
                asked.append(body)
                answer = {"message": {"role": "assistant", "content": "The milk."}, "done": True}
            data = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Ollama)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        assert run("ollama.py", "qwen3:4b", QUESTION, "--server", address, "--card", CARD) == "The milk.\n"
    finally:
        server.shutdown()
        server.server_close()
    assert asked[0]["model"] == "qwen3:4b" and ADAPTED in asked[0]["messages"][0]["content"]


def test_an_agent_on_transformers(smollm2: Path) -> None:
    pytest.importorskip("transformers")
    words = [str(smollm2.parent), QUESTION, "--gguf", smollm2.name, "--card", CARD, "--tokens", "12"]
    assert run("with_transformers.py", *words).strip()


def test_an_agent_in_typescript_over_mcp(smollm2: Path, tmp_path: Path) -> None:
    node, folder = npm.installed(npm.SDK)
    script = folder / "over_mcp.ts"
    script.write_bytes((AGENTS / "over_mcp.ts").read_bytes())
    server = [sys.executable, "-m", "masa.cli", "mcp", str(ROOT / "examples/skills"), "--backbone", CARD]
    done = subprocess.run(
        [str(node), str(script), *server], cwd=folder, capture_output=True, text=True, timeout=400, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert ": steps, steps, steps" in done.stdout
    assert "### Find the inventory" in done.stdout or ADAPTED in done.stdout
