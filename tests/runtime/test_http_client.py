"""One rule for proxies, keys and redirects; real HTTP on this machine, a real proxy among it."""

import http.server
import os
import socket
import threading
import time
import urllib.error
from collections.abc import Iterator
from typing import Any

import pytest

from masa.http_client import NoAnswerError, ask, is_direct, on_this_machine, open_url, unproxied

SEEN = "X-Seen"


class Server(http.server.ThreadingHTTPServer):
    """Answers every request with its path, or redirects to `target`; a proxy gets whole addresses as paths."""

    daemon_threads = True
    target = ""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def respond(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        self.send_response(302 if self.server.target else 200)
        if self.server.target:
            self.send_header("Location", self.server.target)
        self.send_header("Content-Length", str(len(self.path)))
        self.end_headers()
        self.wfile.write(self.path.encode())

    do_GET = do_POST = do_CONNECT = respond  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, Server]]:
    """A server, and a proxy that the environment names for everything."""
    server, proxy = Server(), Server()
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, proxy.url)
        monkeypatch.setenv(name.upper(), proxy.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    yield server, proxy
    for each in (server, proxy):
        each.shutdown()
        each.server_close()


def get(url: str, **options: Any) -> bytes:
    return ask(url, deadline=time.monotonic() + 5, longest=1000, **options).data


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST.",
        "ollama.localhost",
        "127.0.0.1",
        "127.8.9.1",
        "127.1",
        "2130706433",
        "::1",
        "[::1]",
        "::ffff:127.0.0.1",
        "0.0.0.0",
        "::",
        socket.gethostname(),
    ],
)
def test_addresses_on_this_machine_are_known(host: str) -> None:
    assert on_this_machine(host)


@pytest.mark.parametrize(
    "host", ["", "example.org", "localhost.example.org", "notlocalhost", "192.0.2.7", "128.0.0.1", "2001:db8::1"]
)
def test_other_addresses_are_not(host: str) -> None:
    assert not on_this_machine(host)


def test_a_key_is_told_to_no_proxy() -> None:
    assert is_direct("http://localhost:8080/v1", key=False)
    assert is_direct("http://server.test/v1", key=True)
    assert not is_direct("http://server.test/v1", key=False)
    assert not is_direct("https://server.test/v1", key=True)  # the proxy passes on what it cannot read


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1"])
@pytest.mark.parametrize("key", [None, "sk-1"])
def test_no_proxy_is_asked_for_this_machine(servers: tuple[Server, Server], host: str, key: str | None) -> None:
    server, proxy = servers
    assert get(f"http://{host}:{server.server_port}/x", key=key, body={}) == b"/x"
    assert server.asked == [("/x", f"Bearer {key}" if key else None)]
    assert proxy.asked == []


def test_a_proxy_is_asked_for_others_but_never_with_a_key(servers: tuple[Server, Server]) -> None:
    _, proxy = servers
    assert get("http://server.invalid/x") == b"http://server.invalid/x"
    with pytest.raises(NoAnswerError):  # asked directly, and there is no such server
        get("http://server.invalid/y", key="sk-1")
    with pytest.raises(NoAnswerError):  # through a tunnel, which this proxy has not
        get("https://server.invalid/z", key="sk-1")
    assert proxy.asked == [("http://server.invalid/x", None), ("server.invalid:443", None)]


def test_a_redirect_is_followed_only_where_wanted_and_without_a_key(servers: tuple[Server, Server]) -> None:
    server, proxy = servers
    elsewhere = Server()
    server.target = f"{elsewhere.url}/new"
    assert ask(server.url, deadline=time.monotonic() + 5, longest=1000, key="k").location == server.target
    with pytest.raises(urllib.error.HTTPError):
        open_url(server.url, timeout=5, redirects=True, key="k")
    assert elsewhere.asked == []
    with open_url(server.url, timeout=5, redirects=True) as response:
        assert response.read() == b"/new"
    assert proxy.asked == []
    elsewhere.shutdown()
    elsewhere.server_close()


def test_a_redirect_to_an_open_connection_is_refused() -> None:
    import urllib.request

    from masa.http_client import _SafeRedirects

    request = urllib.request.Request("https://example.org/x")
    follow = _SafeRedirects().redirect_request
    assert follow(request, None, 302, "", {}, "http://example.org/x") is None
    assert follow(request, None, 302, "", {}, "https://example.org/y") is not None


@pytest.mark.parametrize("key", ["sk\n1", "sk 1", "schlüssel", ""])
def test_a_key_that_no_header_holds_is_refused_and_not_shown(servers: tuple[Server, Server], key: str) -> None:
    with pytest.raises(NoAnswerError, match="API key") as caught:
        get(servers[0].url, key=key)
    assert not key or key not in str(caught.value)
    assert servers[0].asked == []


def test_an_answer_that_is_too_long_is_told(servers: tuple[Server, Server]) -> None:
    with pytest.raises(NoAnswerError) as caught:
        ask(f"{servers[0].url}/{'x' * 99}", deadline=time.monotonic() + 5, longest=10)
    assert caught.value.long
    with pytest.raises(NoAnswerError) as caught:
        ask(servers[0].url, deadline=time.monotonic() - 1, longest=10)
    assert caught.value.late


def test_a_library_is_told_which_hosts_to_ask_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "a.test")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with unproxied("http://hub.test/x"):
        assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "a.test,hub.test"
    with unproxied("https://hub.test/x"):
        assert os.environ["no_proxy"] == "a.test"
    assert os.environ["no_proxy"] == "a.test" and "NO_PROXY" not in os.environ
