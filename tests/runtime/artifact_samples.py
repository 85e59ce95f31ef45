"""Small artifacts for the tests of artifacts and pulls; the bytes are not a model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

WEIGHTS = b"GGUF" + bytes(range(256)) * 40
ADAPTER = b"adapter " * 100


def entry(data: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def manifest(files_: dict[str, bytes] | None = None, /, **changes: Any) -> dict[str, Any]:
    """A valid manifest; a change to `...` removes the key."""
    contents = {"weights.gguf": WEIGHTS} if files_ is None else files_
    content: dict[str, Any] = {
        "format": 1,
        "name": "sample",
        "version": "0.1.0",
        "kind": "gguf",
        "language": "plan",
        "prompt_version": 1,
        "base_model": "Nobody/Sample",
        "weights": "weights.gguf",
        "adapter": None,
        "chat_template": {
            "before_system": [["<|im_start|>", True], ["system\n", False]],
            "before_user": [["<|im_end|>", True], ["\n", False]],
            "before_assistant": [],
            "stop": ["<|im_end|>"],
        },
        "context_length": 8192,
        "quantization": "Q4_1",
        "training_data": {"summary": "none", "trained": False},
        "licence": "Apache-2.0",
        "files": {name: entry(data) for name, data in contents.items()},
    }
    content.update(changes)
    return {key: value for key, value in content.items() if value is not ...}


def write_artifact(folder: Path, files: dict[str, bytes] | None = None, **changes: Any) -> Path:
    """An artifact's folder on disk, files first."""
    files = {"weights.gguf": WEIGHTS} if files is None else files
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "manifest.json").write_text(json.dumps(manifest(files, **changes)), encoding="utf-8")
    return folder
