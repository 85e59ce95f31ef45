"""The weights of a rewriter as numpy arrays: its GGUF de-quantized, its adapter merged into it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masa.errors import BackendError, MissingExtraError
from masa.formats.gguf_header import GgufHeader, TensorInfo, read_header

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from masa.artifact import Artifact

    Array = NDArray[np.float32]

_HEADS = ("attn_q_norm", "attn_k_norm")
ARCHITECTURES: Mapping[str, tuple[str, ...]] = {
    "llama": (),
    "qwen2": (),
    "qwen3": _HEADS,
    "gemma3": (*_HEADS, "post_attention_norm", "post_ffw_norm"),
}
"""The architectures that are known here, and the norms that a layer has beside those before attention and feed-forward:
of each head's queries and keys, and of what attention and feed-forward add."""

_PARTS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "attn_norm", "ffn_norm")
_BIASES = ("attn_q", "attn_k", "attn_v")
_FACTORS = "rope_freqs.weight"
_GLOBAL = 6  # In Gemma 3 every sixth layer sees the whole text; llama.cpp has the number in its code, too.


@dataclass(frozen=True, slots=True)
class Model:
    """A decoder of the llama kind.

    `weights` are float32, outputs x inputs, by their names in a GGUF. `width` is the size of a head, `eos` the token
    that ends a text. `window` is how many tokens a local layer sees, its own included, 0 where no layer is local;
    `rope_bases` are those of the other layers and of the local ones, `rope_factor` stretches positions of the others.
    """

    architecture: str
    layers: int
    heads: int
    kv_heads: int
    width: int
    epsilon: float
    rope_bases: tuple[float, float]
    rope_factor: float
    window: int
    context: int
    eos: int
    weights: Mapping[str, Array]

    @property
    def interleaved(self) -> bool:
        """Whether neighbours are rotated as a pair; else halves of a head are."""
        return self.architecture == "llama"

    @property
    def tanh(self) -> bool:
        """Whether the gate is a GELU approximated by tanh; else it is a SiLU."""
        return self.architecture == "gemma3"

    @property
    def embedding_scale(self) -> float:
        return float(self.embedding.shape[1] ** 0.5) if self.architecture == "gemma3" else 1.0

    def has(self, part: str) -> bool:
        """Whether every layer has that norm."""
        return part in ARCHITECTURES[self.architecture]

    def local(self, number: int) -> bool:
        """Whether a layer sees the last `window` tokens only."""
        return self.window > 0 and (number + 1) % _GLOBAL != 0

    def frequencies(self, *, local: bool) -> NDArray[np.float64]:
        """Angle per position of each pair of a head."""

        import numpy as np

        found: NDArray[np.float64] = self.rope_bases[local] ** (-np.arange(0, self.width, 2) / self.width)
        return found if local else found / self.rope_factor / self.weights.get(_FACTORS, np.float64(1))

    @property
    def embedding(self) -> Array:
        return self.weights["token_embd.weight"]

    @property
    def head(self) -> Array:
        """The output layer; the embedding itself where the model has no other."""
        return self.weights.get("output.weight", self.embedding)

    def layer(self, number: int, part: str) -> Array:
        return self.weights[f"blk.{number}.{part}.weight"]

    def projection(self, number: int) -> tuple[Array, Array | None]:
        """Queries, keys and values as one matrix, and their biases where there are any."""

        import numpy as np

        matrix = np.concatenate([self.layer(number, part) for part in _BIASES])
        biases = [self.weights.get(f"blk.{number}.{part}.bias") for part in _BIASES]
        found = [bias for bias in biases if bias is not None]
        return matrix, np.concatenate(found) if found else None

    def changed(self, weights: Mapping[str, Array]) -> Model:
        return replace(self, weights={**self.weights, **weights})


def read_model(artifact: Artifact) -> Model:
    """The merged weights of a GGUF artifact.

    Raises:
        MissingExtraError: without the package gguf.
        BackendError: if the architecture is not known here, or a file does not hold what it must.
    """
    header = read_header(artifact.weights_path)
    _architecture(header)
    weights = {tensor.name: _read(header, tensor) for tensor in header.tensors}
    if artifact.adapter_path is not None:
        _merge(weights, artifact.adapter_path)
    return build_model(header, weights, artifact.context_length)


