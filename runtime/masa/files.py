"""Reading and writing files so that a failure costs one clear sentence and never the file.

`write_atomic` replaces a file completely or not at all; `read_text` and `read_bytes` say in one
sentence why a file cannot be read; `parse_json` and `parse_yaml` fail in one way, whatever the parser does.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from masa.errors import FormatError, MasaError

TEMPORARY_PREFIX = ".masa-"
"""How the names of our temporary files begin; one that is left over after a power cut may be deleted."""


class WriteError(MasaError, OSError):
    """A file could not be written; what stood there before is untouched. `errno` tells the cause."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.errno = code
        self.strerror = os.strerror(code) if code else None

    def __str__(self) -> str:
        return str(self.args[0])


class ParseError(ValueError):
    """A text is no JSON or no YAML, or is nested too deeply to be read.

    Attributes:
        problem: what is wrong, in a few words.
        line, column: where, counted from 1; None where the parser does not say.
        began: the line on which the YAML begins that could not be read to its end, where known.
    """

    def __init__(
        self, problem: str, line: int | None = None, column: int | None = None, began: int | None = None
    ) -> None:
        at = began or line
        place = "" if at is None else f"line {at}: " if column is None else f"line {at}, column {column}: "
        super().__init__(place + problem)
        self.problem, self.line, self.column, self.began = problem, line, column, began


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file.

    Raises:
        FormatError: if it is missing, a folder, or may not be read.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise FormatError(f"{os.fspath(path)}: no such file; check the path") from None
    except IsADirectoryError:
        raise FormatError(f"{os.fspath(path)}: is a folder; give a file") from None
    except PermissionError:
        # Windows answers so for a folder, too.
        if Path(path).is_dir():
            raise FormatError(f"{os.fspath(path)}: is a folder; give a file") from None
        raise FormatError(f"{os.fspath(path)}: may not be read; check its permissions") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise FormatError(f"{os.fspath(path)!r}: cannot be read ({reason(error)}); check the path") from None


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a UTF-8 file exactly as it is: line ends and a byte order mark stay.

    Raises:
        FormatError: as `read_bytes`, and if the file is not UTF-8; the message tells the offset of the
            first wrong byte, counted from 0.
    """
    return decode(read_bytes(path), os.fspath(path))


def decode(data: bytes, where: str) -> str:
    """`data` as UTF-8 text; `where` names its source in the error.

    Raises:
        FormatError: if it is not UTF-8.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        found = "it looks like UTF-16; " if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise FormatError(
            f"{where}: not UTF-8, byte 0x{data[error.start]:02x} at offset {error.start}; {found}save the file as UTF-8"
        ) from None


def parse_json(text: str | bytes, **options: Any) -> Any:
    """`json.loads(text, **options)`.

    Raises:
        ParseError: for everything that is wrong with the text.
    """
    try:
        return json.loads(text, **options)
    except json.JSONDecodeError as error:
        raise ParseError(error.msg, error.lineno, error.colno) from None
    except RecursionError:
        raise ParseError("nested too deeply") from None
    except UnicodeDecodeError:
        raise ParseError("not UTF-8") from None
    except ValueError:  # Python converts no more than 4,300 digits
        raise ParseError("a number has thousands of digits") from None


def parse_yaml(text: str) -> Any:
    """`yaml.safe_load(text)`.

    Raises:
        ParseError: for everything that is wrong with the text.
    """
    with _yaml_errors():
        import yaml

        return yaml.safe_load(text)


def parse_yaml_texts(text: str) -> tuple[Any, list[tuple[str, int]]]:
    """YAML with every scalar as the text that it is spelled as, so that `1.10` stays "1.10" and `yes` "yes".

    Also key and line (from 1) of every entry of the top-level map, those that repeat an earlier key among them.

    Raises:
        ParseError: for everything that is wrong with the text.
    """
    with _yaml_errors():
        import yaml

        loader = yaml.BaseLoader(text)
        node = loader.get_single_node()
        value = None if node is None else loader.construct_document(node)
        entries = node.value if isinstance(node, yaml.MappingNode) else ()
        return value, [(key.value, key.start_mark.line + 1) for key, _ in entries]


