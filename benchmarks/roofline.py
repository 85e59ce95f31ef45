"""What the machine allows, and what the form for this CPU makes of it.

    python benchmarks/roofline.py

The machine: products in 8 bits of the rewriter's own shape by ONNX Runtime, and bytes read a second, on every core. The
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


def products(inner: int, outer: int) -> Callable[[], object]:
    """Products in 8 bits, as a form computes them."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    constants = [
        numpy_helper.from_array(rng.integers(-127, 128, (inner, outer)).astype(np.int8), "w"),
        numpy_helper.from_array(np.float32(1), "one"),
        numpy_helper.from_array(np.full(outer, 0.01, np.float32), "s"),
        numpy_helper.from_array(np.uint8(128), "middle"),
    ]
    node = helper.make_node("MatMulIntegerToFloat", ["x", "w", "one", "s", "middle"], ["y"], domain="com.microsoft")
    x = helper.make_tensor_value_info("x", TensorProto.UINT8, [_ROWS, inner])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [_ROWS, outer])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    made = helper.make_model(
        helper.make_graph([node], "products", [x], [y], constants), opset_imports=opsets, ir_version=10
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rows = rng.integers(0, 256, (_ROWS, inner)).astype(np.uint8)

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
    a_second = _ROWS * inner * outer * _PRODUCTS / seconds(products(inner, outer), options.repeats)
    table = np.ones(32_000_000, np.float32)
    read = table.nbytes / seconds(lambda: table.sum(), options.repeats)
    layers = sum(matrix.size for name, matrix in model.weights.items() if name.startswith("blk.") and matrix.ndim == 2)
    print(f"{a_second / 1e9:.0f} billion products in 8 bits and {read / 1e9:.1f} GB a second")

    form = find_form(artifact) or artifact
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
