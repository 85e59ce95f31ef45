"""The model in plain numpy, float32: what every form is compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from masa.forms.weights import Model

if TYPE_CHECKING:
    from masa.forms.weights import Array


_GELU = 2 * (2 / math.pi) ** 0.5


@dataclass(slots=True)
class Sizes:
    """The root mean square that each input of a matrix had, by layer: one array of its width for each of the four."""

    projection: list[Array] = field(default_factory=list)
    attended: list[Array] = field(default_factory=list)
    gated: list[Array] = field(default_factory=list)
    down: list[Array] = field(default_factory=list)


def forward(model: Model, tokens: Sequence[int], *, last: int, sizes: Sizes | None = None) -> Array:
    """Logits after the `last` tokens: last x vocabulary. `sizes` collects what went into the matrices."""

    import numpy as np

    hidden = model.embedding[np.asarray(tokens)] * np.float32(model.embedding_scale)
    places = np.arange(len(tokens))
    turns, masks = [], []
    for local in (False, True):
        angles = np.outer(places, model.frequencies(local=local))[:, None]
        turns.append((np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)))
        back = places[:, None] - places
        outside = (back < 0) | (back >= model.window) if local else back < 0
        masks.append(np.where(outside, np.float32(-np.inf), np.float32(0)))
    ends = np.cumsum([model.heads * model.width, model.kv_heads * model.width])
    shape = (len(tokens), -1, model.width)
    for number in range(model.layers):

        def normed(values: Array, part: str, number: int = number) -> Array:
            return _normed(values, model.layer(number, part), model.epsilon) if model.has(part) else values

        x = _normed(hidden, model.layer(number, "attn_norm"), model.epsilon)
        matrix, bias = model.projection(number)
        projected = x @ matrix.T if bias is None else x @ matrix.T + bias
        q, k, v = (part.reshape(shape) for part in np.split(projected, ends, axis=1))
        q, k = (normed(values, f"attn_{name}_norm") for name, values in (("q", q), ("k", k)))
        q, k = (_rotated(part, turns[model.local(number)], model.interleaved) for part in (q, k))
        k, v = (np.repeat(part, model.heads // model.kv_heads, axis=1) for part in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k, optimize=True) * np.float32(model.width**-0.5)
        scores += masks[model.local(number)]
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        attended = np.einsum("hqk,khd->qhd", scores, v, optimize=True).reshape(len(tokens), -1)
        hidden = hidden + normed(attended @ model.layer(number, "attn_output").T, "post_attention_norm")
        y = _normed(hidden, model.layer(number, "ffn_norm"), model.epsilon)
        gate = y @ model.layer(number, "ffn_gate").T
        # A GELU by tanh is a SiLU whose exponent is a polynomial.
        power = np.float32(_GELU) * (gate + np.float32(0.044715) * gate**3) if model.tanh else gate
        inner = gate / (1 + np.exp(-np.maximum(power, -80))) * (y @ model.layer(number, "ffn_up").T)
        hidden = hidden + normed(inner @ model.layer(number, "ffn_down").T, "post_ffw_norm")
        if sizes is not None:
            pairs = ((sizes.projection, x), (sizes.attended, attended), (sizes.gated, y), (sizes.down, inner))
            for found, values in pairs:
                found.append(np.sqrt((values * values).mean(0)))
    logits: Array = _normed(hidden[-last:], model.weights["output_norm.weight"], model.epsilon) @ model.head.T
    return logits


def _normed(values: Array, weight: Array, epsilon: float) -> Array:
    import numpy as np

    found: Array = values / np.sqrt((values * values).mean(-1, keepdims=True) + np.float32(epsilon)) * weight
    return found


def _rotated(values: Array, turn: tuple[Array, Array], interleaved: bool) -> Array:
    import numpy as np

    cosine, sine = turn
    half = values.shape[-1] // 2
    first, second = (values[..., ::2], values[..., 1::2]) if interleaved else (values[..., :half], values[..., half:])
    turned = (first * cosine - second * sine, first * sine + second * cosine)
    if interleaved:
        return np.stack(turned, axis=-1).reshape(values.shape)
    return np.concatenate(turned, axis=-1)
