"""`masa export package` as a function: everything that is published, in one folder, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath

from masa.artifact import Artifact, damage, load_artifact
from masa.errors import MasaError
from masa.files import make_folder, parse_json, read_bytes
from masa.manifest import MANIFEST_NAME, FileEntry, parse_manifest
from masa.pull import ORIGIN_NAME
from masa_export.artifacts import aside, dump_manifest, put_in_place
from masa_export.errors import ExportError
from masa_export.progress import Watch
from masa_export.publish.model_card import CARD_NAME, is_hub_id, model_card
from masa_export.publish.modelfile import MODELFILE_NAME, modelfile
from masa_export.verify.report import JSON_NAME, MARKDOWN_NAME
from masa_export.verify.stored_report import StoredReport, require_report

SUMS_NAME = "SHA256SUMS"
_OURS = (CARD_NAME, MODELFILE_NAME, JSON_NAME, MARKDOWN_NAME, SUMS_NAME, ORIGIN_NAME)
_LICENCE_FILE = re.compile(r"(licen[cs]e|notice|copying)(\.(md|txt))?", re.IGNORECASE)
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Package:
    """What is published.

    Attributes:
        texts: the content of the files that are written, by name; the manifest is among them.
        files: what is copied from the artifact, by name.
        base_model: the base's id on the Hub; None where it is not known.
        kept: the folder was there already, with exactly this in it.
    """

    folder: Path
    artifact: Artifact
    report: StoredReport
    texts: Mapping[str, bytes]
    files: Mapping[str, FileEntry]
    base_model: str | None
    kept: bool

    @property
    def size(self) -> int:
        """Bytes of everything, the checksums' file included."""
        return sum(map(len, self.texts.values())) + sum(entry.size for entry in self.files.values())


def plan_package(
    name: str,
    folder: Path,
    *,
    repository: str | None = None,
    base_model: str | None = None,
    force: bool = False,
) -> Package:
    """What the artifact called `name` would be published as in `folder`; nothing is written.

    `repository` (OWNER/NAME on the Hub) is told in the model card; `base_model` is the base's id on the Hub, by default
    what the manifest calls it if that can be one.

    Raises:
        MasaError: in one sentence, if the artifact is damaged, its report is missing, stale or bad, a value cannot be
            published, or something else is in the folder's place and `force` is not given.
    """
    artifact = load_artifact(name)
    report = require_report(artifact.path, artifact)
    taken = sorted({*artifact.entries} & {*_OURS})
    if taken:
        raise ExportError(
            f"{artifact.path}: has a file called {taken[0]}, which masa itself writes there; rename it and re-export"
        )
    if base_model is not None and not is_hub_id(base_model):
        raise ExportError(f"--base-model {base_model}: not an id of the Hugging Face Hub; write OWNER/NAME")
    if base_model is None and is_hub_id(artifact.base_model):
        base_model = artifact.base_model
    texts = {
        path.name: read_bytes(path)
        for path in sorted(artifact.path.iterdir())
        if _LICENCE_FILE.fullmatch(path.name) and path.is_file() and path.name not in artifact.files
    }
    licence_file = next((name for name in texts if not name.lower().startswith("notice")), None)
    card = model_card(artifact, report, repository=repository, base_model=base_model, licence_file=licence_file)
    texts |= {
        CARD_NAME: card.encode("utf-8", "replace"),
        MANIFEST_NAME: _manifest(artifact),
        **_report(artifact.path),
    }
    if artifact.kind == "gguf":
        texts[MODELFILE_NAME] = modelfile(artifact).encode("utf-8")
    files = {name: FileEntry(entry.sha256, entry.size) for name, entry in artifact.entries.items()}
    sums = {name: entry.sha256 for name, entry in files.items()}
    sums |= {name: hashlib.sha256(data).hexdigest() for name, data in texts.items()}
    texts[SUMS_NAME] = "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode()
    package = Package(folder, artifact, report, texts, files, base_model, kept=False)
    return _check_place(package, force=force)


