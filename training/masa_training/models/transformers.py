"""A transformers model in this process: a checkpoint of `masa distill`, or a base model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from masa.backends.tokenizing import Tokenizer
from masa.chat_templates import stored_template
from masa.files import parse_json
from masa_training.bases import Base, open_base
from masa_training.checkpoint import base_of, read_checkpoint
from masa_training.errors import TrainingError
from masa_training.models.chat import TEMPLATES, ChatFormat
from masa_training.models.choice import Scoring
from masa_training.models.in_process import InProcessModel
from masa_training.models.transformers_engine import TransformersEngine
from masa_training.transformers_backend import device_of


def open_checkpoint_model(
    folder: str, *, dtype: str = "bfloat16", merge: bool = True, **options: Any
) -> InProcessModel:
    """The model of a checkpoint that `masa distill` made; `options` are those of `transformers_model`.

    With `merge` a LoRA is added to the weights in 32 bits and then rounded to `dtype`, which computes faster than an
    adapter beside them.

    Raises:
        TrainingError: if the folder is no checkpoint, or its base is missing or another one.
    """
    from masa_training.transformers_backend import DTYPES, open_checkpoint

    checkpoint = read_checkpoint(folder)
    if dtype not in DTYPES:
        raise TrainingError(f"unknown dtype {dtype!r}; the known ones are {', '.join(DTYPES)}")
    merging = merge and checkpoint.kind == "lora"
    device = options.pop("device", None)
    opened = open_checkpoint(checkpoint, dtype="float32" if merging else dtype, device=device)
    model = opened.model
    if merging:
        model = model.merge_and_unload().to(getattr(torch, dtype))
    base = base_of(checkpoint)
    if options.get("template") is None and stored_template(base.path) is None:
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
    model = base.model(getattr(torch, dtype)).to(device_of(device))
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
    chat = chat_format(base, template, template_options)

    def make() -> TransformersEngine:
        return TransformersEngine(model, slots=slots, length=longest, together=together)

    return InProcessModel(name, chat, base.tokenizer(), make, slots=slots, scoring=scoring)


def chat_format(
    base: Base, template: str | None = None, template_options: Mapping[str, Any] | None = None
) -> ChatFormat:
    """How conversations with this base are written: by the given template, or else by its own.

    Raises:
        TrainingError: as `ChatFormat`.
    """
    tokenizer = base.tokenizer()
    source = template if template is not None else stored_template(base.path)
    bos, add_bos, eos = _ends(base, tokenizer)
    return ChatFormat(
        tokenizer,
        TEMPLATES.get(source, source) if source is not None else None,
        bos=bos,
        add_bos=add_bos,
        eos=eos,
        options=template_options,
        where=str(base.path),
    )


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

    try:
        value = parse_json((folder / "tokenizer_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
