"""A transformers model in this process: several conversations and their candidates in one row of tokens.

The row has no padding: linear layers see all its tokens at once, and attention, which is done here, looks for every
conversation at its own cache and its own tree only. Registered with transformers as the attention `masa_slots`.
Supported are decoder models whose attention is plain, grouped or with a sliding window (Llama, Qwen, Gemma 3, …).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from masa.errors import BackendError
from masa_training.bases import Base, Tokenizer, open_base
from masa_training.checkpoint import read_checkpoint
from masa_training.errors import TrainingError
from masa_training.models.chat import TEMPLATES, ChatFormat
from masa_training.models.choice import ROOT, Scoring, Tree
from masa_training.models.in_process import InProcessModel
from masa_training.models.slots import Ask

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = "masa_slots"
_PREFIXES = 16


def open_checkpoint_model(
    folder: str, *, dtype: str = "bfloat16", merge: bool = True, **options: Any
) -> InProcessModel:
    """The model of a checkpoint that `masa distill` made; `options` are those of `transformers_model`.

    With `merge` a LoRA is added to the weights in 32 bits and then rounded to `dtype`, which computes faster than an
    adapter beside them.

    Raises:
        TrainingError: if the folder is no checkpoint, or its base is missing or another one.
    """
    from masa_training.transformers_backend import DTYPES, base_of, open_checkpoint

    checkpoint = read_checkpoint(folder)
    if dtype not in DTYPES:
        raise TrainingError(f"unknown dtype {dtype!r}; the known ones are {', '.join(DTYPES)}")
    merging = merge and checkpoint.kind == "lora"
    device = options.pop("device", None)
    opened = open_checkpoint(checkpoint, dtype="float32" if merging else dtype, device=device)
    model = opened._model
    if merging:
        model = model.merge_and_unload().to(getattr(torch, dtype))
    base = base_of(checkpoint)
    if options.get("template") is None and _template(base) is None:
        options["template"] = "gemma" if any("start_of_turn" in c for c in checkpoint.template.controls) else "chatml"
    name = options.pop("name", None) or checkpoint.path.resolve().name
    return transformers_model(model, base, name=name, **options)


def open_transformers(
    spec: str, *, dtype: str = "bfloat16", device: str | None = None, name: str | None = None, **options: Any
) -> InProcessModel:
    """A Hugging Face folder, or a GGUF file or artifact whose weights are de-quantized, as a model.

    Raises:
        TrainingError: if there is no such model, or transformers cannot read it.
    """
    base = open_base(spec, "chatml")  # of its template only the tokenizer's side is used
    model = base.model(getattr(torch, dtype)).to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return transformers_model(model, base, name=name or base.name, **options)


def transformers_model(
    model: Any,
    base: Base,
    *,
    name: str,
    slots: int = 8,
    length: int | None = None,
    together: int = 1,
    scoring: Scoring = "total",
    template: str | None = None,
    template_options: Mapping[str, Any] | None = None,
) -> InProcessModel:
    """A loaded model with the tokenizer and the chat template of its base.

    Args:
        slots, length, scoring, template, template_options: as for `open_llama`.
        together: requests computed in one pass. With 1 a conversation's numbers do not depend on its neighbours; more
            are faster on a GPU, but matrix products of another height may round otherwise.
    """
    longest = length or min(base.context_length, 4096)
    if longest > base.context_length:
        raise TrainingError(f"{name}: length {longest} is more than the model's context of {base.context_length}")
    tokenizer = base.tokenizer()
    source = template if template is not None else _template(base)
    bos, add_bos, eos = _ends(base, tokenizer)
    chat = ChatFormat(
        tokenizer,
        TEMPLATES.get(source, source) if source is not None else None,
        bos=bos,
        add_bos=add_bos,
        eos=eos,
        options=template_options,
        where=str(base.path),
    )

    def make() -> TransformersEngine:
        return TransformersEngine(model, slots=slots, length=longest, together=together)

    return InProcessModel(name, chat, tokenizer, make, slots=slots, scoring=scoring)


@dataclass(slots=True)
class _Cache:
    """Keys and values of one conversation, per layer of shape (heads, places, width); `used` places hold it."""

    keys: list[torch.Tensor] = field(default_factory=list)
    values: list[torch.Tensor] = field(default_factory=list)
    used: int = 0

    def put(
        self, layer: int, start: int, key: torch.Tensor, value: torch.Tensor, length: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write states of shape (heads, tokens, width) from place `start`; all up to their end."""
        while len(self.keys) <= layer:
            self.keys.append(key.new_empty((key.shape[0], length, key.shape[2])))
            self.values.append(value.new_empty((value.shape[0], length, value.shape[2])))
        end = start + key.shape[1]
        if end > self.keys[layer].shape[1]:
            raise BackendError(f"{end} tokens in a cache of {length}")
        self.keys[layer][:, start:end] = key
        self.values[layer][:, start:end] = value
        return self.keys[layer][:, :end], self.values[layer][:, :end]


