"""Base models: what a rewriter is fine-tuned from, and the tokenizer whose ids training and device share.

llama.cpp's tokenizer is the reference. A base given as GGUF is tokenized by it directly:
the tokenizer that transformers builds from a GGUF is wrong for both models tried. A Hugging Face folder is tokenized
by its own tokenizer, which `masa_training.encoding.prove_tokenizer` compares with a GGUF of the same model.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masa.backends.tokenizing import Tokenizer, text_but
from masa.chat_templates import TemplateError, compile_template, stored_template
from masa.checksums import sha256_file
from masa.errors import ArtifactError, BackendError, FormatError
from masa.files import parse_json
from masa.prompt import CHATML, ChatTemplate, Segment
from masa_training.errors import TrainingError

if TYPE_CHECKING:
    import torch

GEMMA = ChatTemplate(
    before_system=(Segment("<bos>", True), Segment("<start_of_turn>", True), Segment("user\n")),
    # Gemma knows no system message: its template puts that text in front of the user's.
    before_user=(Segment("\n\n"),),
    before_assistant=(
        Segment("<end_of_turn>", True),
        Segment("\n"),
        Segment("<start_of_turn>", True),
        Segment("model\n"),
    ),
    stop=("<end_of_turn>",),
)
TEMPLATES = {"chatml": CHATML, "gemma": GEMMA}
"""Chat templates by name, for a base that comes without one."""

_MARKS = ("\u2983system\u2984", "\u2983user\u2984")


@dataclass(frozen=True)
class Base:
    """A model to fine-tune: a GGUF file or a Hugging Face folder.

    Attributes:
        spec: what the user called it.
        kind: "gguf" or "hf".
        context_length: longest sequence it was made for, in tokens.
        template: fixed pieces of its chat format.
    """

    spec: str
    kind: str
    path: Path
    context_length: int
    template: ChatTemplate

    @property
    def name(self) -> str:
        return self.path.stem if self.kind == "gguf" else self.path.name

    @functools.cached_property
    def sha256(self) -> str:
        """Of the GGUF file, or of a folder as `folder_sha256`."""
        return sha256_file(self.path) if self.kind == "gguf" else folder_sha256(self.path)

    @functools.cached_property
    def _tokenizer(self) -> Tokenizer:
        if self.kind == "gguf":
            from masa.backends.llama import LlamaBackend

            return LlamaBackend.load(self.path, vocab_only=True)
        return FolderTokenizer(self.path)

    def tokenizer(self) -> Tokenizer:
        """Loaded once."""
        return self._tokenizer

    def model(self, dtype: torch.dtype) -> Any:
        """The weights as a transformers model, de-quantized if they are a GGUF's.

        Raises:
            TrainingError: if transformers cannot read them.
        """
        return load_model(self.path, dtype)


def load_model(path: Path, dtype: torch.dtype) -> Any:
    """The transformers model in a Hugging Face folder or in a GGUF file, which is de-quantized.

    Raises:
        TrainingError: if transformers cannot read it.
    """
    import transformers
    from transformers.utils import logging as chatter

    folder, extra = path, dict[str, Any]()
    if path.is_file():
        folder, extra = path.parent, {"gguf_file": path.name}
        if hasattr(transformers, "GgufConfig"):  # without it, transformers 5.24 keeps blocks packed where it can
            extra["quantization_config"] = transformers.GgufConfig(dequantize=True)
    chatter.disable_progress_bar()
    # peft 0.21 asks every model for it by the name of transformers 4.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
    try:
        # De-quantizing draws a progress bar that cannot be turned off otherwise.
        with contextlib.redirect_stderr(io.StringIO()):
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **extra)
    except (OSError, ValueError, KeyError, RuntimeError, NotImplementedError) as error:
        raise TrainingError(
            f"{path}: transformers cannot load this model ({' '.join(str(error).split())[:200]}); give a complete "
            "GGUF or Hugging Face folder of an architecture that it knows"
        ) from error
    if extra and getattr(model, "hf_quantizer", None) is not None:
        # transformers 5.24 goes on calling a de-quantized model quantized, and then refuses to train or save it.
        model.hf_quantizer = None
        del model.config.quantization_config
    return model


class FolderTokenizer:
    """The tokenizer of a Hugging Face folder, kept from reading special tokens into texts.

    Raises:
        BackendError: if transformers cannot load it.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError, KeyError) as error:
            raise BackendError(
                f"{folder}: transformers cannot load its tokenizer ({' '.join(str(error).split())[:200]}); give the "
                "complete folder of the model"
            ) from error
        added = self._tokenizer.added_tokens_decoder
        self._controls = tuple(str(token) for token in added.values() if token.special)
        self._special = {number for number, token in added.items() if token.special}

    def tokenize(self, segments: Sequence[Segment]) -> list[int]:
        ids: list[int] = []
        for segment in segments:
            encoded = self._tokenizer(segment.text, add_special_tokens=False, split_special_tokens=not segment.control)
            ids += encoded["input_ids"]
        return ids

    def detokenize(self, tokens: Sequence[int]) -> bytes:
        kept = [token for token in tokens if token not in self._special]
        text: str = self._tokenizer.decode(kept, clean_up_tokenization_spaces=False)
        return text.encode("utf-8")

    def token_id(self, text: str) -> int | None:
        return self._tokenizer.convert_tokens_to_ids(text) if text in self._controls else None

    def control_tokens(self) -> tuple[str, ...]:
        return self._controls

    def grammar_tokenizer(self) -> Any:
        from llguidance.hf import from_tokenizer

        return text_but(self._special, from_tokenizer(self._tokenizer), lambda text: self.tokenize([Segment(text)]))


