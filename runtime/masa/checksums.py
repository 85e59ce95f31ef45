"""sha256 of big files, remembered so that the second load of an artifact costs nothing.

What was computed is kept in one small file of the cache folder under (real path, size, modification
time). It may be lost or damaged at any time: then the checksum is computed again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

from masa.errors import MasaError
from masa.files import make_folder, parse_json, write_atomic
from masa.folders import cache_dir

_log = logging.getLogger(__name__)

_MEMO_NAME = "checksums.json"
_MEMO_FORMAT = 1
_MEMO_ENTRIES = 512
# A file changed twice within one tick of the clock keeps its modification time (2 s on FAT), so a
# checksum is only remembered once the file has been left alone for longer than that.
_TICK_NS = 2_500_000_000


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, computed.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verified_sha256(path: Path, expected: str) -> str:
    """The sha256 of the file, from memory if it is remembered as `expected`, else computed.

    A wrong memory can therefore never refuse an intact file.

    Raises:
        OSError: if the file cannot be read.
    """
    real = Path(os.path.realpath(path))
    status = real.stat()
    key = [status.st_size, status.st_mtime_ns]
    memo = _load_memo()
    if memo.get(str(real)) == [*key, expected]:
        return expected
    found = sha256_file(real)
    after = real.stat()
    if [after.st_size, after.st_mtime_ns] == key and abs(time.time_ns() - key[1]) > _TICK_NS:
        memo.pop(str(real), None)
        memo[str(real)] = [*key, found]
        _store_memo(memo)
    return found


def _load_memo() -> dict[str, Any]:
    try:
        content = parse_json((cache_dir() / _MEMO_NAME).read_bytes())
        files = content["sha256"] if content["format"] == _MEMO_FORMAT else {}
        return dict(files) if isinstance(files, dict) else {}
    except (OSError, ValueError, KeyError, TypeError, MasaError):
        return {}


def _store_memo(memo: dict[str, Any]) -> None:
    for oldest in list(memo)[: max(0, len(memo) - _MEMO_ENTRIES)]:
        del memo[oldest]
    data = json.dumps({"format": _MEMO_FORMAT, "sha256": memo}, indent=0).encode("ascii")
    try:
        write_atomic(make_folder(cache_dir()) / _MEMO_NAME, data, durable=False)
    except MasaError as error:
        _log.warning("checksums are computed again at every start: %s", error)
