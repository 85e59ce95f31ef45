"""The checkpoint behind the runtime's protocol: transformers for the logits, the base's own tokenizer for the tokens.

So the same engine, grammar and guard run the checkpoint and the artifact, and every difference is the export's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masa.artifact import Artifact
from masa.backends.tokenizing import Tokenizer
from masa.backends.transformers import FolderTokenizer, TransformersBackend
from masa.chat_templates import stored_template
from masa.errors import MasaError
from masa.files import parse_json, read_text
from masa.prompt import ChatTemplate
from masa_export.base import Base, find_base
from masa_export.checkpoint import NOTES, read_checkpoint
from masa_export.errors import ExportError
from masa_export.transformers_model import load_checkpoint, load_folder

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True)
class Reference:
    """A checkpoint that is not loaded yet.

    `template` is None where only a Hugging Face folder is known, which has its chat template as `jinja` alone.
    `jinja` is the source of the base's chat template, None where it has none.
    """

    path: Path
    name: str
    language: str | None
    prompt_version: int | None
    template: ChatTemplate | None
    jinja: str | None
    context_length: int
    checkpoint: Any
    base: Base | None

    def tokenizer(self) -> Tokenizer:
        """The tokenizer it was trained with: llama.cpp's of a GGUF base, else that of the base's folder."""
        if self.base is not None and self.base.folder is None:
            from masa.backends.llama import LlamaBackend

            assert self.base.gguf is not None
            return LlamaBackend.load(self.base.gguf, vocab_only=True)
        folder = self.path if self.base is None else self.base.folder
        assert folder is not None
        return FolderTokenizer(folder)

    def open(self, tokenizer: Tokenizer, dtype: str = "float32") -> TransformersBackend:
        """The model, loaded.

        Raises:
            ExportError: if a library cannot load it, or its memory is not there.
        """
        import torch

        kind = getattr(torch, dtype)
        try:
            if self.base is None:
                model = load_folder(self.path, kind)
            else:
                model = load_checkpoint(self.checkpoint, self.base, kind)
        except MemoryError:
            raise ExportError(f"{self.path}: not enough memory for the checkpoint; use --dtype bfloat16") from None
        return TransformersBackend(model, tokenizer, context_length=self.context_length)


def find_reference(path: Path, base: str | None = None) -> Reference:
    """The checkpoint of `masa distill`, or the Hugging Face folder of a rewriter that was trained elsewhere.

    Raises:
        ExportError: if it is neither, or its base is not there.
    """
    if not (path / NOTES).is_file() and (path / "config.json").is_file():
        config = _json(path / "config.json")
        context = int(config.get("max_position_embeddings") or 0)
        if context < 1:
            raise ExportError(f"{path / 'config.json'}: does not tell max_position_embeddings; add it")
        return Reference(path, path.name, None, None, None, stored_template(path), context, None, None)
    checkpoint = read_checkpoint(path, full=True)
    found = find_base(checkpoint, base)
    where = found.folder or found.gguf
    jinja = None if where is None else stored_template(where)
    return Reference(
        path=path,
        name=found.name,
        language=checkpoint.language,
        prompt_version=checkpoint.prompt_version,
        template=checkpoint.template,
        jinja=jinja,
        context_length=checkpoint.context_length,
        checkpoint=checkpoint,
        base=found,
    )


def artifact_jinja(artifact: Artifact) -> str | None:
    """The source of the chat template that an artifact carries for other programs; None where it has none."""
    return stored_template(artifact.weights_path if artifact.kind == "gguf" else artifact.path)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = parse_json(read_text(path))
    except (MasaError, ValueError):
        raise ExportError(f"{path}: no readable JSON; give a complete Hugging Face folder") from None
    return value if isinstance(value, dict) else {}
