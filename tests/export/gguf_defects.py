"""GGUF files and artifacts with something wrong in them: what an exporter can get wrong, planted on purpose."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Change = Callable[[str, np.ndarray], np.ndarray]


def rewrite_gguf(
    source: Path, target: Path, *, metadata: Mapping[str, Any] | None = None, tensors: Change | None = None
) -> Path:
    """Copy a GGUF of unquantized tensors; a metadata value of `...` removes the key, `tensors` may change numbers."""
    import gguf

    reader = gguf.GGUFReader(source)
    changes = dict(metadata or {})
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = changes.pop(name, None)
        if value is ...:
            continue
        kind, *inner = field.types
        content = field.contents() if value is None else value
        writer.add_key_value(name, content, kind, inner[0] if inner else None)
    assert not changes, f"{source} has no {changes}"
    for tensor in reader.tensors:
        data = np.array(tensor.data)
        if tensors is not None:
            data = tensors(tensor.name, data.astype(np.float32)).astype(data.dtype)
        writer.add_tensor(tensor.name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def tokens_of(path: Path) -> list[str]:
    import gguf

    return list(gguf.GGUFReader(path).fields["tokenizer.ggml.tokens"].contents())


def copy_artifact(source: Path, target: Path, **changes: Any) -> tuple[Path, Path]:
    """A copy to be spoilt: its folder and its weights. `changes` are to the manifest."""
    shutil.copytree(source, target)
    content = json.loads((target / "manifest.json").read_text("utf-8"))
    content.update(changes)
    (target / "manifest.json").write_text(json.dumps(content), encoding="utf-8")
    return target, target / content["weights"]


def seal(folder: Path) -> Path:
    """Make the manifest tell the files as they are now: checksums alone must not be what finds a defect."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text("utf-8"))
    for name, entry in content["files"].items():
        data = (folder / name).read_bytes()
        entry.update(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    path.write_text(json.dumps(content), encoding="utf-8")
    return folder
