"""An exchange with a server that means harm: one deadline, bounded bytes, and a log that stays text. And with TLS."""

from __future__ import annotations

import contextlib
import gzip
import logging
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.agent.receiver import answer, misbehaving, read_request
from tests.agent.test_hostile import deliver
from tests.support.wait import BUSY_S
from vantage_agent._exporter import printable
from vantage_agent._transport import BODY_NBYTES_MAX, HEAD_NBYTES_MAX, Connection, Timeout

DRIP_S = 0.05


def drip(connection: socket.socket, text: bytes) -> None:
    for position in range(len(text)):
        connection.sendall(text[position : position + 1])
        time.sleep(DRIP_S)


def drips_status(connection: socket.socket) -> None:
    drip(connection, b"HTTP/1.1 " + b"2" * 1000)


def drips_headers(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 202 Accepted\r\n")
    drip(connection, b"X: y\r\n" * 1000)


def drips_body(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Length: 10000\r\n\r\n")
    drip(connection, b"x" * 10_000)


def drips_chunks(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n")
    drip(connection, b"1\r\nx\r\n" * 1000)


def drips_continue(connection: socket.socket) -> None:
    drip(connection, b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


@pytest.mark.parametrize(
    "drips", [drips_status, drips_headers, drips_body, drips_chunks, drips_continue], ids=lambda drips: drips.__name__
)
def test_a_server_that_drips_has_no_more_time_than_one_that_is_silent(
    drips: Callable[[socket.socket], None], caplog: pytest.LogCaptureFixture
) -> None:
    def behave(connection: socket.socket, _nth: int) -> None:
        read_request(connection)
        drips(connection)

    with misbehaving(behave) as server:
        began = time.monotonic()
        buffer, pauses = deliver(server.url, attempts=2)
        assert time.monotonic() - began < 2 * 0.3 + BUSY_S  # two attempts of 0.3 s each
    assert (len(pauses), buffer.take_losses()) == (1, {"shutdown": 1})
    assert "timed out" in caplog.text


def endless(piece: bytes, first: bytes = b"") -> Callable[[socket.socket], None]:
    def send(connection: socket.socket) -> None:
        connection.sendall(first)
        while True:
            connection.sendall(piece)

    return send


@pytest.mark.parametrize(
    "send",
    [endless(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000), endless(b"X: y\r\n" * 1000, b"HTTP/1.1 103 Early Hints\r\n")],
    ids=["100 Continue", "headers"],
)
def test_what_precedes_a_response_is_read_up_to_a_bound(send: Callable[[socket.socket], None]) -> None:
    read: list[int] = []

    def behave(connection: socket.socket, _nth: int) -> None:
        read_request(connection)
        send(connection)

    with misbehaving(behave) as server:
        connection = Connection("http", "127.0.0.1", int(server.url.rpartition(":")[2]))
        connection.set_deadline(time.monotonic() + 30)
        connection.request("POST", "/", gzip.compress(b"x"))
        receive = connection.sock._receive

        def counting(nbytes: int) -> bytes:
            data: bytes = receive(nbytes)
            read.append(len(data))
            return data

        connection.sock._receive = counting
        with pytest.raises(Exception, match=r"too long|more than 100 headers|got more than"):
            connection.getresponse()
        connection.close()
    assert sum(read) <= HEAD_NBYTES_MAX + BODY_NBYTES_MAX + (64 << 10)


def test_the_deadline_includes_the_time_to_send() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connection = Connection("http", "127.0.0.1", silent.getsockname()[1])
        connection.set_deadline(time.monotonic() + 0.2)
        began = time.monotonic()
        with pytest.raises(Timeout):
            connection.request("POST", "/", b"x" * (64 << 20))
        assert time.monotonic() - began < BUSY_S
        connection.close()


HOSTILE = b'{"detail": "\\u001b[2J\\u001b]0;owned\\u0007\\r\\nERROR forged line \\u2028\\u202e end"}'


@pytest.mark.parametrize("body", [HOSTILE, b"\x1b[2J\r\nERROR forged line"], ids=["json", "text"])
def test_what_a_server_answers_is_one_line_of_the_log(body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    def behave(connection: socket.socket, _nth: int) -> None:
        read_request(connection)
        answer(connection, "400 Bad Request", body)

    with caplog.at_level(logging.WARNING), misbehaving(behave) as server:
        deliver(server.url)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.isprintable()
    assert "forged line" in message
    assert "\\x1b[2J" in message


def test_text_that_is_harmless_stays() -> None:
    assert printable("Grüße, 世界: a\tb") == "Grüße, 世界: a\\tb"


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 60_000,
        b'{"rejected": ' + b"9" * 60_000 + b"}",
        b'{"rejected": 1, "errors": 5}',
        b'{"rejected": {"a": 1}}',
    ],
    ids=["nested", "digits", "no list", "object"],
)
def test_a_batch_that_was_accepted_is_not_sent_again_whatever_the_response_says(body: bytes) -> None:
    def behave(connection: socket.socket, _nth: int) -> None:
        while read_request(connection):
            answer(connection, "202 Accepted", body)

    with misbehaving(behave) as server:
        buffer, pauses = deliver(server.url)
    assert (pauses, buffer.take_losses()) == ([], {})


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost that is its own authority; the key is in the same file."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl: apt-get install openssl")
    folder = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run(
        [*command.split(), "-keyout", str(folder / "key"), "-out", str(folder / "crt")], check=True, capture_output=True
    )
    (folder / "both").write_bytes((folder / "key").read_bytes() + (folder / "crt").read_bytes())
    return folder / "both"


@contextlib.contextmanager
def tls_server(certificate: Path, behave: Callable[[socket.socket], None]) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as wrapped:
                        behave(wrapped)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_batches_go_over_tls_on_a_kept_connection(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    nbytes = 3 << 20
    received: list[int] = []

    def behave(connection: socket.socket) -> None:
        stored = b""
        while more := connection.recv(65536):
            stored += more
            head, end, body = stored.partition(b"\r\n\r\n")
            if end and len(body) >= nbytes:
                assert b"Host: localhost" in head
                received.append(len(body))
                stored = b""
                answer(connection, "202 Accepted", b"y" * 50_000)

    with tls_server(certificate, behave) as port:
        connection = Connection("https", "localhost", port)
        for _ in range(3):
            connection.set_deadline(time.monotonic() + 30)
            connection.request("POST", "/v1/metrics", b"x" * nbytes)
            response = connection.getresponse()
            assert (response.status, response.read()) == (202, b"y" * 50_000)
        connection.close()
    assert received == [nbytes] * 3


def test_a_certificate_that_nobody_vouches_for_is_refused(certificate: Path) -> None:
    with tls_server(certificate, lambda connection: None) as port:
        connection = Connection("https", "localhost", port)
        connection.set_deadline(time.monotonic() + 30)
        with pytest.raises(ssl.SSLCertVerificationError):
            connection.request("POST", "/", b"x")


def test_a_handshake_that_never_ends_has_the_deadline_of_the_exchange() -> None:
    def behave(connection: socket.socket, _nth: int) -> None:
        while connection.recv(65536):
            pass

    with misbehaving(behave) as server:
        connection = Connection("https", "localhost", int(server.url.rpartition(":")[2]))
        connection.set_deadline(time.monotonic() + 0.3)
        with pytest.raises(Timeout):
            connection.request("POST", "/", b"x")
