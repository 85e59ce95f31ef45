"""A checkpoint merged into its Hugging Face base: a folder that llama.cpp's converter reads, one tensor at a time.

Changed tensors are stored in the type that the GGUF will have, so nothing is rounded twice; all others, and all files
but the weights, are copied.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from masa_export.base import Base
from masa_export.changes import Change, folder_changes
from masa_export.checkpoint import Checkpoint
from masa_export.merge import encode
from masa_export.tensors import MODEL_INDEX, TensorFile, header_of, open_model

_BESIDE = {".json", ".jinja", ".txt", ".model", ".tiktoken"}
"""Endings of the files that belong to a model beside its weights: configuration, tokenizer, chat template."""
_ROWS = 1 << 22


def merge_folder(
    checkpoint: Checkpoint,
    base: Base,
    target: Path,
    kind: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Make the folder `target`: the base's with the checkpoint merged in; `kind` is "F16", "BF16" or "F32".

    A full checkpoint's own weights are linked to, the tokenizer is the base's. `progress` as in `merge_into_gguf`.

    Raises:
        ExportError: if checkpoint and base do not fit, or a file is damaged.
        OSError: if a file cannot be written.
    """
    assert base.folder is not None
    target.mkdir()
    for path in sorted(base.folder.iterdir()):
        if path.is_file() and path.suffix in _BESIDE and path.name != MODEL_INDEX:
            shutil.copyfile(path, target / path.name)
    weights = checkpoint.path if checkpoint.kind == "full" else base.folder
    tensors = open_model(weights)
    if (weights / MODEL_INDEX).is_file():
        shutil.copyfile(weights / MODEL_INDEX, target / MODEL_INDEX)
    if checkpoint.kind == "full":
        for file in _files(tensors):
            (target / file.path.name).symlink_to(file.path.resolve())
        return
    shapes = {name: file.shapes[name] for name, file in tensors.items()}
    changes = folder_changes(checkpoint, base, shapes)
    done = 0
    for file in _files(tensors):
        stored = {name: (kind if name in changes else file.stored(name), file.shapes[name]) for name in file.shapes}
        with (target / file.path.name).open("wb") as out:
            out.write(header_of(stored))
            for name in stored:
                progress(done, len(tensors))
                done += 1
                if name in changes:
                    _write(file, name, changes[name], kind, out)
                else:
                    for piece in file.raw(name):
                        out.write(piece)


def _files(tensors: Mapping[str, TensorFile]) -> list[TensorFile]:
    return list({file.path: file for file in tensors.values()}.values())


def _write(file: TensorFile, name: str, change: Change, kind: str, out: BinaryIO) -> None:
    values = file.read(name)
    apply = change()
    step = max(1, _ROWS // values.shape[-1])
    for start in range(0, len(values), step):
        rows = apply(values[start : start + step], start)
        out.write(encode(rows, kind, f"{file.path}: {name}").tobytes())
