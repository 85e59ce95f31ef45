"""Finished rewrites on disk: a JSON file per entry, safe to lose, to share and to damage.

A file that another version of masa wrote, or that is damaged, counts as absent. It is only removed by
`clear()`, by pruning like any other entry, or by the `put` that replaces it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masa import __version__
from masa.errors import MasaError
from masa.files import TEMPORARY_PREFIX, make_folder, parse_json, reason, write_atomic

_log = logging.getLogger(__name__)

CACHE_VERSION = 1
"""The layout of an entry's file. Raise it when that changes."""
MAX_BYTES = 256 * 1024 * 1024

_KEY = re.compile(r"[0-9a-f]{64}")
_ENTRY = re.compile(r"([0-9a-f]{64})\.json")
_SHARD = re.compile(r"[0-9a-f]{2}")
# Pruning goes a little below the limit, so that it is not due again at the next put.
_PRUNED_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One entry's file: bytes on disk and when it was last used (seconds since the epoch)."""

    key: str
    path: Path
    size: int
    used: float


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What lies on disk (`size` in bytes), and how often this object was asked in vain or not."""

    directory: Path
    entries: int
    size: int
    max_bytes: int
    hits: int
    misses: int


def cache_key(parts: Mapping[str, object]) -> str:
    """The sha256 of the parts as canonical JSON: independent of the order of keys at any depth.

    Values are JSON values; a tuple counts as a list.

    Raises:
        TypeError: if a value is no JSON value or a key no string (JSON would make 1 and "1" equal).
        ValueError: for a number that is not finite.
    """
    _check_keys(parts)
    text = json.dumps(dict(parts), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


class RewriteCache:
    """Values by key in a folder of files, limited to about `max_bytes` by dropping the least recently used.

    Several threads and processes may share the folder. Nothing is written before the first `put`. A
    full or read-only disk never raises: `put` then returns False and logs one warning.
    """

    def __init__(self, directory: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> None:
        if max_bytes <= 0:
            raise ValueError(f"max_bytes is {max_bytes}, it must be above 0")
        self.directory = Path(directory)
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._size: int | None = None  # bytes on disk as far as known; None: not counted yet
        self._hits = 0
        self._misses = 0
        self._told: set[str] = set()

    def get(self, key: str) -> dict[str, Any] | None:
        """The value that was put under `key`, or None; being read counts as use."""
        path = self._path(key)
        value = self._read(path, key)
        with self._lock:
            if value is None:
                self._misses += 1
            else:
                self._hits += 1
        if value is not None:
            with contextlib.suppress(OSError):  # a read-only cache still serves
                os.utime(path)
        return value

    def put(self, key: str, value: Mapping[str, Any]) -> bool:
        """Keep `value`, a JSON object, under `key`; whether that worked.

        Raises:
            TypeError, ValueError: if the value is no JSON object.
        """
        path = self._path(key)
        _check_keys(value)
        data = json.dumps(
            {
                "cache_version": CACHE_VERSION,
                "masa_version": __version__,
                "key": key,
                "value": dict(value),
            },
            separators=(",", ":"),
            allow_nan=False,
        ).encode("ascii")
        if len(data) > self.max_bytes:
            self._tell("large", f"a rewrite of {len(data):,} bytes exceeds the cache's limit of {self.max_bytes:,}")
            return False
        try:
            before = _size(path)
            make_folder(path.parent)
            # Not durable: a lost entry costs one rewrite, and flash memory wears.
            write_atomic(path, data, durable=False)
        except MasaError as error:
            self._tell("write", f"rewrites are not cached: {error}")
            return False
        with self._lock:
            if self._size is None:
                self._size = sum(entry.size for entry in self._scan())
            else:
                self._size += len(data) - before
            if self._size > self.max_bytes:
                self._prune(keep=key)
        return True

    def entries(self) -> tuple[CacheEntry, ...]:
        """Every entry's file, the most recently used first; files of other versions are among them."""
        return tuple(sorted(self._scan(), key=lambda entry: (-entry.used, entry.key)))

    def stats(self) -> CacheStats:
        """Counts as of now; the files themselves are not read."""
        entries = list(self._scan())
        size = sum(entry.size for entry in entries)
        return CacheStats(self.directory, len(entries), size, self.max_bytes, self._hits, self._misses)

    def clear(self) -> int:
        """Remove every entry, of whatever version, and nothing else in the folder; how many were removed.

        Raises:
            MasaError: if some could not be removed.
        """
        removed, failed = 0, ""
        with self._lock:
            for entry in list(self._scan()):
                try:
                    entry.path.unlink(missing_ok=True)
                    removed += 1
                except OSError as error:
                    failed = f"{entry.path}: cannot be removed ({reason(error)})"
            for shard in self._shards():
                with contextlib.suppress(OSError):
                    for left_over in list(shard.glob(f"{TEMPORARY_PREFIX}*.tmp")):
                        left_over.unlink(missing_ok=True)
                    shard.rmdir()  # only if nothing foreign is in it
            self._size = None
            self._told.clear()
        if failed:
            raise MasaError(f"{failed}; check the permissions of the cache, {removed} entries were removed")
        return removed

    def _path(self, key: str) -> Path:
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no cache key; make one with cache_key()")
        return self.directory / key[:2] / f"{key}.json"

    def _read(self, path: Path, key: str) -> dict[str, Any] | None:
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self._tell("read", f"{path}: the cached rewrite cannot be read ({reason(error)}) and is made again")
            return None
        try:
            content = parse_json(data)
        except ValueError:
            content = None
        if not isinstance(content, dict) or "cache_version" not in content:
            self._tell(str(path), f"{path}: the cached rewrite is damaged and is made again")
            return None
        version, writer = content["cache_version"], content.get("masa_version")
        if version != CACHE_VERSION or writer != __version__:
            self._tell(
                "version",
                f"{self.directory}: has rewrites cached by masa {str(writer)[:40]} (cache version "
                f"{str(version)[:40]}), this is masa {__version__} (cache version {CACHE_VERSION}) "
                "and makes them again; `masa doctor --clear-cache` removes them",
            )
            return None
        value = content.get("value")
        if content.get("key") != key or not isinstance(value, dict):
            self._tell(str(path), f"{path}: the cached rewrite is damaged and is made again")
            return None
        return value

    def _tell(self, about: str, sentence: str) -> None:
        """Log a sentence once per thing it is about."""
        with self._lock:
            if about in self._told:
                return
            self._told.add(about)
        _log.warning("%s", sentence)

    def _shards(self) -> list[Path]:
        try:
            return sorted(path for path in self.directory.iterdir() if _SHARD.fullmatch(path.name))
        except OSError:
            return []

    def _scan(self) -> Iterator[CacheEntry]:
        for shard in self._shards():
            try:
                with os.scandir(shard) as files:
                    for file in files:
                        match = _ENTRY.fullmatch(file.name)
                        if match is None or not match[1].startswith(shard.name):
                            continue
                        with contextlib.suppress(OSError):  # another process removed it meanwhile
                            status = file.stat()
                            yield CacheEntry(match[1], Path(file.path), status.st_size, status.st_mtime)
            except OSError:
                continue

    def _prune(self, keep: str) -> None:
        """Drop the least recently used entries until the folder is below its limit; `keep` stays."""
        entries = sorted(self._scan(), key=lambda entry: entry.used)
        size = sum(entry.size for entry in entries)
        for entry in entries:
            if size <= self.max_bytes * _PRUNED_SHARE:
                break
            if entry.key == keep:
                continue
            with contextlib.suppress(OSError):
                entry.path.unlink()
                size -= entry.size
        self._size = size


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _check_keys(value: object) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} is no string, so it has no place in JSON")
            _check_keys(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_keys(inner)
