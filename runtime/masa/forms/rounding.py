"""Weights in 8 bits, so that what is computed with them stays what it was.

A few channels of what enters a matrix are far larger than the others, and with one scale a token they drown the rest.
`smoothed` moves a part of their size into the weights, where every output has a scale of its own; the product is the
same (SmoothQuant, arXiv 2211.10438). Their size is the root mean square, not the peak: a text's first token and some
line breaks have values a hundred times as large as other tokens' (arXiv 2402.17762), and weights with room for them are
coarse for all.

What is still large in a few channels is spread over 64 of them by `rotated`: what enters a matrix and the matrix are
multiplied by the same orthogonal matrix, a Hadamard matrix for every 64 channels, and the product stays (QuaRot, arXiv
2404.00456). Values are rotated where they are made, so that what the heads found needs no product of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from masa.forms.reference import Sizes
from masa.forms.weights import Model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from masa.forms.weights import Array

BLOCK = 32
_ROTATED = 64  # channels that are rotated together
_SHARE = 0.5  # how much of a channel's size moves, on a logarithmic scale; what the paper takes


def smoothed(model: Model, sizes: Sizes) -> Model:
    """The same model with inputs that are easier to round; `sizes` are of some text of the kind that it will read."""

    import numpy as np

    changed: dict[str, Array] = {}
    group = model.heads // model.kv_heads
    for number in range(model.layers):
        name = f"blk.{number}.{{}}.weight".format
        for norm, parts, found in (
            ("attn_norm", ("attn_q", "attn_k", "attn_v"), sizes.projection),
            ("ffn_norm", ("ffn_gate", "ffn_up"), sizes.gated),
        ):
            width = np.max([np.abs(model.layer(number, part)).max(0) for part in parts], axis=0)
            factor = _factor(found[number], width)
            changed[name(norm)] = model.layer(number, norm) / factor
            changed |= {name(part): model.layer(number, part) * factor for part in parts}
        down = model.layer(number, "ffn_down")
        factor = _factor(sizes.down[number], np.abs(down).max(0))
        changed[name("ffn_down")] = down * factor
        changed[name("ffn_up")] = changed[name("ffn_up")] / factor[:, None]
        # The heads of a group read the same values, so they share a factor.
        output = model.layer(number, "attn_output")
        shape = (model.kv_heads, group, model.width)
        size, width = (found.reshape(shape).max(1) for found in (sizes.attended[number], np.abs(output).max(0)))
        factor = _factor(size.ravel(), width.ravel())
        output = output * np.repeat(factor.reshape(-1, 1, model.width), group, 1).ravel()
        changed[name("attn_output")] = rotated(output, model.width)
        changed[name("attn_v")] = rotated((changed[name("attn_v")] / factor[:, None]).T, model.width).T
        bias = f"blk.{number}.attn_v.bias"
        if bias in model.weights:
            changed[bias] = rotated((model.weights[bias] / factor)[None], model.width)[0]
    return model.changed(changed)


def _factor(sizes: Array, widths: Array) -> Array:
    import numpy as np

    factor = np.maximum(sizes, 1e-5) ** _SHARE / np.maximum(widths, 1e-5) ** (1 - _SHARE)
    found: Array = (factor / np.exp(np.log(factor).mean())).astype(np.float32)
    return found


def hadamard(width: int) -> Array:
    """A Hadamard matrix, orthogonal and symmetric, of the largest size up to 64 that divides `width`."""
    import numpy as np

    found = np.ones((1, 1), np.float32)
    while 2 * len(found) <= _ROTATED and width % (2 * len(found)) == 0:
        found = np.block([[found, found], [found, -found]])
    return found / np.float32(len(found) ** 0.5)


def rotated(matrix: Array, width: int = 0) -> Array:
    """A matrix (outputs x inputs) with its inputs rotated; blocks cross no multiple of `width`, if it is given."""
    by = hadamard(width or matrix.shape[1])
    found: Array = (matrix.reshape(len(matrix), -1, len(by)) @ by).reshape(matrix.shape)
    return found


def by_output(matrix: Array) -> tuple[NDArray[np.int8], Array]:
    """A matrix (outputs x inputs) in 8 bits with a scale for every output: inputs x outputs, and the scales."""

    import numpy as np

    scales = np.abs(matrix).max(1) / np.float32(127)
    scales[scales == 0] = 1
    return np.ascontiguousarray(np.round(matrix / scales[:, None]).astype(np.int8).T), scales.astype(np.float32)


def in_blocks(matrix: Array, bits: int = 8) -> tuple[NDArray[np.uint8], Array, NDArray[np.uint8] | None]:
    """A matrix (outputs x inputs) in blocks along its inputs.

    Returns what MatMulNBits takes: outputs x blocks x bytes; scales, outputs x blocks; and for 4 bits zero points,
    outputs x blocks, two a byte (8 bits are symmetric). A number is scale * (stored - zero point), where the zero point
    is 128 for 8 bits.
    """

    import numpy as np

    columns, rows = matrix.shape
    blocks = -(-rows // BLOCK)
    padded = np.zeros((columns, blocks * BLOCK), np.float32)
    padded[:, :rows] = matrix
    if bits == 8:
        # As Q8_0 rounds, so that a base in Q8_0 stays what it is; ONNX Runtime's kernel takes steps of a 128th, and
        # would move every output by an error of its own.
        values = padded.reshape(columns, blocks, BLOCK)
        scales = np.abs(values).max(2) / np.float32(127)
        scales[scales == 0] = 1
        return (np.round(values / scales[..., None]) + 128).astype(np.uint8), scales, None
    # What onnxruntime.quantization.matmul_nbits_quantizer calls; that module also needs onnx_ir and sets up logging.
    from onnxruntime.capi._pybind_state import quantize_matmul_4bits

    packed = np.zeros((columns, blocks, BLOCK // 2), np.uint8)
    scales = np.zeros((columns, blocks), np.float32)
    zeros = np.zeros((columns, -(-blocks // 2)), np.uint8)
    quantize_matmul_4bits(packed, np.ascontiguousarray(padded.T), scales, zeros, BLOCK, columns, rows, False)
    return packed, scales, zeros
