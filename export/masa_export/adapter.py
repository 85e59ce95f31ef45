"""A PEFT LoRA as a GGUF adapter: names, the rotary order of q and k, scale, types.

A LoRA changes a layer's weight W (outputs x inputs) to W + (alpha / r) B A with A (r x inputs) and B (outputs x r).
Hugging Face and llama.cpp name the layers differently. And for the architecture `llama` llama.cpp rotates neighbouring
rows of q and k where Hugging Face rotates rows half a head apart: the rows of W were reordered when the base was
converted, so those of B must be, too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masa.checksums import sha256_file
from masa.files import reason
from masa_export.errors import ExportError
from masa_export.source import Lora, Shape, Source
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
    """One adapted layer: Hugging Face's module, its tensor in the GGUF, and the names of A and B in the checkpoint."""

    module: str
    tensor: str
    a: str
    b: str


@dataclass(frozen=True, slots=True)
class Written:
    """An adapter's file. `f16_tensors` counts those that are f16 because Q8_0 needs rows of a multiple of 32."""

    path: Path
    bytes: int
    sha256: str
    layers: int
    f16_tensors: int


def tensor_names(shape: Shape) -> Any:
    """gguf's map from Hugging Face's names to llama.cpp's, for models of this shape."""
    import gguf

    architecture = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}[shape.architecture]
    return gguf.get_tensor_name_map(architecture, shape.layers)


def match_layers(file: TensorFile, source: Source) -> tuple[Layer, ...]:
    """The adapted layers in the order of the base, every tensor of the file used once and its shape checked.

    Raises:
        ExportError: for a tensor without partner or place, and for shapes that are not the base's.
    """
    names = tensor_names(source.shape)
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
                f"{file.path}: the layer {module} has no place in a {source.shape.architecture} of "
                f"{source.shape.layers} layers; give the base that it was trained on"
            )
        if len(pair) < 2:
            raise ExportError(
                f"{file.path}: of {module} only lora_{next(iter(pair))} is there; take another checkpoint"
            )
        layer = Layer(module, f"{place}.weight", pair["A"], pair["B"])
        _check_shapes(file, source, source.adapter, layer)
        layers.append(layer)
    order = {name: number for number, name in enumerate(source.shape.tensors or ())}
    return tuple(sorted(layers, key=lambda layer: (order.get(layer.tensor, 0), layer.tensor)))


def permute(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of q or k (heads x head size, any columns) in llama.cpp's order for the architecture `llama`.

    Within a head, row i of the first half and row i of the second half come to lie beside each other.
    """
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def rotary_heads(shape: Shape, tensor: str) -> int:
    """How many heads' rows llama.cpp has in another order in this tensor, see `permute`; 0 for none."""
    if shape.architecture != "llama":
        return 0
    return {"attn_q": shape.heads, "attn_k": shape.kv_heads}.get(tensor.split(".")[-2], 0)


def write_adapter(source: Source, target: Path, *, kind: str = "f16") -> Written:
    """Write the source's LoRA to the file `target`, not atomically; equal checkpoints give equal bytes.

    Raises:
        ExportError: if tensors are missing, superfluous or of a wrong shape, or the file cannot be written.
    """
    import gguf

    file = open_tensors(source.weights)
    layers = match_layers(file, source)
    plain = 0
    try:
        writer = gguf.GGUFWriter(target, source.shape.architecture)
        try:
            _add_metadata(writer, source, kind)
            for layer in layers:
                for side, name in (("lora_a", layer.a), ("lora_b", layer.b)):
                    values = file.read(name)
                    heads = rotary_heads(source.shape, layer.tensor)
                    if heads and side == "lora_b":
                        values = permute(values, heads)
                    stored = "f16" if kind == "q8_0" and values.shape[-1] % _BLOCK else kind
                    plain += stored != kind
                    data, type_ = _convert(values, stored, kind, f"{file.path}: {name}")
                    writer.add_tensor(f"{layer.tensor}.{side}", data, raw_dtype=type_)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
    except OSError as error:
        raise ExportError(
            f"{target}: cannot be written ({reason(error)}); make room on the disk or choose another place"
        ) from None
    return Written(target, target.stat().st_size, sha256_file(target), len(layers), plain)


def _check_shapes(file: TensorFile, source: Source, lora: Lora, layer: Layer) -> None:
    a, b = file.shapes[layer.a], file.shapes[layer.b]
    if len(a) != 2 or len(b) != 2 or a[0] != lora.rank or b[1] != lora.rank:
        raise ExportError(
            f"{file.path}: {layer.a} is {_text(a)} and its lora_B {_text(b)}, which is no LoRA of rank {lora.rank}; "
            "adapter_config.json belongs to another checkpoint"
        )
    heads = rotary_heads(source.shape, layer.tensor)
    if heads and b[0] % (2 * heads):
        raise ExportError(
            f"{file.path}: {layer.b} has {b[0]} rows, which {heads} heads cannot share; take the right base"
        )
    tensors = source.shape.tensors
    if tensors is None:
        return
    if layer.tensor not in tensors:
        hint = " (its output layer is the token embedding)" if layer.tensor == "output.weight" else ""
        raise ExportError(
            f"{source.gguf}: has no tensor {layer.tensor}{hint}, which the adapter changes; train without that layer"
        )
    if tensors[layer.tensor] != (a[1], b[0]):
        raise ExportError(
            f"{file.path}: {layer.a} and lora_B are for a layer of {b[0]} x {a[1]}, but {layer.tensor} of "
            f"{source.gguf} is {_text(tensors[layer.tensor][::-1])}; give the base that it was trained on"
        )


def _text(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def _add_metadata(writer: Any, source: Source, kind: str) -> None:
    checkpoint = source.checkpoint
    for key, value in {
        "general.type": "adapter",
        "adapter.type": "lora",
        "general.name": f"{checkpoint.base.name} {checkpoint.language} rewriter",
        "masa.language": checkpoint.language,
        "masa.dataset": checkpoint.dataset.name,
        "masa.dataset_sha256": checkpoint.dataset.sha256,
        "masa.base": checkpoint.base.name,
        "masa.base_sha256": checkpoint.base.sha256,
        "masa.checkpoint_sha256": source.weights_sha256,
    }.items():
        writer.add_string(key, value)
    writer.add_float32("adapter.lora.alpha", source.adapter.gguf_alpha)
    writer.add_uint32("masa.prompt_version", checkpoint.prompt_version)
    writer.add_file_type(_FILE_TYPES[kind])


def _convert(values: NDArray[np.float32], stored: str, kind: str, where: str) -> tuple[NDArray[Any], Any]:
    """The numbers as they are stored, and their ggml type."""
    import gguf
    import numpy as np

    if stored != "f32" and np.abs(values).max(initial=0.0) > _LARGEST_F16:
        raise ExportError(f"{where} holds numbers too large for {kind}; export with --type f32")
    type_ = gguf.GGMLQuantizationType[stored.upper()]
    return np.ascontiguousarray(gguf.quants.quantize(values, type_)), type_
