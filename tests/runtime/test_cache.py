from __future__ import annotations

import errno
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masa import __version__
from masa.cache import RewriteCache, cache_key

KEY = cache_key({"n": 0})
VALUE = {"skills": [{"title": "T", "principle": "Grüße ☃ \ud83d"}], "tokens": 3, "seconds": 0.25}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
json_objects = st.dictionaries(st.text(), json_values, max_size=5)


def shuffled(value: Any, reorder: Callable[[list[Any]], list[Any]]) -> Any:
    if isinstance(value, dict):
        return {key: shuffled(value[key], reorder) for key in reorder(list(value))}
    return [shuffled(inner, reorder) for inner in value] if isinstance(value, list) else value


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# --- keys ------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(parts=json_objects, data=st.data())
def test_a_key_does_not_depend_on_order(parts: dict[str, Any], data: st.DataObject) -> None:
    other = shuffled(parts, lambda keys: data.draw(st.permutations(keys)))
    assert cache_key(other) == cache_key(parts)
    assert cache_key(MappingProxyType(other)) == cache_key(parts)


@settings(max_examples=60, deadline=None)
@given(one=json_objects, two=json_objects)
def test_different_parts_have_different_keys(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert (cache_key(one) == cache_key(two)) == (json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True))


def test_the_order_of_a_list_counts() -> None:
    assert cache_key({"skills": [1, 2]}) != cache_key({"skills": [2, 1]})
    assert cache_key({"skills": (1, 2)}) == cache_key({"skills": [1, 2]})
    assert cache_key({"a": 1}) != cache_key({"a": "1"}) != cache_key({"a": True})


def test_what_json_would_confuse_is_refused() -> None:
    with pytest.raises(TypeError):
        cache_key({"a": {1: "x"}})
    with pytest.raises(TypeError):
        cache_key({"a": object()})
    with pytest.raises(ValueError):
        cache_key({"a": float("nan")})


# --- get and put -----------------------------------------------------------------------------------


def test_what_was_put_is_got_by_another_process_too(tmp_path: Path) -> None:
    cache = RewriteCache(tmp_path / "cache")
    assert cache.get(KEY) is None
    assert not (tmp_path / "cache").exists(), "asking must not create anything"
    assert cache.put(KEY, VALUE) is True
    assert cache.get(KEY) == VALUE
    assert RewriteCache(tmp_path / "cache").get(KEY) == VALUE
    stats = cache.stats()
    assert (stats.entries, stats.hits, stats.misses) == (1, 1, 1)
    assert stats.size == sum(f.stat().st_size for f in (tmp_path / "cache").rglob("*.json"))


@settings(max_examples=30, deadline=None)
@given(value=json_objects)
def test_any_json_object_comes_back(tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any]) -> None:
    cache = RewriteCache(tmp_path_factory.getbasetemp() / "any")
    cache.put(KEY, value)
    assert cache.get(KEY) == value


def test_entries_are_files_in_shards_that_say_who_wrote_them(tmp_path: Path) -> None:
    RewriteCache(tmp_path).put(KEY, VALUE)
    content = json.loads((tmp_path / KEY[:2] / f"{KEY}.json").read_bytes())
    assert content == {"cache_version": 1, "masa_version": __version__, "key": KEY, "value": VALUE}
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [f"{KEY}.json"]


