"""Variants: a bank adapted for a backbone, stored beside its original and never over it.

For a bank `dir/bank.json` (or a skill folder `dir/pdf`) a variant is the folder
`dir/.masa/bank.json/<card fingerprint>-<artifact name>/` with `variant.json`, which records what the variant
was made from, and the adapted bank under the original's own name. A variant appears complete or not at all:
it is built in a temporary folder and renamed; an older one with the same key stays readable until then.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from masa.errors import FormatError, MasaError
from masa.file_diff import unified_diff
from masa.files import parse_json
from masa.formats.skill_md_tree import fingerprint, is_skill_file

logger = logging.getLogger(__name__)

FORMAT = 1
"""Version of `variant.json` that this masa writes; it reads every older one."""

_RECORD = "variant.json"
_TEMPORARY, _REPLACED = ".tmp-", ".old-"
_STRAY_AFTER = 3600.0  # seconds; long enough that no other process is still writing into it
_ATTEMPTS = 5


class Card(Protocol):
    """What staleness needs of a model card."""

    @property
    def fingerprint(self) -> str: ...

    def fields(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Record:
    """What a variant was made from. `card` are the card's fields, `provenance` any JSON object."""

    card_name: str
    card_fingerprint: str
    card: Mapping[str, Any]
    artifact_name: str
    artifact_fingerprint: str
    prompt_version: int
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Variant:
    """A stored variant.

    Attributes:
        path: its folder.
        output: the adapted bank in it, a file or a skill folder.
        created: ISO 8601, UTC.
        original_sha256: fingerprint of the original it was made from.
        output_sha256: fingerprint of `output` when it was stored.
    """

    path: Path
    output: Path
    record: Record
    created: str
    original_sha256: str
    output_sha256: str


def variants_dir(original: Path) -> Path:
    """Where the variants of `original` (a bank file, a skill folder or its SKILL.md) are kept."""
    original = _original(original)
    return original.parent / ".masa" / original.name


