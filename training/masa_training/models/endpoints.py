"""The addresses that serve one model: which of them the next request goes to, and which ones are left alone a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from masa.errors import MissingExtraError
from masa.http_client import is_direct, usable_key
from masa_training.errors import TrainingError

if TYPE_CHECKING:
    import weakref

    from openai import OpenAI

    from masa_training.models.openai import ServerOptions


class Endpoint:
    """One address and its client. The counts belong to the `Endpoints` that it is one of."""

    def __init__(self, address: str, client: OpenAI) -> None:
        self.address = address
        self.client = client
        self.under_way = 0
        self.aside_until = 0.0


class Endpoints:
    """Gives each request the endpoint with the fewest requests under way; safe between threads.

    An endpoint that failed is put aside for a while: it is taken only where all others are aside, too. Then they are
    tried in turn: again the one with the fewest requests under way, of equals the one whose time is up first.
    """

    def __init__(
        self, endpoints: Sequence[Endpoint], *, aside: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`aside` is for how many seconds an endpoint that failed is left alone."""
        self._endpoints = tuple(endpoints)
        self._aside = aside
        self._clock = clock
        self._lock = threading.Lock()
        self._turn = 0

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self._endpoints)

    def __len__(self) -> int:
        return len(self._endpoints)

    @contextmanager
    def taken(self, but: Collection[Endpoint] = ()) -> Iterator[Endpoint]:
        """The endpoint for one try, none of `but` where there are others; of equals each in turn."""
        with self._lock:
            now = self._clock()
            free = [its for its in self._endpoints if its not in but] or list(self._endpoints)
            healthy = [its for its in free if its.aside_until <= now]
            if healthy:
                count = len(self._endpoints)
                self._turn += 1
                places = {id(its): (place - self._turn) % count for place, its in enumerate(self._endpoints)}
                chosen = min(healthy, key=lambda its: (its.under_way, places[id(its)]))
            else:
                chosen = min(free, key=lambda its: (its.under_way, its.aside_until))
            chosen.under_way += 1
        try:
            yield chosen
        finally:
            with self._lock:
                chosen.under_way -= 1

    def failed(self, endpoint: Endpoint, after: float | None = None) -> None:
        """Put it aside; for `after` seconds at least, where it asks for that."""
        with self._lock:
            endpoint.aside_until = self._clock() + max(self._aside, after or 0.0)

    def answered(self, endpoint: Endpoint) -> None:
        """It works: no longer aside."""
        with self._lock:
            endpoint.aside_until = 0.0

    def others(self, tried: Collection[Endpoint]) -> bool:
        """Whether there is an endpoint that was not tried and is not aside."""
        with self._lock:
            now = self._clock()
            return any(its not in tried and its.aside_until <= now for its in self._endpoints)

    def close(self) -> None:
        for endpoint in self._endpoints:
            endpoint.client.close()


def make_endpoints(base_url: str, options: ServerOptions, sockets: weakref.WeakSet[Any]) -> Endpoints:
    """The endpoints of a model, each address once.

    Raises:
        TrainingError: if one is no server's address, or an option cannot be used.
        MissingExtraError: without the package openai.
    """
    given: object = options.endpoints
    if not isinstance(given, list | tuple) or not all(isinstance(its, str) for its in given):
        raise TrainingError(f"endpoints is {options.endpoints!r}; a list of addresses belongs there")
    aside: object = options.aside
    if isinstance(aside, bool) or not isinstance(aside, int | float) or not aside >= 0:
        raise TrainingError(f"aside is {options.aside!r}; seconds belong there, at least 0")
    addresses = dict.fromkeys(address.rstrip("/") for address in (base_url, *options.endpoints))
    return Endpoints([make_endpoint(address, options, sockets) for address in addresses], aside=options.aside)


def make_endpoint(base_url: str, options: ServerOptions, sockets: weakref.WeakSet[Any]) -> Endpoint:
    """The endpoint at an address; its client notes its open sockets.

    Raises:
        TrainingError: if it is no server's address.
        MissingExtraError: without the package openai.
    """
    try:
        url = urlsplit(base_url)
        valid = url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        valid = False
    if not valid:
        raise TrainingError(f"{base_url}: not a server's address; write it like http://localhost:8000/v1")
    if "@" in url.netloc:
        raise TrainingError("the server's address carries a user name or password; leave it out and give an API key")
    if options.api_key and not usable_key(options.api_key):
        raise TrainingError("the API key has blanks or other characters that no HTTP header can hold; correct it")
    try:
        from openai import DEFAULT_CONNECTION_LIMITS, DefaultHttpxClient, OpenAI
    except ImportError:
        raise MissingExtraError("a model behind a server", "training") from None

    def note(event: str, info: Mapping[str, Any]) -> None:
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            opened = info["return_value"].get_extra_info("socket")
            if opened is not None:
                sockets.add(opened)

    def trace(request: Any) -> None:
        request.extensions = {**request.extensions, "trace": note}

    address = base_url.rstrip("/")
    client = OpenAI(
        base_url=address,
        api_key=options.api_key or "none",
        organization="",
        project="",
        max_retries=0,
        timeout=options.timeout,
        # openai's own library for HTTP, httpx or since openai 3 httpx2; the rule of masa.http_client for redirects and
        # proxies.
        http_client=DefaultHttpxClient(
            timeout=options.timeout,
            follow_redirects=False,
            event_hooks={"request": [trace]},
            trust_env=not is_direct(address, key=bool(options.api_key)),
            limits=type(DEFAULT_CONNECTION_LIMITS)(
                max_connections=options.concurrency, max_keepalive_connections=options.concurrency
            ),
        ),
    )
    return Endpoint(address, client)
