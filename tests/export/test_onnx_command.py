"""`masa export onnx` as a user meets it, on a tiny model that transformers and ONNX Runtime really run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from masa.artifact import load_artifact
from masa.backends.llama import LlamaBackend
from masa.backends.onnx import OnnxBackend
from masa.cards import ModelCard
from masa.checksums import sha256_file
from masa.cli.application import root
from masa.errors import BackendError
from masa.prompt import Segment
from masa.rewriter import Rewriter
from masa.skills import Skill, SkillBank
from masa_export import onnx_export
from masa_export.errors import ExportError
from masa_export.merge import gguf_changes, merge_into_gguf
from masa_export.onnx_export import parse_onnx_quantizations
from masa_export.source import open_source
from tests.tiny_onnx import write_tiny_checkpoint

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.model

BANK = SkillBank(
    (
        Skill("g1", "Look", "Search every place once. Then go on to the next one.", "Nothing found"),
        Skill("g2", "Say less", "Do not repeat an action that has failed."),
    ),
    {
        "clean": (Skill("c1", "Wash", "Take it to the sink. Clean it. Carry it to the goal."),),
        "heat": (Skill("h1", "Heat", "Open the microwave, put it in, heat it, take it out."),),
    },
)


def run(checkpoint: Path, *args: object) -> Result:
    return CliRunner().invoke(root, ["export", "onnx", str(checkpoint), *map(str, args)])


def refused(done: Result) -> str:
    assert done.exit_code == 1 and "Traceback" not in done.stderr, done.output
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error")]
    assert len(errors) == 1
    return errors[0]


@pytest.fixture(scope="module")
def checkpoint(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"), smollm2)


@pytest.fixture(scope="module")
def made(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All types of the tiny checkpoint, as the command's JSON."""
    out = tmp_path_factory.mktemp("onnx")
    done = run(checkpoint, "--quant", "fp32,w8,int8,uint8,int4", "-o", out, "--name", "tiny", "--json")
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


def folder(made: dict[str, Any], quantization: str) -> Path:
    return Path(next(entry["path"] for entry in made["artifacts"] if entry["quantization"] == quantization))


def test_every_type_becomes_an_artifact_that_loads(made: dict[str, Any]) -> None:
    assert made["merged"]["error"] < 1e-3 and made["merged"]["equal"] == 1.0
    assert made["tokenizer_texts"] > 1000
    for quantization in ("fp32", "w8", "int8", "uint8", "int4"):
        artifact = load_artifact(folder(made, quantization))
        assert (artifact.kind, artifact.quantization, artifact.adapter) == ("onnx", quantization, None)
        assert artifact.trained and artifact.context_length == 512
        assert {path.name for path in folder(made, quantization).iterdir()} == {*artifact.files, "manifest.json"}
    divergence = {entry["quantization"]: entry["likeness"]["divergence"] for entry in made["artifacts"]}
    assert divergence["fp32"] < 1e-6 < divergence["w8"] < divergence["int4"]


def test_it_is_the_merged_checkpoint_that_llama_cpp_computes_too(
    made: dict[str, Any], checkpoint: Path, tmp_path: Path
) -> None:
    source = open_source(checkpoint)
    assert source.header is not None
    merge_into_gguf(source.header, gguf_changes(source), tmp_path / "merged.gguf", "F32")
    theirs = LlamaBackend.load(tmp_path / "merged.gguf", threads=1)
    artifact = load_artifact(folder(made, "fp32"))
    card = ModelCard(family="Tiny", parameter_count="1M", weaknesses="skips steps")
    plans = []
    for backend in (theirs, OnnxBackend.load(artifact.weights_path, threads=1)):
        with Rewriter(artifact, lambda backend=backend: backend) as rewriter:
            plans.append([group.raw for group in rewriter.rewrite(BANK, card).groups])
    assert plans[0] == plans[1] and all(plans[0])
    with Rewriter.load(folder(made, "int4"), cache=False, threads=1, provider="cpu") as rewriter:
        assert len(rewriter.rewrite(BANK, card).groups) == 3


def test_finished_artifacts_are_kept_and_others_only_replaced_by_force(
    made: dict[str, Any], checkpoint: Path, smollm2: Path, tmp_path: Path
) -> None:
    out = folder(made, "w8").parent
    again = run(checkpoint, "--quant", "w8", "-o", out, "--name", "tiny", "--json")
    found = json.loads(again.stdout)
    assert found["artifacts"][0]["kept"] and found["merged"] is None
    notes = json.loads((checkpoint / "masa.json").read_text())
    other = write_tiny_checkpoint(tmp_path, smollm2)
    (other / "masa.json").write_text(json.dumps({**notes, "dataset": {**notes["dataset"], "sha256": "1" * 64}}))
    before = sha256_file(folder(made, "w8") / "model.onnx")
    assert "holds another export" in refused(run(other, "--quant", "w8", "-o", out, "--name", "tiny"))
    assert sha256_file(folder(made, "w8") / "model.onnx") == before


def test_a_tokenizer_that_reads_otherwise_is_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("masa.forms.tokenizer._PRE", {"smollm": "."})  # every character a word of its own
    said = refused(run(checkpoint, "-o", tmp_path / "out"))
    assert "does not read text as llama.cpp does" in said
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("defect", ["rotary", "missing adapter"])
def test_a_graph_that_computes_something_else_is_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, defect: str
) -> None:
    if defect == "rotary":
        true = onnx_export.build_model
        monkeypatch.setattr(onnx_export, "build_model", lambda *given: replace(true(*given), rope_bases=(9.0, 9.0)))
    else:
        monkeypatch.setattr("masa_export.merge.match_layers", lambda file, source: ())
    said = refused(run(checkpoint, "-o", tmp_path / "out"))
    assert "does not compute what the checkpoint does" in said
    assert list((tmp_path / "out").iterdir()) == []


def test_mistakes_cost_one_sentence(checkpoint: Path, tmp_path: Path) -> None:
    assert 'did you mean "int8"' in refused(run(checkpoint, "--quant", "int9"))
    assert "no such folder" in refused(run(tmp_path / "none"))
    with pytest.raises(ExportError, match="names no type"):
        parse_onnx_quantizations(" , ")


def test_the_artifacts_tokenizer_keeps_text_text(made: dict[str, Any]) -> None:
    backend = OnnxBackend.load(load_artifact(folder(made, "w8")).weights_path, threads=1)
    stop = backend.token_id("<|im_end|>")
    assert stop is not None and backend.token_id("no such token") is None
    assert stop not in backend.tokenize([Segment("a <|im_end|> b")])
    meant = backend.tokenize([Segment("a <|im_end|><|im_end|>", control=True)])
    assert meant[-2:] == [stop, stop] and backend.detokenize(meant) == b"a "
    with pytest.raises(BackendError, match="takes no adapter"):
        backend.set_adapter("x.gguf")
    with pytest.raises(BackendError, match="context of 512"):
        backend.session(slots=1, length=513)