@dataclass(slots=True)
class _Part:
    """One conversation's piece of a row: `seen` tells which places each token sees, `distance` how far back."""

    rows: slice
    cache: _Cache
    start: int
    length: int
    seen: torch.Tensor | None
    distance: torch.Tensor


class TransformersEngine:
    """An `Engine` over a transformers model, which is put into evaluation mode."""

    def __init__(self, model: Any, *, slots: int, length: int, together: int = 1) -> None:
        from transformers import AttentionInterface
        from transformers.masking_utils import AttentionMaskInterface

        AttentionInterface.register(NAME, _attention)
        AttentionMaskInterface.register(NAME, _no_mask)
        self.slots = slots
        self.length = length
        self._model = model.eval()
        self._before = model.config._attn_implementation
        model.set_attn_implementation(NAME)
        self._together = max(together, 1)
        self._caches = [_Cache() for _ in range(slots)]
        self._prefixes: OrderedDict[tuple[int, ...], list[tuple[torch.Tensor, torch.Tensor]]] = OrderedDict()

    def start(self, slot: int, prefix: Sequence[int]) -> bool:
        cache = self._caches[slot]
        cache.used = 0
        key = tuple(prefix)
        if not key:
            return False
        if key in self._prefixes:
            self._prefixes.move_to_end(key)
            for layer, (keys, values) in enumerate(self._prefixes[key]):
                cache.put(layer, 0, keys, values, self._room)
            cache.used = len(key)
            return True
        self.append(slot, key)
        self._prefixes[key] = [
            (keys[:, : len(key)].clone(), values[:, : len(key)].clone())
            for keys, values in zip(cache.keys, cache.values, strict=True)
        ]
        if len(self._prefixes) > _PREFIXES:
            self._prefixes.popitem(last=False)
        return False

    def cut(self, slot: int, tokens: int) -> None:
        self._caches[slot].used = tokens

    def append(self, slot: int, tokens: Sequence[int]) -> None:
        self._pass([Ask(slot, tokens, Tree(rows=()))])

    def run(self, asks: Sequence[Ask]) -> Iterator[NDArray[np.float32]]:
        for first in range(0, len(asks), self._together):
            yield from self._pass(asks[first : first + self._together])

    def close(self) -> None:
        if self._model is not None:
            self._model.set_attn_implementation(self._before)
        self._model = None
        self._caches = []
        self._prefixes.clear()

    @property
    def _room(self) -> int:
        """A tree lies behind the conversation for the time of a pass."""
        return self.length + 1024

    def _pass(self, asks: Sequence[Ask]) -> list[NDArray[np.float32]]:
        if self._model is None:
            raise BackendError("the model was closed in the middle of a request")
        device = self._model.device
        ids: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        parts: list[_Part] = []
        for ask in asks:
            cache, offset, count = self._caches[ask.slot], len(ids), len(ask.tokens)
            ids += [*ask.tokens, *ask.tree.tokens]
            own = [*range(cache.used, cache.used + count), *(cache.used + count - 1 + d for d in ask.tree.depths)]
            positions += own
            wanted += [offset + count + node if node != ROOT else offset + count - 1 for node in ask.tree.rows]
            seen, distance = _sight(cache.used, own, count, ask.tree)
            parts.append(
                _Part(
                    slice(offset, len(ids)),
                    cache,
                    cache.used,
                    self._room,
                    None if seen is None else seen.to(device),
                    distance.to(device),
                )
            )
        with torch.inference_mode():
            logits = self._model(
                input_ids=torch.tensor([ids], device=device),
                position_ids=torch.tensor([positions], device=device),
                use_cache=False,
                logits_to_keep=torch.tensor(wanted or [0], device=device),
                parts=parts,
            ).logits[0]
            rows = logits.float().cpu().numpy()
        results, start = [], 0
        for ask, part in zip(asks, parts, strict=True):
            part.cache.used = part.start + len(ask.tokens)
            results.append(rows[start : start + len(ask.tree.rows)])
            start += len(ask.tree.rows)
        return results


