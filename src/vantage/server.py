"""Serving with uvicorn: the listening socket, limits on connections, signals and draining."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import resource
import signal
import socket
import ssl
from asyncio.events import TimerHandle
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, Final

import structlog
import uvicorn
from uvicorn._types import ASGI3Application, ASGISendEvent, HTTPResponseStartEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from vantage.app import App
from vantage.config import Settings
from vantage.core.errors import ConfigError, StartupError
from vantage.web.problems import MEDIA_TYPE, Problem

HEADERS_NBYTES_MAX: Final = 64 << 10
BACKLOG: Final = 2048
OPEN_FILES_TARGET: Final = 65_536
HANG_UP_AFTER: Final = 0.8  # share of the shutdown timeout
INGEST_PREFIX: Final = "/v1/"
GARBAGE_FIRST: Final = 20_000  # new objects between two collections of the youngest generation
_log = structlog.get_logger("vantage.server")


def listen(settings: Settings) -> socket.socket:
    """Return a listening socket. Raises StartupError when the address cannot be used."""
    host = settings.host.strip("[]")
    try:
        family = socket.getaddrinfo(host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listening = socket.create_server((host, settings.port), family=family, backlog=BACKLOG)
    except socket.gaierror as error:
        raise StartupError(f"host {settings.host!r} is not an address of this machine: {error.strerror}") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartupError(
                f"port {settings.port} on {settings.host} is in use: stop the other program, or choose --port"
            ) from error
        raise StartupError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from error
    listening.set_inheritable(False)
    return listening


def url_of(settings: Settings, listening: socket.socket) -> str:
    """Return the address of the server, as people open it."""
    host, port = listening.getsockname()[:2]
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104 - compared, not bound
    return f"{'https' if settings.tls_certificate else 'http'}://{name}:{port}"


def serve(app: App, settings: Settings, listening: socket.socket, ready: Callable[[str], None]) -> int:
    """Serve until SIGTERM or SIGINT, and return the exit status. ``ready`` is called with the URL once requests are
    served.

    Raises VantageError when the application cannot be opened.
    """
    _raise_open_files()
    config = uvicorn.Config(
        app.asgi,
        http=_protocol(settings),
        loop="uvloop",
        ws="websockets-sansio",
        ws_max_size=64 << 10,
        ws_ping_interval=30.0,
        ws_ping_timeout=30.0,
        lifespan="off",  # see App.opened
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=65,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout_s)),
        ssl_certfile=settings.tls_certificate or None,
        ssl_keyfile=settings.tls_key or None,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"tls_certificate or tls_key cannot be used: {error}") from error
    server = _Server(config, app, settings, lambda: ready(url_of(settings, listening)))
    server.run(sockets=[listening])
    return 0 if server.started else 1


class _Server(uvicorn.Server):
    """Drains on the first signal: not ready at once, accepting for a while, then finishing requests in progress."""

    def __init__(self, config: uvicorn.Config, app: App, settings: Settings, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._app = app
        self._drain_delay_s = settings.drain_delay_s
        self._hang_up_s = settings.shutdown_timeout_s * HANG_UP_AFTER
        self._ready = ready
        self._draining = False

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals instead of uvicorn, which raises the signal again at the end: a requested stop is not a
        failure."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, loop)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the application and serve it. Raises what opening it raises."""
        async with self._app.opened():
            await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            # What exists now stays: collections need not scan it again, nor run as often as by default.
            gc.collect()
            gc.freeze()
            gc.set_threshold(GARBAGE_FIRST)
            self._ready()

    def _stop(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._draining:
            self.should_exit = self.force_exit = True
            return
        self._draining = True
        self._app.drain()
        _log.info("stopping", drain_delay_s=self._drain_delay_s)
        loop.call_later(self._drain_delay_s, self._exit, loop)

    def _exit(self, loop: asyncio.AbstractEventLoop) -> None:
        self.should_exit = True
        loop.call_later(self._hang_up_s, self._hang_up)

    def _hang_up(self) -> None:
        """Disconnect the requests still in progress; those that ignore it are cancelled a little later."""
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()


def _protocol(settings: Settings) -> type[HttpToolsProtocol]:
    class Protocol(_BoundedProtocol):
        header_timeout_s = settings.header_timeout_s
        body_timeout_s = settings.body_timeout_s
        connections_max = settings.connections_max

    return Protocol


class _ReadState(Enum):
    """What a connection has still to send."""

    NOTHING = "nothing"
    HEADERS = "headers"
    BODY = "body"


class _BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with more limits: on connections, on the size of headers, and on the time that headers and
    bodies take. A request that arrives in one piece never starts a timer."""

    header_timeout_s: float
    body_timeout_s: float
    connections_max: int

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._awaited = _ReadState.HEADERS
        self._timed = _ReadState.NOTHING
        self._timer: TimerHandle | None = None
        self._header_nbytes = 0
        self._has_body = False  # whether the last bytes contained part of a body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.connections_max:
            transport.abort()
            return
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._awaited = _ReadState.NOTHING
        self._watch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        cycle: RequestResponseCycle | None = self.cycle
        if self._awaited is _ReadState.NOTHING and (cycle is None or cycle.response_complete):
            # Anything between two requests begins one, even an empty line, which the parser does not report.
            self._awaited = _ReadState.HEADERS
            self._header_nbytes = 0
        self._has_body = False
        super().data_received(data)
        # What is neither body nor headers is trailers or the framing of chunks, with the same limit.
        if self._awaited is not _ReadState.NOTHING and not self._has_body:
            self._header_nbytes += len(data)
            if self._header_nbytes > HEADERS_NBYTES_MAX:
                self._refuse(431, "Headers too large", f"more than {HEADERS_NBYTES_MAX} bytes of headers")
                return
        if self._awaited is not self._timed:
            self._watch()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._awaited = _ReadState.HEADERS
        self._header_nbytes = 0

    def on_headers_complete(self) -> None:
        self._awaited = _ReadState.BODY
        self._header_nbytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._has_body = True
        self._header_nbytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._awaited = _ReadState.NOTHING
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        if cycle.scope["path"].startswith(INGEST_PREFIX):
            cycle.send = _SingleWriteResponse(cycle)  # type: ignore[method-assign]
        super()._start_asgi_task(cycle, app)

    def handle_websocket_upgrade(self) -> None:
        self._awaited = _ReadState.NOTHING
        self._watch()
        super().handle_websocket_upgrade()

    def _watch(self) -> None:
        """Start the timer of the current state."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timed = self._awaited
        if self._awaited is _ReadState.HEADERS:
            self._timer = self.loop.call_later(self.header_timeout_s, self._headers_late)
        elif self._awaited is _ReadState.BODY:
            self._timer = self.loop.call_later(self.body_timeout_s, self._body_late)

    def _headers_late(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def _body_late(self) -> None:
        self._refuse(408, "The request took too long", f"the body did not arrive within {self.body_timeout_s:g} s")

    def _refuse(self, status: int, title: str, detail: str) -> None:
        """Respond, unless a response has begun, and close the connection. The application sees a disconnect."""
        if self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            body = Problem(status, title, detail).body("")
            self.transport.write(
                f"HTTP/1.1 {status} {title}\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
                "connection: close\r\n\r\n".encode()
                + body
            )
        self.transport.close()


class _SingleWriteResponse:
    """Sends a response of one start and one body with a single write, and so in one packet; uvicorn takes two of each
    and checks every header again. Only for our own short responses to ingest."""

    __slots__ = ("_cycle", "_start")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._start: HTTPResponseStartEvent | None = None

    async def __call__(self, message: ASGISendEvent) -> None:
        cycle = self._cycle
        if message["type"] == "http.response.start":
            self._start = message
            cycle.response_started = True
            return
        assert self._start is not None
        assert message["type"] == "http.response.body"
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
        if cycle.disconnected:
            return
        headers = [*cycle.default_headers, *self._start["headers"]]
        if (b"connection", b"close") in headers:
            cycle.keep_alive = False
        elif not cycle.keep_alive:
            headers.append((b"connection", b"close"))
        head = b"".join([b"%b: %b\r\n" % header for header in headers])
        body = b"" if cycle.scope["method"] == "HEAD" else message["body"]
        cycle.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[self._start["status"]], head, body))
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        del cycle.send  # a reference cycle would keep the request and its body in memory until a garbage collection
        cycle.on_response()


def _raise_open_files() -> None:
    """Raise the soft limit of open files, often 1024: thousands of idle connections need as many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = OPEN_FILES_TARGET if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES_TARGET)
    if soft != resource.RLIM_INFINITY and soft < target:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
