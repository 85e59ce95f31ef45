"""A model as an ONNX graph whose inputs and outputs are those that `masa.backends.onnx` feeds.

- input_ids (batch, tokens) int64;
- seqlens_k (batch,) int32: tokens of each sequence after this pass, less one;
- total_sequence_length (1,) int32: the largest of them plus one;
- wanted (1,) int64: of how many last tokens logits are wanted;
- past_key_values.N.key and .value (batch, heads, cells, width), bound to the memory of present.N.key and .value;
- logits (batch, wanted, vocabulary).

Attention is ONNX Runtime's GroupQueryAttention (com.microsoft): it rotates, appends to the cache in place and attends,
with a length for every sequence. Between attentions all tokens of a pass are rows of one matrix. In `int8` every row is
rotated (`masa.forms.rounding`) and rounded with a scale of its own, so no token's result depends on its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from masa.backends.onnx import GRAPH
from masa.errors import MissingExtraError
from masa.forms.rounding import BLOCK, by_output, hadamard, in_blocks, rotated
from masa.forms.weights import Model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from masa.forms.weights import Array

FORMS: Mapping[str, str] = {
    "int8": "weights in 8 bits with a scale for every output, tokens rounded with a scale each",
    "uint8": "as int8, with weights from 0 to 255: exact also where sums of signed ones saturate",
    "w8": "weights in 8 bits in blocks of 32",
    "int4": "weights in 4 bits in blocks of 32, embedding and output layer in 8",
    "fp32": "as merged",
}
"""How weights can be written; embedding and output layer, which share a table where they are equal, in 8 bits in blocks
of 32 except in fp32."""

_MICROSOFT = "com.microsoft"
_INT8_ACTIVATIONS = 4  # MatMulNBits' accuracy_level: activations may be rounded to 8 bits, block by block
_END = 2**63 - 1
_LAST = "last"
_BITS = {"w8": 8, "int4": 4}


def write_graph(model: Model, form: str, path: Path, notes: Mapping[str, str] = MappingProxyType({})) -> None:
    """Write `model` in that form (one of `FORMS`) as `path`, its weights as `path`.data; `notes` go into its metadata.

    Raises:
        MissingExtraError: without the package onnx.
    """
    try:
        import onnx
        from onnx import helper
    except ImportError:
        raise MissingExtraError("writing an ONNX graph", "onnx") from None
    graph = _Graph(form)
    inputs, outputs = graph.build(model)
    read = {name for node in graph.nodes for name in node.input}
    constants = [constant for constant in graph.constants if constant.name in read]  # which of them, the form decides
    made = helper.make_model(
        helper.make_graph(graph.nodes, "masa", inputs, outputs, constants),
        opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid(_MICROSOFT, 1)],
        ir_version=10,
    )
    own = {"masa.graph": GRAPH, "masa.eos_token": str(model.eos), "masa.context_length": str(model.context)}
    helper.set_model_props(made, {**notes, **own})
    data = path.name + ".data"
    # onnx would append to it.
    (path.parent / data).unlink(missing_ok=True)
    onnx.save_model(made, str(path), save_as_external_data=True, location=data, size_threshold=1024)
    if graph.shared is not None:
        name, dims, source = graph.shared
        stored = next(one for one in made.graph.initializer if one.name == source)
        again = made.graph.initializer.add(name=name, dims=dims, data_type=stored.data_type)
        again.data_location = stored.data_location
        again.external_data.extend(stored.external_data)
        onnx.save_model(made, str(path))


def signed_saturates() -> bool:
    """Whether sums of products of tokens and signed weights saturate in ONNX Runtime on this CPU.

    On x86 without VNNI it adds two of them in 16 bits:
    https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html

    Raises:
        MissingExtraError: without the package onnx or onnxruntime.
    """
    try:
        import numpy as np
        from onnx import TensorProto, helper, numpy_helper
        from onnxruntime import InferenceSession
    except ImportError:
        raise MissingExtraError("writing an ONNX graph", "onnx") from None
    inner, outer = 8, 32
    weights = numpy_helper.from_array(np.full((inner, outer), 127, np.int8), "weights")
    node = helper.make_node("MatMulInteger", ["tokens", "weights"], ["sums"])
    tokens = helper.make_tensor_value_info("tokens", TensorProto.UINT8, [1, inner])
    sums = helper.make_tensor_value_info("sums", TensorProto.INT32, [1, outer])
    graph = helper.make_graph([node], "masa", [tokens], [sums], [weights])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"tokens": np.full((1, inner), 255, np.uint8)})[0]
    return bool((found != 255 * 127 * inner).any())


class _Graph:
    """The nodes and constants so far; each method adds some and returns the name of what they make."""

    def __init__(self, form: str) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.shared: tuple[str, tuple[int, ...], str] | None = None
        """A constant that is the same bytes as another in other dimensions: its name and dimensions, the other's name.
        A node that reshapes would have ONNX Runtime keep both."""
        self._unsigned = form == "uint8"
        self._form = "int8" if self._unsigned else form

    def build(self, model: Model) -> tuple[list[Any], list[Any]]:
        """Add everything; the graph's inputs and outputs."""

        import numpy as np
        from onnx import TensorProto, helper

        info, floats, integers = helper.make_tensor_value_info, TensorProto.FLOAT, TensorProto.INT64
        vocabulary = len(model.embedding)
        inputs = [
            info("input_ids", integers, ["batch", "tokens"]),
            info("seqlens_k", TensorProto.INT32, ["batch"]),
            info("total_sequence_length", TensorProto.INT32, [1]),
            info("wanted", integers, [1]),
        ]
        outputs = [info("logits", floats, ["batch", "wanted", vocabulary])]
        for local in {model.local(number) for number in range(model.layers)}:
            angles = np.outer(np.arange(model.context), model.frequencies(local=local))
            for kind, of in (("cos", np.cos), ("sin", np.sin)):
                self._constant(_angles(kind, local), of(angles).astype(np.float32))
        for name, value in (("one", 1.0), ("step", 1 / 127), ("least", 1e-9)):
            self._constant(name, np.float32(value))
        self._constant("middle", np.uint8(128))
        for name, numbers in (("rest", [-1]), ("end", [_END]), ("axis", [1])):
            self._constant(name, np.array(numbers, np.int64))
        widths = {"flat": model.embedding.shape[1], "heads": model.heads * model.width, "head": model.width}
        widths["inner"] = model.layer(0, "ffn_down").shape[1]
        blocks = {name: hadamard(widths[name]) for name in ("flat", "inner")}
        for name, matrix in blocks.items():
            self._constant(f"{name}.hadamard", matrix)
            self._constant(f"{name}.blocks", np.array([-1, len(matrix)], np.int64))
        for name, width in widths.items():
            self._constant(name, np.array([-1, width], np.int64))
        batch = self._node("Shape", ["input_ids"], "shape")
        self._node("Concat", [batch, "rest"], "per_sequence", axis=0)
        if self._form == "int8":
            count = self._node("Shape", [self._node("Reshape", ["input_ids", "rest"], "tokens")], "count")
            self._node("Expand", ["middle", count], "middles")

        hidden = self._embedded(model)
        x = self._node("SimplifiedLayerNormalization", [hidden, self._norm(model, 0, "attn_norm")], "x0",
                       axis=-1, epsilon=model.epsilon)  # fmt: skip
        cells: list[str | int] = ["batch", model.kv_heads, "cells", model.width]
        for number in range(model.layers):
            attended, cache = self._attention(model, number, x)
            inputs += [info(f"past_key_values.{name}", floats, cells) for name in cache]
            outputs += [info(f"present.{name}", floats, cells) for name in cache]
            place = f"layer{number}"
            output = self._product(attended, model.layer(number, "attn_output"), f"{place}.output", self._form)
            output = self._own_norm(model, number, "post_attention_norm", output)
            norm = self._norm(model, number, "ffn_norm")
            x, hidden = self._added(hidden, output, norm, f"{place}.middle", model.epsilon)
            down = self._own_norm(model, number, "post_ffw_norm", self._feed_forward(model, number, x))
            last = number + 1 == model.layers
            norm = "norm" if last else self._norm(model, number + 1, "attn_norm")
            if last:
                self._constant("norm", model.weights["output_norm.weight"])
            x, hidden = self._added(hidden, down, norm, f"{place}.end", model.epsilon, last=last)
        whole = self._node("Reshape", [x, "per_sequence"], "whole")
        first = self._node("Neg", ["wanted"], "first")
        self._logits(model, self._node("Slice", [whole, first, "end", "axis"], _LAST))
        return inputs, outputs

    def _constant(self, name: str, values: NDArray[Any] | np.generic[Any]) -> str:
        import numpy as np
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values).reshape(np.shape(values)), name))
        return name

    def _node(self, kind: str, inputs: Sequence[str], made: str, *, domain: str = "", **options: Any) -> str:
        self._nodes(kind, inputs, [made], domain=domain, **options)
        return made

    def _nodes(
        self, kind: str, inputs: Sequence[str], made: Sequence[str], *, domain: str = "", **options: Any
    ) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, made, f"{made[0]}/{kind}", domain=domain, **options))

    def _norm(self, model: Model, number: int, part: str) -> str:
        return self._constant(f"layer{number}.{part}", model.layer(number, part))

    def _own_norm(self, model: Model, number: int, part: str, x: str) -> str:
        """`x` normed by that norm, which not every architecture has."""
        if not model.has(part):
            return x
        weight = self._norm(model, number, part)
        return self._node(
            "SimplifiedLayerNormalization", [x, weight], f"{weight}.normed", axis=-1, epsilon=model.epsilon
        )

    def _embedded(self, model: Model) -> str:
        import numpy as np

        if self._form == "fp32":
            found = self._node("Gather", [self._constant("embedding", model.embedding), "input_ids"], "embedded")
        else:
            packed, scales, _ = in_blocks(model.embedding)
            self._constant("embedding", packed.reshape(len(packed), -1))
            self._constant("embedding_scales", scales)
            found = self._node(
                "GatherBlockQuantized",
                ["embedding", "input_ids", "embedding_scales"],
                "embedded",
                domain=_MICROSOFT,
                bits=8,
                block_size=BLOCK,
                gather_axis=0,
                quantize_axis=1,
            )
        if model.embedding_scale != 1:
            scale = self._constant("embedding_scale", np.float32(model.embedding_scale))
            found = self._node("Mul", [found, scale], "embedded.scaled")
        return self._node("Reshape", [found, "flat"], "hidden")

    def _logits(self, model: Model, last: str) -> None:
        head, tied = model.head, model.head is model.embedding
        if self._form == "fp32":
            # ONNX Runtime turns it once, when it loads the graph.
            table = "embedding" if tied else self._constant("output", head)
            self._node("MatMul", [last, self._node("Transpose", [table], "turned", perm=[1, 0])], "logits")
        elif tied:
            self.shared = "output", (len(head), -(-head.shape[1] // BLOCK), BLOCK), "embedding"
            self._blocks(last, ("output", "embedding_scales"), head, "logits")
        else:
            self._blocks(last, self._packed(head, "output"), head, "logits")

    def _attention(self, model: Model, number: int, x: str) -> tuple[str, list[str]]:
        """What the heads of a layer found, and the names of its cache."""
        import numpy as np

        place = f"layer{number}.attention"
        matrix, bias = model.projection(number)
        if self._form == "int8":
            x, matrix = self._rotated(x, "flat", place), rotated(matrix)
        projected = self._product(x, matrix, place, self._form)
        if bias is not None:
            projected = self._node("Add", [projected, self._constant(f"{place}.bias", bias)], f"{place}.biased")
        heads = [projected, "", ""]
        if model.has("attn_q_norm"):
            sizes = np.array([model.heads * model.width, *[model.kv_heads * model.width] * 2], np.int64)
            heads = [f"{place}.{side}" for side in "qkv"]
            self._nodes("Split", [projected, self._constant(f"{place}.sizes", sizes)], heads, axis=1)
            for i, side in enumerate("qk"):
                rows = self._node("Reshape", [heads[i], "head"], f"{heads[i]}.rows")
                heads[i] = self._own_norm(model, number, f"attn_{side}_norm", rows)
        heads = [name and self._node("Reshape", [name, "per_sequence"], f"{name}.packed") for name in heads]
        local = model.local(number)
        cache = [f"{number}.key", f"{number}.value"]
        self._nodes(
            "GroupQueryAttention",
            [*heads, *(f"past_key_values.{name}" for name in cache), "seqlens_k", "total_sequence_length",
             _angles("cos", local), _angles("sin", local)],
            [f"{place}.heads", *(f"present.{name}" for name in cache)],
            domain=_MICROSOFT,
            num_heads=model.heads,
            kv_num_heads=model.kv_heads,
            scale=model.width**-0.5,
            local_window_size=model.window if local else -1,
            do_rotary=1,
            rotary_interleaved=int(model.interleaved),
        )  # fmt: skip
        return self._node("Reshape", [f"{place}.heads", "heads"], f"{place}.flat"), cache

    def _feed_forward(self, model: Model, number: int, x: str) -> str:
        place = f"layer{number}"
        gate, up, down = (model.layer(number, f"ffn_{part}") for part in ("gate", "up", "down"))
        if self._form != "int8":
            gated = self._gated(model, self._product(x, gate, f"{place}.gate", self._form), place)
            inner = self._node("Mul", [gated, self._product(x, up, f"{place}.up", self._form)], f"{place}.inner")
            return self._product(inner, down, f"{place}.down", self._form)
        tokens, steps = self._rounded(self._rotated(x, "flat", f"{place}.gate"), f"{place}.gate")
        product = self._integers(tokens, rotated(gate), f"{place}.gate")
        gated = self._gated(model, self._node("Mul", [product, steps], f"{place}.gate"), place)
        inner = self._node("Mul", [gated, self._integers(tokens, rotated(up), f"{place}.up")], f"{place}.inner")
        # Rounding does not see the scale of a row, so that of `up` is multiplied in at the end, into one number a row.
        tokens, last = self._rounded(self._rotated(inner, "inner", f"{place}.down"), f"{place}.down")
        product = self._integers(tokens, rotated(down), f"{place}.down")
        return self._node("Mul", [product, self._node("Mul", [steps, last], f"{place}.both")], f"{place}.down")

    def _gated(self, model: Model, gate: str, place: str) -> str:
        if model.tanh:
            return self._node("FastGelu", [gate], f"{place}.gated", domain=_MICROSOFT)
        return self._node("QuickGelu", [gate], f"{place}.gated", domain=_MICROSOFT, alpha=1.0)  # alpha 1: SiLU

    def _added(
        self, hidden: str, change: str, norm: str, place: str, epsilon: float, *, last: bool = False
    ) -> tuple[str, str]:
        """The normed sum, and the sum."""
        total = "" if last else f"{place}.sum"
        made = [f"{place}.normed", "", "", total]
        self._nodes(
            "SkipSimplifiedLayerNormalization", [hidden, change, norm], made, domain=_MICROSOFT, epsilon=epsilon
        )
        return made[0], total

    def _product(self, x: str, matrix: Array, place: str, form: str) -> str:
        if form == "fp32":
            return self._node("MatMul", [x, self._constant(f"{place}.weight", matrix.T)], place)
        if form in _BITS:
            return self._blocks(x, self._packed(matrix, place, _BITS[form]), matrix, place, _BITS[form])
        tokens, steps = self._rounded(x, place)
        return self._node("Mul", [self._integers(tokens, matrix, place), steps], place)

    def _integers(self, tokens: str, matrix: Array, place: str) -> str:
        """The product of rounded tokens, in units of each token's step."""
        import numpy as np

        values: NDArray[Any]
        values, widths = by_output(matrix)
        if self._unsigned:
            values = (values.astype(np.int16) + 128).astype(np.uint8)
        weight, scale = self._constant(f"{place}.weight", values), self._constant(f"{place}.scales", widths)
        inputs = [tokens, weight, "one", scale, "middle", *(["middle"] if self._unsigned else [])]
        return self._node("MatMulIntegerToFloat", inputs, f"{place}.product", domain=_MICROSOFT)

    def _packed(self, matrix: Array, place: str, bits: int = 8) -> tuple[str, ...]:
        """A matrix in blocks, as MatMulNBits takes it."""
        parts = zip(("weight", "scales", "zeros"), in_blocks(matrix, bits), strict=True)
        return tuple(self._constant(f"{place}.{name}", values) for name, values in parts if values is not None)

    def _blocks(self, x: str, packed: tuple[str, ...], matrix: Array, made: str, bits: int = 8) -> str:
        return self._node(
            "MatMulNBits",
            [x, *packed],
            made,
            domain=_MICROSOFT,
            K=matrix.shape[1],
            N=matrix.shape[0],
            bits=bits,
            block_size=BLOCK,
            accuracy_level=_INT8_ACTIVATIONS,
        )

    def _rotated(self, x: str, width: str, place: str) -> str:
        """The rows of `x`, whose width has that name, as `rotated` turns those of a matrix."""
        blocks = self._node("Reshape", [x, f"{width}.blocks"], f"{place}.blocks")
        product = self._node("MatMul", [blocks, f"{width}.hadamard"], f"{place}.rotated")
        return self._node("Reshape", [product, width], f"{place}.whole")

    def _rounded(self, x: str, place: str) -> tuple[str, str]:
        """The rows of `x` in 8 bits around 128, and the step of each row (rows x 1)."""
        absolute = self._node("Abs", [x], f"{place}.absolute")
        highest = self._node("ReduceMax", [absolute, "axis"], f"{place}.highest", keepdims=1)
        peak = self._node("Max", [highest, "least"], f"{place}.peak")
        steps = self._node("Mul", [peak, "step"], f"{place}.steps")
        flat = self._node("Reshape", [steps, "rest"], f"{place}.flat_steps")
        return self._node("QuantizeLinear", [x, flat, "middles"], f"{place}.rounded", axis=0), steps


def _angles(kind: str, local: bool) -> str:
    """The name of the cosines or sines by position."""
    return f"{kind}_local" if local else kind