def _sight(used: int, positions: Sequence[int], count: int, tree: Tree) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Which places a conversation's new tokens see, as (tokens, places), and how far back each place is.

    None stands for plain causal sight from an empty cache.
    """
    total = len(positions)
    places = torch.tensor([*range(used), *positions])
    distance = torch.tensor(positions)[:, None] - places
    if not tree.tokens:
        return (None if used == 0 else distance >= 0), distance
    seen = torch.zeros(total, used + total, dtype=torch.bool)
    seen[:, :used] = True
    seen[:count, used : used + count] = torch.ones(count, count, dtype=torch.bool).tril()
    seen[count:, used : used + count] = True
    for node, parent in enumerate(tree.parents):
        row = count + node
        if parent != ROOT:
            seen[row, used + count :] = seen[count + parent, used + count :]
        seen[row, used + row] = True
    return seen, distance


def _no_mask(*_: Any, **__: Any) -> None:
    """Who sees whom follows from the parts; there is no mask to build."""
    return


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    parts: Sequence[_Part] = (),
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention in transformers' form: query (1, heads, tokens, width). Returns (1, tokens, heads, width)."""
    if others.get("softcap") or others.get("s_aux") is not None:
        raise BackendError("this architecture's attention (soft-capping or sinks) is not supported; serve it with vLLM")
    layer: Any = module.layer_idx
    _, heads, tokens, _ = query.shape
    shared = key.shape[1]
    mixed = query.new_empty((heads, tokens, value.shape[3]))
    for part in parts:
        keys, values = part.cache.put(layer, part.start, key[0, :, part.rows], value[0, :, part.rows], part.length)
        asked = query[0, :, part.rows]
        count = asked.shape[1]
        seen = part.seen
        if sliding_window is not None:
            near = part.distance < sliding_window
            seen = (part.distance >= 0) & near if seen is None else seen & near
        if seen is None:
            asked = asked.reshape(shared, heads // shared, count, -1)
            keys, values = (states[:, None].expand(-1, heads // shared, -1, -1) for states in (keys, values))
            found = scaled_dot_product_attention(asked, keys, values, is_causal=True, scale=scaling)
        else:
            # Query heads that share keys are further rows of one product, which copies no keys.
            asked = asked.reshape(1, shared, heads // shared * count, -1)
            mask = seen.repeat(heads // shared, 1)
            found = scaled_dot_product_attention(asked, keys[None], values[None], attn_mask=mask, scale=scaling)
        mixed[:, part.rows] = found.reshape(heads, count, -1)
    return mixed.transpose(0, 1)[None].contiguous(), None


def _template(base: Base) -> str | None:
    """The base's own chat template."""
    if base.kind == "gguf":
        from masa.formats.gguf_header import read_header

        found = read_header(base.path).metadata.get("tokenizer.chat_template")
        return found if isinstance(found, str) and found else None
    separate = base.path / "chat_template.jinja"
    if separate.is_file():
        return separate.read_text("utf-8")
    stored = _folder_config(base.path).get("chat_template")
    return stored if isinstance(stored, str) else None


def _ends(base: Base, tokenizer: Tokenizer) -> tuple[str | None, bool, str | None]:
    """Spellings of the tokens that begin and end a text, and whether every text begins with the first."""
    if base.kind == "gguf":
        from masa_training.models.llama import text_ends

        return text_ends(tokenizer)
    config = _folder_config(base.path)

    def spelled(name: str) -> str | None:
        value = config.get(name)
        value = value.get("content") if isinstance(value, dict) else value
        return value if isinstance(value, str) and tokenizer.token_id(value) is not None else None

    return spelled("bos_token"), bool(config.get("add_bos_token")), spelled("eos_token")


def _folder_config(folder: Path) -> dict[str, Any]:
    import json

    try:
        value = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
