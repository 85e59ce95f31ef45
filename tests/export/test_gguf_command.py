"""`masa export gguf` as a user meets it, on a tiny model that llama.cpp and transformers really run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from masa.artifact import load_artifact
from masa.backends.llama import LlamaBackend
from masa.checksums import sha256_file
from masa.cli.application import root
from masa.formats.gguf_header import read_header
from masa_export import gguf_export, merge
from tests.tiny_gguf import FEED, HEADS, HIDDEN, KV_HEADS, LAYERS, write_tiny_gguf

from .checkpoint_samples import write_checkpoint
from .test_quantizations import write_old_matrix

pytestmark = pytest.mark.model
KV = HIDDEN * KV_HEADS // HEADS
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KV, HIDDEN),
    "mlp.up_proj": (FEED, HIDDEN),
    "mlp.down_proj": (HIDDEN, FEED),
}


def lora(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    tensors = {}
    for layer in range(LAYERS):
        for module, (rows, columns) in SHAPES.items():
            stem = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{stem}.lora_A.weight"] = rng.normal(0, 0.2, (4, columns)).astype(np.float32)
            tensors[f"{stem}.lora_B.weight"] = rng.normal(0, 0.2, (rows, 4)).astype(np.float32)
    return tensors


@pytest.fixture(scope="module")
def made(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny base and a checkpoint of it."""
    folder = tmp_path_factory.mktemp("gguf")
    base = write_tiny_gguf(smollm2, folder / "base.gguf")
    modules = [module.rsplit(".", 1)[1] for module in SHAPES]
    write_checkpoint(folder / "checkpoint", base, lora(), config={"target_modules": modules, "task_type": "CAUSAL_LM"})
    return folder


def run(checkpoint: Path, *args: object) -> Result:
    common = ["export", "gguf", str(checkpoint), "--threads", "1"]
    return CliRunner().invoke(root, [*common, *map(str, args)])


def told(done: Result) -> dict[str, Any]:
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


def refused(done: Result) -> str:
    assert done.exit_code == 1 and "Traceback" not in done.stderr, done.output
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error")]
    assert len(errors) == 1
    return errors[0]


def test_every_type_becomes_an_artifact_that_loads_and_equals_the_checkpoint(made: Path, tmp_path: Path) -> None:
    found = told(run(made / "checkpoint", "--quant", "F16,Q8_0,Q4_0", "-o", tmp_path / "out", "--verify", "--json"))
    merged = found["merged"]
    assert merged["effect"] > 0.1, "an adapter without effect proves nothing"
    assert merged["likeness"]["error"] < 0.05 * merged["effect"] and merged["likeness"]["equal"] >= 0.95
    base = read_header(made / "base.gguf").metadata
    sizes = []
    for entry, quantization in zip(found["artifacts"], ("F16", "Q8_0", "Q4_0"), strict=True):
        artifact = load_artifact(entry["path"])
        assert (artifact.quantization, artifact.language, artifact.adapter) == (quantization, "plan", None)
        assert artifact.trained and artifact.training_data.dataset == "tiny" and artifact.context_length == 512
        assert artifact.files[artifact.weights].sha256 == entry["sha256"]
        metadata = read_header(artifact.weights_path).metadata
        assert all(metadata[key] == value for key, value in base.items() if key.startswith("tokenizer."))
        backend = LlamaBackend.load(artifact.weights_path)
        backend.close()
        sizes.append(entry["bytes"])
    assert sizes == sorted(sizes, reverse=True)
    divergences = [entry["likeness"]["divergence"] for entry in found["artifacts"]]
    assert divergences[0] < 1e-6 < divergences[1] < divergences[2]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        Path(entry["path"]).name for entry in found["artifacts"]
    ), "no leftovers"


@pytest.mark.parametrize("defect", ["rotary order", "missing adapter", "one layer"])
def test_a_wrong_merge_is_found_and_nothing_is_written(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, defect: str
) -> None:
    if defect == "rotary order":
        monkeypatch.setattr(merge, "permute", lambda rows, heads: rows)
    else:
        whole = gguf_export.gguf_changes
        lost = {"missing adapter": "blk.", "one layer": "blk.1."}[defect]

        def less(*args: Any) -> Any:
            return {name: change for name, change in whole(*args).items() if not name.startswith(lost)}

        monkeypatch.setattr(gguf_export, "gguf_changes", less)
    done = run(made / "checkpoint", "--quant", "Q8_0", "-o", tmp_path / "out", "--verify")
    assert "does not compute what the checkpoint does" in refused(done)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_dry_run_tells_the_sizes_and_writes_nothing(made: Path, tmp_path: Path) -> None:
    args = ("--quant", "Q8_0,Q4_K_M", "-o", tmp_path / "out", "--json", "--no-verify")
    planned = told(run(made / "checkpoint", *args, "--dry-run"))
    assert not (tmp_path / "out").exists()
    exported = told(run(made / "checkpoint", *args))
    for before, after in zip(planned["artifacts"], exported["artifacts"], strict=True):
        assert after["bytes"] == pytest.approx(before["bytes"], abs=20_000)
    assert planned["bytes_needed"] > sum(entry["bytes"] for entry in exported["artifacts"])


