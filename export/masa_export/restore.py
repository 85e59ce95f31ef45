"""The LoRA checkpoint back from an artifact's GGUF adapter: the inverse of `masa_export.adapter`.

For whoever has the artifact and not the training run: to compare other forms of it with (`masa export verify`), to make
those (`masa export gguf`, `onnx`), and to train on (`masa distill --set start=…`). Exact up to how the adapter stores
its numbers: f32 as they were trained, f16 rounded to 11 bits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masa.artifact import Artifact, list_artifacts, load_artifact
from masa.formats.gguf_header import GgufHeader, read_header
from masa_export.adapter import rotary_heads, tensor_names
from masa_export.artifacts import aside, put_in_place
from masa_export.errors import ExportError
from masa_export.source import PEFT_CONFIG, PEFT_WEIGHTS, Shape, gguf_shape
from masa_training.checkpoint import RECORD, BaseNote, Checkpoint, DatasetNote, read_checkpoint, write_checkpoint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MODULES = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
"""The linear layers of a block in every architecture of `masa_export.source.ARCHITECTURES`."""


@dataclass(frozen=True, slots=True)
class Restored:
    """A checkpoint that was written; `kind` is how its numbers were stored (the coarsest, if in several ways)."""

    path: Path
    kind: str
    rank: int
    layers: int


def restore_checkpoint(artifact: str, output: Path, *, force: bool = False) -> Restored:
    """Write the checkpoint that the adapter of `artifact` (a folder or a shipped name) was exported from to `output`.

    It appears whole or not at all.

    Raises:
        MasaError: in one sentence, if the artifact is damaged, has no adapter, or one that is no LoRA of masa's on its
            weights; if `output` is there already and `force` is not given; or if it cannot be written.
    """
    if output.exists() and not force:
        raise ExportError(f"{output}: exists already; replace it with --force or give another folder with -o")
    if output.exists() and not (output / RECORD).is_file():
        raise ExportError(f"{output}: no checkpoint, so it is not replaced; give another folder with -o")
    found = load_artifact(artifact)
    if found.adapter_path is None:
        raise ExportError(f"{found.path}: has no adapter, its weights are merged; take the artifact with the adapter")
    shape = gguf_shape(read_header(found.weights_path))
    header = read_header(found.adapter_path)
    tensors, kind, rank = _read_adapter(found.adapter_path, shape, found.base_model)
    spec = artifact if artifact in list_artifacts() else str(found.path.resolve())
    with aside(output.parent) as scratch:
        made = scratch / output.name
        made.mkdir()
        _write(made, found, spec, header, tensors, rank)
        read_checkpoint(made)
        put_in_place(made, output)
    return Restored(output, kind, rank, len(tensors) // 2)


def unpermute(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of q or k in Hugging Face's order; undoes `masa_export.adapter.permute`."""
    return rows.reshape(heads, rows.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)


def _read_adapter(path: Path, shape: Shape, base: str) -> tuple[dict[str, NDArray[np.float32]], str, int]:
    """Its tensors under peft's names, how they are stored, and the rank."""
    import gguf

    names = tensor_names(shape)
    every = [f"model.layers.{layer}.{module}" for layer in range(shape.layers) for module in _MODULES] + ["lm_head"]
    modules = {f"{names.get_name(module)}.weight": module for module in every}
    tensors: dict[str, NDArray[np.float32]] = {}
    ranks, kinds = set(), set()
    for tensor in gguf.GGUFReader(path).tensors:
        name, _, side = str(tensor.name).rpartition(".")
        if side not in ("lora_a", "lora_b") or name not in modules:
            raise ExportError(f"{path}: the tensor {tensor.name} is no LoRA of a linear layer of {base}")
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype("<f4")
        ranks.add(values.shape[0 if side == "lora_a" else 1])
        kinds.add(tensor.tensor_type.name.lower())
        heads = rotary_heads(shape, name)
        if heads and side == "lora_b":
            values = unpermute(values, heads)
        tensors[f"base_model.model.{modules[name]}.lora_{side[-1].upper()}.weight"] = values
    if len(ranks) != 1 or len(tensors) % 2:
        raise ExportError(f"{path}: its tensors are no LoRA of one rank ({sorted(ranks)}); export the adapter again")
    return tensors, min(kinds, key=("q8_0", "f16", "f32").index), ranks.pop()


def _write(
    folder: Path,
    artifact: Artifact,
    spec: str,
    header: GgufHeader,
    tensors: Mapping[str, NDArray[np.float32]],
    rank: int,
) -> None:
    from safetensors.numpy import save_file

    training = artifact.training_data
    path, weights = artifact.adapter_path, artifact.entries[artifact.weights]
    alpha = header.metadata.get("adapter.lora.alpha")
    if not isinstance(alpha, int | float) or alpha <= 0:
        raise ExportError(f"{path}: tells no scale (adapter.lora.alpha is {alpha!r}); export the adapter again")
    trained_on = header.text("masa.base_sha256")
    if trained_on is not None and trained_on != weights.sha256:
        raise ExportError(
            f"{path}: trained on weights with sha256 {trained_on[:12]}…, but those of {artifact.path} are "
            f"{weights.sha256[:12]}…; take the artifact as it was exported"
        )
    modules = sorted({name.split(".")[-3] for name in tensors})
    everywhere = {module.split(".")[-1] for module in _MODULES} == set(modules)
    alpha = int(alpha) if float(alpha).is_integer() else alpha
    base = header.text("masa.base") or artifact.base_model
    record = Checkpoint(
        path=folder,
        kind="lora",
        base=BaseNote(base, spec, str(artifact.weights_path), "gguf", weights.sha256),
        language=artifact.language,
        prompt_version=artifact.prompt_version,
        template=artifact.chat_template,
        context_length=artifact.context_length,
        dataset=DatasetNote(
            name=training.dataset or header.text("masa.dataset") or "unknown",
            sha256=training.dataset_sha256 or header.text("masa.dataset_sha256") or "0" * 64,
            summary=artifact.training_summary,
            synthetic=bool(training.synthetic),
            licence=training.licence or "unknown",
            held_out=training.held_out,
        ),
        # What `masa distill --set start=…` asks of what it goes on from.
        training={"rank": rank, "alpha": alpha, "targets": "all-linear" if everywhere else ",".join(modules)},
    )
    peft: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": modules,
        "inference_mode": True,
    }
    save_file(dict(tensors), folder / PEFT_WEIGHTS)
    (folder / PEFT_CONFIG).write_text(json.dumps(peft, indent=1) + "\n", "utf-8")
    write_checkpoint(record)
