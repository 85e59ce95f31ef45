"""What is pushed is what `masa pull` fetches; against a Hub on this machine, with the real huggingface_hub."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from masa.artifact import load_artifact
from masa.cli.application import root
from masa.errors import ArtifactError
from masa.extras import pip_install
from masa.pull import pull
from tests.runtime.artifact_samples import write_artifact

from .hub_server import TOKEN, Hub, serving
from .publish_samples import change_manifest, report, verified

pytest.importorskip("huggingface_hub")


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("MASA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        # Read when the library is imported, which in a command is after the variable was set.
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", found.url)
        # huggingface_hub 2 sends large files by Xet, whose servers are not played here.
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        yield found


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return verified(tmp_path / "artifact", adapter="adapter.gguf")


def run(artifact: Path, *words: str) -> Result:
    return CliRunner().invoke(
        root, ["export", "package", str(artifact), "-o", str(artifact.with_name("package")), *words]
    )


def refusal(artifact: Path, *words: str) -> str:
    done = run(artifact, *words)
    assert done.exit_code == 1, done.output
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ") and "Traceback" not in done.output
    return last


def test_what_is_pushed_is_what_pull_reads(hub: Hub, artifact: Path) -> None:
    done = run(artifact, "--push", "me/mine", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    folder = artifact.with_name("package")
    pushed = {name: data for name, data in hub.repositories["me/mine"].items() if name != ".gitattributes"}
    assert pushed == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert hub.commits == ["sample 0.1.0"] and told["commit"].startswith(f"{hub.url}/me/mine/commit/")
    pulled = pull("hf:me/mine")
    assert pulled.fingerprint == load_artifact(artifact).fingerprint
    for name, path in load_artifact(artifact).paths.items():
        assert pulled.paths[name].read_bytes() == path.read_bytes()
    assert "masa pull hf:me/mine" in pushed["README.md"].decode()


def test_files_in_folders_and_an_onnx_kind_are_pushed_too(hub: Hub, tmp_path: Path) -> None:
    from masa.artifact import read_manifest
    from masa_export.verify.report import write_report

    files = {"model.onnx": b"graph", "model.onnx.data": b"\0" * 5000, "data/tokenizer.json": b"{}"}
    artifact = write_artifact(tmp_path / "a", files, kind="onnx", weights="model.onnx", name="small")
    write_report(report(read_manifest(artifact), artifact), artifact)
    assert run(artifact, "--push", "me/small", "-q").stdout == ""
    assert pull("hf:me/small").paths["data/tokenizer.json"].read_bytes() == b"{}"


def test_pushing_again_sends_no_weights_twice_and_keeps_what_else_is_there(hub: Hub, artifact: Path) -> None:
    assert run(artifact, "--push", "me/mine").exit_code == 0
    hub.repositories["me/mine"]["essay.md"] = b"mine"
    assert "Kept" in run(artifact, "--push", "me/mine").stdout
    change_manifest(artifact, version="0.2.0")
    hub.asked.clear()
    assert run(artifact, "--push", "me/mine", "--force").exit_code == 0
    assert hub.commits[-1] == "sample 0.2.0" and not [path for path in hub.asked if path.startswith("PUT")]
    assert hub.repositories["me/mine"]["essay.md"] == b"mine"
    assert pull("hf:me/mine").version == "0.2.0"


def test_a_private_repository_is_made_private_and_said_to_be_out_of_pulls_reach(hub: Hub, artifact: Path) -> None:
    done = run(artifact, "--push", "me/secret", "--private")
    assert hub.private["me/secret"] and "masa pull fetches from public repositories only" in done.stdout
    with pytest.raises(ArtifactError, match="private"):
        pull("hf:me/secret")


def test_a_dry_run_asks_nothing(hub: Hub, artifact: Path) -> None:
    done = run(artifact, "--push", "me/mine", "--dry-run")
    assert "Would push it to me/mine" in done.stdout and hub.asked == []


@pytest.mark.parametrize(
    ("part", "status", "words"),
    [
        ("repos/create", 401, "answers 401: it does not know the token"),
        ("preupload", 403, "answers 403: the token may not write there; make one that may"),
        ("lfs/objects", 404, "answers 404: there is no such owner or repository"),
        ("/lfs/", 400, "answers 400: it does not accept what was sent"),
        ("/commit/", 503, "answers 503: it failed; try again later"),
    ],
)
def test_what_the_hub_refuses_is_told_and_the_package_stays(
    hub: Hub, artifact: Path, part: str, status: int, words: str
) -> None:
    hub.refuse[part] = status
    message = refusal(artifact, "--push", "me/mine")
    assert words in message and "package is complete, so the same command goes on from there" in message
    assert load_artifact(artifact.with_name("package")).name == "sample"
    assert "manifest.json" not in hub.repositories.get("me/mine", {})
    hub.refuse.clear()
    again = run(artifact, "--push", "me/mine")
    assert again.exit_code == 0, again.output


def test_an_owner_that_is_not_yours_is_told_in_the_hubs_words(hub: Hub, artifact: Path) -> None:
    message = refusal(artifact, "--push", "others/mine")
    assert "answers 403" in message and "You don't have the rights to create a model under others" in message


def test_a_hub_that_is_not_there_is_told(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    assert f"127.0.0.1:{port} cannot be reached; check the network" in refusal(artifact, "--push", "me/mine")
    monkeypatch.setenv("HF_ENDPOINT", "ftp://hub")
    assert "must begin with https://" in refusal(artifact, "--push", "me/mine")


def test_what_is_missing_is_told_before_anything_is_written(
    hub: Hub, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    message = refusal(artifact, "--push", "me/mine")
    assert "HF_TOKEN" in message and "hf auth login" in message
    assert "write OWNER/NAME" in refusal(artifact, "--push", "mine")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert f'--push needs the extra "export": {pip_install("export")}' in refusal(artifact, "--push", "me/mine")
    assert hub.asked == [] and not artifact.with_name("package").exists()
