"""What is in an artifact, a GGUF file, a Hugging Face folder, a card or a file of interface facts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from masa.cli.output import clean, size, table, wrap

_NAMES = {
    "artifact": "rewriter artifact",
    "gguf": "GGUF file",
    "huggingface": "Hugging Face model folder",
    "card": "model card",
    "facts": "interface facts",
}


def examine(path: Path, kind: str) -> dict[str, Any]:
    """What to tell about it, as JSON values by name."""
    readers = {"artifact": _artifact, "gguf": _gguf, "huggingface": _backbone, "card": _backbone, "facts": _facts}
    return {"path": str(path), **readers[kind](path)}


def as_text(kind: str, path: Path, found: dict[str, Any]) -> str:
    lines = [f"{click.style(clean(str(path)), bold=True)}: {_NAMES[kind]}", ""]
    rows: list[tuple[str, str]] = []
    for key, value in found.items():
        if key in ("path", "problems", "card"):
            continue
        shown = "\n".join(map(str, value)) if isinstance(value, list) else _shown(value)
        rows += [(key.replace("_", " ") if n == 0 else "", line) for n, line in enumerate(shown.split("\n"))]
    if rows:
        lines.append(_two_columns(rows))
    if card := found.get("card"):
        lines += ["", click.style("Model card", bold=True)]
        lines.append(table([(name, _shown(value)) for name, value in card.items()]))
    for problem in found.get("problems", []):
        lines += ["", click.style("! ", fg="yellow", bold=True) + wrap(problem, "", "  ")]
    if "problems" in found and not found["problems"]:
        lines += ["", "No problems found."]
    return "\n".join(lines)


def _two_columns(rows: list[tuple[str, str]]) -> str:
    column = max(len(name) for name, _ in rows) + 2
    return "\n".join(wrap(value, name.ljust(column), " " * column) for name, value in rows)


def _shown(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _artifact(path: Path) -> dict[str, Any]:
    from masa.artifact import find_packaged, load_artifact, read_manifest
    from masa.errors import MasaError

    folder = path if path.is_dir() else path.parent
    manifest = read_manifest(folder)
    problems: list[str] = []
    try:
        load_artifact(folder)
    except MasaError as error:
        problems.append(str(error))
    files = [f"{name} ({size(entry.size)}, in the folder)" for name, entry in manifest.files.items()]
    for name, entry in manifest.packaged.items():
        places = list(find_packaged(entry))
        where = places[0] if places else "not on this machine"
        files.append(f"{name} ({size(entry.size)}, package {entry.package} {entry.version}): {where}")
    return {
        "name": manifest.name,
        "version": manifest.version,
        "runtime": manifest.kind,
        "language": manifest.language,
        "trained": manifest.trained,
        "training_data": manifest.training_summary,
        "base_model": manifest.base_model,
        "quantization": manifest.quantization,
        "context_length": manifest.context_length,
        "prompt_version": manifest.prompt_version,
        "adapter": manifest.adapter or "none",
        "licence": manifest.licence,
        "fingerprint": manifest.fingerprint,
        "files": files,
        "problems": problems,
    }


def _gguf(path: Path) -> dict[str, Any]:
    from masa.backbones import resolve_backbone
    from masa.errors import MasaError
    from masa.formats.gguf_header import read_header

    header = read_header(path)
    types = Counter(tensor.type for tensor in header.tensors)
    metadata = header.metadata
    found: dict[str, Any] = {
        "name": header.text("general.name"),
        "type": header.text("general.type"),
        "architecture": header.text("general.architecture"),
        "licence": header.text("general.license"),
        "gguf_version": header.version,
        "size": size(header.size),
        "tensors": len(header.tensors),
        "tensor_types": ", ".join(f"{_type_name(kind)} ×{number}" for kind, number in types.most_common()),
        "parameters": header.elements,
        "chat_template": "tokenizer.chat_template" in metadata,
    }
    try:
        card = resolve_backbone(str(path))
        found["card"] = card.fields()
        found["problems"] = []
    except MasaError as error:  # an adapter or a vocabulary is a sound GGUF file, though no backbone
        found["problems"] = [str(error)]
    return found


def _backbone(path: Path) -> dict[str, Any]:
    from masa.backbones import resolve_backbone
    from masa.cards import FIELDS

    card = resolve_backbone(str(path))
    unknown = len(FIELDS) - len(card.fields())
    return {
        "name": card.name,
        "fingerprint": card.fingerprint,
        "unknown_fields": unknown,
        **({"note": card.note} if card.note else {}),
        "card": card.fields(),
        "problems": [],
    }


def _facts(path: Path) -> dict[str, Any]:
    from masa.facts import load_facts

    facts = load_facts(path)
    return {
        "environment": facts.environment,
        "actions": [action.form + (f" – {action.meaning}" if action.meaning else "") for action in facts.actions],
        "rules": list(facts.rules),
        "examples": len(facts.examples),
        "problems": [],
    }


def _type_name(kind: int) -> str:
    # ggml's own numbers; the ones that language models are shipped in.
    names = {
        0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K",
        12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 20: "IQ4_NL", 23: "IQ4_XS", 30: "BF16", 39: "MXFP4",
    }  # fmt: skip
    return names.get(kind, f"type {kind}")
