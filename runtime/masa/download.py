"""Fetching one file over http(s), and the disk's side of any download. Only `masa.pull` uses this.

A file gets its name once its size and sha256 are those that were promised, never before.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import secrets
import shutil
import time
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from masa.artifact import damage
from masa.errors import ArtifactError
from masa.files import WriteError, make_folder, reason
from masa.http_client import open_url
from masa.manifest import FileEntry

_log = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]
"""Called with (bytes done, bytes in total, file name). A pull that continues begins above 0."""

ATTEMPTS = 3
RETRY_DELAY = 1.0
"""Seconds before a transfer that broke off is continued."""

_CHUNK = 1 << 20
_STALE_SECONDS = 24 * 3600


def fetch_small(url: str, name: str, timeout: float, limit: int = 1 << 20) -> bytes:
    """The body at `url`, of at most `limit` bytes.

    Raises:
        ArtifactError: if it cannot be had, after `ATTEMPTS` where trying again makes sense.
    """
    data = b""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with _open(url, name, timeout) as response:
                data = bytes(response.read(limit + 1))
            break
        except (_BrokeOffError, OSError, http.client.HTTPException) as error:
            if attempt == ATTEMPTS:
                cause = str(error) if isinstance(error, _BrokeOffError) else f"{name}: {reason(error)}"
                raise ArtifactError(f"{cause}; pull again later") from None
            time.sleep(RETRY_DELAY)
    if len(data) > limit:
        raise ArtifactError(f"{name}: more than {limit:,} bytes, so it is none of ours; check the repository")
    return data


def fetch_file(url: str, target: Path, name: str, entry: FileEntry, progress: Progress, timeout: float) -> None:
    """Make `target` the file that `entry` promises, continuing `target`.part where a former try ended.

    A transfer that breaks off is continued up to `ATTEMPTS` times.

    Raises:
        ArtifactError: if the server does not deliver that file; a part that may be continued is kept.
        WriteError: if it cannot be written.
    """
    part = target.with_name(f"{target.name}.part")
    if target.exists() and damage(target, entry, verify=True) is None:
        progress(entry.size, entry.size, name)
        return
    for attempt in range(1, ATTEMPTS + 1):
        resumed = file_size(part)
        try:
            if resumed < entry.size:
                _continue(url, part, name, entry.size, progress, timeout)
        except _BrokeOffError as error:
            if attempt < ATTEMPTS:
                _log.info("%s; continuing", error)
                time.sleep(RETRY_DELAY)
                continue
            raise ArtifactError(f"{error}; pull again to continue there") from None
        problem = damage(part, entry, verify=True)
        if problem is None:
            rename(part, target)
            return
        # A part that does not end well is of no use; if it was an old one, a fresh one may be right.
        part.unlink()
        if not resumed or attempt == ATTEMPTS:
            raise ArtifactError(f"{name} from {_host(url)}: {problem}; nothing was kept, pull again")


@contextlib.contextmanager
def work_folder(parent: Path) -> Iterator[Path]:
    """A new hidden folder in `parent`, removed at the end; those of killed pulls are removed a day later."""
    prefix = ".pull-"
    for stale in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            if time.time() - stale.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(stale, ignore_errors=True)
    folder = make_folder(parent / f"{prefix}{secrets.token_hex(8)}")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def require_space(folder: Path, size: int) -> None:
    """Refuse early what cannot fit.

    Raises:
        WriteError: if the disk of `folder` has less than `size` bytes left.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        raise WriteError(
            f"{folder}: needs {size / 1e6:,.0f} MB, the disk has {free / 1e6:,.0f} MB left; "
            "make room or set MASA_HOME to a folder on a bigger disk"
        )


def rename(source: Path, target: Path) -> None:
    """Rename within one disk, replacing a file.

    Raises:
        WriteError: if that fails; both stay as they were.
    """
    try:
        source.replace(target)
    except OSError as error:
        raise _unwritable(target, error) from None


@contextlib.contextmanager
def writing(path: Path, name: str) -> Iterator[None]:
    """Translate what the disk answers while the file `name` is written beside `path`.

    Raises:
        WriteError: for an OSError inside.
    """
    try:
        yield
    except OSError as error:
        raise _unwritable(path.with_name(name), error) from None


def file_size(path: Path) -> int:
    """Bytes of a file, 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


class _BrokeOffError(Exception):
    """The server stopped in the middle, or is overloaded: worth another attempt."""


def _open(url: str, name: str, timeout: float, start: int = 0) -> Any:
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        return open_url(url, headers=headers, timeout=timeout, redirects=True)
    except urllib.error.HTTPError as error:
        error.close()
        host = _host(url)
        if error.code == 416:
            raise
        if 300 <= error.code < 400:
            target = str(error.headers.get("Location", "elsewhere"))[:80]
            why = "which is no https" if url.startswith("https:") and target.startswith("http:") else "without end"
            raise ArtifactError(f"{name}: {host} redirects to {target}, {why}; refused") from None
        if error.code >= 500 or error.code == 429:
            raise _BrokeOffError(f"{name}: {host} answers {error.code} ({error.reason})") from None
        meaning = {
            401: "it is private, gated or does not exist",
            403: "it is private or gated",
            404: "no such repository, revision or file",
        }.get(error.code, str(error.reason))
        raise ArtifactError(f"{name}: {host} answers {error.code}: {meaning}; check the name") from None
    except (OSError, http.client.HTTPException, ValueError) as error:  # URLError is an OSError
        cause = getattr(error, "reason", error)
        text = reason(cause) if isinstance(cause, BaseException) else str(cause)
        raise ArtifactError(
            f"{name}: {_host(url)} cannot be reached ({text}); check the network and pull again"
        ) from None


def _continue(url: str, part: Path, name: str, size: int, progress: Progress, timeout: float) -> None:
    """Append to `part` what it lacks of `size` bytes."""
    start = file_size(part)
    try:
        response = _open(url, name, timeout, start)
    except urllib.error.HTTPError:  # 416: the server does not know the range we ask for
        part.unlink(missing_ok=True)
        raise _BrokeOffError(f"{name}: {_host(url)} refuses to continue at byte {start:,}") from None
    with response:
        continues = response.status == 206 and str(response.headers.get("Content-Range", "")).startswith(
            f"bytes {start}-"
        )
        done = start if continues else 0
        if response.status == 206 and not continues:
            part.unlink(missing_ok=True)
            raise _BrokeOffError(f"{name}: {_host(url)} continues at another byte than {start:,}")
        progress(done, size, name)
        with writing(part, name), part.open("ab" if continues else "wb") as stream:
            while done < size:
                try:
                    chunk = response.read(min(_CHUNK, size - done))
                except (OSError, http.client.HTTPException) as error:
                    raise _BrokeOffError(
                        f"{name}: {_host(url)} broke off after {done:,} of {size:,} bytes ({reason(error)})"
                    ) from None
                if not chunk:
                    raise _BrokeOffError(f"{name}: {_host(url)} broke off after {done:,} of {size:,} bytes")
                stream.write(chunk)
                done += len(chunk)
                progress(done, size, name)
            stream.flush()
            os.fsync(stream.fileno())


def _unwritable(path: Path, error: OSError) -> WriteError:
    return WriteError(
        f"{path}: cannot be written ({reason(error)}); "
        "make room or set MASA_HOME to a folder on another disk, then pull again",
        error.errno,
    )


def _host(url: str) -> str:
    return urlsplit(url).netloc
