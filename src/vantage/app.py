"""Opens and closes what a process consists of: the stores in order, then the loops; closed in reverse."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

import structlog

from vantage.config import Settings
from vantage.core.clock import Clock, SystemClock
from vantage.core.errors import UnavailableError
from vantage.core.turns import TurnExecutor
from vantage.parts import Parts, build_parts
from vantage.storage.embedded import thread_priority
from vantage.supervisor import running
from vantage.telemetry import Telemetry
from vantage.web.auth import Authenticator
from vantage.web.middleware import EdgeMiddleware
from vantage.web.process_metrics import Siblings

SWITCH_INTERVAL_S: Final = 0.0001
_log = structlog.get_logger("vantage.app")


@dataclass(frozen=True, slots=True)
class App:
    """What the server runs: the ASGI application, the context in which it may serve, a switch that makes
    ``/health/ready`` answer 503, the metrics of the process, and whether the process is to start again."""

    asgi: EdgeMiddleware
    opened: Callable[[], AbstractAsyncContextManager[None]]
    drain: Callable[[], None]
    telemetry: Telemetry
    restart_wanted: Callable[[], bool]


def create_app(
    settings: Settings,
    *,
    clock: Clock | None = None,
    siblings: Siblings | None = None,
    origins: Mapping[str, str] | None = None,
) -> App:
    """Wire one process; ``siblings`` are those that share its port, ``origins`` say where settings come from that are
    no defaults. Does no I/O: the application's ``opened`` does. Raises ConfigError."""
    restart = threading.Event()
    parts = build_parts(settings, clock=clock or SystemClock(), siblings=siblings, restart=restart.set, origins=origins)

    def drain() -> None:
        parts.authorizer.draining = True

    return App(parts.asgi, lambda: _opened(parts, settings), drain, parts.telemetry, restart.is_set)


@asynccontextmanager
async def _opened(parts: Parts, settings: Settings) -> AsyncIterator[None]:
    # Not the ASGI lifespan: that turns an error into a log entry, and the command line has to print it.
    # The event loop and the commit thread get the interpreter some ten times a request, and each time wait that long
    # for a thread that computes.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    work = TurnExecutor(parts.turns, initializer=lambda: thread_priority.lower_priority(thread_priority.WORK))
    asyncio.get_running_loop().set_default_executor(work)  # of pages and of what they show
    async with AsyncExitStack() as stack:
        for store in parts.stores:
            await stack.enter_async_context(store)
        with suppress(UnavailableError):  # a shared database that is away: its loop reads them once it is back
            await parts.keys.refresh()
        _warn(settings, parts.authenticator)
        await stack.enter_async_context(running(parts.loops, parts.clock))
        stack.callback(parts.turns.stop)  # first
        yield


def _warn(settings: Settings, authenticator: Authenticator) -> None:
    if settings.listens_beyond_loopback and not authenticator.required:
        _log.warning(
            "ANYONE WHO CAN REACH THIS ADDRESS CAN READ, WRITE AND DELETE: no API key is in use. "
            "Set VANTAGE_API_KEY or run `vantage keys create`, or listen on 127.0.0.1",
            host=settings.host,
        )
    if settings.listens_beyond_loopback and authenticator.required and not settings.tls_certificate:
        _log.warning("keys travel unencrypted: set tls_certificate and tls_key, or put a TLS proxy in front")