def test_finished_outputs_are_kept_and_others_only_replaced_by_force(made: Path, tmp_path: Path) -> None:
    args = ("-o", tmp_path / "out", "--no-verify", "--name", "tiny", "--json")
    first = told(run(made / "checkpoint", "--quant", "Q8_0", *args))
    path = tmp_path / "out" / "tiny-q8_0"
    before = (path / "manifest.json").stat().st_mtime_ns
    again = told(run(made / "checkpoint", "--quant", "Q8_0,Q4_0", *args))
    assert [entry["kept"] for entry in again["artifacts"]] == [True, False]
    assert (path / "manifest.json").stat().st_mtime_ns == before

    other = write_checkpoint(tmp_path / "other", made / "base.gguf", lora(1))
    assert "holds another export" in refused(run(other, "--quant", "Q8_0", *args))
    weights = next(path.glob("*.gguf"))
    data = weights.read_bytes()
    weights.write_bytes(data[:-100])
    assert "is there and not complete" in refused(run(made / "checkpoint", "--quant", "Q8_0", *args))
    forced = told(run(other, "--quant", "Q8_0", *args, "--force"))
    assert forced["artifacts"][0]["sha256"] != first["artifacts"][0]["sha256"]
    load_artifact(path)
    shutil.rmtree(path)
    path.mkdir()
    (path / "precious.txt").write_text("mine")
    assert "is not an artifact" in refused(run(other, "--quant", "Q8_0", *args, "--force"))


def test_an_export_that_dies_leaves_what_was_there(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = ("--quant", "Q8_0,Q4_0", "-o", tmp_path / "out", "--no-verify", "--force", "--json")
    told(run(made / "checkpoint", *args))
    before = {path.name: sha256_file(next(path.glob("*.gguf"))) for path in (tmp_path / "out").iterdir()}

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(gguf_export, "write_manifest", full)
        assert "No space left on device" in refused(run(made / "checkpoint", *args))
    after = {path.name: sha256_file(next(path.glob("*.gguf"))) for path in (tmp_path / "out").iterdir()}
    assert after == before


def test_a_disk_that_is_too_full_is_told_before_the_work(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("masa_export.gguf_export._free", lambda folder: 1000)
    done = run(made / "checkpoint", "-o", tmp_path / "out", "--no-verify")
    assert "0.00 GB are free" in refused(done) and not (tmp_path / "out").exists()


def test_an_importance_matrix_changes_what_is_kept_exact(made: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    columns = {"ffn_down": FEED}
    names = [t.name for t in read_header(made / "base.gguf").tensors if len(t.shape) > 1]
    sums = {name: rng.exponential(1.0, columns.get(name.split(".")[-2], HIDDEN)) ** 4 for name in names}
    matrix = write_old_matrix(tmp_path / "m.dat", sums, 1)
    args = ("-o", tmp_path / "out", "--no-verify", "--json")
    plain = told(run(made / "checkpoint", "--quant", "Q4_0", *args, "--name", "plain"))
    weighed = told(run(made / "checkpoint", "--quant", "Q4_0,F16", *args, "--name", "weighed", "--imatrix", matrix))
    assert weighed["artifacts"][0]["sha256"] != plain["artifacts"][0]["sha256"]
    metadata = read_header(load_artifact(weighed["artifacts"][0]["path"]).weights_path).metadata
    assert metadata["masa.imatrix_sha256"] == sha256_file(matrix)
    wrong = write_old_matrix(tmp_path / "wrong.dat", {name: values[:-1] for name, values in sums.items()}, 1)
    failed = refused(run(made / "checkpoint", "--quant", "Q4_0", *args, "--name", "wrong", "--imatrix", wrong))
    assert "llama.cpp cannot quantize this to Q4_0" in failed


def test_mistakes_cost_one_sentence(made: Path, tmp_path: Path) -> None:
    assert "no such folder" in refused(run(tmp_path / "none"))
    assert "has no such quantization type" in refused(run(made / "checkpoint", "--quant", "Q9"))
    assert "must be a name" in refused(run(made / "checkpoint", "--name", "Not A Name", "-o", tmp_path / "out"))
    assert "none.imatrix" in refused(run(made / "checkpoint", "--imatrix", tmp_path / "none.imatrix"))
    broken = tmp_path / "checkpoint"
    shutil.copytree(made / "checkpoint", broken)
    weights = broken / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert "may be truncated" in refused(run(broken, "-o", tmp_path / "out"))


def test_the_report_for_people(made: Path, tmp_path: Path) -> None:
    done = run(made / "checkpoint", "--quant", "Q4_K_M", "-o", tmp_path / "out", "--no-verify")
    assert done.exit_code == 0, done.output
    assert "same best" in done.stdout and "get a finer type" in done.stdout
    assert "not compared with the checkpoint: --no-verify was given" in done.stdout
    assert "licence" in done.stdout, "the tiny base tells none"
