"""Serving with uvicorn: the listening socket, limits on connections, signals and draining."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import resource
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final, NoReturn

import structlog
import uvicorn

from vantage.app import App
from vantage.config import Settings
from vantage.connections.http import HttpConnection
from vantage.connections.limits import ConnectionLimits, EndReason
from vantage.connections.tls import TlsHandshake
from vantage.connections.unread import CHECK_EVERY_S, UnreadAnswers
from vantage.connections.websocket import WebSocketConnection
from vantage.core.errors import ConfigError, StartupError

BACKLOG: Final = 2048
OPEN_FILES_TARGET: Final = 65_536
HANG_UP_AFTER: Final = 0.8  # share of the shutdown timeout after which connections are aborted
CANCEL_AFTER: Final = 0.9  # share of it after which requests are cancelled
EXIT_AFTER_S: Final = 0.7  # after the shutdown timeout, the process exits whatever still runs
LOG_S: Final = 0.1
TICK_S: Final = 0.1  # of uvicorn
TCP_NOTSENT_LOWAT: Final = 25  # of Linux; the socket module names it from Python 3.12 on
UNSENT_NBYTES_MAX: Final = 128 << 10  # that the kernel takes for one connection; the rest waits where it is counted
LISTEN_FD: Final = 3  # the first that systemd hands over
RESTART_HANG_UP_S: Final = 3.0  # until connections are aborted for a new start
GARBAGE_FIRST: Final = 20_000  # new objects between two collections of the youngest generation
_log = structlog.get_logger("vantage.server")


def listen(settings: Settings) -> socket.socket:
    """Return a listening socket: the one that was handed over, or else a new one. Raises StartupError when the address
    cannot be used."""
    listening = _handed_over() or _new_socket(settings)
    listening.set_inheritable(False)
    if sys.platform == "linux":  # connections inherit it
        listening.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_NBYTES_MAX)
    return listening


def _handed_over() -> socket.socket | None:
    """Return the socket that this process inherited by the protocol of systemd, see sd_listen_fds(3); None without."""
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    if pid != str(os.getpid()) or count != "1":
        return None
    with contextlib.suppress(OSError):
        listening = socket.socket(fileno=LISTEN_FD)
        if listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return listening
    raise StartupError(f"file {LISTEN_FD}, named by LISTEN_FDS, is no listening socket")


def start_again(listening: socket.socket) -> NoReturn:
    """Replace this process by a new start of its program, which takes over the socket: connections that come meanwhile
    wait. The number of the process stays."""
    os.dup2(listening.fileno(), LISTEN_FD)
    os.set_inheritable(LISTEN_FD, True)  # which dup2 does not do where it is that file already
    os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
    os.execv(sys.executable, sys.orig_argv)  # noqa: S606 - the very program that runs


def _new_socket(settings: Settings) -> socket.socket:
    host = settings.host.strip("[]")
    try:
        family = socket.getaddrinfo(host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, settings.port), family=family, backlog=BACKLOG)
    except (socket.gaierror, UnicodeError) as error:  # UnicodeError: what cannot be the name of a host
        reason = error.strerror if isinstance(error, socket.gaierror) else "it is not a host name"
        raise StartupError(f"host {settings.host[:100]!r} is not an address of this machine: {reason}") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartupError(
                f"port {settings.port} on {settings.host} is in use: stop the other program, or choose --port"
            ) from error
        raise StartupError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from error


def url_of(settings: Settings, listening: socket.socket) -> str:
    """Return the address of the server, as people open it."""
    host, port = listening.getsockname()[:2]
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104 - compared, not bound
    return f"{'https' if settings.tls_certificate else 'http'}://{name}:{port}"


def serve(
    app: App, settings: Settings, listening: socket.socket, ready: Callable[[str], None], *, same_stop_s: float = 0.0
) -> int | None:
    """Serve until SIGTERM or SIGINT, and return the exit status; None when the application wants the process to start
    again, see ``start_again``. ``ready`` is called with the URL once requests are served. Signals within
    ``same_stop_s`` are one.

    Raises VantageError when the application cannot be opened.
    """
    _raise_open_files()

    def count_end(reason: EndReason) -> None:
        app.telemetry.connections_ended.labels(reason.value).inc()

    unread = UnreadAnswers(monotonic_s=time.monotonic, count_end=count_end)
    limits = ConnectionLimits(
        settings.header_timeout_s, settings.body_timeout_s, settings.connections_max, count_end, unread.add
    )
    http, websocket = _connection_classes(limits)
    config = uvicorn.Config(
        app.asgi,
        http=http,
        loop="uvloop",
        ws=websocket,
        ws_max_size=64 << 10,
        ws_ping_interval=30.0,
        ws_ping_timeout=30.0,
        ws_per_message_deflate=False,  # updates are short, and compressing them for each reader occupies the event loop
        lifespan="off",  # see App.opened
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=65,
        ssl_certfile=settings.tls_certificate or None,
        ssl_keyfile=settings.tls_key or None,
    )
    config.timeout_graceful_shutdown = settings.shutdown_timeout_s * CANCEL_AFTER  # type: ignore[assignment]  # a float will do
    try:
        config.load()
    except (OSError, ssl.SSLError, ValueError) as error:
        raise ConfigError(f"tls_certificate or tls_key cannot be used: {error}") from error
    server = _Server(config, app, settings, limits, unread, listening, ready, same_stop_s)
    server.run(sockets=[listening.dup()])  # which it closes
    if app.restart_wanted() and not server.stop_wanted:
        return None
    return 0 if server.started else 1


class _Server(uvicorn.Server):
    """Drains on the first signal: not ready at once, accepting for a while, then finishing requests in progress. Past
    the shutdown timeout the process exits, whatever still runs."""

    def __init__(
        self,
        config: uvicorn.Config,
        app: App,
        settings: Settings,
        limits: ConnectionLimits,
        unread: UnreadAnswers,
        listening: socket.socket,
        ready: Callable[[str], None],
        same_stop_s: float,
    ) -> None:
        super().__init__(config)
        self.stop_wanted = False  # by a signal
        self._listening = listening
        self._url = url_of(settings, listening)
        self._app = app
        self._limits = limits
        self._drain_delay_s = settings.drain_delay_s
        self._shutdown_timeout_s = settings.shutdown_timeout_s
        self._ready = ready
        self._draining = False
        self._stopped_s = 0.0
        self._same_stop_s = same_stop_s
        self._unread = unread
        unread.connections = self.server_state.connections
        if config.ssl is not None:
            config.http_protocol_class = self._handshakes(config.http_protocol_class, config.ssl)
            config.ssl = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals instead of uvicorn, which raises the signal again at the end: a requested stop is not a
        failure. A closed terminal stops the server like SIGTERM, unless the signal is ignored, as by nohup."""
        loop = asyncio.get_running_loop()

        def stop(_number: int, _frame: FrameType | None) -> None:
            again = self._draining and time.monotonic() - self._stopped_s > self._same_stop_s
            self.stop_wanted = True
            self._exit_later(1.0 if again else self._drain_delay_s + self._shutdown_timeout_s, _exit_now)
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                loop.call_soon_threadsafe(self._stop, loop)

        # Not the handlers of the loop: they would wait for what occupies the loop.
        numbers = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        for number in numbers:
            signal.signal(number, stop)
        yield  # they stay: what still has to be closed has its time limit, too

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
            self._ready(self._url)

    async def on_tick(self, counter: int) -> bool:
        if counter % round(CHECK_EVERY_S / TICK_S) == 0:
            self._unread.check()
        if self._app.restart_wanted() and not self._draining:
            self._draining = self.should_exit = True
            _log.info("starting again")
            asyncio.get_running_loop().call_later(RESTART_HANG_UP_S, self._hang_up)
            self._exit_later(self._shutdown_timeout_s, self._start_again)
        return await super().on_tick(counter)

    def _handshakes(self, http: Any, context: ssl.SSLContext) -> Any:
        """Return what makes the protocol of a TLS connection: its handshake, which becomes an HTTP connection."""

        def make(**named: Any) -> TlsHandshake:
            return TlsHandshake(
                context=context,
                limits=self._limits,
                server_state=self.server_state,
                http=lambda: http(**named),
                loop=asyncio.get_running_loop(),
            )

        return make

    def _stop(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._draining:
            if time.monotonic() - self._stopped_s > self._same_stop_s:
                self.should_exit = self.force_exit = True
            return
        self._draining = True
        self._stopped_s = time.monotonic()
        self._app.drain()
        _log.info("stopping", drain_delay_s=self._drain_delay_s)
        loop.call_later(self._drain_delay_s, self._exit, loop)

    def _exit(self, loop: asyncio.AbstractEventLoop) -> None:
        self.should_exit = True
        loop.call_later(self._shutdown_timeout_s * HANG_UP_AFTER, self._hang_up)

    def _hang_up(self) -> None:
        """Disconnect the requests still in progress; those that ignore it are cancelled a little later."""
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()

    def _start_again(self) -> None:
        if not self.stop_wanted:
            start_again(self._listening)

    def _exit_later(self, after_s: float, leave: Callable[[], None]) -> None:
        """Leave the process after so many seconds and a little more, even if the event loop or a thread is occupied
        until then. What was answered 202 is durable already."""
        timer = threading.Timer(after_s + EXIT_AFTER_S, leave)
        timer.daemon = True
        timer.start()


def _connection_classes(limits: ConnectionLimits) -> tuple[type[HttpConnection], type[WebSocketConnection]]:
    """Return the protocols with their limits: uvicorn makes them with arguments of its own."""
    http = type("HttpConnection", (HttpConnection,), {"limits": limits})
    websocket = type("WebSocketConnection", (WebSocketConnection,), {"limits": limits})
    return http, websocket


def _exit_now() -> None:
    text = "stopped before everything had ended: the shutdown timeout is over"
    log = threading.Thread(target=_log.warning, args=(text,), daemon=True)  # the log may be blocked too
    log.start()
    log.join(LOG_S)
    os._exit(1)


def _raise_open_files() -> None:
    """Raise the soft limit of open files, often 1024: thousands of idle connections need as many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = OPEN_FILES_TARGET if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES_TARGET)
    if soft != resource.RLIM_INFINITY and soft < target:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