def write_package(package: Package, watch: Watch | None = None) -> None:
    """Write the folder, unless it is kept; it appears in its place once it is complete and checked.

    Raises:
        MasaError: in one sentence, if it cannot be written; what was there before is then unchanged.
    """
    if package.kept:
        return
    watch = watch or Watch()
    target, artifact = package.folder, package.artifact
    parent = make_folder(target.absolute().parent)
    free = shutil.disk_usage(parent).free
    if free < package.size:
        raise ExportError(
            f"{target}: needs {package.size / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free; make room, or give "
            "another folder with -o"
        )
    with aside(parent) as scratch:
        new = scratch / "package"
        new.mkdir()
        for name, entry in package.files.items():
            place = new.joinpath(*name.split("/"))
            place.parent.mkdir(parents=True, exist_ok=True)
            _copy(artifact.paths[name], place, name, entry, watch)
        for name, data in package.texts.items():
            (new / name).write_bytes(data)
        load_artifact(new, verify=False)  # nothing is published that masa would refuse to read
        put_in_place(new, target.absolute())


def _report(folder: Path) -> dict[str, bytes]:
    """The report's files, in which absolute paths of this machine, which may tell whose it is, are their last name."""
    found = {name: read_bytes(folder / name) for name in (JSON_NAME, MARKDOWN_NAME)}
    subject = parse_json(found[JSON_NAME].decode("utf-8"))["subject"]
    # The longest first: one folder may lie in another.
    for told in sorted({str(subject[key]) for key in ("artifact", "checkpoint", "base", "samples")}, key=len)[::-1]:
        path = next((its for kind in (PurePosixPath, PureWindowsPath) if (its := kind(told)).is_absolute()), None)
        if path is not None and len(path.parts) > 2:
            old, new = (json.dumps(its, ensure_ascii=False)[1:-1] for its in (told, path.name))
            found[JSON_NAME] = found[JSON_NAME].replace(old.encode(), new.encode())
            found[MARKDOWN_NAME] = found[MARKDOWN_NAME].replace(told.encode(), path.name.encode())
    return found


def _manifest(artifact: Artifact) -> bytes:
    """The artifact's own manifest, byte by byte; where a file lies in a Python package, one that has it beside it."""
    path = artifact.path / MANIFEST_NAME
    data = read_bytes(path)
    if not artifact.packaged:
        return data
    content = parse_json(data.decode("utf-8-sig"))
    packaged = content.pop("packaged")
    content["files"] = {
        **content.get("files", {}),
        **{name: {"sha256": entry["sha256"], "bytes": entry["bytes"]} for name, entry in packaged.items()},
    }
    data = dump_manifest(content)
    parse_manifest(data, str(path))
    return data


def _check_place(package: Package, *, force: bool) -> Package:
    """The same package, `kept` where it is finished already.

    Raises:
        ExportError: if something else is there that may not be replaced.
    """
    target = package.folder
    own = package.artifact.path.resolve()
    if target.resolve() == own or own in target.resolve().parents or target.resolve() in own.parents:
        raise ExportError(f"{target}: is the artifact's own folder, or one in or around it; give another one with -o")
    if not target.exists():
        return package
    packed = (target / MANIFEST_NAME).is_file() and (target / SUMS_NAME).is_file()  # an artifact alone is no package
    if not target.is_dir() or (any(target.iterdir()) and not packed):
        raise ExportError(f"{target}: exists and is not a package, so it is not replaced; give another folder with -o")
    if any(target.iterdir()) and not force:
        if _same(package):
            return replace(package, kept=True)
        raise ExportError(f"{target}: holds another package; replace it with --force, or give another folder with -o")
    return package


def _same(package: Package) -> bool:
    for name, entry in package.files.items():
        if damage(package.folder.joinpath(*name.split("/")), entry, verify=True) is not None:
            return False
    try:
        return all(read_bytes(package.folder / name) == data for name, data in package.texts.items())
    except MasaError:
        return False


def _copy(source: Path, target: Path, name: str, entry: FileEntry, watch: Watch) -> None:
    """Copy a file, and make sure that what was copied is what was verified."""
    digest, done = hashlib.sha256(), 0
    with source.open("rb") as read, target.open("wb") as written:
        while chunk := read.read(_CHUNK):
            written.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            watch.step(f"Copying {name}", done, entry.size)
    if digest.hexdigest() != entry.sha256:
        raise ExportError(f"{source}: changed while it was copied; nothing was written, package it again")
