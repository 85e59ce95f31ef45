"""A folder to publish: only with a report, whole or not at all, and what is in it."""

from __future__ import annotations

import errno
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from masa.artifact import load_artifact, read_manifest
from masa.cli.application import root
from masa.errors import ArtifactError
from masa_export import artifacts
from masa_export.errors import ExportError
from masa_export.publish.folder import Package, plan_package, write_package
from masa_export.publish.model_card import base_model_relation, is_hub_id
from masa_export.verify.report import write_report
from tests.runtime.artifact_samples import entry, write_artifact

from .ollama import parse_modelfile
from .publish_samples import change_manifest, report, verified

TRAINED = {
    "summary": "Trained on forty samples.",
    "trained": True,
    "dataset": "forty",
    "dataset_sha256": "a" * 64,
    "synthetic": True,
    "licence": "CC0-1.0",
    "held_out": ["wordings"],
}


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return verified(tmp_path / "artifact", training_data=TRAINED)


def made(artifact: Path, folder: Path, **options: Any) -> Package:
    package = plan_package(str(artifact), folder, **options)
    write_package(package)
    return package


def header(folder: Path) -> dict[str, Any]:
    text = (folder / "README.md").read_text("utf-8")
    assert text.startswith("---\n")
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


def run(*words: str) -> Result:
    return CliRunner().invoke(root, ["export", "package", *words])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- what is in it -----------------------------------------------------------------------------------


def test_a_package_is_an_artifact_with_report_card_modelfile_and_checksums(artifact: Path, tmp_path: Path) -> None:
    (artifact / "LICENSE").write_text("Take it.", encoding="utf-8")
    (artifact / "notes.txt").write_text("private", encoding="utf-8")
    folder = tmp_path / "out" / "package"
    made(artifact, folder)
    ours = ["LICENSE", "Modelfile", "README.md", "SHA256SUMS", "verify.json", "verify.md"]
    assert names(folder) == sorted([*ours, "manifest.json", "weights.gguf"])
    for name in ("manifest.json", "weights.gguf", "LICENSE"):
        assert (folder / name).read_bytes() == (artifact / name).read_bytes()
    sums = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert sums == {
        n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names(folder) if n != "SHA256SUMS"
    }
    assert dict(parse_modelfile((folder / "Modelfile").read_text("utf-8")))["FROM"] == "./weights.gguf"
    assert load_artifact(folder).fingerprint == load_artifact(artifact).fingerprint
    assert plan_package(str(folder), tmp_path / "again").report.passed, "a package can be packaged again"


def test_the_report_is_published_without_folders_of_this_machine(artifact: Path, tmp_path: Path) -> None:
    made(artifact, tmp_path / "package")
    for name in ("verify.json", "verify.md"):
        before, after = ((folder / name).read_text("utf-8") for folder in (artifact, tmp_path / "package"))
        assert str(artifact) in before and str(tmp_path) not in after
        assert after == before.replace(str(artifact), "artifact"), "and nothing else is changed"
    assert made(artifact, tmp_path / "package").kept


def test_weights_inside_a_python_package_come_into_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASA_HOME", str(tmp_path / "home"))
    artifact = verified(tmp_path / "artifact", adapter="lora.gguf")
    data = (artifact / "weights.gguf").read_bytes()
    store = tmp_path / "home" / "weights" / entry(data)["sha256"]
    store.mkdir(parents=True)
    (artifact / "weights.gguf").rename(store / "w.gguf")
    files = json.loads((artifact / "manifest.json").read_text("utf-8"))["files"]
    del files["weights.gguf"]
    packaged = {"weights.gguf": {"package": "none-such", "version": "1.0", "path": "none/w.gguf", **entry(data)}}
    change_manifest(artifact, files=files, packaged=packaged)
    folder = tmp_path / "package"
    assert made(artifact, folder).artifact.packaged
    monkeypatch.setenv("MASA_HOME", str(tmp_path / "elsewhere"))
    found = load_artifact(folder)
    assert not found.packaged and found.weights_path.read_bytes() == data
    assert dict(parse_modelfile((folder / "Modelfile").read_text("utf-8")))["ADAPTER"] == "./lora.gguf"
    assert header(folder)["base_model_relation"] == "adapter"
    assert plan_package(str(folder), tmp_path / "again").report.passed, "the report still is about these files"


