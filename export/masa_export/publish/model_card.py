"""README.md of a published artifact: a model card as the Hugging Face Hub reads it.

The YAML header follows the Hub's model card specification (huggingface.co/docs/hub/model-cards). Everything in the
text comes from the manifest and from the report of `masa export verify`; what they do not tell is said to be unknown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from masa import __version__
from masa.artifact import Artifact
from masa_export.publish.modelfile import MODELFILE_NAME
from masa_export.source import UNKNOWN_LICENCE
from masa_export.verify.report import JSON_NAME, MARKDOWN_NAME, figures_table
from masa_export.verify.stored_report import StoredReport
from masa_export.verify.thresholds import limits_told

CARD_NAME = "README.md"

# The Hub's licence identifiers that a rewriter's base or ours may have; any other licence is "other" with its name.
_LICENCES = frozenset({
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "mpl-2.0", "unlicense", "cc0-1.0", "cc-by-4.0",
    "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "openrail", "gemma", "llama2",
    "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "unknown",
})  # fmt: skip
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_UNQUANTIZED = ("F32", "F16", "BF16", "FP32", "FP16")
_LANGUAGE = {
    "plan": "a plan, one line of named edits for each skill, which masa then applies",
    "text": "the skills anew, as text",
}


def model_card(
    artifact: Artifact,
    report: StoredReport,
    *,
    repository: str | None,
    base_model: str | None,
    licence_file: str | None,
) -> str:
    """The card's text. `repository` is OWNER/NAME on the Hub, `base_model` that of the base, where they are known."""
    header = yaml.safe_dump(
        _header(artifact, base_model, licence_file), sort_keys=False, allow_unicode=True, width=1000
    )
    sections = [
        _what(artifact),
        _use(artifact, repository),
        _figures(report),
        _data(artifact),
        _limits(artifact, report),
    ]
    return f"---\n{header}---\n\n# {artifact.name}\n\n" + "\n".join(sections)


def is_hub_id(name: str) -> bool:
    """Whether this can be the id of a model on the Hub, OWNER/NAME."""
    return _HUB_ID.fullmatch(name) is not None and "--" not in name and ".." not in name


def base_model_relation(artifact: Artifact) -> str:
    """How the Hub calls what was done to the base: adapter, quantized or finetune.

    Weights that were trained and quantized are a fine-tune: "quantized" would say that they still are the base's.
    """
    if artifact.adapter is not None:
        return "adapter"
    quantized = artifact.quantization is not None and artifact.quantization.upper() not in _UNQUANTIZED
    return "quantized" if quantized and not artifact.trained else "finetune"


def _header(artifact: Artifact, base_model: str | None, licence_file: str | None) -> Mapping[str, Any]:
    licence = artifact.licence.strip().lower().replace(" ", "-")
    header: dict[str, Any] = {"license": licence if licence in _LICENCES else "other"}
    if header["license"] == "other":
        header["license_name"] = re.sub(r"[^a-z0-9.-]+", "-", licence).strip("-") or "other"
        if licence_file is not None:
            header["license_link"] = licence_file
    if base_model is not None:
        header["base_model"] = base_model
        header["base_model_relation"] = base_model_relation(artifact)
    tags = ["masa", "agent-skills", artifact.kind, f"{artifact.language}-rewriter"]
    if artifact.kind == "gguf":
        tags += ["llama.cpp", "ollama"]
    return {
        **header,
        "library_name": "masa",
        "pipeline_tag": "text-generation",
        "language": ["en"],
        "tags": tags,
    }


def _what(artifact: Artifact) -> str:
    made = f"Its base is {artifact.base_model}"
    if artifact.adapter is not None:
        made += f" with the LoRA adapter `{artifact.adapter}`"
    kind = {"gguf": "GGUF", "onnx": "ONNX"}[artifact.kind]
    return (
        "A rewriter for masa ([the method](https://arxiv.org/abs/2605.30723)): it reads a group of an agent's skills "
        "and the model card of the language model that will follow them, and writes "
        f"{_LANGUAGE[artifact.language]}. It runs on the agent's own device, without network.\n\n"
        f"{made}; weights {artifact.quantization or 'not quantized'} ({kind}), version {artifact.version}, context "
        f"{artifact.context_length} tokens, prompt version {artifact.prompt_version}. Licence: {artifact.licence}.\n"
    )


def _use(artifact: Artifact, repository: str | None) -> str:
    extra = "llama" if artifact.kind == "gguf" else "onnx"
    lines = [f'pip install "masa-skills[{extra}]"']
    if repository is None:
        lines += ["masa inspect .", "masa rewrite skills.json --backbone agent.gguf --rewriter ."]
    else:
        name = repository.split("/")[1]
        lines += [f"masa pull hf:{repository}", f"masa rewrite skills.json --backbone agent.gguf --rewriter {name}"]
    where = "In this folder:\n\n" if repository is None else ""
    text = f"## Use\n\n{where}```\n" + "\n".join(lines) + "\n```\n"
    if artifact.kind == "gguf":
        text += (
            f"\n`ollama create {artifact.name} -f {MODELFILE_NAME}` serves the bare model to programs that render the "
            "user message as masa does: without masa's grammar and guard, and special tokens that are spelled inside a "
            "skill count as such there.\n"
        )
    return text


def _figures(report: StoredReport) -> str:
    lines = [
        "## Parity with the checkpoint\n",
        f"Measured by `masa export verify` on {report.chosen} samples, thresholds for "
        f"{limits_told(report.strictness, report.verdicts)}; the whole report is in "
        f"[{MARKDOWN_NAME}]({MARKDOWN_NAME}) and [{JSON_NAME}]({JSON_NAME}).\n",
        *figures_table(report.verdicts),
    ]
    return "\n".join(lines) + "\n"


def _data(artifact: Artifact) -> str:
    data = artifact.training_data
    lines = ["## Training data\n", f"{artifact.training_summary}\n"]
    if not artifact.trained:
        return "\n".join([*lines, "It was not trained to rewrite skills.\n"])
    origin = {True: "generated", False: "from real runs", None: "unknown"}[data.synthetic]
    lines += [
        f"- data set: {data.dataset or 'unknown'}"
        + (f", sha256 `{data.dataset_sha256}`" if data.dataset_sha256 else ""),
        f"- origin: {origin}",
        f"- licence: {data.licence or 'not told in the manifest'}",
    ]
    if data.held_out:
        lines.append(f"- never trained on: {', '.join(data.held_out)}")
    return "\n".join(lines) + "\n"


def _limits(artifact: Artifact, report: StoredReport) -> str:
    lines = ["## Limits\n"]
    if artifact.training_data.synthetic:
        lines.append("- What it learned follows stated rules of a generator, not results of agents in an environment.")
    if artifact.licence == UNKNOWN_LICENCE:
        lines.append("- Its licence is unknown: ask its authors before you use or pass it on.")
    lines += [
        "- Parity says that this file still writes what its checkpoint writes, not that the rewrites are good.",
        f"- The report rests on {report.chosen} samples; speed and memory, where measured, are those of its machine.",
        "- The prompt is English; skills and model cards are expected to be, too.",
        "- masa keeps a group as it was where the output does not parse, is cut, or does not pass the guard.",
        f"\nPackaged by masa {__version__}; checksums in `manifest.json` and `SHA256SUMS`.",
    ]
    return "\n".join(lines) + "\n"
