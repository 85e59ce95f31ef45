"""llama.cpp with the exported adapter computes what the merged checkpoint computes, on real weights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from masa.checksums import sha256_file
from masa.languages import LANGUAGES
from masa_export import adapter
from masa_export.adapter import write_adapter
from masa_export.adapter_export import export_adapter
from masa_export.errors import ExportError
from masa_export.logit_check import Parity, check, measure
from masa_export.logits import Likeness, sample_prompts
from masa_export.source import Source, open_source
from tests.support import ScriptedBackend

from .checkpoint_samples import notes, random_lora, write_base, write_checkpoint

GEMMA = "gemma-3-270m-q4_k_m.gguf"


def parity(difference: float = 0.02, error: float = 0.004, equal: float = 1.0, device: float = 0.2) -> Parity:
    return Parity(
        exact=Likeness(0.0, 0.0, equal, difference, error, 96),
        device=Likeness(0.0, 0.0, 0.96, 1.0, device, 96),
        untouched=Likeness(0.0, 0.0, 0.96, 1.0, 0.2, 96),
        effect=0.5,
        positions=96,
    )


def test_the_measured_figures_pass_and_worse_ones_say_what_is_wrong() -> None:
    check(parity(), "f16", "c")
    for worse, message in (
        (parity(difference=0.5), "differ by up to 0.5"),
        (parity(error=0.1), "differ by 0.1 (rms), 0.02 is allowed"),
        (parity(equal=0.5), "50% of the best tokens"),
        (parity(device=0.9), "2 times the 0.2 of the base alone"),
        (parity(error=float("nan")), "differ by nan"),
    ):
        with pytest.raises(ExportError) as caught:
            check(worse, "f16", "c")
        assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_rewriter_of_each_language_is_asked_as_it_was_trained(tmp_path: Path, language: str) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint", write_base(tmp_path / "base.gguf"), random_lora())
    checkpoint = replace(open_source(folder).checkpoint, language=language)
    prompts = sample_prompts(checkpoint, ScriptedBackend(lambda prompt: ""))
    assert len(prompts) == 2 and all(prompts)
    asked = bytes(token for token in prompts[0] if token < 256).decode()
    assert ("Operation: steps." in asked) == (language == "wording")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_checkpoint(folder: Path, weights: Path, template: dict[str, object] | None = None) -> Source:
    """A LoRA of rank 4 with random weights on all linear layers, as peft saves it."""
    import json

    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name, dtype=torch.bfloat16)
    torch.manual_seed(0)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, values in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(values, 0, 0.02)
    model.save_pretrained(str(folder))
    base = {"name": weights.stem, "spec": str(weights), "path": str(weights), "kind": "gguf"}
    changes: dict[str, object] = {"base": {**base, "sha256": sha256_file(weights)}}
    if template is not None:
        changes["chat_template"] = template
    (folder / "masa.json").write_text(json.dumps(notes(folder, **changes)), encoding="utf-8")
    return open_source(folder)


@pytest.fixture(scope="module")
def smol_checkpoint(smollm2: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Source:
    return random_checkpoint(tmp_path_factory.mktemp("smol"), smollm2)


@pytest.mark.model
def test_an_exported_adapter_equals_the_merged_checkpoint(smol_checkpoint: Source, tmp_path: Path) -> None:
    exported = export_adapter(smol_checkpoint.path, output=tmp_path / "a.gguf")
    assert exported.parity is not None and exported.parity.effect > 0.1, "an adapter without effect proves nothing"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gguf"], "the F32 base is gone"


@pytest.mark.model
def test_a_wrong_rotary_order_is_found(
    smol_checkpoint: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same check, with rows left in Hugging Face's order: were it passed, the check would prove nothing."""
    monkeypatch.setattr(adapter, "permute", lambda rows, heads: rows)
    with pytest.raises(ExportError, match="does not compute what the merged checkpoint does"):
        export_adapter(smol_checkpoint.path, output=tmp_path / "a.gguf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.model
def test_gemma_equals_its_merged_checkpoint(repository: Path, tmp_path: Path, one_thread: None) -> None:
    weights = Path(os.environ.get("MASA_WEIGHTS", repository.parent / "weights")) / GEMMA
    if not weights.is_file():
        pytest.skip(f"no {weights}; set MASA_WEIGHTS to the folder of {GEMMA}")
    template: dict[str, object] = {
        "before_system": [["<bos>", True], ["<start_of_turn>", True], ["user\n", False]],
        "before_user": [["\n\n", False]],
        "before_assistant": [["<end_of_turn>", True], ["\n", False]],
        "stop": ["<end_of_turn>"],
    }
    source = random_checkpoint(tmp_path / "checkpoint", weights, template)
    written = write_adapter(source, tmp_path / "a.gguf")
    found = measure(source, written.path, tmp_path)
    check(found, "f16", "gemma")
    assert found.effect > 0.1
