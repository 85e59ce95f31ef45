"""The graph that optimum exports, with its attention replaced by ONNX Runtime's GroupQueryAttention.

optimum's graph concatenates the cache with the new tokens, repeats it for every query head and masks padding: each
step copies the whole cache several times, and sequences of different lengths have to be padded. GroupQueryAttention
(com.microsoft) rotates, appends to the cache in place and attends, with a length for every sequence. Embedding,
projections, norms and feed-forward layers stay as exported. Inputs and outputs are what `masa.backends.onnx` feeds:

- input_ids (batch, tokens) int64;
- seqlens_k (batch,) int32: tokens of each sequence after this pass, less one;
- total_sequence_length (1,) int32: the largest of them plus one;
- wanted (1,) int64: of how many last tokens logits are wanted;
- past_key_values.N.key and .value (batch, heads, cells, width), bound to the memory of present.N.key and .value;
- logits (batch, wanted, vocabulary).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from masa_export.errors import ExportError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MICROSOFT = "com.microsoft"
_STATIC_ROPE = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary embedding whose frequencies do not depend on the length of the text."""
_END = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Layer:
    """Attention of one layer. `window` is how many tokens it sees, -1 for all; `rotary` names its frequencies."""

    scale: float
    window: int
    rotary: str


@dataclass(frozen=True, slots=True)
class Attention:
    """What the graph alone does not tell. `rotary` holds cosines and sines, each (context, width / 2), by name."""

    heads: int
    kv_heads: int
    width: int
    layers: Sequence[Layer]
    rotary: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]


def attention_of(model: Any, context_length: int) -> Attention:
    """What `model` (of transformers) says about its attention.

    Raises:
        ExportError: if its attention cannot be expressed as GroupQueryAttention.
    """
    config, body = model.config, model.model
    if getattr(config, "attn_logit_softcapping", None):
        raise ExportError(f"the architecture {config.model_type} caps attention, which the ONNX export does not know")
    modules = {"rotary": body.rotary_emb}
    if hasattr(body, "rotary_emb_local"):
        modules["rotary_local"] = body.rotary_emb_local
    for module in modules.values():
        if module.rope_type not in _STATIC_ROPE:
            raise ExportError(
                f"rotary embeddings of type {module.rope_type} change with the text's length, which the ONNX export "
                "does not know; export to GGUF"
            )
    layers = []
    for block in body.layers:
        attention = block.self_attn
        window = getattr(attention, "sliding_window", None)
        local = "rotary_local" in modules and getattr(attention, "is_sliding", False)
        layers.append(Layer(float(attention.scaling), window or -1, "rotary_local" if local else "rotary"))
    return Attention(
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        width=body.layers[0].self_attn.head_dim,
        layers=layers,
        rotary={name: _angles(module, context_length) for name, module in modules.items()},
    )


