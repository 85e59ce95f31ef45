from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from masa.errors import FormatError, MasaError
from masa.files import ParseError, WriteError, make_folder, parse_json, parse_yaml, read_bytes, read_text, write_atomic

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX permissions and devices")


def test_writes_a_new_file_and_replaces_an_old_one(tmp_path: Path) -> None:
    path = tmp_path / "bank.json"
    write_atomic(path, b"one")
    assert path.read_bytes() == b"one"
    write_atomic(path, b"")
    assert path.read_bytes() == b""
    assert list(tmp_path.iterdir()) == [path]


@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=5000))
def test_what_was_written_is_read_back(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_atomic(Path(folder) / "x", data, durable=False)
        assert read_bytes(Path(folder) / "x") == data


def test_a_write_in_pieces_writes_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data[:7])))
    write_atomic(tmp_path / "x", bytes(range(100)))
    assert (tmp_path / "x").read_bytes() == bytes(range(100))


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bank.json"
    path.write_bytes(b"old")
    written = 0

    def full(descriptor: int, data: Any) -> int:
        nonlocal written
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = 3
        return 3

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(WriteError, match="no space left") as caught:
        write_atomic(path, b"something new")
    assert caught.value.errno == errno.ENOSPC
    assert isinstance(caught.value, MasaError) and isinstance(caught.value, OSError)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_device_is_told_in_one_sentence() -> None:
    with pytest.raises(WriteError, match="no space left"):
        write_atomic("/dev/full", b"data")
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode), "the device must not be replaced by a file"


@pytest.mark.parametrize("death", [KeyboardInterrupt, OSError(errno.EIO, "Input/output error")])
def test_death_at_the_rename_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, death: BaseException | type[BaseException]
) -> None:
    path = tmp_path / "bank.json"
    path.write_bytes(b"old")

    def die(*_: object) -> None:
        raise death

    monkeypatch.setattr(os, "replace", die)
    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises((KeyboardInterrupt, WriteError)):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="does not exist") as caught:
        write_atomic(tmp_path / "no" / "bank.json", b"x")
    assert str(tmp_path / "no") in str(caught.value)


def test_a_folder_is_never_replaced(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="is a folder"):
        write_atomic(tmp_path, b"x")


@posix
def test_permissions_of_the_file_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "bank.json"
    path.write_bytes(b"old")
    path.chmod(0o640)
    write_atomic(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@posix
def test_a_new_file_gets_the_usual_permissions(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", b"")
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


@posix
def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    write_atomic(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_no_permission_is_told_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bank.json"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "access", lambda *_: False)  # what a read-only file says to all but root
    with pytest.raises(WriteError, match="not allowed to write there"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"


def test_reading_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"gone\.json: no such file"):
        read_text(tmp_path / "gone.json")
    with pytest.raises(FormatError, match="is a folder"):
        read_text(tmp_path)
    with pytest.raises(FormatError, match="cannot be read"):
        read_text("null\0character")


def test_wrong_encoding_is_told_with_its_offset(tmp_path: Path) -> None:
    path = tmp_path / "latin.json"
    path.write_bytes("Fähre".encode("latin-1"))
    with pytest.raises(FormatError, match="UTF-8, byte 0xe4"):
        read_text(path)
    path.write_bytes("hello".encode("utf-16"))
    with pytest.raises(FormatError, match="UTF-16"):
        read_text(path)


def test_text_is_read_exactly(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes("\ufeffa\r\nb\n".encode())
    assert read_text(path) == "\ufeffa\r\nb\n"


def test_make_folder_is_told_when_a_file_stands_there(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(WriteError, match="cannot create the folder"):
        make_folder(tmp_path / "x" / "y")
    assert make_folder(tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"a": 1} x', "[" * 100_000, '{"a":' * 100_000, "9" * 5000, b"\xff", "\ufeff{}"],
)
def test_whatever_is_wrong_with_json_is_one_kind_of_error(text: str | bytes) -> None:
    with pytest.raises(ParseError) as caught:
        parse_json(text)
    assert str(caught.value).strip() and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "a: b: c",
        "a: 'x",
        "[" * 100_000,
        "- " * 100_000,
        "{a: " * 5000,
        "*x",
        "a: 2026-02-30",
        "a\0",
        "!!int x",
        "? [a]\n: b",
    ],
)
def test_whatever_is_wrong_with_yaml_is_one_kind_of_error(text: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_yaml(text)
    assert str(caught.value).strip() and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: c: d", "line 2: a colon in a value"),
        ("a: 1\nb: 'c\nd: 2\n", "line 2: a quote is opened"),
        ("a: 1\nb: [c, d\ne: 2", "line 2: a bracket is opened"),
        ("a:\tb", "line 1: a tab"),
        ("a: `b`", "line 1: a value begins with a sign"),
        ("a: *b", "line 1: a value begins with a sign"),
        ('a: "b" c', "line 1: it fits nothing before it"),
    ],
)
def test_frequent_mistakes_in_yaml_are_told_in_plain_words_where_they_begin(text: str, words: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_yaml(text)
    assert str(caught.value).startswith(words)


def test_a_parser_that_runs_out_of_stack_is_told_as_nesting(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML 6.0.4 refuses deep nesting itself, earlier ones recurse."""

    def deep(text: str) -> None:
        raise RecursionError("maximum recursion depth exceeded")

    monkeypatch.setattr(yaml, "safe_load", deep)
    with pytest.raises(ParseError, match="nested"):
        parse_yaml("[[[")


def test_a_parse_error_says_where() -> None:
    with pytest.raises(ParseError) as caught:
        parse_json('{\n "a": }')
    assert (caught.value.line, caught.value.column) == (2, 7)
    with pytest.raises(ParseError) as caught:
        parse_yaml("a: 1\nb: c: d")
    assert caught.value.line == 2