@pytest.mark.parametrize("key", ["", "../../x", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_only_keys_of_ours_become_paths(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="is no cache key"):
        RewriteCache(tmp_path).put(key, {})
    with pytest.raises(ValueError, match="is no cache key"):
        RewriteCache(tmp_path).get(key)


def test_what_is_no_json_is_the_callers_mistake(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        RewriteCache(tmp_path).put(KEY, {"a": object()})
    with pytest.raises(TypeError):
        RewriteCache(tmp_path).put(KEY, {"a": {1: 2}})
    assert list(tmp_path.iterdir()) == []


def test_a_hit_is_fast(tmp_path: Path) -> None:
    cache = RewriteCache(tmp_path)
    cache.put(KEY, VALUE)
    times = []
    for _ in range(200):
        start = time.perf_counter()
        cache.get(KEY)
        times.append(time.perf_counter() - start)
    assert sorted(times)[100] < 0.001


# --- damage ----------------------------------------------------------------------------------------


def entry_path(directory: Path) -> Path:
    return directory / KEY[:2] / f"{KEY}.json"


GOOD = {"cache_version": 1, "masa_version": __version__, "key": KEY, "value": {}}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b"\0" * 500,
        json.dumps({**GOOD, "key": "0" * 64}).encode(),
        json.dumps({**GOOD, "value": [1]}).encode(),
        json.dumps(GOOD).encode()[:-1],
    ],
)
def test_a_damaged_entry_is_a_miss_told_once_and_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    cache = RewriteCache(tmp_path)
    entry_path(tmp_path).parent.mkdir(parents=True)
    entry_path(tmp_path).write_bytes(data)
    assert cache.get(KEY) is None
    assert cache.get(KEY) is None
    (warning,) = warnings(caplog)
    assert "is damaged and is made again" in warning and str(entry_path(tmp_path)) in warning
    assert entry_path(tmp_path).read_bytes() == data
    assert cache.put(KEY, VALUE) and cache.get(KEY) == VALUE


@pytest.mark.parametrize("change", [{"cache_version": 2}, {"masa_version": "99.0"}, {"masa_version": None}])
def test_entries_of_another_version_are_misses_told_once_for_all(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: dict[str, Any]
) -> None:
    cache = RewriteCache(tmp_path)
    keys = [cache_key({"n": n}) for n in range(3)]
    for key in keys:
        cache.put(key, VALUE)
        path = tmp_path / key[:2] / f"{key}.json"
        path.write_text(json.dumps({**json.loads(path.read_bytes()), **change}))
    assert [cache.get(key) for key in keys] == [None, None, None]
    (warning,) = warnings(caplog)
    assert "masa doctor --clear-cache" in warning and "\n" not in warning
    assert len(cache.entries()) == 3
    assert cache.clear() == 3


def test_a_folder_in_an_entrys_place_is_a_miss(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    entry_path(tmp_path).mkdir(parents=True)
    cache = RewriteCache(tmp_path)
    assert cache.get(KEY) is None
    assert cache.put(KEY, VALUE) is False
    assert len(warnings(caplog)) == 2


# --- disks that refuse -----------------------------------------------------------------------------


def test_a_full_disk_is_told_once_and_never_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = RewriteCache(tmp_path)
    cache.put(KEY, VALUE)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    assert cache.put(KEY, {"new": 1}) is False
    assert cache.put(cache_key({"n": 1}), {"new": 2}) is False
    (warning,) = warnings(caplog)
    assert "no space left" in warning
    assert cache.get(KEY) == VALUE
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [f"{KEY}.json"]


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_read_only_cache_still_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    cache = RewriteCache(tmp_path)
    cache.put(KEY, VALUE)

    def refuse(*_: object, **__: object) -> int:
        raise OSError(code, os.strerror(code))

    for name in ("open", "utime", "mkdir"):
        monkeypatch.setattr(os, name, refuse)
    assert cache.get(KEY) == VALUE
    assert cache.put(cache_key({"n": 1}), VALUE) is False
    assert len(warnings(caplog)) == 1


def test_a_file_in_the_caches_place_never_raises(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("mine")
    cache = RewriteCache(tmp_path / "cache")
    assert cache.get(KEY) is None
    assert cache.put(KEY, VALUE) is False
    assert cache.entries() == ()
    assert cache.clear() == 0
    assert (tmp_path / "cache").read_text() == "mine"


def test_death_at_the_rename_leaves_the_old_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = RewriteCache(tmp_path)
    cache.put(KEY, VALUE)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        patch.setattr(Path, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            cache.put(KEY, {"new": 1})
    assert cache.get(KEY) == VALUE
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [f"{KEY}.json"]


# --- size ------------------------------------------------------------------------------------------


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    value = {"text": "x" * 1000}
    keys = [cache_key({"n": n}) for n in range(6)]
    writer = RewriteCache(tmp_path)
    for number, key in enumerate(keys[:5]):
        writer.put(key, value)
        os.utime(tmp_path / key[:2] / f"{key}.json", (1000 + number, 1000 + number))
    size = writer.stats().size // 5
    cache = RewriteCache(tmp_path, max_bytes=5 * size)
    assert cache.get(keys[0]) == value  # used now, so no longer the oldest
    assert cache.put(keys[5], value)
    left = [entry.key for entry in cache.entries()]
    assert set(left) == {keys[0], keys[3], keys[4], keys[5]}
    assert left[-2:] == [keys[4], keys[3]]
    assert cache.stats().size <= 5 * size


def test_what_was_just_put_stays_though_clocks_disagree(tmp_path: Path) -> None:
    cache = RewriteCache(tmp_path, max_bytes=3000)
    future = time.time() + 1e6
    for number in (1, 2):
        key = cache_key({"n": number})
        cache.put(key, {"text": "x" * 1000})
        os.utime(tmp_path / key[:2] / f"{key}.json", (future, future))
    assert cache.put(KEY, {"text": "x" * 2000})
    assert cache.get(KEY) == {"text": "x" * 2000}
    assert cache.stats().size <= 3000


@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=12))
def test_the_limit_holds_after_every_put(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]) -> None:
    cache = RewriteCache(tmp_path_factory.mktemp("limit"), max_bytes=5000)
    for number, size in enumerate(sizes):
        key = cache_key({"n": number % 5})
        assert cache.put(key, {"text": "x" * size})
        assert cache.get(key) == {"text": "x" * size}, "what was just put must not be pruned"
        assert cache.stats().size <= 5000


def test_an_entry_above_the_limit_is_not_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = RewriteCache(tmp_path, max_bytes=300)
    assert cache.put(KEY, {"text": "x" * 1000}) is False
    assert "exceeds the cache's limit" in caplog.text
    assert cache.entries() == ()
    with pytest.raises(ValueError):
        RewriteCache(tmp_path, max_bytes=0)


def test_clear_removes_entries_and_nothing_else(tmp_path: Path) -> None:
    cache = RewriteCache(tmp_path)
    cache.put(KEY, VALUE)
    foreign = [tmp_path / "letter.txt", tmp_path / KEY[:2] / "notes.json", tmp_path / "zz" / f"{KEY}.json"]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_text("keep me")
    (tmp_path / KEY[:2] / ".masa-0011.tmp").write_text("left over")
    assert cache.clear() == 1
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted(foreign)
    assert cache.get(KEY) is None
    assert cache.put(KEY, VALUE) and cache.get(KEY) == VALUE


def test_threads_may_share_a_cache(tmp_path: Path) -> None:
    cache = RewriteCache(tmp_path, max_bytes=20_000)
    wrong: list[object] = []

    def work(worker: int) -> None:
        for number in range(20):
            key = cache_key({"n": number})
            cache.put(key, {"n": number, "pad": "x" * 500})
            found = cache.get(key)
            if found is not None and found["n"] != number:
                wrong.append((worker, number, found))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(cache.entries()) == 20
