"""What a checkpoint changes in its base, tensor by tensor: nothing is read before its turn comes.

A LoRA adds scale * B A to a weight, a full checkpoint replaces it. Rows are handed over in pieces, so that whoever
merges need not hold a whole tensor as float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from masa_export.adapter import match_layers, module_of, permute, rotary_heads
from masa_export.base import Base
from masa_export.checkpoint import Checkpoint
from masa_export.errors import ExportError
from masa_export.tensors import TensorFile, open_model, open_tensors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = Callable[[NDArray[np.float32], int], NDArray[np.float32]]

Change = Callable[[], "Rows"]
"""Reads what is needed and returns a function: some rows of the base (float32) and the number of the first one to the
merged rows. Tensors of one dimension are one row."""


def gguf_changes(checkpoint: Checkpoint, base: Base) -> Mapping[str, Change]:
    """What changes in the base's GGUF, by tensor name, rows in llama.cpp's order.

    Raises:
        ExportError: if tensors do not fit the base.
    """
    if checkpoint.kind == "full":
        return _replacements(checkpoint, base)
    file = open_tensors(checkpoint.weights)
    changes = {}
    for layer in match_layers(file, base, checkpoint.adapter):
        heads = rotary_heads(base, layer.tensor)
        changes[layer.tensor] = _addition(file, layer.a, layer.b, checkpoint.adapter.scale, heads)
    return changes


def folder_changes(checkpoint: Checkpoint, base: Base, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Change]:
    """What a LoRA changes in the tensors of a Hugging Face folder, by tensor name; `shapes` are the folder's.

    Raises:
        ExportError: if a layer is not in the folder or has another shape there.
    """
    file = open_tensors(checkpoint.weights)
    changes = {}
    for layer in match_layers(file, base, checkpoint.adapter):
        name = f"{module_of(layer.a)}.weight"
        wanted = (file.shapes[layer.b][0], file.shapes[layer.a][1])
        if shapes.get(name) != wanted:
            found = "has no such tensor" if name not in shapes else f"has it as {shapes[name]}"
            raise ExportError(
                f"{file.path}: changes {name} of {wanted[0]} x {wanted[1]}, but {base.folder} {found}; "
                "give the base that it was trained on"
            )
        changes[name] = _addition(file, layer.a, layer.b, checkpoint.adapter.scale, 0)
    return changes


def _addition(file: TensorFile, a: str, b: str, scale: float, heads: int) -> Change:
    import numpy as np

    def load() -> Rows:
        inputs, outputs = file.read(a), file.read(b)
        outputs *= np.float32(scale)
        if heads:
            outputs = permute(outputs, heads)

        def add(rows: NDArray[np.float32], start: int) -> NDArray[np.float32]:
            return rows + outputs[start : start + len(rows)] @ inputs

        return add

    return load


def _replacements(checkpoint: Checkpoint, base: Base) -> Mapping[str, Change]:
    import gguf

    assert base.shapes is not None
    architecture = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}[base.architecture]
    names = gguf.get_tensor_name_map(architecture, base.layers)
    changes: dict[str, Change] = {}
    for name, file in open_model(checkpoint.path).items():
        place = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if place == "output.weight" and place not in base.shapes:
            continue  # the output layer is the token embedding, saved twice
        if place is None or base.shapes.get(place) != file.shapes[name][::-1]:
            raise ExportError(
                f"{file.path}: the tensor {name} has no place in {base.gguf}; give the base that it was trained on"
            )
        changes[place] = _replacement(file, name, rotary_heads(base, place), _norm_offset(base, place))
    missing = next((name for name in base.shapes if name not in changes and name != "rope_freqs.weight"), None)
    if missing is not None:
        raise ExportError(f"{checkpoint.path}: holds nothing for {missing} of {base.gguf}; take another checkpoint")
    return changes


def _replacement(file: TensorFile, name: str, heads: int, offset: float) -> Change:
    import numpy as np

    def load() -> Rows:
        whole = file.read(name)
        if heads:
            whole = permute(whole, heads).reshape(whole.shape)
        whole = whole.reshape(-1, whole.shape[-1])
        whole += np.float32(offset)
        return lambda rows, start: whole[start : start + len(rows)]

    return load


def _norm_offset(base: Base, tensor: str) -> float:
    """transformers multiplies by 1 + weight in Gemma's norms, llama.cpp by the weight."""
    return 1.0 if base.architecture == "gemma3" and tensor.endswith("norm.weight") else 0.0
