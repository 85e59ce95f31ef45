"""A checkpoint as a transformers model: the reference that every export is compared with."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masa_export.base import Base
from masa_export.checkpoint import Checkpoint
from masa_export.errors import ExportError

if TYPE_CHECKING:
    import torch


def load_base(base: Base, dtype: torch.dtype) -> Any:
    """The base without what was trained; a GGUF is de-quantized.

    Raises:
        ExportError: if transformers cannot read it.
    """
    if base.folder is not None:
        return load_folder(base.folder, dtype)
    assert base.gguf is not None
    return load_folder(base.gguf.parent, dtype, gguf_file=base.gguf.name)


def load_checkpoint(checkpoint: Checkpoint, base: Base, dtype: torch.dtype, model: Any = None) -> Any:
    """The trained model, a LoRA merged into its base. `model` is the base where it is loaded already; it is changed.

    Raises:
        ExportError: if a library cannot load base or checkpoint.
    """
    if checkpoint.kind == "full":
        return load_folder(checkpoint.path, dtype)
    from peft import PeftModel

    model = load_base(base, dtype) if model is None else model
    try:
        merged: Any = PeftModel.from_pretrained(model, str(checkpoint.path))
        return merged.merge_and_unload()
    except (OSError, ValueError, KeyError, RuntimeError, NotImplementedError) as error:
        raise ExportError(
            f"{checkpoint.path}: transformers cannot merge this checkpoint ({_first_line(error)}); "
            "give the base that it was trained on with --base"
        ) from error


def load_folder(folder: Path, dtype: torch.dtype, **where: str) -> Any:
    """A model that transformers reads from `folder`.

    Raises:
        ExportError: if it cannot.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as chatter

    chatter.disable_progress_bar()
    try:
        # De-quantizing draws a progress bar that cannot be turned off otherwise.
        with contextlib.redirect_stderr(io.StringIO()):
            return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **where)
    except (OSError, ValueError, KeyError, RuntimeError, NotImplementedError) as error:
        name = folder / where["gguf_file"] if "gguf_file" in where else folder
        raise ExportError(
            f"{name}: transformers cannot load this model ({_first_line(error)}); give one of an architecture that "
            "it knows"
        ) from error


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split("\n")[0].split())[:200]