def test_the_card_says_what_the_manifest_and_the_report_say(artifact: Path, tmp_path: Path) -> None:
    made(artifact, tmp_path / "package", repository="me/mine")
    assert header(tmp_path / "package") == {
        "license": "apache-2.0",
        "base_model": "Nobody/Sample",
        "base_model_relation": "finetune",
        "library_name": "masa",
        "pipeline_tag": "text-generation",
        "language": ["en"],
        "tags": ["masa", "agent-skills", "gguf", "plan-rewriter", "llama.cpp", "ollama"],
    }
    text = (tmp_path / "package" / "README.md").read_text("utf-8")
    for line in (
        "masa pull hf:me/mine",
        "masa rewrite skills.json --backbone agent.gguf --rewriter mine",
        "| kl | 0.0125 | ≤ 0.03 | passes | KL divergence from the checkpoint, nats per target token |",
        "Trained on forty samples.",
        f"- data set: forty, sha256 `{'a' * 64}`",
        "- origin: generated",
        "- licence: CC0-1.0",
        "- never trained on: wordings",
    ):
        assert line in text.splitlines()
    assert "on 24 samples, thresholds for 8 bits; the whole report" in text


def test_the_card_tells_the_thresholds_that_the_report_was_judged_by(artifact: Path, tmp_path: Path) -> None:
    given = ("kl=1.5", "top1=off", "size_mb=9")
    write_report(report(read_manifest(artifact), artifact, thresholds=given, kl=1.25), artifact)
    made(artifact, tmp_path / "package")
    for name in ("README.md", "verify.md"):
        text = (tmp_path / "package" / name).read_text("utf-8")
        assert "thresholds for 8 bits, but kl ≤ 1.5, top1 without one and size_mb ≤ 9; " in text


def test_what_the_manifest_does_not_tell_is_unknown(tmp_path: Path) -> None:
    untold = {"summary": "Somehow.", "trained": True}
    artifact = verified(tmp_path / "a", base_model="my base", licence="My Own 1.0", training_data=untold)
    package = made(artifact, tmp_path / "package")
    found = header(tmp_path / "package")
    assert (found["license"], found["license_name"]) == ("other", "my-own-1.0")
    assert package.base_model is None and "base_model" not in found and "base_model_relation" not in found
    text = (tmp_path / "package" / "README.md").read_text("utf-8")
    assert "- data set: unknown" in text and "- origin: unknown" in text and "not told in the manifest" in text
    assert header_of(artifact, tmp_path / "b", base_model="me/base")["base_model"] == "me/base"


def header_of(artifact: Path, folder: Path, **options: Any) -> dict[str, Any]:
    made(artifact, folder, **options)
    return header(folder)


@pytest.mark.parametrize(
    ("changes", "relation"),
    [
        ({"quantization": "Q4_0"}, "quantized"),
        ({"quantization": "F16"}, "finetune"),
        ({"quantization": "Q4_0", "training_data": TRAINED}, "finetune"),
        ({"quantization": "Q4_0", "training_data": TRAINED, "adapter": "a.gguf"}, "adapter"),
    ],
)
def test_the_relation_to_the_base(tmp_path: Path, changes: dict[str, Any], relation: str) -> None:
    assert base_model_relation(load_artifact(verified(tmp_path, **changes))) == relation


def test_an_onnx_package_has_no_modelfile(tmp_path: Path) -> None:
    files = {"model.onnx": b"graph", "data/tokenizer.json": b"{}"}
    artifact = write_artifact(tmp_path / "a", files, kind="onnx", weights="model.onnx", quantization="w8")
    write_report(report(read_manifest(artifact), artifact), artifact)
    made(artifact, tmp_path / "package")
    assert names(tmp_path / "package") == [
        "README.md", "SHA256SUMS", "data", "manifest.json", "model.onnx", "verify.json", "verify.md",
    ]  # fmt: skip
    assert header(tmp_path / "package")["tags"][:3] == ["masa", "agent-skills", "onnx"]
    assert (tmp_path / "package" / "data" / "tokenizer.json").read_bytes() == b"{}"
    assert 'pip install "masa-skills[onnx]"' in (tmp_path / "package" / "README.md").read_text("utf-8")


# --- what is refused ---------------------------------------------------------------------------------


def refusal(artifact: Path, folder: Path, kind: type[Exception] = ExportError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        made(artifact, folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_is_packaged_without_a_report_of_these_files_that_passed(artifact: Path, tmp_path: Path) -> None:
    folder = tmp_path / "package"
    assert "failed (kl)" in refusal(verified(tmp_path / "bad", figures={"kl": 9.0}), folder)
    change_manifest(artifact, context_length=100)
    assert "is about other files" in refusal(artifact, folder)
    (artifact / "verify.json").unlink()
    assert f"run: masa export verify {artifact} --against CHECKPOINT -o {artifact}" in refusal(artifact, folder)
    (artifact / "weights.gguf").write_bytes(b"GGUF")
    assert "truncated" in refusal(artifact, folder, ArtifactError)
    assert not folder.exists()


def test_what_is_in_the_way_is_not_replaced(artifact: Path, tmp_path: Path) -> None:
    assert "own folder" in refusal(artifact, artifact, force=True)
    assert "own folder" in refusal(artifact, artifact / "out", force=True)
    assert "own folder" in refusal(artifact, tmp_path, force=True)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years", encoding="utf-8")
    assert str(mine) in refusal(artifact, mine, force=True)
    assert "not a package" in refusal(artifact, mine / "thesis.txt", force=True)
    other = verified(tmp_path / "other", name="other")
    assert "not a package" in refusal(artifact, other, force=True), "another artifact"
    made(other, tmp_path / "package")
    assert "holds another package; replace it with --force" in refusal(artifact, tmp_path / "package")
    made(artifact, tmp_path / "package", force=True)
    assert load_artifact(tmp_path / "package").name == "sample"
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".masa-")] == []