def store(
    original: Path,
    write: Callable[[Path], None],
    record: Record,
    *,
    original_sha256: str | None = None,
) -> Variant:
    """Store a variant: `write(path)` has to create the adapted bank at `path`, a file or a folder.

    A variant with the same card fingerprint and artifact name is replaced once the new one is complete.
    Give `original_sha256` (its `fingerprint` when it was loaded) if the original may have changed since.

    Raises:
        MasaError: if the variant cannot be written, for example because the disk is full.
        TypeError: if the record is no JSON.
        Exception: whatever `write` raises; nothing is left behind and the older variant stays.
    """
    original = _original(original)
    directory = variants_dir(original)
    key = _key(record.card_fingerprint, record.artifact_name)
    made_from = _plain({item.name: getattr(record, item.name) for item in fields(record)})
    temporary = directory / f"{_TEMPORARY}{uuid.uuid4().hex}"
    try:
        original_sha256 = original_sha256 or fingerprint(original)
        temporary.mkdir(parents=True)
        output = temporary / _output_name(original)
        write(output)
        content = {
            "format": FORMAT,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            **made_from,
            "output": output.name,
            "original_sha256": original_sha256,
            "output_sha256": fingerprint(output),
        }
        with (temporary / _RECORD).open("x", encoding="utf-8", newline="\n") as stream:
            json.dump(content, stream, indent=2)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        _swap_in(temporary, directory / key)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise MasaError(
            f"{directory}: the variant could not be stored ({reason}); check space and permissions, "
            "nothing was replaced"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _clean(directory, key)
    return _read(directory / key)


def list_variants(original: Path) -> tuple[Variant, ...]:
    """The complete variants of `original`, oldest first; damaged ones are passed over and logged."""
    found = []
    for folder in _folders(variants_dir(original)):
        try:
            found.append(_read(folder))
        except FormatError as error:
            logger.warning("%s", error)
    return tuple(sorted(found, key=lambda variant: (variant.created, variant.path.name)))


def find(original: Path, card_fingerprint: str, artifact_name: str) -> Variant | None:
    """The variant of `original` for this card and artifact, stale or not; None if there is none."""
    for variant in list_variants(original):
        record = variant.record
        if (record.card_fingerprint, record.artifact_name) == (card_fingerprint, artifact_name):
            return variant
    return None


def diff(original: Path, variant: Variant) -> str:
    """A unified diff from the original to the variant; for skill folders, of every file that differs."""
    return unified_diff(_original(original), variant.output)


def staleness(
    variant: Variant, original: Path, card: Card | None = None, artifact_fingerprint: str | None = None
) -> tuple[str, ...]:
    """Why the variant should be made again, one sentence each; empty if it is up to date.

    The original is always checked, and that the variant is as it was stored; card and artifact where given.
    """
    original = _original(original)
    reasons = []
    try:
        if fingerprint(original) != variant.original_sha256:
            reasons.append(f"the original {original.name} has changed")
    except OSError:
        reasons.append(f"the original {original.name} is missing or cannot be read")
    try:
        if fingerprint(variant.output) != variant.output_sha256:
            reasons.append("the variant itself was changed after it was stored")
    except OSError:
        reasons.append("the variant's bank is missing or cannot be read")
    record = variant.record
    if card is not None and card.fingerprint != record.card_fingerprint:
        now = _plain(card.fields())
        names = [name for name in {**record.card, **now} if record.card.get(name) != now.get(name)]
        reasons.append(f"the model card has changed ({', '.join(names) or 'another fingerprint'})")
    if artifact_fingerprint is not None and artifact_fingerprint != record.artifact_fingerprint:
        reasons.append(f"the rewriter {record.artifact_name} has changed")
    return tuple(reasons)


def _original(path: Path) -> Path:
    """The absolute path of what is adapted: for a SKILL.md, its folder. Links are not followed."""
    path = Path(os.path.abspath(path))  # noqa: PTH100  (resolve() would follow links)
    return path.parent if is_skill_file(path.name) and not path.is_dir() else path


def _output_name(original: Path) -> str:
    return original.name if original.name != _RECORD else f"bank-{_RECORD}"


def _key(card_fingerprint: str, artifact_name: str) -> str:
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", artifact_name)[:80]
    if safe != artifact_name:  # two names must not fall together
        safe += "-" + hashlib.sha256(artifact_name.encode()).hexdigest()[:8]
    return f"{re.sub('[^A-Za-z0-9]', '', card_fingerprint)[:12]}-{safe}"


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON would give it back, so that tuples equal lists."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(value), default=dict))  # dict: any other mapping
    return plain


def _swap_in(temporary: Path, target: Path) -> None:
    # No folder can be renamed over a full one, so the older variant steps aside first. Whoever is killed
    # between the two renames leaves it under its `.old-` name, where `_folders` still finds it.
    for attempt in range(_ATTEMPTS):
        try:
            if target.exists():
                target.rename(target.parent / f"{_REPLACED}{uuid.uuid4().hex[:8]}-{target.name}")
            temporary.rename(target)
            return
        except OSError:  # another process stored the same variant in between
            if attempt == _ATTEMPTS - 1 or not temporary.exists():
                raise


def _clean(directory: Path, key: str) -> None:
    """Remove replaced variants of `key` and temporary folders that killed processes left."""
    for folder in directory.iterdir():
        if folder.name.startswith(_REPLACED) and _replaced_key(folder) == key:
            shutil.rmtree(folder, ignore_errors=True)
        elif folder.name.startswith(_TEMPORARY):
            try:
                stray = time.time() - folder.stat().st_mtime > _STRAY_AFTER
            except OSError:
                continue
            if stray:
                shutil.rmtree(folder, ignore_errors=True)


def _replaced_key(folder: Path) -> str:
    return folder.name.removeprefix(_REPLACED).partition("-")[2]


def _folders(directory: Path) -> Iterator[Path]:
    """One folder per key: the variant, or the one that was about to be replaced when a process was killed."""
    if not directory.is_dir():
        return
    folders = [child for child in directory.iterdir() if child.is_dir()]
    keys = {folder.name for folder in folders if not folder.name.startswith(".")}
    yield from (folder for folder in folders if folder.name in keys)
    left = [folder for folder in folders if folder.name.startswith(_REPLACED)]
    for folder in sorted(left):
        key = _replaced_key(folder)
        if key not in keys:
            keys.add(key)
            yield folder


def _read(folder: Path) -> Variant:
    where = folder / _RECORD
    try:
        content = parse_json(where.read_text(encoding="utf-8"))
        if content["format"] > FORMAT:
            raise FormatError(f"{where}: format {content['format']}, this masa reads 1–{FORMAT}; upgrade masa")
        record = Record(**{item.name: content[item.name] for item in fields(Record)})
        if not isinstance(record.card, dict):
            raise TypeError(f"card is {record.card!r}")
        output = folder / Path(content["output"]).name
        created, before, after = content["created"], content["original_sha256"], content["output_sha256"]
    except FormatError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{where}: no complete variant; rewrite the bank again and remove the folder") from error
    if not output.exists():
        raise FormatError(f"{output}: the variant's bank is missing; rewrite it and remove {folder}")
    return Variant(folder, output, record, created, before, after)