def _angles(module: Any, context_length: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    import numpy as np

    frequencies = module.inv_freq.detach().double().numpy()
    angles = np.outer(np.arange(context_length), frequencies)
    scale = float(module.attention_scaling)
    return (np.cos(angles) * scale).astype(np.float32), (np.sin(angles) * scale).astype(np.float32)


def rewire(model: Any, attention: Attention) -> None:
    """Replace the attention of an `onnx.ModelProto` that optimum exported, its inputs and its outputs; in place.

    Raises:
        ExportError: if the graph does not look as optimum's do.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    graph = _Graph(model.graph)
    info = helper.make_tensor_value_info
    inputs = [
        info("input_ids", TensorProto.INT64, ["batch", "tokens"]),
        info("seqlens_k", TensorProto.INT32, ["batch"]),
        info("total_sequence_length", TensorProto.INT32, [1]),
        info("wanted", TensorProto.INT64, [1]),
    ]
    vocabulary = int(graph.shape_of_weight("/lm_head/MatMul")[1])
    outputs = [info("logits", TensorProto.FLOAT, ["batch", "wanted", vocabulary])]
    constants = {f"{name}_{kind}": values[i] for name, values in attention.rotary.items() for i, kind in _KINDS}
    constants |= {"masa_flat": np.array([0, 0, -1], np.int64), "masa_end": np.array([_END], np.int64)}
    constants["masa_axis"] = np.array([1], np.int64)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    cells: list[str | int | None] = ["batch", attention.kv_heads, "cells", attention.width]
    for number, layer in enumerate(attention.layers):
        place = f"/model/layers.{number}/self_attn"
        q, k, v = (graph.flat(place, side) for side in "qkv")
        pasts = [f"past_key_values.{number}.{side}" for side in ("key", "value")]
        presents = [f"present.{number}.{side}" for side in ("key", "value")]
        inputs += [info(name, TensorProto.FLOAT, cells) for name in pasts]
        outputs += [info(name, TensorProto.FLOAT, cells) for name in presents]
        attended = f"{place}/attended"
        target = graph.node(f"{place}/o_proj/MatMul")
        node = helper.make_node(
            "GroupQueryAttention",
            [q, k, v, *pasts, "seqlens_k", "total_sequence_length", f"{layer.rotary}_cos", f"{layer.rotary}_sin"],
            [attended, *presents],
            f"{place}/GroupQueryAttention",
            domain=MICROSOFT,
            num_heads=attention.heads,
            kv_num_heads=attention.kv_heads,
            scale=layer.scale,
            local_window_size=layer.window,
            do_rotary=1,
            rotary_interleaved=0,
        )
        graph.insert(node, before=target)
        target.input[0] = attended
    head = graph.node("/lm_head/MatMul")
    hidden, head.input[0] = head.input[0], "masa_last"
    graph.insert(helper.make_node("Neg", ["wanted"], ["masa_first"], "masa_first"), before=head)
    ends = [hidden, "masa_first", "masa_end", "masa_axis"]
    graph.insert(helper.make_node("Slice", ends, ["masa_last"], "masa_last"), before=head)
    graph.replace(inputs, outputs)
    if not any(entry.domain == MICROSOFT for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))


_KINDS = ((0, "cos"), (1, "sin"))


class _Graph:
    """A graph while it is changed: its nodes by name and by what they make, and who takes what."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._nodes = list(graph.node)
        self._named = {node.name: node for node in self._nodes}
        self._maker = {name: node for node in self._nodes for name in node.output}
        self._weights = {entry.name: entry for entry in graph.initializer}
        self._takers: dict[str, list[str]] = {}
        for node in self._nodes:
            for name in node.input:
                self._takers.setdefault(name, []).append(node.name)
        self._before: dict[str, list[Any]] = {}

    def node(self, name: str) -> Any:
        """The node called `name`."""
        if name not in self._named:
            raise ExportError(
                f"the exported graph has no {name}: this optimum-onnx names layers otherwise; install the version "
                "that the extra asks for"
            )
        return self._named[name]

    def shape_of_weight(self, name: str) -> Sequence[int]:
        return tuple(self._weights[self.node(name).input[1]].dims)

    def insert(self, node: Any, *, before: Any) -> None:
        self._before.setdefault(before.name, []).append(node)

    def flat(self, place: str, side: str) -> str:
        """The tensor (batch, tokens, heads * width) of queries, keys or values, projected and normed, not rotated."""
        from onnx import helper

        projected = self._leaving(f"{place}/{side}_proj/")
        if not any(name.startswith(f"{place}/{side}_norm/") for name in self._named):
            return projected
        normed = self._leaving(f"{place}/{side}_norm/")
        target = self.node(f"{place}/o_proj/MatMul")
        if self._transposed(normed, projected):
            turned = f"{place}/{side}_turned"
            node = helper.make_node("Transpose", [normed], [turned], turned, perm=[0, 2, 1, 3])
            self.insert(node, before=target)
            normed = turned
        flat = f"{place}/{side}_flat"
        self.insert(helper.make_node("Reshape", [normed, "masa_flat"], [flat], flat), before=target)
        return flat

    def replace(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Give the graph these inputs and outputs, and drop what no output needs."""
        nodes = []
        for node in self._nodes:
            nodes += [*self._before.get(node.name, ()), node]
        lost = {entry.name for entry in outputs}
        kept: list[Any] = []
        # Backwards, so that of two nodes that make a cache's tensor the one that was inserted is met, the other left.
        for node in reversed(nodes):
            if lost.intersection(node.output):
                kept.append(node)
                lost = (lost - set(node.output)) | set(node.input)
        weights = [entry for entry in self._graph.initializer if entry.name in lost]
        lost -= {entry.name for entry in (*weights, *inputs)} | {""}
        if lost:
            raise ExportError(f"the exported graph still needs {min(lost)} beside masa's inputs; report this as a bug")
        for field, values in (("node", kept[::-1]), ("initializer", weights), ("input", inputs), ("output", outputs)):
            values = [type(value).FromString(value.SerializeToString()) for value in values]
            self._graph.ClearField(field)
            getattr(self._graph, field).extend(values)
        self._graph.ClearField("value_info")

    def _leaving(self, scope: str) -> str:
        """The tensor that the nodes of `scope` make for others."""
        inside = [node for node in self._nodes if node.name.startswith(scope)]
        takers = {name: self._takers.get(name, ()) for node in inside for name in node.output}
        leaving = sorted(name for name, nodes in takers.items() if any(not node.startswith(scope) for node in nodes))
        if len(leaving) != 1:
            raise ExportError(
                f"the exported graph has {len(leaving)} results of {scope}, where one is expected; install the "
                "optimum-onnx that the extra asks for"
            )
        return str(leaving[0])

    def _transposed(self, normed: str, projected: str) -> bool:
        """Whether heads come before tokens in `normed`: a transposition lies between it and the projection."""
        open_, seen = [normed], set[str]()
        while open_:
            name = open_.pop()
            if name in seen or name == projected or name not in self._maker:
                continue
            seen.add(name)
            node = self._maker[name]
            if node.op_type == "Transpose":
                return True
            open_ += node.input
        return False
