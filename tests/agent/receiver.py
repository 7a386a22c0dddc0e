"""A real HTTP server for the agent, which stores what it receives and sends prepared responses."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec

from tests.support.ingest import packed_format
from vantage.ingest.wire.decoded import DecodedRequest

ACCEPTED: tuple[int, dict[str, str], bytes] = (202, {}, b'{"accepted":1,"rejected":0,"errors":[]}')
NOW_MS = 4_000_000_000_000  # later than any sample of these tests


@dataclass
class Sent:
    """One request, unpacked."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def packed(self) -> Any:
        return msgspec.msgpack.decode(self.body)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def received(self) -> DecodedRequest:
        """As the server reads it."""
        return packed_format().receive(self.body, batch_id="", now_ms=NOW_MS, oldest_ms=0)

    @property
    def values(self) -> dict[str, list[float]]:
        result: dict[str, list[float]] = {}
        if self.headers["Content-Type"] == "application/json":
            for item in self.json.get("metrics", []):
                result.setdefault(item["metric_name"], []).append(item["value"])
            return result
        packed = self.packed
        for index, _, values, *_ in packed["samples"]:
            result.setdefault(packed["series"][index][0], []).extend(values)
        return result


@dataclass
class Receiver:
    """``answers`` are sent one after the other, then 202. ``connections`` counts opened connections."""

    url: str = ""
    connections: int = 0
    sent: list[Sent] = field(default_factory=list)
    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    arrived: threading.Condition = field(default_factory=threading.Condition)

    def wait_for(self, count: int, timeout_s: float = 10) -> list[Sent]:
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.sent) >= count, timeout_s), f"{len(self.sent)} of {count}"
            return list(self.sent)

    def values(self, name: str) -> list[float]:
        return [value for sent in self.sent for value in sent.values.get(name, [])]

    def spans(self, name: str = "") -> list[Any]:
        """Those called ``name``, or all."""
        spans = [span for sent in self.sent for span in sent.packed.get("spans", [])]
        return [span for span in spans if not name or span["name"] == name]

    def tags(self, name: str) -> list[dict[str, str]]:
        """Of each series of a metric."""
        return [tags for sent in self.sent for metric, _, _, tags in sent.packed["series"] if metric == name]


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            with receiver.arrived:
                receiver.connections += 1

        def do_POST(self) -> None:
            body = gzip.decompress(self.rfile.read(int(self.headers["Content-Length"])))
            with receiver.arrived:
                receiver.sent.append(Sent(self.path, dict(self.headers), body))
                status, headers, text = receiver.answers.pop(0) if receiver.answers else ACCEPTED
                receiver.arrived.notify_all()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class Misbehaving:
    """A server that does with each connection what ``behave(connection, nth)`` does, and closes it after."""

    url: str
    connections: int = 0
    closed: int = 0


@contextmanager
def misbehaving(behave: Callable[[socket.socket, int], None]) -> Iterator[Misbehaving]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = Misbehaving(f"http://127.0.0.1:{listener.getsockname()[1]}")
    threads: list[threading.Thread] = []
    open_ones: set[socket.socket] = set()

    def serve(connection: socket.socket, nth: int) -> None:
        open_ones.add(connection)
        with connection, suppress(OSError):  # the peer disconnected first
            behave(connection, nth)
        open_ones.discard(connection)
        server.closed += 1

    def listen() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(connection, server.connections)))
            server.connections += 1
            threads[-1].start()

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown(socket.SHUT_RDWR)  # wakes the accept
        listener.close()
        thread.join()
        for connection in list(open_ones):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for item in threads:
            item.join()


def read_request(connection: socket.socket) -> bytes:
    """The body of one request, unpacked; empty when the other side closed instead."""
    stored = b""
    while b"\r\n\r\n" not in stored:
        more = connection.recv(65536)
        if not more:
            return b""
        stored += more
    head, _, body = stored.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    while len(body) < length:
        more = connection.recv(65536)
        if not more:
            return b""
        body += more
    return gzip.decompress(body)


def answer(connection: socket.socket, status: str = "202 Accepted", body: bytes = b"{}") -> None:
    connection.sendall(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body))
