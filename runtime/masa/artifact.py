"""Artifacts: find a rewriter by name or folder, check its manifest and files, say what is wrong.

An artifact is a folder with a `manifest.json`. Its files lie beside the manifest (`files`) or inside
a Python package (`packaged`), which is only looked into and never imported; where that package is
not installed, `masa pull` keeps a copy under `data_dir()/weights/<sha256>/`. Nothing is downloaded
here.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from masa.checksums import verified_sha256
from masa.errors import ArtifactError, FormatError
from masa.files import read_bytes, reason
from masa.folders import data_dir, models_dir
from masa.json_fields import did_you_mean
from masa.manifest import (
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    PackagedEntry,
    parse_manifest,
)

PREVIOUS_SUFFIX = ".previous"
"""A pull moves the artifact it replaces to `.NAME.previous` for the moment of the swap."""


@dataclass(frozen=True, slots=True)
class Artifact(Manifest):
    """A manifest whose files were all found: ready to load.

    `path` is the folder, `paths` the place of every file that the manifest names.
    """

    path: Path
    paths: Mapping[str, Path] = field(hash=False)

    @property
    def weights_path(self) -> Path:
        return self.paths[self.weights]

    @property
    def adapter_path(self) -> Path | None:
        return None if self.adapter is None else self.paths[self.adapter]


def load_artifact(name_or_path: str | os.PathLike[str], *, verify: bool = True) -> Artifact:
    """Load the artifact with this name, or in this folder.

    Every file must be there with the size that the manifest tells; with `verify` its sha256 must be
    the manifest's, too (computed once per file, see `masa.checksums`).

    Raises:
        ArtifactError: if there is no such artifact, its manifest is wrong, or a file is missing or
            damaged; the message names the file and what to do.
    """
    folder = find_artifact(name_or_path)
    manifest = read_manifest(folder)
    paths = {name: _own_file(folder, name, entry, verify) for name, entry in manifest.files.items()}
    for name, entry in manifest.packaged.items():
        paths[name] = _packaged_file(folder, name_or_path, name, entry, verify)
    values = {f.name: getattr(manifest, f.name) for f in fields(Manifest)}
    return Artifact(**values, path=folder, paths=MappingProxyType(paths))


def find_artifact(name_or_path: str | os.PathLike[str]) -> Path:
    """The folder of an artifact; whether it is complete is not looked at.

    A text without a path separator is a name, looked up among the pulled rewriters, then among the
    shipped ones, and last as a folder of that name here; anything else is a folder.

    Raises:
        ArtifactError: if there is none; for a name, the message lists those there are.
    """
    text = os.fspath(name_or_path)
    is_name = isinstance(name_or_path, str) and text not in ("", ".", "..") and not set("/\\") & set(text)
    known = list_artifacts() if is_name else {}
    if text in known:
        return known[text]
    folder = Path(text)
    if folder.is_dir() and text:
        return folder
    if folder.is_file():
        raise ArtifactError(f"{text}: is a file; give the name of a rewriter or the folder of an artifact")
    if not is_name:
        raise ArtifactError(f"{text!r}: no such folder; give the folder of an artifact or a rewriter's name")
    raise ArtifactError(
        f'no rewriter "{text}"{did_you_mean(text, known)} (known: {", ".join(known) or "none"}); '
        "give one of these, a folder, or fetch one with: masa pull hf:OWNER/REPO"
    )


def list_artifacts() -> dict[str, Path]:
    """Every rewriter that has a name, with its folder: the pulled ones hide shipped ones of the same name."""
    found: dict[str, Path] = {}
    for parent in (data_dir() / "rewriters", models_dir() / "rewriters"):
        try:
            folders = sorted(entry for entry in parent.iterdir() if (entry / MANIFEST_NAME).is_file())
        except OSError:
            continue
        for folder in folders:
            name = folder.name
            if name.startswith("."):
                # Only there when a pull was killed during the swap: the former artifact still serves.
                name = name.removeprefix(".").removesuffix(PREVIOUS_SUFFIX)
                if f".{name}{PREVIOUS_SUFFIX}" != folder.name or (parent / name).exists():
                    continue
            found.setdefault(name, folder)
    return found


def read_manifest(folder: Path) -> Manifest:
    """The manifest in `folder`.

    Raises:
        ArtifactError: if it is missing or wrong.
    """
    path = folder / MANIFEST_NAME
    if not path.exists():
        raise ArtifactError(f"{folder}: no {MANIFEST_NAME} in it, so it is no artifact; give another folder")
    try:
        data = read_bytes(path)
    except FormatError as error:
        raise ArtifactError(str(error)) from None
    return parse_manifest(data, str(path))


def find_packaged(entry: PackagedEntry) -> Iterator[Path]:
    """Where a packaged file lies now: in the pulled store, in the installed package, in both or nowhere."""
    if (pulled := pulled_path(entry)).is_file():
        yield pulled
    from importlib import metadata  # only now: it takes as long as reading the bank

    with contextlib.suppress(metadata.PackageNotFoundError):
        package = metadata.distribution(entry.package)
        installed = Path(str(package.locate_file(PurePosixPath(entry.path))))
        if installed.is_file():
            yield installed


def pulled_path(entry: PackagedEntry) -> Path:
    """Where `masa pull` keeps a packaged file."""
    return data_dir() / "weights" / entry.sha256 / entry.filename


def damage(path: Path, entry: FileEntry | PackagedEntry, *, verify: bool) -> str | None:
    """What is wrong with a file's content, or None: its size, and with `verify` its sha256."""
    try:
        size = path.stat().st_size
        if size != entry.size:
            return f"{size:,} bytes, the manifest says {entry.size:,} (a truncated or different file)"
        found = verified_sha256(path, entry.sha256) if verify else entry.sha256
    except OSError as error:
        return f"cannot be read ({reason(error)})"
    return None if found == entry.sha256 else f"sha256 {found}, the manifest says {entry.sha256}"


def _own_file(folder: Path, name: str, entry: FileEntry, verify: bool) -> Path:
    path = folder.joinpath(*name.split("/"))
    again = "fetch or export the artifact again"
    if not path.is_file():
        raise ArtifactError(f"{path}: is missing, though {MANIFEST_NAME} names it; {again}")
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise ArtifactError(f"{path}: is a link out of the artifact; put the file itself in its place")
    problem = damage(path, entry, verify=verify)
    if problem is not None:
        raise ArtifactError(f"{path}: {problem}; {again}")
    return path


def _packaged_file(folder: Path, asked: str | os.PathLike[str], name: str, entry: PackagedEntry, verify: bool) -> Path:
    problems: list[str] = []
    for path in find_packaged(entry):
        problem = damage(path, entry, verify=verify)
        if problem is None:
            return path
        problems.append(f"{path}: {problem}")
    advice = f"run: masa pull {shlex.quote(os.fspath(asked))}"
    if problems:
        raise ArtifactError(f"{problems[0]}; to fetch an intact {entry.filename}, {advice}")
    raise ArtifactError(
        f"{folder}: its {name} ({entry.size / 1e6:.0f} MB, in the package {entry.package} {entry.version}) "
        f"is not on this machine; {advice}"
    )