def build_model(header: GgufHeader, weights: Mapping[str, Array], context: int) -> Model:
    """The model that the GGUF with this header holds, with these weights, for texts of at most `context` tokens.

    Raises:
        BackendError: if its architecture or rotary embedding is not known here, or a weight is missing or unknown.
    """
    kind, where = _architecture(header), header.path

    def number(key: str, default: Any = None, of: str = kind) -> Any:
        found = header.metadata.get(f"{of}.{key}", default)
        if not isinstance(found, int | float) or isinstance(found, bool):
            raise BackendError(f"{where}: has no number {of}.{key}")
        return found

    layers, heads = int(number("block_count")), int(number("attention.head_count"))
    parts = (*_PARTS, *ARCHITECTURES[kind])
    known = {"token_embd.weight", "output.weight", "output_norm.weight", _FACTORS}
    known |= {f"blk.{layer}.{part}.weight" for layer in range(layers) for part in parts}
    known |= {f"blk.{layer}.{part}.bias" for layer in range(layers) for part in _BIASES}
    needed = {name for name in known if name.endswith(".weight")} - {"output.weight", _FACTORS}
    if odd := sorted(weights.keys() ^ known & (weights.keys() | needed)):
        raise BackendError(f"{where}: {odd[0]} is {'not known here' if odd[0] in weights else 'missing'}")
    scaling = header.metadata.get(f"{kind}.rope.scaling.type", "none")
    if scaling not in ("none", "linear"):
        raise BackendError(f"{where}: its rotary embeddings are scaled by {scaling!r}; use it as GGUF")
    return Model(
        architecture=kind,
        layers=layers,
        heads=heads,
        kv_heads=int(number("attention.head_count_kv", heads)),
        width=int(number("attention.key_length", weights["output_norm.weight"].size // heads)),
        epsilon=float(number("attention.layer_norm_rms_epsilon")),
        rope_bases=(float(number("rope.freq_base", 10000.0)), float(number("rope.freq_base_swa", 10000.0))),
        rope_factor=float(number("rope.scaling.factor", 1.0)) if scaling == "linear" else 1.0,
        window=int(number("attention.sliding_window", 0)) if kind == "gemma3" else 0,
        context=min(int(number("context_length")), context),
        eos=int(number("eos_token_id", of="tokenizer.ggml")),
        weights=weights,
    )


def _architecture(header: GgufHeader) -> str:
    kind = str(header.metadata.get("general.architecture"))
    if kind not in ARCHITECTURES:
        raise BackendError(f"{header.path}: only {', '.join(ARCHITECTURES)} can be written as ONNX, not {kind!r}")
    return kind


def _merge(weights: dict[str, Array], path: Path) -> None:
    """Add a LoRA to the weights that it changes."""

    import numpy as np

    header = read_header(path)
    alpha = header.metadata.get("adapter.lora.alpha")
    if not isinstance(alpha, int | float):
        raise BackendError(f"{path}: is no LoRA adapter, it has no adapter.lora.alpha")
    sides = {tensor.name: tensor for tensor in header.tensors}
    for name in [side.removesuffix(".lora_a") for side in sides if side.endswith(".lora_a")]:
        inner, outer = (_read(header, sides[f"{name}.lora_{side}"]) for side in "ab")
        if name not in weights or weights[name].shape != (outer.shape[0], inner.shape[1]):
            raise BackendError(f"{path}: changes {name}, which its base does not have in that shape")
        weights[name] = weights[name] + np.float32(alpha / len(inner)) * (outer @ inner)


def _read(header: GgufHeader, tensor: TensorInfo) -> Array:
    import numpy as np

    try:
        import gguf
    except ImportError:
        raise MissingExtraError("making a form for this machine", "onnx") from None
    rows = int(np.prod(tensor.shape[1:]))
    if tensor.bytes is None:
        raise BackendError(f"{header.path}: {tensor.name} has a type that is not known here; upgrade masa")
    place = header.data_offset + tensor.offset
    stored = np.memmap(header.path, np.uint8, "r", place, (rows, tensor.bytes // rows))
    kind = gguf.GGMLQuantizationType(tensor.type)
    try:
        values = gguf.quants.dequantize(stored, kind)
    except NotImplementedError:
        raise BackendError(f"{header.path}: {tensor.name} is {kind.name}, which cannot be de-quantized here") from None
    found: Array = np.asarray(values, np.float32).reshape(tensor.shape[::-1])
    if not np.isfinite(found).all():
        raise BackendError(f"{header.path}: {tensor.name} holds numbers that are not finite; fetch the file again")
    return found
