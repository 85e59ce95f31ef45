"""The manifest of an artifact: what it holds, and the strict reader of `manifest.json`.

Reading touches no file but the manifest; `masa.artifact` finds and verifies the files it names.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from masa.errors import ArtifactError, FormatError
from masa.files import decode

MANIFEST_NAME = "manifest.json"
FORMAT = 1
"""The newest manifest format this masa reads."""
PROMPT_VERSION = 1
"""The newest prompt version this masa reads; every older one is read, too."""
KINDS = ("gguf", "onnx")
LANGUAGES = ("plan", "text")

Segments = tuple[tuple[str, bool], ...]
"""Pieces of a prompt: (text, is_control). Only control text is tokenized with special tokens parsed."""


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
class ChatTemplate:
    """What stands before the system text, the user text and the assistant's answer."""

    before_system: Segments
    before_user: Segments
    before_assistant: Segments


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The data set a rewriter was trained on, as far as the manifest tells; `held_out` is what it never saw."""

    dataset: str | None = None
    dataset_sha256: str | None = None
    synthetic: bool | None = None
    held_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of `manifest.json`.

    `files` and `packaged` name every file of the artifact once; `weights` and `adapter` are such names.
    `stop` are the texts that end an answer. `training_data` tells what the rewriter was trained on; of its parts,
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
    stop: tuple[str, ...]
    context_length: int
    quantization: str | None
    training_summary: str
    trained: bool
    training_data: TrainingData
    licence: str
    files: Mapping[str, FileEntry] = field(hash=False)
    packaged: Mapping[str, PackagedEntry] = field(hash=False)
    fingerprint: str


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Read a manifest; `where` names it in errors.

    Raises:
        ArtifactError: for anything but a complete manifest of a format and a prompt version that this
            masa knows; the message says what was found and what to do.
    """
    content = _load_object(data, where)
    fields = _Fields(content, where, "")
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
    training = fields.nested("training_data", "summary trained dataset dataset_sha256 synthetic held_out")
    template = fields.nested("chat_template", "before_system before_user before_assistant stop")
    files = {
        name: FileEntry(entry.sha256(), entry.integer("bytes"))
        for name, entry in fields.entries("files", "sha256 bytes")
    }
    packaged = {
        name: PackagedEntry(
            package=entry.matching("package", _PACKAGE, "a package name"),
            version=entry.matching("version", _VERSION, "a version"),
            path=entry.relative_path("path"),
            sha256=entry.sha256(),
            size=entry.integer("bytes"),
        )
        for name, entry in fields.entries("packaged", "package version path sha256 bytes")
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
        chat_template=ChatTemplate(
            template.segments("before_system"),
            template.segments("before_user"),
            template.segments("before_assistant"),
        ),
        stop=_stop(fields, template),
        context_length=fields.integer("context_length"),
        quantization=fields.optional_string("quantization"),
        training_summary=training.string("summary"),
        trained=training.boolean("trained"),
        training_data=TrainingData(
            dataset=training.optional_string("dataset"),
            dataset_sha256=training.sha256("dataset_sha256") if "dataset_sha256" in training.content else None,
            synthetic=training.boolean("synthetic") if "synthetic" in training.content else None,
            held_out=training.strings("held_out") if "held_out" in training.content else (),
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


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean "x"?` for a near miss, else the empty string."""
    import difflib

    close = difflib.get_close_matches(word, list(known), n=1)
    return f'; did you mean "{close[0]}"?' if close else ""


_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_PACKAGE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"[0-9][A-Za-z0-9.+!_]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def _load_object(data: bytes, where: str) -> dict[str, Any]:
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
        content = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise ArtifactError(
            f"{where}: no JSON, {error.msg} at line {error.lineno} column {error.colno}; "
            "fetch or export the artifact again"
        ) from None
    except (RecursionError, ValueError):  # ValueError: a number of thousands of digits
        raise ArtifactError(f"{where}: no manifest, its JSON is absurd; fetch the artifact again") from None
    if not isinstance(content, dict):
        raise ArtifactError(f"{where}: holds {_kind(content)}, a manifest is a JSON object; export it again")
    return content


def _stop(fields: _Fields, template: _Fields) -> tuple[str, ...]:
    """The stop texts stand at the top or in the chat template; where in both, they must agree."""
    found = {source.strings("stop") for source in (fields, template) if "stop" in source.content}
    if len(found) > 1:
        fields.fail('"stop" differs from the one in "chat_template"; keep one of them')
    return found.pop() if found else fields.strings("stop")


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", str: "a string", list: "a list"}
    return names.get(type(value), "an object")


@dataclass(frozen=True, slots=True)
class _Fields:
    """One object of the manifest, read key by key; `inside` is its place for messages."""

    content: Mapping[str, Any]
    where: str
    inside: str

    def fail(self, problem: str) -> None:
        raise ArtifactError(f"{self.where}: {problem}")

    def only(self, known: str) -> None:
        names = known.split()
        for key in self.content:
            if key not in names:
                hint = did_you_mean(key, names) or f"; known: {', '.join(names)}"
                self.fail(f'unknown key "{self.inside}{key}"{hint}')

    def get(self, key: str, accepts: Callable[[Any], bool], wanted: str) -> Any:
        if key not in self.content:
            self.fail(f'"{self.inside}{key}" is missing; it must be {wanted}')
        value = self.content[key]
        if not accepts(value):
            shown = json.dumps(value) if isinstance(value, str | int | float) else _kind(value)
            self.fail(f'"{self.inside}{key}" is {shown[:60]}; it must be {wanted}')
        return value

    def string(self, key: str) -> str:
        return str(self.get(key, lambda v: isinstance(v, str) and bool(v.strip()), "a non-empty string"))

    def optional_string(self, key: str) -> str | None:
        return None if self.content.get(key) is None else self.string(key)

    def integer(self, key: str) -> int:
        return int(self.get(key, lambda v: type(v) is int and v > 0, "a whole number above 0"))

    def boolean(self, key: str) -> bool:
        return bool(self.get(key, lambda v: isinstance(v, bool), "true or false"))

    def choice(self, key: str, known: tuple[str, ...]) -> str:
        return str(self.get(key, lambda v: v in known, " or ".join(f'"{k}"' for k in known)))

    def matching(self, key: str, pattern: re.Pattern[str], wanted: str) -> str:
        return str(self.get(key, lambda v: isinstance(v, str) and pattern.fullmatch(v) is not None, wanted))

    def sha256(self, key: str = "sha256") -> str:
        return self.matching(key, _SHA256, "64 lower-case hexadecimal digits")

    def relative_path(self, key: str) -> str:
        return str(self.get(key, _is_plain_path, "a relative path with '/' that stays inside (no '..')"))

    def strings(self, key: str) -> tuple[str, ...]:
        def accepts(value: Any) -> bool:
            return isinstance(value, list) and all(isinstance(v, str) and v for v in value)

        return tuple(self.get(key, accepts, "a list of non-empty strings"))

    def segments(self, key: str) -> Segments:
        def accepts(value: Any) -> bool:
            return isinstance(value, list) and all(
                isinstance(v, list) and len(v) == 2 and isinstance(v[0], str) and isinstance(v[1], bool) for v in value
            )

        pairs = self.get(key, accepts, 'a list of pairs ["text", is control: true or false]')
        return tuple((text, control) for text, control in pairs)

    def nested(self, key: str, known: str) -> _Fields:
        value = self.get(key, lambda v: isinstance(v, dict), "an object")
        result = _Fields(value, self.where, f"{self.inside}{key}.")
        result.only(known)
        return result

    def entries(self, key: str, known: str) -> list[tuple[str, _Fields]]:
        """The entries of "files" or "packaged", their names checked to stay inside the folder."""
        if key not in self.content:
            return []
        value = self.get(key, lambda v: isinstance(v, dict), "an object")
        outer = _Fields(value, self.where, f"{self.inside}{key}.")
        for name in value:
            if not _is_plain_path(name) or name == MANIFEST_NAME:
                self.fail(f'the file name {name!r} in "{key}" does not stay inside the artifact; rename it')
        return [(name, outer.nested(name, known)) for name in value]


def _is_plain_path(value: object) -> bool:
    """A relative POSIX path that stays inside, and that no system reads as something else."""
    if not isinstance(value, str) or not value.isprintable() or any(c in value for c in '\\:*?"<>|'):
        return False
    return all(part not in ("", ".", "..") for part in value.split("/"))
