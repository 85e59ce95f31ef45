"""The base model of a checkpoint: where it lies now, and what of its shape an adapter's export needs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from masa.artifact import find_artifact, read_manifest
from masa.checksums import verified_sha256
from masa.errors import MasaError
from masa.files import parse_json, read_text
from masa.formats.gguf_header import is_gguf, read_header
from masa.weights import find_weights
from masa_export.checkpoint import Checkpoint
from masa_export.errors import ExportError

ARCHITECTURES = ("llama", "gemma3", "qwen2", "qwen3")
"""GGUF names of the architectures that can be exported."""
UNKNOWN_LICENCE = "unknown"
_MODEL_TYPES = {"llama": "llama", "gemma3_text": "gemma3", "qwen2": "qwen2", "qwen3": "qwen3"}


@dataclass(frozen=True, slots=True)
class Base:
    """A base model. `gguf` is its GGUF file, `folder` its Hugging Face folder, where there is one of them.

    `shapes` are those of the GGUF's tensors, inputs first as GGUF tells them; None where only the folder is known.
    """

    name: str
    architecture: str
    layers: int
    heads: int
    kv_heads: int
    gguf: Path | None = None
    folder: Path | None = None
    shapes: Mapping[str, tuple[int, ...]] | None = field(default=None, repr=False)


def find_base(checkpoint: Checkpoint, given: str | None = None) -> Base:
    """The base of `checkpoint`: what is `given` (a GGUF file, a folder, an artifact's name), else where it was trained.

    Raises:
        ExportError: if it is not there, is another one (by sha256 for a GGUF), or of an architecture not in
            `ARCHITECTURES`.
    """
    note = checkpoint.base
    if note.kind == "gguf":
        path = _locate(checkpoint, given)
        sha256 = verified_sha256(path, note.sha256)
        if sha256 != note.sha256:
            raise ExportError(
                f"{path}: not the base of {checkpoint.path} (sha256 {sha256[:12]}…, it was trained on "
                f"{note.sha256[:12]}…); give the right file with --base"
            )
        return replace(gguf_base(path), name=note.name)
    folder = Path(note.path)
    found = _from_folder(folder) if (folder / "config.json").is_file() else None
    if given is not None and Path(given).is_dir():
        found = _from_folder(Path(given))
    elif given is not None:
        from_file = gguf_base(_gguf_file(given))
        _same(from_file, found)
        found = replace(from_file, folder=found.folder if found else None)
    if found is None:
        raise ExportError(f"{folder}: the base of {checkpoint.path} is not there; give its folder with --base")
    return replace(found, name=note.name)


def origin(checkpoint: Checkpoint, base: Base) -> tuple[str, str]:
    """Name and licence of the base: from the artifact it was, else from its GGUF, else what the checkpoint calls it."""
    with contextlib.suppress(MasaError):
        manifest = read_manifest(find_artifact(checkpoint.base.spec))
        weights = manifest.entries[manifest.weights]
        if weights.sha256 == checkpoint.base.sha256:
            return manifest.base_model, manifest.licence
    licence = read_header(base.gguf).text("general.license") if base.gguf is not None else None
    return checkpoint.base.name, licence or UNKNOWN_LICENCE


def _same(file: Base, folder: Base | None) -> None:
    if folder is not None and replace(file, name="", gguf=None, shapes=None) != replace(folder, name="", folder=None):
        raise ExportError(f"{file.gguf}: has another shape than {folder.folder}; give a GGUF made from that folder")


def _locate(checkpoint: Checkpoint, given: str | None) -> Path:
    if given is not None:
        return _gguf_file(given)
    note = checkpoint.base
    if Path(note.path).is_file():
        return Path(note.path)
    try:
        return find_weights(note.spec, verify=False)
    except MasaError:
        raise ExportError(
            f"{note.path}: the base of {checkpoint.path} is not there; give the GGUF file with --base"
        ) from None


def _gguf_file(given: str) -> Path:
    path = Path(given)
    if path.is_file():
        if not is_gguf(path):
            raise ExportError(f"{path}: not a GGUF file; give the base as .gguf")
        return path
    try:
        return find_weights(given, verify=False)
    except MasaError as error:
        raise ExportError(f"--base {given}: neither a GGUF file nor a rewriter that is here ({error})") from None


def gguf_base(path: Path) -> Base:
    """The base in the GGUF file at `path`, called after the file.

    Raises:
        MasaError: if it is no GGUF file, damaged, or of an architecture not in `ARCHITECTURES`.
    """
    header = read_header(path)
    architecture = header.text("general.architecture") or "none"
    _check(architecture, ARCHITECTURES, path)

    def number(key: str) -> int:
        value = header.metadata.get(f"{architecture}.{key}")
        return _positive(value, f"{architecture}.{key}", path)

    heads = number("attention.head_count")
    kv_heads = (
        number("attention.head_count_kv") if f"{architecture}.attention.head_count_kv" in header.metadata else heads
    )
    return Base(
        name=path.stem,
        architecture=architecture,
        layers=number("block_count"),
        heads=heads,
        kv_heads=kv_heads,
        gguf=path,
        shapes={tensor.name: tensor.shape for tensor in header.tensors},
    )


def _from_folder(folder: Path) -> Base:
    path = folder / "config.json"
    try:
        config: Any = parse_json(read_text(path))
    except ValueError:
        raise ExportError(f"{path}: no JSON; fetch the base again") from None
    except MasaError as error:
        raise ExportError(str(error)) from None
    if not isinstance(config, dict):
        raise ExportError(f"{path}: no JSON object; fetch the base again")
    kind = str(config.get("model_type"))
    _check(kind, tuple(_MODEL_TYPES), path)
    heads = _positive(config.get("num_attention_heads"), "num_attention_heads", path)
    return Base(
        name=folder.name,
        architecture=_MODEL_TYPES[kind],
        layers=_positive(config.get("num_hidden_layers"), "num_hidden_layers", path),
        heads=heads,
        kv_heads=_positive(config.get("num_key_value_heads", heads), "num_key_value_heads", path),
        folder=folder,
    )


def _check(architecture: str, known: tuple[str, ...], path: Path) -> None:
    if architecture not in known:
        raise ExportError(
            f"{path}: the architecture {architecture} cannot be exported, only {', '.join(known)}; take another base"
        )


def _positive(value: object, key: str, path: Path) -> int:
    if type(value) is not int or value < 1:
        raise ExportError(f"{path}: {key} is {value!r}, not a number above 0; the base is damaged, fetch it again")
    return value
