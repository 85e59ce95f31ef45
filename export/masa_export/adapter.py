"""A PEFT LoRA as a GGUF adapter: names, the rotary order of q and k, scale, types.

A LoRA changes a layer's weight W (outputs x inputs) to W + (alpha / r) B A with A (r x inputs) and B (outputs x r).
Hugging Face and llama.cpp name the layers differently. And for the architecture `llama` llama.cpp rotates neighbouring
rows of q and k where Hugging Face rotates rows half a head apart: the rows of W were reordered when the base was
converted, so those of B must be, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masa.checksums import sha256_file
from masa.files import reason
from masa_export.base import Base
from masa_export.checkpoint import Checkpoint, LoraNote
from masa_export.errors import ExportError
from masa_export.tensors import TensorFile, open_tensors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TYPES = ("f16", "f32", "q8_0")
"""How the adapter's numbers can be stored."""
_BLOCK = 32
"""Q8_0 stores a row in blocks of this many numbers."""
_LARGEST_F16 = 65504.0
_FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7}  # llama.h, enum llama_ftype
_PEFT_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")


@dataclass(frozen=True, slots=True)
class Layer:
    """One adapted layer: its tensor in the GGUF, and the names of A and B in the checkpoint."""

    tensor: str
    a: str
    b: str


@dataclass(frozen=True, slots=True)
class Written:
    """An adapter's file. `plain` counts tensors that are f16 because Q8_0 needs rows of a multiple of 32."""

    path: Path
    size: int
    sha256: str
    layers: int
    plain: int


def write_adapter(checkpoint: Checkpoint, base: Base, target: Path, *, kind: str = "f16") -> Written:
    """Write the adapter of `checkpoint` to the file `target`; equal checkpoints give equal bytes.

    The file is not written atomically: write to a file of your own, then move it.

    Raises:
        ExportError: if tensors are missing, superfluous or of a wrong shape, or the file cannot be written.
    """
    file = open_tensors(checkpoint.weights)
    layers = match_layers(file, base, checkpoint.adapter)
    try:
        plain = _write(checkpoint, base, target, kind, file, layers)
    except OSError as error:
        raise ExportError(
            f"{target}: cannot be written ({reason(error)}); make room on the disk or choose another place"
        ) from None
    return Written(target, target.stat().st_size, sha256_file(target), len(layers), plain)


def match_layers(file: TensorFile, base: Base, lora: LoraNote) -> tuple[Layer, ...]:
    """The adapted layers in the order of the base, every tensor of the file used once and its shape checked.

    Raises:
        ExportError: for a tensor without partner or place, and for shapes that are not the base's.
    """
    import gguf

    architecture = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}[base.architecture]
    names = gguf.get_tensor_name_map(architecture, base.layers)
    sides: dict[str, dict[str, str]] = {}
    for name in file.shapes:
        found = _PEFT_NAME.fullmatch(name)
        if found is None:
            raise ExportError(
                f"{file.path}: the tensor {name} is no LoRA of a linear layer; train the adapter on linear layers only"
            )
        sides.setdefault(found["module"], {})[found["side"]] = name
    if not sides:
        raise ExportError(f"{file.path}: holds no tensors; take another checkpoint")
    layers = []
    for module, pair in sides.items():
        place = names.get_name(module)
        if place is None:
            raise ExportError(
                f"{file.path}: the layer {module} has no place in a {base.architecture} of {base.layers} layers; "
                "give the base that it was trained on"
            )
        if len(pair) < 2:
            raise ExportError(
                f"{file.path}: of {module} only lora_{next(iter(pair))} is there; take another checkpoint"
            )
        layer = Layer(f"{place}.weight", pair["A"], pair["B"])
        _check_shapes(file, base, lora, layer)
        layers.append(layer)
    order = {name: number for number, name in enumerate(base.shapes or ())}
    return tuple(sorted(layers, key=lambda layer: (order.get(layer.tensor, 0), layer.tensor)))


