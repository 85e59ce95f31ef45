"""HTTP: one rule for proxies, keys and redirects, for whatever of masa talks to a server.

- An address on this machine is asked directly, whatever proxies the environment names.
- A key goes to nobody but the server that it is for: no redirect is followed with one, and over plain http no proxy is
  asked, since it would read the key. (Over https a proxy sees only the server's name.)
- Without a key redirects are followed where the caller wants that, but not from https to http.

`open_url` and `ask` are for our own requests; `is_direct` and `unproxied` bring the rule to libraries with a client of
their own (openai, huggingface_hub).
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import ipaddress
import json
import os
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from masa.files import reason

_LOCAL_NAMES = frozenset(
    ("localhost", "localhost4", "localhost6", "localhost.localdomain", "ip6-localhost", "ip6-loopback")
)


class NoAnswerError(Exception):
    """No usable answer came; the message is the reason, a few words.

    Attributes:
        late: whether it is that the time was up.
        long: whether it is that the answer was longer than was asked for.
        unsent: whether it is that the request cannot be sent to any server.
    """

    def __init__(self, message: str, *, late: bool = False, long: bool = False, unsent: bool = False) -> None:
        super().__init__(message)
        self.late = late
        self.long = long
        self.unsent = unsent


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, whatever its status; `location` is where a redirect leads."""

    status: int
    reason: str
    data: bytes
    location: str | None


def usable_key(key: str) -> bool:
    """Whether an HTTP header can hold the API key: visible ASCII characters only."""
    return re.fullmatch(r"[!-~]+", key) is not None


def on_this_machine(host: str) -> bool:
    """Whether a host's name or address is one of this machine, without asking a name server.

    Loopback addresses in every spelling, `localhost` and what is below it, this machine's own name, and the addresses
    of its network interfaces.
    """
    name = host.strip("[]").rstrip(".").lower().partition("%")[0]
    if name in _LOCAL_NAMES or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        try:  # 127.1 and 0x7f000001, as C libraries read them
            address = ipaddress.IPv4Address(socket.inet_aton(name))
        except (OSError, ValueError):
            return bool(name) and name == socket.gethostname().lower()
    mapped = getattr(address, "ipv4_mapped", None)
    address = mapped or address
    if address.is_loopback or address.is_unspecified:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind((str(address), 0))  # sends nothing; only an address of an interface can be bound
        return True
    return False


def is_direct(url: str, *, key: bool) -> bool:
    """Whether a request goes to its server without a proxy; `key` tells whether it carries one."""
    parts = urlsplit(url)
    return on_this_machine(parts.hostname or "") or (key and parts.scheme == "http")


@contextlib.contextmanager
def unproxied(url: str) -> Iterator[None]:
    """For a library that brings its own client and sends a key to `url`: inside, the environment exempts that host
    from proxies where `is_direct` says so.
    """
    host = urlsplit(url).hostname or ""
    if not is_direct(url, key=True):
        yield
        return
    before = {name: os.environ.get(name) for name in ("no_proxy", "NO_PROXY")}
    listed = before["no_proxy"] or before["NO_PROXY"]
    for name in before:
        os.environ[name] = f"{listed},{host}" if listed else host
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def open_url(
    url: str,
    *,
    data: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    key: str | None = None,
    timeout: float,
    redirects: bool = False,
) -> Any:
    """The open response of a GET, or of a POST of `data`; the caller closes it.

    Args:
        key: sent as a bearer token.
        timeout: seconds of silence.
        redirects: follow them, with the same rule; never with a key.

    Raises:
        urllib.error.HTTPError: for a status of 300 or above, a redirect that is not followed among them.
        OSError, http.client.HTTPException: without an answer.
        ValueError: if the address, a header or the key cannot be sent; the message does not hold the key.
    """
    from masa import __version__

    request = urllib.request.Request(url, data=data, headers={"User-Agent": f"masa/{__version__}", **(headers or {})})
    if key is not None:
        if not usable_key(key):
            raise ValueError("the API key has blanks or other characters that no HTTP header can hold")
        request.add_unredirected_header("Authorization", f"Bearer {key}")
    proxies = tuple(sorted(urllib.request.getproxies().items()))
    return _opener(redirects and key is None, proxies).open(request, timeout=timeout)


def ask(
    url: str, *, body: Mapping[str, Any] | None = None, key: str | None = None, deadline: float, longest: int
) -> Answer:
    """The whole answer to a GET, or to a POST of `body` as JSON; follows no redirect.

    Args:
        deadline: on `time.monotonic()`; a server that sends byte by byte does not pass it, either.
        longest: most bytes of an answer.

    Raises:
        NoAnswerError: if none comes, it takes too long, or it is too long.
    """
    headers = {"Accept": "application/json"} | ({} if body is None else {"Content-Type": "application/json"})
    data = None if body is None else json.dumps(body).encode()
    try:
        try:
            with open_url(url, data=data, headers=headers, key=key, timeout=_left(deadline)) as response:
                return Answer(response.status, response.reason, _read(response, deadline, longest), None)
        except urllib.error.HTTPError as error:
            with error:
                location = error.headers.get("Location") if 300 <= error.code < 400 else None
                return Answer(error.code, str(error.reason), _read(error, deadline, longest), location)
    except TimeoutError:
        raise NoAnswerError("the time is up", late=True) from None
    except (OSError, http.client.HTTPException, ValueError) as error:  # URLError is an OSError
        cause = getattr(error, "reason", None) or error
        if isinstance(cause, TimeoutError):
            raise NoAnswerError("the time is up", late=True) from None
        text = reason(cause) if isinstance(cause, BaseException) else str(cause)
        unsent = isinstance(error, (ValueError, http.client.InvalidURL)) and not isinstance(error, OSError)
        raise NoAnswerError(" ".join(text.split()) or type(cause).__name__, unsent=unsent) from None


def _read(response: Any, deadline: float, longest: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while chunk := response.read1(1 << 16):
        chunks.append(chunk)
        size += len(chunk)
        if size > longest:
            raise NoAnswerError(f"the answer is longer than {longest:,} bytes", long=True)
        _left(deadline)
    return b"".join(chunks)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _Proxies(urllib.request.ProxyHandler):
    """Asks a proxy only for what is not direct; decided for every request, after a redirect anew."""

    def proxy_open(self, req: urllib.request.Request, proxy: str, type: str) -> Any:
        if is_direct(req.full_url, key=req.has_header("Authorization")):
            return None
        return super().proxy_open(req, proxy, type)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            return None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@functools.lru_cache(maxsize=8)
def _opener(redirects: bool, proxies: tuple[tuple[str, str], ...]) -> urllib.request.OpenerDirector:
    """`proxies` are those of the environment; the opener keeps its TLS context."""
    following = _SafeRedirects() if redirects else _NoRedirects()
    return urllib.request.build_opener(_Proxies(dict(proxies)), following)
