#!/usr/bin/env bash
# ONNX Runtime's 8-bit weights in blocks (MatMulNBitsQuantizer with bits=8, symmetric) have another grid than GGUF's
# Q8_0, whose blocks are of 32, too: a step is the 128th part of a block's largest value, not the 127th, and what is as
# large with the other sign is cut off, by a whole step. So a table that a GGUF has in Q8_0 is rounded once more when it
# goes to ONNX, although both sides have 8 bits and one scale a block: no row stays what it was. Rounded in steps of a
# 127th, which MatMulNBits takes as well, nothing is lost.
# Exits 0 while that holds, 1 once it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    onnxruntime==1.32.0 onnx==1.22.0 onnx-ir==1.1.0 numpy==2.4.6 gguf==0.19.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import gguf
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

print("onnxruntime", version("onnxruntime"), "gguf", version("gguf"))
rows, columns = 64, 256
drawn = np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)
kind = gguf.GGMLQuantizationType.Q8_0
table = gguf.quants.dequantize(gguf.quants.quantize(drawn, kind), kind)
again = gguf.quants.dequantize(gguf.quants.quantize(table, kind), kind)
print("Q8_0 of what Q8_0 gave: largest change", np.abs(again - table).max())


def outputs(model):
    options = onnxruntime.SessionOptions()
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.eye(columns, dtype=np.float32)})[0].T


def graph(nodes, constants):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", columns])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", rows])
    made = helper.make_graph(nodes, "table", [x], [y], constants)
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(made, opset_imports=imports, ir_version=10)


plain = graph([helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
              [numpy_helper.from_array(np.ascontiguousarray(table.T), "w")])
quantizer = MatMulNBitsQuantizer(plain, bits=8, block_size=32, is_symmetric=True, accuracy_level=1)
quantizer.process()
theirs = outputs(quantizer.model.model)

blocks = table.reshape(rows, -1, 32)
scales = np.abs(blocks).max(2) / np.float32(127)
stored = (np.round(blocks / scales[..., None]) + 128).astype(np.uint8)
node = helper.make_node("MatMulNBits", ["x", "stored", "scales"], ["y"], "product", domain="com.microsoft",
                        K=columns, N=rows, bits=8, block_size=32, accuracy_level=1)
own = outputs(graph([node], [numpy_helper.from_array(stored, "stored"), numpy_helper.from_array(scales, "scales")]))

steps = np.repeat(scales, 32, axis=1)
for name, found in (("MatMulNBitsQuantizer", theirs), ("steps of a 127th", own)):
    error = np.abs(found - table) / steps
    changed = (error > 0.01).mean()
    print(f"{name}: largest error {error.max():.3f} of a step, mean {error.mean():.3f}, {changed:.0%} of numbers moved")
theirs, own = (np.abs(found - table) / steps for found in (theirs, own))
holds = theirs.max() > 0.9 and theirs.mean() > 0.2 and (theirs.max(1) > 0.4).all() and own.max() < 0.001
print("as described" if holds else "changed")
sys.exit(0 if holds else 1)
PYTHON