def permute(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of q or k (heads x head size, any columns) in llama.cpp's order for the architecture `llama`.

    Within a head, row i of the first half and row i of the second half come to lie beside each other.
    """
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def rotary_heads(base: Base, tensor: str) -> int:
    """How many heads' rows llama.cpp has in another order in this tensor, see `permute`; 0 for none."""
    if base.architecture != "llama":
        return 0
    return {"attn_q": base.heads, "attn_k": base.kv_heads}.get(tensor.split(".")[-2], 0)


def module_of(name: str) -> str:
    """The module that a tensor of peft's adapts: `model.layers.0.mlp.up_proj`."""
    found = _PEFT_NAME.fullmatch(name)
    assert found is not None, name
    return found["module"]


def _check_shapes(file: TensorFile, base: Base, lora: LoraNote, layer: Layer) -> None:
    a, b = file.shapes[layer.a], file.shapes[layer.b]
    if len(a) != 2 or len(b) != 2 or a[0] != lora.rank or b[1] != lora.rank:
        raise ExportError(
            f"{file.path}: {layer.a} is {_shape(a)} and its lora_B {_shape(b)}, which is no LoRA of rank {lora.rank}; "
            "adapter_config.json belongs to another checkpoint"
        )
    heads = rotary_heads(base, layer.tensor)
    if heads and b[0] % (2 * heads):
        raise ExportError(
            f"{file.path}: {layer.b} has {b[0]} rows, which {heads} heads cannot share; take the right base"
        )
    if base.shapes is None:
        return
    if layer.tensor not in base.shapes:
        hint = " (its output layer is the token embedding)" if layer.tensor == "output.weight" else ""
        raise ExportError(
            f"{base.gguf}: has no tensor {layer.tensor}{hint}, which the adapter changes; train without that layer"
        )
    if base.shapes[layer.tensor] != (a[1], b[0]):
        raise ExportError(
            f"{file.path}: {layer.a} and lora_B are for a layer of {b[0]} x {a[1]}, but {layer.tensor} of {base.gguf} "
            f"is {_shape(base.shapes[layer.tensor][::-1])}; give the base that it was trained on"
        )


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def _write(
    checkpoint: Checkpoint, base: Base, target: Path, kind: str, file: TensorFile, layers: tuple[Layer, ...]
) -> int:
    import gguf

    writer = gguf.GGUFWriter(target, base.architecture)
    try:
        for key, value in _metadata(checkpoint, base).items():
            writer.add_string(key, value)
        writer.add_float32("adapter.lora.alpha", checkpoint.adapter.gguf_alpha)
        writer.add_uint32("masa.prompt_version", checkpoint.prompt_version)
        writer.add_file_type(_FILE_TYPES[kind])
        plain = 0
        # All sizes come before all data, so every tensor is read and converted when its turn comes and never held.
        for layer in layers:
            for side, name in (("lora_a", layer.a), ("lora_b", layer.b)):
                shape = file.shapes[name]
                stored = _stored(kind, shape[-1])
                plain += stored != kind
                size = gguf.quant_shape_to_byte_shape(shape, _ggml(stored))
                writer.add_tensor_info(
                    f"{layer.tensor}.{side}", shape, _dtype(stored), size[0] * size[1], _ggml(stored)
                )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for layer in layers:
            for name in (layer.a, layer.b):
                values = file.read(name)
                heads = rotary_heads(base, layer.tensor)
                if heads and name == layer.b:
                    values = permute(values, heads)
                writer.write_tensor_data(_convert(values, kind, f"{file.path}: {name}"))
    finally:
        writer.close()
    return plain


def _metadata(checkpoint: Checkpoint, base: Base) -> Mapping[str, str]:
    return {
        "general.type": "adapter",
        "adapter.type": "lora",
        "general.name": f"{base.name} {checkpoint.language} rewriter",
        "masa.language": checkpoint.language,
        "masa.dataset": checkpoint.dataset.name,
        "masa.dataset_sha256": checkpoint.dataset.sha256,
        "masa.base": base.name,
        "masa.base_sha256": checkpoint.base.sha256,
        "masa.checkpoint_sha256": sha256_file(checkpoint.weights),
    }


def _stored(kind: str, columns: int) -> str:
    return "f16" if kind == "q8_0" and columns % _BLOCK else kind


def _ggml(stored: str) -> Any:
    import gguf

    return gguf.GGMLQuantizationType[stored.upper()]


def _dtype(stored: str) -> Any:
    import numpy as np

    return np.dtype({"f32": np.float32, "f16": np.float16}.get(stored, np.int8))


def _convert(values: NDArray[np.float32], kind: str, where: str) -> NDArray[Any]:
    import gguf
    import numpy as np

    stored = _stored(kind, values.shape[-1])
    if stored != "f32" and np.abs(values).max(initial=0.0) > _LARGEST_F16:
        raise ExportError(f"{where} holds numbers too large for {kind}; export with --type f32")
    return np.ascontiguousarray(gguf.quants.quantize(values, _ggml(stored)))
