"""The client of the command line: one connection, patience with a busy server, and errors that name no secret."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest

from vantage import http_client
from vantage.commands.client import PATIENCE_S, Client
from vantage.core.errors import InputError, UnauthorizedError, UnavailableError
from vantage.http_client import ConnectionFailed, HttpClient

Answer = tuple[int, dict[str, str], bytes] | None  # None: the connection is closed without one


class FakeServer:
    """Gives the answers in turn, then 200 with ``{}``; records requests and counts connections."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.connections = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                outer.connections += 1
                super().setup()

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.requests.append((self.command, self.path, dict(self.headers), body))
                answer = outer.answers.pop(0) if outer.answers else (200, {}, b"{}")
                if answer is None:
                    self.close_connection = True
                    return
                status, headers, text = answer
                self.send_response(status)
                for name, value in {"Content-Length": str(len(text)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)

            do_POST = do_DELETE = do_GET  # noqa: N815 - named by http.server

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class FakeTime:
    """A clock that sleeping moves."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept_s: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.slept_s.append(seconds)

    def monotonic_s(self) -> float:
        return self.now_s


@pytest.fixture
def server() -> Iterator[FakeServer]:
    server = FakeServer()
    yield server
    server.close()


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def client(server: FakeServer, time: FakeTime) -> Iterator[Client]:
    client = Client(server.url, api_key="k3y", sleep=time.sleep, monotonic_s=time.monotonic_s)
    yield client
    client.close()


def test_requests_share_one_connection_and_carry_the_key(server: FakeServer, client: Client) -> None:
    client.request("/a?x=1%2F2")
    client.request("/b", b"[]")
    client.request("/c", method="DELETE")
    client.post("/d", b"x" * 100_000, {"Content-Encoding": "zstd"})
    assert server.connections == 1
    assert [(method, path) for method, path, _, _ in server.requests] == [
        ("GET", "/a?x=1%2F2"), ("POST", "/b"), ("DELETE", "/c"), ("POST", "/d"),
    ]  # fmt: skip
    for _, _, headers, _ in server.requests:
        assert headers["X-API-Key"] == "k3y"
        assert headers["Accept-Encoding"] == "identity", "a response is as long as it says"
    assert server.requests[1][2]["Content-Type"] == "application/json"
    assert server.requests[3][2]["Content-Encoding"] == "zstd"
    assert server.requests[3][3] == b"x" * 100_000


def test_a_post_waits_as_long_as_a_busy_server_says(server: FakeServer, client: Client, time: FakeTime) -> None:
    server.answers = [
        (429, {"Retry-After": "7"}, b'{"detail":"slow down"}'),
        (503, {"Retry-After": "900"}, b""),
        (503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, b""),
        (503, {"Retry-After": "0"}, b""),
        (202, {}, b'{"accepted":1}'),
    ]
    reasons: list[str] = []
    assert client.post("/v1/metrics", b"x", {}, on_wait=reasons.append) == {"accepted": 1}
    assert time.slept_s == [7, 60, 5, 0.1]
    assert reasons[0] == f"{server.url} cannot accept it now (429): slow down"
    assert {body for *_, body in server.requests} == {b"x"}


def test_a_post_outlasts_broken_connections_of_a_server_that_has_answered(
    server: FakeServer, client: Client, time: FakeTime
) -> None:
    server.answers = [(200, {}, b"{}"), None, None, (200, {}, b'{"accepted":2}')]
    client.post("/v1/metrics", b"x", {})
    assert client.post("/v1/metrics", b"y", {}) == {"accepted": 2}
    assert time.slept_s == [0.5, 1]


def test_a_post_gives_up_at_once_on_a_server_that_never_answered(server: FakeServer, client: Client) -> None:
    server.answers = [None]
    with pytest.raises(UnavailableError, match=r"cannot be reached: Server disconnected"):
        client.post("/v1/metrics", b"x", {})
    assert len(server.requests) == 1


def test_patience_ends(server: FakeServer, client: Client, time: FakeTime) -> None:
    server.answers = [(503, {"Retry-After": "60"}, b"")] * 100
    with pytest.raises(UnavailableError, match="cannot accept it now"):
        client.post("/v1/metrics", b"x", {})
    assert time.now_s == PATIENCE_S


def test_a_refusal_is_raised_at_once_and_the_connection_goes_on(server: FakeServer, client: Client) -> None:
    server.answers = [(401, {}, b'{"detail":"unknown key"}'), (400, {}, b'{"field":"start","detail":"is no time"}')]
    with pytest.raises(UnauthorizedError, match="requires an API key: unknown key"):
        client.post("/v1/metrics", b"x", {})
    with pytest.raises(InputError, match="start: is no time"):
        client.request("/api/export")
    client.request("/")
    assert server.connections == 1


def test_a_response_is_streamed_and_the_connection_is_used_again(server: FakeServer, client: Client) -> None:
    text = b"line\n" * 100_000
    server.answers = [(200, {}, text)]
    pieces = list(client.stream("/api/export"))
    assert len(pieces) > 1
    assert b"".join(pieces) == text
    client.request("/")
    assert server.connections == 1


def test_a_response_that_breaks_off_is_an_error(server: FakeServer, client: Client) -> None:
    server.answers = [(200, {"Content-Length": "1000", "Connection": "close"}, b"half")]
    with pytest.raises(ConnectionFailed):
        b"".join(client.stream("/api/export"))


def test_a_response_that_is_too_long_is_refused(
    server: FakeServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_client, "RESPONSE_NBYTES_MAX", 1 << 20)
    server.answers = [(200, {}, b"[" + b" " * (3 << 20) + b"]")]
    with pytest.raises(UnavailableError, match="more than 1 MiB"):
        client.request("/")
    assert client.request("/") == {}


def test_what_is_no_json_is_said(server: FakeServer, client: Client) -> None:
    server.answers = [(200, {}, b"<html>")]
    with pytest.raises(UnavailableError, match="is it Vantage"):
        client.request("/")


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://x", "http://x:y", "http://", "http://[::1", "file:///a"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="must look like"):
        HttpClient(url, api_key=None, timeout_s=1)


@pytest.mark.parametrize("key", ["s3cret\nX-Other: 1", "s3cret\x00", "s3cret 🔑"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(InputError, match="--api-key: contains characters") as raised:
        HttpClient("http://127.0.0.1:9", api_key=key, timeout_s=1)
    assert "s3cret" not in str(raised.value)


def test_errors_show_no_password_and_no_key() -> None:
    with (
        HttpClient("http://someone:p4ssword@127.0.0.1:9/at/", api_key="k3y", timeout_s=1) as client,
        pytest.raises(ConnectionFailed) as raised,
    ):
        client.request("GET", "/health")
    assert str(raised.value) == "http://127.0.0.1:9/at cannot be reached: [Errno 111] Connection refused"


def test_a_server_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with HttpClient(url, api_key=None, timeout_s=0.1) as client, pytest.raises(ConnectionFailed, match="in time"):
            client.request("GET", "/")


def test_proxies_of_the_environment_are_ignored(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with HttpClient(server.url, api_key=None, timeout_s=5) as client:
        assert client.request("GET", "/").status == 200
