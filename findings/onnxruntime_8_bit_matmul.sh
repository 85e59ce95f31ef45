#!/usr/bin/env bash
# ONNX Runtime 1.32.0 on the CPU: MatMulNBits with 8-bit weights is only fast with accuracy_level 4. With its default
# (0, float32 activations) it spells the whole matrix out in float32 at every call: one row takes as long as 64,
# 30 times what the same node takes with 4-bit weights, which have a kernel that does not. So a model whose weights go
# from 4 to 8 bits with nothing else changed can write tens of times more slowly.
# Exits 0 while that holds, 1 once it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import platform
import sys
import time

import numpy as np
import onnxruntime
from onnx import helper, numpy_helper

INNER, OUTER, BLOCK = 1024, 4096, 32
print("onnxruntime", onnxruntime.__version__, "·", platform.machine())
draws = np.random.default_rng(0)


def seconds(bits, level, rows):
    """The fastest of five calls of one node, on one thread."""
    weights = draws.integers(0, 256, (OUTER, INNER // BLOCK, BLOCK * bits // 8), dtype=np.uint8)
    scales = draws.random((OUTER, INNER // BLOCK), dtype=np.float32)
    kind = {} if level is None else {"accuracy_level": level}
    node = helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft",
                            K=INNER, N=OUTER, bits=bits, block_size=BLOCK, **kind)
    graph = helper.make_graph(
        [node], "product",
        [helper.make_tensor_value_info("x", 1, ["rows", INNER])], [helper.make_tensor_value_info("y", 1, ["rows", OUTER])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(scales, "s")],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    x = draws.random((rows, INNER), dtype=np.float32)
    taken = []
    for _ in range(6):
        begun = time.perf_counter()
        session.run(None, {"x": x})
        taken.append(time.perf_counter() - begun)
    return min(taken[1:])


found = {}
for bits in (4, 8):
    for level in (None, 4):
        for rows in (1, 64):
            found[bits, level, rows] = taken = seconds(bits, level, rows)
            print(f"{bits} bits, accuracy_level {level or 'not given'}, {rows:2} rows: {taken * 1000:8.2f} ms")
slower = found[8, None, 1] / found[4, None, 1]
than_level_4 = found[8, None, 1] / found[8, 4, 1]
by_row = found[8, None, 64] / found[8, None, 1]
print(f"8 bits, level not given, 1 row: {slower:.0f} times 4 bits, {than_level_4:.0f} times level 4; 64 rows take {by_row:.1f} times 1 row")
if slower > 5 and than_level_4 > 20 and by_row < 3:
    print("as seen: 8 bits without accuracy_level 4 spell the matrix out at every call")
    sys.exit(0)
print("this has changed")
sys.exit(1)
PYTHON
