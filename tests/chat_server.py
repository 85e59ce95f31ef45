"""A server of OpenAI's chat completions for tests: `say` decides what it answers, right or wrong."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Say = Callable[[dict[str, Any]], Any]
"""From the request's body to the text of the answer, a whole body as a dict, (status, bytes), or bytes that are cut."""


def completion(text: str, *, finish: str = "stop", **message: Any) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    return {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": len(text.split())}}


@contextlib.contextmanager
def chat_server(say: Say) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Address of the server with its model, and the requests that it has got."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, json.dumps({"data": [{"id": "stub"}]}).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self.path.endswith("/chat/completions"):  # an Ollama has more
                self._send(404, b"{}")
                return
            asked.append(body)
            said = say(body)
            if isinstance(said, bytes):
                self.send_response(200)
                self.send_header("Content-Length", str(len(said) + 100))
                self.end_headers()
                self.wfile.write(said)
                self.close_connection = True
                return
            if isinstance(said, tuple):
                self._send(*said)
                return
            self._send(200, json.dumps(completion(said) if isinstance(said, str) else said).encode())

        def _send(self, status: int, data: bytes) -> None:
            with contextlib.suppress(OSError):
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1#stub", asked
    finally:
        server.shutdown()
        server.server_close()
