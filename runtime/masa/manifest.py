"""The manifest of an artifact: what it holds, and the strict reader of `manifest.json`.

Reading touches no file but the manifest; `masa.artifact` finds and verifies the files it names.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from masa.codec import template_from_fields
from masa.errors import ArtifactError, FormatError
from masa.files import ParseError, decode, parse_json
from masa.json_fields import Fields, kind_of
from masa.languages import LANGUAGES
from masa.prompt import PROMPT_VERSION, ChatTemplate

MANIFEST_NAME = "manifest.json"
FORMAT = 1
"""The newest manifest format this masa reads."""
KINDS = ("gguf", "onnx")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file that lies in the artifact's folder; `size` in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class PackagedEntry:
    """A file that lies inside a Python package, at `path` from where packages are installed."""

    package: str
    version: str
    path: str
    sha256: str
    size: int

    @property
    def filename(self) -> str:
        return PurePosixPath(self.path).name


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The data set a rewriter was trained on, as far as the manifest tells; `held_out` is what it never saw."""

    dataset: str | None = None
    dataset_sha256: str | None = None
    synthetic: bool | None = None
    held_out: tuple[str, ...] = ()
    licence: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of `manifest.json`.

    `files` and `packaged` name every file of the artifact once; `weights` and `adapter` are such names.
    `training_data` tells what the rewriter was trained on; of its parts,
    only `training_summary` and `trained` are in every manifest. `fingerprint` is the sha256 of the whole content,
    checksums included, and does not depend on white space or key order.
    """

    name: str
    version: str
    kind: str
    language: str
    prompt_version: int
    base_model: str
    weights: str
    adapter: str | None
    chat_template: ChatTemplate
    context_length: int
    quantization: str | None
    training_summary: str
    trained: bool
    training_data: TrainingData
    licence: str
    files: Mapping[str, FileEntry] = field(hash=False)
    packaged: Mapping[str, PackagedEntry] = field(hash=False)
    fingerprint: str

    @property
    def stop(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        return self.chat_template.stop

    @property
    def entries(self) -> dict[str, FileEntry | PackagedEntry]:
        """Every file by name, wherever it lies."""
        return {**self.files, **self.packaged}


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Read a manifest; `where` names it in errors.

    Raises:
        ArtifactError: for anything but a complete manifest of a format and a prompt version that this
            masa knows; the message says what was found and what to do.
    """
    content = load_object(data, where)
    fields = Fields(content, where, ArtifactError)
    # First of all: a newer manifest may have any keys.
    version = fields.integer("format")
    if version > FORMAT:
        fields.fail(f"format {version}, this masa reads {FORMAT}; upgrade masa or re-export")
    prompt_version = fields.integer("prompt_version")
    if prompt_version > PROMPT_VERSION:
        fields.fail(f"prompt_version {prompt_version}, this masa reads {PROMPT_VERSION}; upgrade masa or re-export")
    fields.only(
        "format name version kind language prompt_version base_model weights adapter chat_template stop "
        "context_length quantization training_data licence files packaged"
    )
    training = fields.nested("training_data", "summary trained dataset dataset_sha256 synthetic held_out licence")
    template = fields.nested("chat_template", "before_system before_user before_assistant stop")
    files = {
        name: FileEntry(entry.sha256(), entry.integer("bytes"))
        for name, entry in _entries(fields, "files", "sha256 bytes")
    }
    packaged = {
        name: packaged_entry(entry) for name, entry in _entries(fields, "packaged", "package version path sha256 bytes")
    }
    twice = sorted(files.keys() & packaged.keys())
    if twice:
        fields.fail(f'"{twice[0]}" is in "files" and in "packaged"; name it in one of them')
    manifest = Manifest(
        name=fields.matching("name", _NAME, "a name of lower-case letters, digits, '.', '_' and '-'"),
        version=fields.string("version"),
        kind=fields.choice("kind", KINDS),
        language=fields.choice("language", LANGUAGES),
        prompt_version=prompt_version,
        base_model=fields.string("base_model"),
        weights=fields.string("weights"),
        adapter=fields.optional_string("adapter"),
        chat_template=template_from_fields(template, lambda: _stop(fields, template)),
        context_length=fields.integer("context_length"),
        quantization=fields.optional_string("quantization"),
        training_summary=training.string("summary"),
        trained=training.boolean("trained"),
        training_data=TrainingData(
            dataset=training.optional_string("dataset"),
            dataset_sha256=training.sha256("dataset_sha256") if "dataset_sha256" in training.content else None,
            synthetic=training.boolean("synthetic") if "synthetic" in training.content else None,
            held_out=training.strings("held_out") if "held_out" in training.content else (),
            licence=training.optional_string("licence"),
        ),
        licence=fields.string("licence"),
        files=files,
        packaged=packaged,
        fingerprint=hashlib.sha256(
            json.dumps(content, sort_keys=True, separators=(",", ":")).encode("ascii")
        ).hexdigest(),
    )
    for key, name in (("weights", manifest.weights), ("adapter", manifest.adapter)):
        if name is not None and name not in files and name not in packaged:
            fields.fail(f'"{key}" is "{name}", which neither "files" nor "packaged" names; add it there')
    return manifest