def test_a_finished_package_is_kept(artifact: Path, tmp_path: Path) -> None:
    folder = tmp_path / "package"
    made(artifact, folder)
    before = (folder / "weights.gguf").stat().st_ino
    assert made(artifact, folder).kept and (folder / "weights.gguf").stat().st_ino == before
    (folder / "README.md").write_text("mine", encoding="utf-8")
    assert "holds another package" in refusal(artifact, folder)


def test_a_file_that_the_package_would_write_and_a_wrong_base_are_refused(tmp_path: Path) -> None:
    for name in ("Modelfile", "origin.json"):
        artifact = write_artifact(tmp_path / name, {name: b"x"}, weights=name)
        write_report(report(read_manifest(artifact), artifact), artifact)
        assert f"has a file called {name}" in refusal(artifact, tmp_path / "package")
    assert "--base-model base" in refusal(verified(tmp_path / "b"), tmp_path / "package", base_model="base")
    assert [is_hub_id(x) for x in ("a/b", "a/b.c-1_2", "a", "a/b/c", "a/..", "a/b--c", "a b/c")] == [True] * 2 + [
        False
    ] * 5


def test_a_full_disk_leaves_what_was_there(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "package"
    made(verified(tmp_path / "other", name="other"), folder)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("masa_export.publish.folder._copy", full)
    assert "No space left on device" in refusal(artifact, folder, force=True)
    monkeypatch.undo()
    monkeypatch.setattr(artifacts.os, "fsync", full)
    assert "No space left on device" in refusal(artifact, folder, force=True)
    assert load_artifact(folder).name == "other"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifact", "other", "package"]


def test_a_file_that_changes_meanwhile_is_found(artifact: Path, tmp_path: Path) -> None:
    package = plan_package(str(artifact), tmp_path / "package")
    path = artifact / "weights.gguf"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(ExportError, match="changed while it was copied"):
        write_package(package)
    assert not (tmp_path / "package").exists()


# --- the command -------------------------------------------------------------------------------------


def test_the_command_packages_and_tells(artifact: Path, tmp_path: Path) -> None:
    folder = tmp_path / "package"
    dry = run(str(artifact), "-o", str(folder), "--dry-run")
    assert dry.exit_code == 0 and "Would write" in dry.stdout and not folder.exists()
    done = run(str(artifact), "-o", str(folder), "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert sorted(found["files"]) == names(folder)
    assert found["files"]["verify.md"] == (folder / "verify.md").stat().st_size
    assert found["bytes"] == sum(found["files"].values()) and found["kept"] is False and found["commit"] is None
    again = run(str(artifact), "-o", str(folder))
    assert "Kept, it was there already" in again.stdout
    assert json.loads(run(str(artifact), "-o", str(folder), "--json", "--dry-run").stdout)["dry_run"] is True
    assert run(str(artifact), "-o", str(folder), "-q").stdout == ""


def test_mistakes_cost_one_sentence(artifact: Path, tmp_path: Path) -> None:
    (artifact / "verify.md").unlink()
    done = run(str(artifact), "-o", str(tmp_path / "package"))
    assert done.exit_code == 1 and done.stderr.splitlines()[-1].startswith("Error: ")
    assert "masa export verify" in done.stderr and not (tmp_path / "package").exists()
    assert run("no-such-rewriter", "-o", str(tmp_path / "package")).exit_code == 1
    assert run(str(artifact), "-o", "x", "--private").exit_code == 2
    assert run(str(artifact)).exit_code == 2


def test_packaging_needs_no_model_library(artifact: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from masa_export.publish.folder import plan_package, write_package\n"
        f"write_package(plan_package({str(artifact)!r}, Path({str(tmp_path / 'package')!r})))\n"
        "sys.exit(str({'torch', 'transformers', 'llama_cpp', 'huggingface_hub', 'gguf'} & {*sys.modules} or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "" and (tmp_path / "package" / "README.md").is_file()
