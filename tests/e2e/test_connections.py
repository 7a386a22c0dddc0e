"""Connections: none is kept for nothing, none fills memory, and one that fails never keeps the others from draining."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certificate import make_certificate
from tests.support.server import Server, serving
from tests.support.wait import BUSY_S, wait_until
from vantage.connections.limits import UNREAD_S

HEADER_TIMEOUT_S = 1.0
CONNECTIONS_MAX = 40
KEY = "k" * 40
ENVIRON = {
    "VANTAGE_INGEST_RATE_LIMIT": "0",
    "VANTAGE_API_RATE_LIMIT": "0",
    "VANTAGE_SELF_TELEMETRY": "false",
    "VANTAGE_HEADER_TIMEOUT_S": str(HEADER_TIMEOUT_S),
    "VANTAGE_BODY_TIMEOUT_S": str(HEADER_TIMEOUT_S),
}
HOST = b"Host: localhost\r\n"
BODY = json.dumps({"service_name": "one", "metrics": [{"metric_name": "m", "value": 1}]}).encode()
POST = (
    b"POST /v1/metrics HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % len(BODY)
    + HOST
    + b"\r\n"
    + BODY
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("connections") / "data", environ=ENVIRON) as server:
        yield server
        assert "Traceback" not in server.output, server.output


def upgrade(
    *lines: bytes, method: bytes = b"GET", path: bytes = b"/ws/metrics", version: bytes = b"1.1", key: bool = True
) -> bytes:
    """Return a request for a WebSocket."""
    headers = [b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13", HOST.strip(), *lines]
    if key:
        headers.append(b"Sec-WebSocket-Key: " + base64.b64encode(b"0123456789abcdef"))
    return b"%b %b HTTP/%b\r\n%b\r\n\r\n" % (method, path, version, b"\r\n".join(headers))


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    """Return a frame of a client, with a mask of zeros."""
    nbytes = len(payload)
    length = bytes([0x80 | nbytes]) if nbytes < 126 else bytes([0xFE]) + struct.pack(">H", nbytes)
    return bytes([(0x80 if fin else 0) | opcode]) + length + bytes(4) + payload


def answer_of(connection: socket.socket) -> bytes:
    """Return everything until the server hangs up."""
    result = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            result += part
    return result


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", answer)]


def talk(server: Server, *pieces: bytes) -> list[int]:
    with server.connect() as connection:
        connection.settimeout(HEADER_TIMEOUT_S + BUSY_S)
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                connection.sendall(piece)
        return statuses(answer_of(connection))


def ended(server: Server, reason: str) -> float:
    return server.counts().get(f'vantage_http_connections_ended_total{{reason="{reason}"}}', 0.0)


# ---- requests for a WebSocket


BAD_UPGRADES = {
    "a body": (upgrade(b"Content-Length: 5"), [400]),
    "a body in chunks": (upgrade(b"Transfer-Encoding: chunked"), [400]),
    "a long header": (upgrade(b"X: " + b"a" * 9000), [431]),
    "many headers": (upgrade(*[b"X%d: a" % i for i in range(150)]), [431]),
    "a long address": (upgrade(path=b"/ws/metrics?" + b"a" * 9000), [414]),
    "an address that is not ASCII": (upgrade(path=b"/ws/metrics?service=\xff"), [400]),
    "another method": (upgrade(method=b"POST"), [405]),
    "an old version of HTTP": (upgrade(version=b"1.0"), [400]),
    "no key": (upgrade(key=False), [400]),
    "two keys": (upgrade(b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="), [400]),
    "another version": (upgrade(b"Sec-WebSocket-Version: 99"), [400]),
    "another address": (upgrade(path=b"/ws/none"), [404]),
    "a page": (upgrade(path=b"/"), [404]),
    "a foreign origin": (upgrade(b"Origin: http://evil.example.com"), [403]),
    "two hosts": (upgrade(b"Host: localhost"), [400]),
    "a request that still waits for its answer": (POST + upgrade(), [202]),
}


@pytest.mark.parametrize("name", BAD_UPGRADES)
def test_a_request_that_cannot_become_a_websocket_is_answered_and_closed(server: Server, name: str) -> None:
    request, expected = BAD_UPGRADES[name]
    assert talk(server, request) == expected


def test_a_good_request_becomes_a_websocket_that_stays(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(upgrade())
        assert statuses(connection.recv(4096)) == [101]
        connection.settimeout(HEADER_TIMEOUT_S * 1.5)
        with pytest.raises(TimeoutError):  # no timer of the handshake is left
            connection.recv(1)
        connection.sendall(frame(9, b"ping"))
        assert connection.recv(4096) == b"\x8a\x04ping"


def test_refused_upgrades_leave_room_and_do_not_harm_a_stop(tmp_path: Path) -> None:
    environ = {**ENVIRON, "VANTAGE_CONNECTIONS_MAX": str(CONNECTIONS_MAX)}
    with contextlib.ExitStack() as stack, serving(tmp_path / "data", environ=environ) as server:
        for request, _ in BAD_UPGRADES.values():
            for _ in range(CONNECTIONS_MAX // 4):
                stack.enter_context(server.connect()).sendall(request)

        def answers() -> bool:
            with contextlib.suppress(OSError):
                return server.get("/health/live").status == 200
            return False

        wait_until(answers, HEADER_TIMEOUT_S + BUSY_S)
        stack.enter_context(server.connect()).sendall(upgrade(b"Content-Length: 5"))
        assert server.stop() == 0
        assert "Traceback" not in server.output, server.output


def test_without_a_key_no_socket_is_ever_open(tmp_path: Path) -> None:
    with serving(tmp_path / "data", environ={**ENVIRON, "VANTAGE_API_KEY": KEY}) as server:
        assert talk(server, upgrade()) == [401]
        assert talk(server, upgrade(b"X-API-Key: wrong")) == [401]
        assert server.counts(**{"X-API-Key": KEY})["vantage_api_websocket_connections"] == 0


# ---- what an open WebSocket sends


FLOODS = {
    "pings": frame(9, b"p" * 125) * 500,
    "empty fragments": frame(1, b"", fin=False) + frame(0, b"", fin=False) * 20_000,
    "fragments of a byte": frame(1, b"x", fin=False) + frame(0, b"x", fin=False) * 20_000,
    "pongs that nobody asked for": frame(10, b"p") * 20_000,
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_of_frames_ends_the_socket_while_others_are_served(server: Server, name: str) -> None:
    before = ended(server, "too_many_frames")
    with server.connect() as connection:
        connection.settimeout(BUSY_S)
        connection.sendall(upgrade())
        connection.recv(4096)
        with contextlib.suppress(OSError):  # reset or broken pipe, as the system likes
            while True:
                connection.sendall(FLOODS[name])
        assert server.get("/health/live").status == 200
    wait_until(lambda: ended(server, "too_many_frames") == before + 1)


@pytest.mark.parametrize("frames", [*FLOODS.values(), b"\xff" * 2000], ids=[*FLOODS, "noise"])
def test_frames_before_the_answer_to_the_handshake_leave_no_error_in_the_log(server: Server, frames: bytes) -> None:
    before = ended(server, "too_many_frames")
    for _ in range(3):
        with server.connect() as connection, contextlib.suppress(OSError):
            connection.settimeout(HEADER_TIMEOUT_S * 2)
            connection.sendall(upgrade() + frames)
            while connection.recv(4096):
                pass
    assert server.get("/health/live").status == 200
    assert ended(server, "too_many_frames") <= before + 3
    assert "Traceback" not in server.output, server.output[-3000:]


def test_fragments_of_one_message_are_bounded_however_slowly_they_come(server: Server) -> None:
    before = ended(server, "too_many_frames")
    with server.connect() as connection:
        connection.settimeout(BUSY_S)
        connection.sendall(upgrade())
        connection.recv(4096)
        connection.sendall(frame(1, b"", fin=False) + frame(0, b"", fin=False) * 100)
        answer_of(connection)
    wait_until(lambda: ended(server, "too_many_frames") > before)


# ---- requests beyond the bounds of HTTP


@pytest.mark.parametrize("nbytes", [66_000, 70_000, 130_000, 200_000])
def test_headers_of_more_than_64_kib_are_431_however_they_arrive(server: Server, nbytes: int) -> None:
    request = b"GET /health/live HTTP/1.1\r\n" + HOST + b"X: " + b"a" * nbytes + b"\r\n\r\n"
    lost: list[int] = []  # a reset may overtake the answer to a client that goes on sending
    assert talk(server, request) in ([431], lost)
    assert talk(server, *[request[start : start + 30_000] for start in range(0, len(request), 30_000)]) in ([431], lost)


def test_headers_of_less_than_64_kib_are_served_also_with_a_large_body_behind_them(server: Server) -> None:
    body = BODY[:-1] + b',"padding":"' + b"x" * 500_000 + b'"}'
    head = b"POST /v1/metrics HTTP/1.1\r\nConnection: close\r\nContent-Type: application/json\r\n" + HOST
    assert talk(server, head + b"X: " + b"a" * 60_000 + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body) == [202]


@pytest.mark.parametrize(
    ("garbage", "count"),
    [(b"garbage\r\n\r\n", 1), (b"\0" * 100, 1), (POST + b"garbage\r\n\r\n", 2), (POST[:-5] + b"\r\n", 1)],
)
def test_complete_requests_are_answered_whatever_follows_them(server: Server, garbage: bytes, count: int) -> None:
    before = server.total("one", "m")[0]
    answered = talk(server, POST + garbage)
    assert answered[:count] == [202] * count
    assert all(status in (400, 408) for status in answered[count:])
    assert server.total("one", "m")[0] - before == answered.count(202)


def test_what_the_parser_takes_for_another_protocol_is_answered_and_closed(server: Server) -> None:
    h2c = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    assert talk(server, b"CONNECT /login HTTP/1.1\r\n" + HOST + b"\r\n" + POST) == [405]
    assert talk(server, b"GET /health/live HTTP/1.1\r\n" + h2c + HOST + b"\r\n" + POST) == [200]
    with server.connect() as connection:
        connection.settimeout(BUSY_S)
        connection.sendall(POST.replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\n" + h2c))
        assert b"without the header Upgrade" in answer_of(connection)


@pytest.mark.parametrize("header", ["Host", "Origin", "Authorization", "X-API-Key", "Content-Type", "Idempotency-Key"])
@pytest.mark.parametrize("path", ["/v1/metrics", "/api/services"])
def test_a_header_that_may_be_given_once_is_400_when_given_twice(server: Server, header: str, path: str) -> None:
    first = b"" if header == "Host" else HOST
    lines = b"%b: localhost\r\n" % header.encode() * 2
    assert talk(server, b"GET %b HTTP/1.1\r\n" % path.encode() + first + lines + b"\r\n") == [400]


# ---- answers that nobody reads


@pytest.mark.long
def test_an_answer_that_nobody_reads_is_given_up(server: Server) -> None:
    before = ended(server, "unread")
    request = b"GET /static/vendor/swagger-ui-bundle.js HTTP/1.1\r\n" + HOST + b"\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.connect(server.address)
            connection.sendall(request * 5)
        wait_until(lambda: ended(server, "unread") - before == 20, UNREAD_S + 10 + BUSY_S)


# ---- stops


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stop_ends_in_time_whatever_is_connected(tmp_path: Path, number: signal.Signals) -> None:
    environ = {**ENVIRON, "VANTAGE_SHUTDOWN_TIMEOUT_S": "2", "VANTAGE_BODY_TIMEOUT_S": "60"}
    with contextlib.ExitStack() as stack, serving(tmp_path / "data", environ=environ) as server:
        for request in (
            b"",
            b"GET / HT",
            POST[:-5],
            upgrade(),
            upgrade(b"Content-Length: 5"),
            upgrade() + frame(1, b"", fin=False),
            b"GET /api/export HTTP/1.1\r\n" + HOST + b"\r\n",
            b"GET /static/vendor/uplot.js HTTP/1.1\r\n" + HOST + b"\r\n" * 200,
        ):
            stack.enter_context(server.connect()).sendall(request)
        assert server.get("/health/live").status == 200
        server.process.send_signal(number)
        began_s = time.monotonic()
        assert server.wait_exit(3 + BUSY_S) == 0
        assert time.monotonic() - began_s < 3 + BUSY_S
        assert "Traceback" not in server.output, server.output


def test_a_stop_ends_in_time_though_a_thread_does_not(tmp_path: Path) -> None:
    program = (
        "import sys, threading, time\n"
        "threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "from vantage.cli import main\n"
        "sys.exit(main())\n"
    )
    environ = {**ENVIRON, "VANTAGE_SHUTDOWN_TIMEOUT_S": "1"}
    server = Server(tmp_path / "data", environ=environ, program=("-c", program)).wait_ready()
    server.process.terminate()
    assert server.wait_exit(2 + BUSY_S) == 1
    assert "stopped before everything had ended" in server.output


def test_under_nohup_a_closed_terminal_changes_nothing(tmp_path: Path) -> None:
    program = (
        "import signal, sys\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from vantage.cli import main\n"
        "sys.exit(main())\n"
    )
    server = Server(tmp_path / "data", environ=ENVIRON, program=("-c", program)).wait_ready()
    server.process.send_signal(signal.SIGHUP)
    assert server.get("/health/live").status == 200
    assert server.stop() == 0


# ---- TLS


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    certificate = make_certificate(tmp_path_factory.mktemp("certificate"))
    environ = {
        **ENVIRON,
        "VANTAGE_TLS_CERTIFICATE": str(certificate[0]),
        "VANTAGE_TLS_KEY": str(certificate[1]),
        "VANTAGE_CONNECTIONS_MAX": str(CONNECTIONS_MAX),
    }
    with serving(tmp_path_factory.mktemp("tls") / "data", environ=environ) as server:
        yield server
        assert "Traceback" not in server.output, server.output


def tls_answer(server: Server, request: bytes) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with server.connect() as connection, context.wrap_socket(connection) as encrypted:
        encrypted.settimeout(BUSY_S)
        encrypted.sendall(request)
        return answer_of(encrypted)


def test_handshakes_that_never_begin_count_as_connections_and_are_ended(tls_server: Server) -> None:
    request = b"GET /metrics HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n"
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(tls_server.connect()) for _ in range(CONNECTIONS_MAX)]
        began_s = time.monotonic()
        for connection in silent[::2]:
            connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00")  # the beginning of a handshake
        with pytest.raises(OSError):  # noqa: PT011 - whatever the system says of a closed connection
            tls_answer(tls_server, request)
        for connection in silent:
            connection.settimeout(HEADER_TIMEOUT_S + BUSY_S)
            answer_of(connection)
        assert time.monotonic() - began_s < HEADER_TIMEOUT_S + BUSY_S
    answer = tls_answer(tls_server, request)
    assert statuses(answer) == [200]
    assert b'ended_total{reason="slow_tls"} %d.0' % CONNECTIONS_MAX in answer
    assert b'ended_total{reason="too_many"} 1.0' in answer


def test_what_is_sent_with_the_last_packet_of_a_handshake_is_served(tls_server: Server) -> None:
    for _ in range(20):
        request = POST.replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\nConnection: close\r\n")
        assert statuses(tls_answer(tls_server, request)) == [202]


def test_what_is_no_handshake_leaves_nothing_behind(tls_server: Server) -> None:
    for _ in range(CONNECTIONS_MAX + 5):
        with tls_server.connect() as connection:
            connection.sendall(POST)
            connection.settimeout(BUSY_S)
            answer_of(connection)
    assert statuses(tls_answer(tls_server, POST.replace(b"/1.1\r\n", b"/1.1\r\nConnection: close\r\n"))) == [202]


def test_websockets_are_served_over_tls_too(tls_server: Server) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with tls_server.connect() as connection, context.wrap_socket(connection) as encrypted:
        encrypted.sendall(upgrade())
        assert statuses(encrypted.recv(4096)) == [101]
        encrypted.sendall(frame(9, b"ping"))
        assert encrypted.recv(4096) == b"\x8a\x04ping"


# ---- log-in


def test_a_log_in_takes_its_token_before_its_form_is_read_and_reads_little(tmp_path: Path) -> None:
    environ = {**ENVIRON, "VANTAGE_API_KEY": KEY}
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    with serving(tmp_path / "data", environ=environ) as server:
        large = b"&".join(b"a%d=b" % i for i in range(100_000))
        answered = [server.request("POST", "/login", large, form).status for _ in range(40)]
        assert set(answered[:10]) == {413}
        assert answered[-1] == 429
    with serving(tmp_path / "data", environ=environ) as server:
        good = server.request("POST", "/login", b"key=" + KEY.encode() + b"&next=/", form)
        assert good.status == 303
        assert server.request("POST", "/login", b"key=wrong", form).status == 401


def test_an_unread_descriptor_is_not_left(server: Server) -> None:
    if not os.path.isdir("/proc"):  # noqa: PTH112
        pytest.skip("needs /proc to count open files")
    folder = Path(f"/proc/{server.process.pid}/fd")
    before = len(list(folder.iterdir()))
    for request, _ in BAD_UPGRADES.values():
        talk(server, request)
    wait_until(lambda: len(list(folder.iterdir())) <= before + 2)