_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_PACKAGE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"[0-9][A-Za-z0-9.+!_]*")


def packaged_entry(fields: Fields) -> PackagedEntry:
    """One entry of "packaged".

    Raises:
        ArtifactError: for an unknown key or a wrong value.
    """
    fields.only("package version path sha256 bytes")
    return PackagedEntry(
        package=fields.matching("package", _PACKAGE, "a package name"),
        version=fields.matching("version", _VERSION, "a version"),
        path=str(fields.get("path", _is_plain_path, "a relative path with '/' that stays inside (no '..')")),
        sha256=fields.sha256(),
        size=fields.integer("bytes"),
    )


def load_object(data: bytes, where: str) -> dict[str, Any]:
    """A JSON object without doubled keys; `where` names it in errors.

    Raises:
        ArtifactError: for anything else.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ArtifactError(f'{where}: the key "{twice}" stands twice; remove one of them')
        return result

    try:
        text = decode(data, where).removeprefix("\ufeff")
    except FormatError as error:
        raise ArtifactError(str(error)) from None
    try:
        content = parse_json(text, object_pairs_hook=unique)
    except ParseError as error:
        raise ArtifactError(f"{where}: no JSON ({error}); fetch or export the artifact again") from None
    if not isinstance(content, dict):
        raise ArtifactError(f"{where}: holds {kind_of(content)}, a manifest is a JSON object; export it again")
    return content


def _stop(fields: Fields, template: Fields) -> tuple[str, ...]:
    """The stop texts stand at the top or in the chat template; where in both, they must agree."""
    found = {source.strings("stop") for source in (fields, template) if "stop" in source.content}
    if len(found) > 1:
        fields.fail('"stop" differs from the one in "chat_template"; keep one of them')
    return found.pop() if found else fields.strings("stop")


def _entries(fields: Fields, key: str, known: str) -> list[tuple[str, Fields]]:
    """The entries of "files" or "packaged", their names checked to stay inside the folder."""
    if key not in fields.content:
        return []
    outer = fields.nested(key)
    for name in outer.content:
        if not _is_plain_path(name) or name == MANIFEST_NAME:
            fields.fail(f'the file name {name!r} in "{key}" does not stay inside the artifact; rename it')
    return [(name, outer.nested(name, known)) for name in outer.content]


def _is_plain_path(value: object) -> bool:
    """A relative POSIX path that stays inside, and that no system reads as something else."""
    if not isinstance(value, str) or not value.isprintable() or any(c in value for c in '\\:*?"<>|'):
        return False
    return all(part not in ("", ".", "..") for part in value.split("/"))