def yaml_problem(error: Exception) -> str:
    """What is wrong with a YAML text, for one who knows no YAML; in the parser's words where it is none of these."""
    said = f"{getattr(error, 'context', None) or ''}: {getattr(error, 'problem', None) or error}"
    plain = next((words for pattern, words in _PLAIN_WORDS if re.search(pattern, said)), "")
    return plain or " ".join((getattr(error, "problem", None) or str(error) or type(error).__name__).split())[:200]


_PLAIN_WORDS = (
    ("mapping values are not allowed", "a colon in a value that is not in quotes, or a wrong indentation"),
    ("quoted scalar.*(end of stream|document)", "a quote is opened and not closed"),
    ("flow (sequence|mapping).*(expected|stream)", "a bracket is opened and not closed"),
    (r"\\t.*cannot start any token", "a tab; use spaces"),
    ("cannot start any token|undefined alias", "a value begins with a sign that YAML keeps for itself; quote it"),
    (
        "expected <block end>|expected key|expected '-'",
        "it fits nothing before it; check quotes and indentation",
    ),
)


@contextlib.contextmanager
def _yaml_errors() -> Iterator[None]:
    import yaml

    try:
        yield
    except RecursionError:
        raise ParseError("nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        lines = [None if mark is None else mark.line + 1 for mark in (error.problem_mark, error.context_mark)]
        opened = (error.context or "").startswith(("while parsing a flow", "while scanning"))
        raise ParseError(yaml_problem(error), lines[0] or lines[1], began=lines[1] if opened else None) from None
    except Exception as error:  # PyYAML leaks ValueError (a 30th of February), KeyError, AttributeError on odd input
        raise ParseError(" ".join(str(error).split())[:200] or type(error).__name__) from None


def write_atomic(path: str | os.PathLike[str], data: bytes, *, durable: bool = True) -> None:
    """Replace the file at `path` by `data`, completely or not at all.

    The bytes go to a temporary file in the same folder that is renamed over `path` at the end, so a
    reader sees the old file or the new one and a full disk leaves the old one. A link is followed,
    the permissions of an existing file are kept, and a device or pipe is written directly. The
    folder must exist. `durable` waits until the disk has the bytes (fsync).

    Raises:
        WriteError: with one sentence for a full disk, missing permission, missing folder and the like.
    """
    target = Path(path)
    try:
        _write(target, data, durable)
    except OSError as error:
        raise WriteError(*_explain(target, error)) from None


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Create the folder `path` and its parents where missing, and return it.

    Raises:
        WriteError: if that fails.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(
            f"{folder}: cannot create the folder ({reason(error)}); choose another place", error.errno
        ) from None
    return folder


def reason(error: BaseException) -> str:
    """The cause in the system's words, without paths and numbers: "No space left on device"."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _write(target: Path, data: bytes, durable: bool) -> None:
    target = Path(os.path.realpath(target))
    mode: int | None = None
    with contextlib.suppress(FileNotFoundError):
        status = target.stat()
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(status.st_mode):
            _write_special(target, data)
            return
        if not os.access(target, os.W_OK):
            # A rename would replace a file that its owner has made read-only.
            raise PermissionError(errno.EACCES, "the file is read-only")
        mode = stat.S_IMODE(status.st_mode)
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{os.urandom(8).hex()}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(temporary, flags, 0o666)  # the umask applies, as for any new file
    try:
        try:
            _write_all(descriptor, data)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if mode is not None:
            temporary.chmod(mode)
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if durable:
        _sync_folder(target.parent)


def _write_special(target: Path, data: bytes) -> None:
    """Write to a device or pipe (`-o /dev/stdout`), which a rename would destroy."""
    descriptor = os.open(target, os.O_WRONLY)
    try:
        _write_all(descriptor, data)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the system allows to sync a folder."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _explain(target: Path, error: OSError) -> tuple[str, int | None]:
    kept = "" if not target.exists() else " (the file there is unchanged)"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{target}: no space left to write it{kept}; free some disk space", error.errno
    if error.errno == errno.EISDIR:
        return f"{target}: is a folder; give the path of a file", error.errno
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"{target}: the folder {target.parent} does not exist; create it first", error.errno
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"{target}: not allowed to write there ({reason(error)}){kept}; "
            "check the permissions or choose another place",
            error.errno,
        )
    return f"{target}: cannot be written ({reason(error)}){kept}; choose another place", error.errno
