"""llama-cpp-python, imported late and kept quiet."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import threading
from collections.abc import Iterator
from typing import Any

from masa.errors import BackendError, MissingExtraError


def library() -> Any:
    try:
        import llama_cpp
    except ImportError:
        raise MissingExtraError("the llama.cpp backend", "llama") from None
    except OSError as error:
        raise BackendError(f"llama-cpp-python does not load here ({error}); run: masa doctor") from None
    # llama-cpp-python prints every message of llama.cpp unless somebody chose a level; a library prints nothing.
    logger = logging.getLogger("llama-cpp-python")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.ERROR)
    return llama_cpp


@contextlib.contextmanager
def quiet(llama: Any) -> Iterator[list[str]]:
    """Keep llama.cpp's own messages off the terminal while masa loads something, and collect them.

    llama.cpp has one log callback for the whole process: the host's is put back afterwards.
    """
    messages: list[str] = []

    def collect(level: int, text: bytes, _data: object) -> None:
        messages.append(text.decode("utf-8", "replace"))

    callback = llama.llama_log_callback(collect)
    with _LOG_LOCK:
        before, data = llama.llama_log_callback(), ctypes.c_void_p()
        llama.llama_log_get(ctypes.byref(before), ctypes.byref(data))
        llama.llama_log_set(callback, ctypes.c_void_p(0))
        try:
            yield messages
        finally:
            llama.llama_log_set(before, data)
            for line in messages:
                logging.getLogger("masa.llama").debug("%s", line.rstrip())


def give_memory_back() -> None:
    """Return what was freed to the system, where the C library has to be asked.

    glibc keeps what a thread freed, up to 64 MB of each: a host that rewrites from eight threads held 300 MB.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # musl, macOS; Windows has no library called None
        ctypes.CDLL(None).malloc_trim(0)


_LOG_LOCK = threading.Lock()
