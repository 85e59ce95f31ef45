"""Weights of an ONNX graph in fewer bits, by ONNX Runtime's own quantizers.

- `int8`: dynamic quantization. Weights are 8 bits with a scale for every output, activations are rounded to 8 bits with
  one scale for all numbers of a pass, so what is computed for a sequence depends on its neighbours.
- `int4`: weights in blocks of 32 with a scale and a zero point each (MatMulNBits); activations are rounded row by row.
- `w8`: the same with 8 bits and no zero points, the counterpart of llama.cpp's Q8_0.

In each, the embedding is 8 bits in blocks of 32; where it is the output layer, too, both share one table.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masa.forms.rounding import BLOCK, in_blocks
from masa.json_fields import did_you_mean
from masa_export.errors import ExportError
from masa_export.onnx_graph import MICROSOFT

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

QUANTIZATIONS: Mapping[str, str] = {
    "fp32": "as merged",
    "int8": "dynamic, 8-bit weights and activations",
    "w8": "8-bit weights in blocks of 32",
    "int4": "4-bit weights in blocks of 32, embedding and output layer 8-bit",
}
_INT8_ACTIVATIONS = 4  # MatMulNBits' accuracy_level: how activations may be rounded
EMBEDDING, HEAD = "/model/embed_tokens/Gather", "/lm_head/MatMul"


def parse_onnx_quantizations(text: str) -> tuple[str, ...]:
    """The names in a list such as "fp32,int4", each once.

    Raises:
        ExportError: for no name and for an unknown one.
    """
    found = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",") if name.strip()))
    if not found:
        raise ExportError(f"--quant {text!r}: names no type; give some of {', '.join(QUANTIZATIONS)}")
    for name in found:
        if name not in QUANTIZATIONS:
            hint = did_you_mean(name, QUANTIZATIONS) or f"; known: {', '.join(QUANTIZATIONS)}"
            raise ExportError(f"--quant {name}: the ONNX export has no such type{hint}")
    return found


def save(model: Any, path: Path) -> None:
    """Write a graph and, beside it, its weights: a file of more than 2 GB cannot be one."""
    import onnx

    data = path.name + ".data"
    # onnx would append to it.
    (path.parent / data).unlink(missing_ok=True)
    onnx.save_model(model, str(path), save_as_external_data=True, location=data, size_threshold=1024)


def quantize_onnx(source: Path, target: Path, kind: str) -> None:
    """Write the float32 graph `source` as `kind` (see `QUANTIZATIONS`) to `target` and `target`.data."""
    import onnx

    if kind == "int8":
        _dynamic(source, target)
        return
    model = onnx.load(str(source))
    if kind == "fp32":
        _share_head(model)
    else:
        _in_blocks(model, 4 if kind == "int4" else 8)
    save(model, target)


def _dynamic(source: Path, target: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # Without the output layer: as one table with the embedding, in blocks, it is half the size and more exact.
    head = [HEAD]
    between = target.with_name("dynamic.onnx")
    quantize_dynamic(
        source,
        between,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=head,
        use_external_data_format=True,
        # Types behind GroupQueryAttention are not inferred.
        extra_options={"MatMulConstBOnly": True, "DefaultTensorType": onnx.TensorProto.FLOAT},
    )
    model = onnx.load(str(between))
    _in_blocks(model, 8)
    save(model, target)
    for path in target.parent.glob("dynamic.onnx*"):
        path.unlink()


def _in_blocks(model: Any, bits: int) -> None:
    """Every constant matrix in blocks of `bits`, embedding and output layer in blocks of 8 bits."""
    from onnx import helper

    graph = model.graph
    weights = {entry.name: entry for entry in graph.initializer}
    gone: set[str] = set()
    made: list[Any] = []
    nodes = []
    shared = _shared(graph, weights)
    for node in graph.node:
        if node.name == EMBEDDING:
            nodes.append(_gather(node, weights, gone, made))
        elif node.op_type == "MatMul" and node.input[1] in weights:
            table = node.input[1]
            gone.add(table)
            matrix = _array(weights[table])
            width = 8 if node.name == HEAD else bits
            if node.name == HEAD and shared:
                stem = shared
                nodes.append(helper.make_node("Reshape", [f"{stem}_q", "masa_blocks"], [f"{stem}_b"], f"{stem}_b"))
                made.append(_tensor("masa_blocks", [matrix.shape[1], -1, BLOCK]))
                packed_name = f"{stem}_b"
            else:
                stem, packed_name = table, f"{table}_q"
                packed, scales, zeros = in_blocks(matrix.T, width)
                made += [_tensor(packed_name, packed), _tensor(f"{stem}_s", scales)]
                made += [] if zeros is None else [_tensor(f"{stem}_z", zeros)]
            zero = [f"{stem}_z"] if width == 4 else []
            nodes.append(
                helper.make_node(
                    "MatMulNBits",
                    [node.input[0], packed_name, f"{stem}_s", *zero],
                    list(node.output),
                    node.name,
                    domain=MICROSOFT,
                    K=matrix.shape[0],
                    N=matrix.shape[1],
                    bits=width,
                    block_size=BLOCK,
                    accuracy_level=_INT8_ACTIVATIONS,
                )
            )
        else:
            nodes.append(node)
    kept = [entry for entry in graph.initializer if entry.name not in gone]
    nodes = [type(node).FromString(node.SerializeToString()) for node in nodes]
    kept = [type(entry).FromString(entry.SerializeToString()) for entry in kept]
    graph.ClearField("node")
    graph.ClearField("initializer")
    graph.node.extend(nodes)
    graph.initializer.extend([*kept, *made])
    if not any(entry.domain == MICROSOFT for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))


def _gather(node: Any, weights: Mapping[str, Any], gone: set[str], made: list[Any]) -> Any:
    """The embedding in blocks; it makes the tensors NAME_q (tokens x width) and NAME_s."""
    from onnx import helper

    name = node.input[0]
    gone.add(name)
    packed, scales, _ = in_blocks(_array(weights[name]), 8)
    made += [_tensor(f"{name}_q", packed.reshape(len(packed), -1)), _tensor(f"{name}_s", scales)]
    return helper.make_node(
        "GatherBlockQuantized",
        [f"{name}_q", node.input[1], f"{name}_s"],
        list(node.output),
        node.name,
        domain=MICROSOFT,
        bits=8,
        block_size=BLOCK,
        gather_axis=0,
        quantize_axis=1,
    )


def _shared(graph: Any, weights: Mapping[str, Any]) -> str:
    """The embedding's name where the output layer is the same table; else empty."""
    import numpy as np

    named = {node.name: node for node in graph.node}
    embedding, head = named[EMBEDDING].input[0], named[HEAD].input[1]
    if (
        embedding not in weights
        or head not in weights
        or tuple(weights[head].dims) != tuple(weights[embedding].dims[::-1])
    ):
        return ""
    if weights[embedding].dims[1] % BLOCK:
        return ""
    same = np.array_equal(_array(weights[embedding]), _array(weights[head]).T)
    return str(embedding) if same else ""


def _share_head(model: Any) -> None:
    """Store a table that is embedding and output layer once."""
    from onnx import helper

    graph = model.graph
    weights = {entry.name: entry for entry in graph.initializer}
    shared = _shared(graph, weights)
    if not shared:
        return
    place, head = next((i, node) for i, node in enumerate(graph.node) if node.name == HEAD)
    graph.initializer.remove(weights[head.input[1]])
    head.input[1] = "masa_head"
    # ONNX Runtime turns it once, when it loads the graph.
    graph.node.insert(place, helper.make_node("Transpose", [shared], ["masa_head"], "masa_head", perm=[1, 0]))


def _array(tensor: Any) -> NDArray[np.float32]:
    from onnx import numpy_helper

    array: NDArray[np.float32] = numpy_helper.to_array(tensor)
    return array


def _tensor(name: str, values: Any) -> Any:
    import numpy as np
    from onnx import numpy_helper

    return numpy_helper.from_array(np.ascontiguousarray(values), name)
