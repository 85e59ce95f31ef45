"""What the machine allows, and what the form for this CPU makes of it.

    python benchmarks/roofline.py

The machine: products in 8 bits of the rewriter's own shape by ONNX Runtime, as each form has them computed, and bytes
read a second, on every core. The
work: products of the layers and bytes of the weights, counted from the model. Floors are work / machine, attention left
out. The form reads a text and then writes one token. Last, what a rewrite of the example bank spends its computing on,
in one thread, by ONNX Runtime's own profile.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import machine
import numpy as np

from masa import Rewriter, load_bank, resolve_backbone
from masa.artifact import Artifact, load_artifact
from masa.backends import open_backend
from masa.cpu import usable_cores
from masa.forms.finding import find_form
from masa.forms.rounding import BLOCK, in_blocks
from masa.forms.weights import read_model

_ROWS, _PRODUCTS = 128, 40
_EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
_KINDS: Mapping[str, tuple[str, ...]] = {
    "products": ("MatMulIntegerToFloat", "MatMulNBits", "MatMul"),
    "attention": ("GroupQueryAttention",),
    "rounding": ("Abs", "ReduceMax", "Max", "QuantizeLinear", "DynamicQuantizeLinear"),
}
"""ONNX operators by what they do in a form's graph; the product that makes the logits is the head, others the rest."""


def seconds(work: Callable[[], object], repeats: int) -> float:
    """The fastest of some runs on every core at once, each core doing all of `work`; seconds for one `work`."""
    times = []
    for _ in range(repeats + 1):
        threads = [threading.Thread(target=work) for _ in range(usable_cores())]
        begun = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        times.append((time.perf_counter() - begun) / len(threads))
    return min(times[1:])


def products(inner: int, outer: int, form: str) -> Callable[[], object]:
    """Products as a form computes them: `int8` with signed weights, `uint8` with unsigned ones, `w8` in blocks."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = rng.integers(-127, 128, (inner, outer)).astype(np.int8)
    rows = rng.integers(0, 256, (_ROWS, inner)).astype(np.uint8)
    if form == "w8":
        packed, scales, _ = in_blocks(np.ascontiguousarray(weights.T, np.float32))
        values, rows = {"w": packed, "s": scales}, rows.astype(np.float32)
        node = helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft",
                                K=inner, N=outer, bits=8, block_size=BLOCK, accuracy_level=4)  # fmt: skip
    else:
        middles = ["middle"] if form == "int8" else ["middle", "middle"]
        stored = weights if form == "int8" else (weights.astype(np.int16) + 128).astype(np.uint8)
        values = {"w": stored, "one": np.float32(1), "s": np.full(outer, 0.01, np.float32), "middle": np.uint8(128)}
        node = helper.make_node("MatMulIntegerToFloat", ["x", "w", "one", "s", *middles], ["y"], domain="com.microsoft")
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    x = helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(rows.dtype), [_ROWS, inner])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [_ROWS, outer])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    made = helper.make_model(
        helper.make_graph([node], "products", [x], [y], constants), opset_imports=opsets, ir_version=10
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def work() -> None:
        for _ in range(_PRODUCTS):
            session.run(None, {"x": rows})

    return work


def shares(form: Artifact) -> tuple[float, dict[str, float]]:
    """Seconds of computing in a rewrite of the example bank in one thread, and the share of each kind of operation."""
    import onnxruntime

    bank, card = load_bank(_EXAMPLES / "banks" / "household.json"), resolve_backbone(_EXAMPLES / "card.yaml")
    with tempfile.TemporaryDirectory(prefix="masa-benchmark-") as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        options.enable_profiling = True
        options.profile_file_prefix = f"{folder}/rewrite"
        session = onnxruntime.InferenceSession(str(form.weights_path), options, providers=["CPUExecutionProvider"])
        backend: Any = open_backend(form, threads=1)
        backend._session = session
        with Rewriter(form, lambda: backend) as rewriter:
            rewriter.rewrite(bank, card)
        events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    spent: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            operator = event["args"]["op_name"]
            kind = next((kind for kind, operators in _KINDS.items() if operator in operators), "rest")
            head = kind == "products" and event["name"].startswith("logits")
            spent["head" if head else kind] += event["dur"]
    whole = spent.total()
    return whole / 1e6, {kind: time / whole for kind, time in spent.most_common()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", default="smollm2-135m", help="default %(default)s")
    parser.add_argument("--tokens", type=int, default=512, help="length of the text (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="default %(default)s")
    options = parser.parse_args()
    machine.print_facts(machine.facts())
    artifact = load_artifact(options.artifact)
    model = read_model(artifact)
    outer, inner = model.layer(0, "ffn_up").shape
    form = find_form(artifact) or artifact
    every = _ROWS * inner * outer * _PRODUCTS
    speeds = {kind: every / seconds(products(inner, outer, kind), options.repeats) for kind in ("int8", "uint8", "w8")}
    a_second = speeds.get(form.quantization or "", speeds["int8"])
    table = np.ones(32_000_000, np.float32)
    read = table.nbytes / seconds(lambda: table.sum(), options.repeats)
    layers = sum(matrix.size for name, matrix in model.weights.items() if name.startswith("blk.") and matrix.ndim == 2)
    told = ", ".join(f"{kind} {speed / 1e9:.0f}" for kind, speed in speeds.items())
    print(f"billions of products a second: {told}; {read / 1e9:.1f} GB a second")
    backend = open_backend(form)
    tokens = np.random.default_rng(0).integers(100, 1000, options.tokens).tolist()
    whole, single = [], []
    for _ in range(options.repeats + 1):
        session = backend.session(slots=1, length=len(tokens) + 2)
        begun = time.perf_counter()
        session.begin(0, tokens)
        middle = time.perf_counter()
        session.step([(0, [7])], [1])
        whole.append(middle - begun)
        single.append(time.perf_counter() - middle)
        session.close()
    backend.close()
    print(f"{len(tokens)} tokens read: {min(whole[1:]):.2f} s, floor {len(tokens) * layers / a_second:.2f} s")
    print(f"a token written: {min(single[1:]):.3f} s, floor {(layers + model.head.size) / read:.3f} s")
    if form.kind == "onnx":
        whole, spent = shares(form)
        told = ", ".join(f"{kind} {share:.0%}" for kind, share in spent.items())
        print(f"the example bank, one thread: {whole:.2f} s of computing: {told}")


if __name__ == "__main__":
    main()
