"""A Hugging Face Hub on this machine: what huggingface_hub asks for an upload, and what `masa pull` asks afterwards.

Repositories are made, files sorted into regular and large ones, large ones sent by Git LFS (basic transfer), and put
together by one commit; large files are served by a redirect, as the real one does. Nothing exists before its commit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import yaml

TOKEN = "hf_" + "x" * 34
LARGE = (".gguf", ".onnx", ".data")


@dataclass
class Hub:
    """What it has, what it was asked, and how it misbehaves: `refuse` maps a part of a path to a status."""

    url: str = ""
    owners: set[str] = field(default_factory=lambda: {"me"})
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    refuse: dict[str, int] = field(default_factory=dict)

    def get(self, path: str) -> tuple[int, Any, str]:
        """Status, body (bytes or JSON) and where it redirects to."""
        parts = path.strip("/").split("/")
        if parts[0] == "cdn":
            return (200, self.stored[parts[1]], "") if parts[1] in self.stored else (404, {}, "")
        if parts[:2] == ["api", "models"]:
            name = "/".join(parts[2:4])
            return (200, {"id": name, "sha": "0" * 40}, "") if name in self.repositories else (404, {}, "")
        repository, name = "/".join(parts[:2]), unquote("/".join(parts[4:]))
        if parts[2] != "resolve" or self.private.get(repository, True):
            return 401, {}, ""
        data = self.repositories[repository].get(name)
        if data is None:
            return 404, {}, ""
        if name.endswith(LARGE):
            return 302, b"", f"{self.url}/cdn/{hashlib.sha256(data).hexdigest()}"
        return 200, data, ""

    def post(self, path: str, body: bytes) -> tuple[int, Any, str]:
        parts = path.strip("/").split("/")
        if parts[:3] == ["api", "repos", "create"]:
            return self._create(json.loads(body))
        if parts[:2] == ["api", "validate-yaml"]:
            return self._validate(json.loads(body)["content"])
        if path.endswith(".git/info/lfs/objects/batch"):
            return 200, {"transfer": "basic", "objects": [self._object(o) for o in json.loads(body)["objects"]]}, ""
        if parts[0] == "verify":
            told = json.loads(body)
            return (200 if len(self.stored.get(told["oid"], b"")) == told["size"] else 400), {}, ""
        repository = "/".join(parts[2:4])
        if repository not in self.repositories:
            return 404, {"error": "Repository not found"}, ""
        if parts[4] == "preupload":
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return 200, {"files": modes}, ""
        return self._commit(repository, [json.loads(line) for line in body.splitlines()])

    def put(self, path: str, body: bytes) -> int:
        oid = path.strip("/").split("/")[1]
        if hashlib.sha256(body).hexdigest() != oid:
            return 400
        self.stored[oid] = body
        return 200

    def _create(self, told: dict[str, Any]) -> tuple[int, Any, str]:
        name = f"{told['organization']}/{told['name']}"
        if told["organization"] not in self.owners:
            return 403, {"error": f"You don't have the rights to create a model under {told['organization']}"}, ""
        known = name in self.repositories
        self.repositories.setdefault(name, {".gitattributes": b"*.gguf filter=lfs"})
        # huggingface_hub 2 says it by `visibility`, earlier ones by `private`.
        self.private.setdefault(name, bool(told.get("private")) or told.get("visibility") == "private")
        return (409 if known else 200), {"url": f"{self.url}/{name}"}, ""

    def _validate(self, content: str) -> tuple[int, Any, str]:
        """A card must begin with YAML, and say what the Hub requires of the values that it has."""
        told = yaml.safe_load(content.split("---\n")[1]) if content.startswith("---\n") else None
        wrong = not isinstance(told, dict) or not isinstance(told["license"], str)
        wrong = wrong or told.get("base_model_relation", "adapter") not in ("adapter", "finetune", "merge", "quantized")
        wrong = wrong or not all(isinstance(tag, str) for tag in told["tags"])
        errors = [{"message": "metadata is wrong"}] if wrong else []
        return (400 if wrong else 200), {"errors": errors, "warnings": []}, ""

    def _object(self, told: dict[str, Any]) -> dict[str, Any]:
        oid = told["oid"]
        if oid in self.stored:
            return {"oid": oid, "size": told["size"]}
        upload = {"href": f"{self.url}/lfs/{oid}", "header": {}}
        verify = {"href": f"{self.url}/verify", "header": {}}
        return {"oid": oid, "size": told["size"], "actions": {"upload": upload, "verify": verify}}

    def _commit(self, repository: str, lines: list[dict[str, Any]]) -> tuple[int, Any, str]:
        files = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.stored:
                    return 400, {"error": "an LFS object is missing"}, ""
                files[value["path"]] = self.stored[value["oid"]]
            else:
                self.commits.append(value["summary"])
        self.repositories[repository] |= files
        oid = hashlib.sha1(repr(files).encode()).hexdigest()
        return 200, {"commitUrl": f"{self.url}/{repository}/commit/{oid}", "commitOid": oid}, ""


@contextmanager
def serving() -> Iterator[Hub]:
    """A Hub that listens on this machine."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _refused(self, *, secret: bool) -> int:
            hub.asked.append(f"{self.command} {self.path}")
            for part, status in hub.refuse.items():
                if part in self.path:
                    return status
            return 401 if secret and self.headers.get("Authorization") != f"Bearer {TOKEN}" else 0

        def _answer(self, status: int, body: Any, location: str = "") -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            if location:
                self.send_header("Location", location)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            status = self._refused(secret=self.path.startswith("/api/"))
            self._answer(status, {}) if status else self._answer(*hub.get(self.path))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status = self._refused(secret=True)
            self._answer(status, {"error": "not today"}) if status else self._answer(*hub.post(self.path, body))

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self._answer(self._refused(secret=False) or hub.put(self.path, body), b"")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