def open_base(spec: str, template: str | None = None) -> Base:
    """The base model that `spec` names: a GGUF file, a Hugging Face folder, an artifact (its weights) or a
    backbone whose weights were pulled by name.

    `template` is a name of `TEMPLATES` for a base without a chat template; it wins over the base's own.

    Raises:
        TrainingError: if there is no such model, or it has no chat template and none is given.
    """
    path = Path(spec).expanduser()
    if not path.exists():
        path = _named_weights(spec)
    if template is not None and template not in TEMPLATES:
        raise TrainingError(f"unknown chat template {template!r}; the known ones are {', '.join(TEMPLATES)}")
    if path.is_dir():
        config = _json(path / "config.json")
        context = int(config.get("max_position_embeddings") or 0)
        source = stored_template(path)
        controls = _folder_controls(path)
        kind = "hf"
    else:
        from masa.formats.gguf_header import read_header

        try:
            header = read_header(path)
        except FormatError as error:
            raise TrainingError(str(error)) from None
        metadata = header.metadata
        context = int(str(metadata.get(f"{metadata.get('general.architecture')}.context_length", 0)))
        source = stored_template(path)
        controls = None
        kind = "gguf"
    if template is not None:
        pieces = TEMPLATES[template]
    elif source is None:
        raise TrainingError(
            f"{path}: this base model has no chat template; set `template` to one of {', '.join(TEMPLATES)}"
        )
    else:
        if controls is None:
            from masa.backends.llama import LlamaBackend

            vocabulary = LlamaBackend.load(path, vocab_only=True)
            controls = vocabulary.control_tokens()
            vocabulary.close()
        pieces = template_pieces(source, controls, str(path))
    if context < 1:
        raise TrainingError(f"{path}: the model does not say how long its context is; give another base")
    return Base(spec, kind, path, context, pieces)


def template_pieces(source: str, controls: Sequence[str], where: str) -> ChatTemplate:
    """The fixed pieces of a Jinja chat template: what it puts around a system and a user message.

    The template is rendered with two marks for the messages, and once more with an answer, to see how that ends.
    `controls` are the spellings of the special tokens.

    Raises:
        TrainingError: if it does not treat a system, a user and an assistant message in that order.
    """
    system, user = _MARKS
    answer = "\u2983answer\u2984"
    conversation = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    bos = next((c for c in controls if c in ("<bos>", "<s>", "<|begin_of_text|>")), "")
    common = {"bos_token": bos, "eos_token": "", "tools": None, "enable_thinking": False}
    try:
        render = compile_template(source)
        asked = render(messages=conversation, add_generation_prompt=True, **common)
        whole = render(
            messages=[*conversation, {"role": "assistant", "content": answer}], add_generation_prompt=False, **common
        )
        before, rest = asked.split(system)
        between, after = rest.split(user)
        ending = whole.split(answer)[1]
    except (TemplateError, ValueError, IndexError) as error:  # the last two: a message is not where it belongs
        raise TrainingError(
            f"{where}: its chat template cannot be used ({error}); set `template` to one of {', '.join(TEMPLATES)}"
        ) from None
    stop = next((piece for piece in _split(ending, controls) if piece.control), None)
    if stop is None:
        raise TrainingError(
            f"{where}: its chat template ends an answer with no special token; "
            f"set `template` to one of {', '.join(TEMPLATES)}"
        )
    return ChatTemplate(_split(before, controls), _split(between, controls), _split(after, controls), (stop.text,))


def _split(text: str, controls: Sequence[str]) -> tuple[Segment, ...]:
    """Text in pieces, the special tokens apart."""
    if not controls:
        return (Segment(text),) if text else ()
    pattern = "(" + "|".join(re.escape(token) for token in sorted(controls, key=len, reverse=True)) + ")"
    pieces = [piece for piece in re.split(pattern, text) if piece]
    return tuple(Segment(piece, piece in set(controls)) for piece in pieces)


def _named_weights(spec: str) -> Path:
    from masa.weights import find_weights

    try:
        return find_weights(spec, or_else=" or a Hugging Face folder")
    except ArtifactError as error:
        raise TrainingError(str(error)) from None


def folder_sha256(folder: Path) -> str:
    """The sha256 of a folder's weight files, one after the other in order of their names."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _json(path: Path) -> dict[str, Any]:
    try:
        value = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError):
        raise TrainingError(f"{path}: no readable JSON; give a complete Hugging Face folder") from None
    return value if isinstance(value, dict) else {}


def _folder_controls(path: Path) -> tuple[str, ...]:
    added = _json(path / "tokenizer.json").get("added_tokens", ())
    return tuple(token["content"] for token in added if token.get("special"))
