"""Servers on loopback for clients to talk to and applications to run in."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import uvicorn


@dataclass
class Upstream:
    """A server that stores the headers of requests."""

    url: str = ""
    address: str = ""
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    hold: threading.Event = field(default_factory=threading.Event)

    @property
    def traceparents(self) -> list[str]:
        return [headers.get("traceparent", "") for _, _, headers in self.requests]


@contextmanager
def upstream_server() -> Iterator[Upstream]:
    """``/status/N`` answers N, ``/redirect`` leads to ``/status/200``, ``/hang`` answers when ``hold`` is set, and
    ``/stream`` sends its second piece then."""
    upstream = Upstream()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            with suppress(ConnectionError):  # the client may hang up
                super().handle()

        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            self.rfile.read(length)
            upstream.requests.append(
                (self.command, self.path, {key.lower(): value for key, value in self.headers.items()})
            )
            path = self.path.partition("?")[0]
            if path == "/stream":
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"a")
                self.wfile.flush()
                upstream.hold.wait(10)
                self.wfile.write(b"b")
                return
            if path == "/hang":
                upstream.hold.wait(10)
            status = 302 if path == "/redirect" else int(path.rpartition("/")[2]) if "/status/" in path else 200
            body = b"" if self.command == "HEAD" or status == 204 else b"ok"
            self.send_response(status)
            if path == "/redirect":
                self.send_header("Location", "/status/200")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(ConnectionError):  # the client may have given up
                self.wfile.write(body)

        do_GET = do_POST = do_HEAD = do_PUT = do_CONNECT = answer  # noqa: N815  # the standard library calls them so

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    upstream.address = f"127.0.0.1:{server.server_address[1]}"
    upstream.url = f"http://{upstream.address}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield upstream
    finally:
        upstream.hold.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Threaded(ThreadingMixIn, WSGIServer):
    pass


class _Silent(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving_wsgi(app: Any) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, app, server_class=_Threaded, handler_class=_Silent)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def serving_asgi(app: Any) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=5))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            thread.join(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
