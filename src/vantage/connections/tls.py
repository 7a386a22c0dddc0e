"""TLS handshakes: connections that count from the first packet, and have a time."""

from __future__ import annotations

import asyncio
import ssl
from asyncio.events import TimerHandle
from collections.abc import Callable
from typing import Any

from uvicorn.server import ServerState

from vantage.connections.limits import ConnectionLimits, EndReason


class TlsHandshake(asyncio.Protocol):
    """A connection until its handshake is complete; then an HTTP connection takes its transport.

    With ``ssl`` given to the listening socket, the server would hear of a connection only after its handshake.
    """

    def __init__(
        self,
        *,
        context: ssl.SSLContext,
        limits: ConnectionLimits,
        server_state: ServerState,
        http: Callable[[], Any],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.transport: asyncio.Transport | None = None
        self.drains = 0
        self._context = context
        self._limits = limits
        self._connections: set[Any] = server_state.connections
        self._http = http
        self._loop = loop
        self._received: list[bytes] = []  # decrypted, once the handshake has begun
        self._is_lost = False
        self._timer: TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        if len(self._connections) >= self._limits.connections_max:
            self._limits.count_end(EndReason.TOO_MANY)
            transport.abort()
            return
        self._connections.add(self)
        self._timer = self._loop.call_later(self._limits.header_timeout_s, self._late)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio names it
        self._is_lost = True
        self._forget()

    def data_received(self, data: bytes) -> None:
        if self._task is None:
            assert self.transport is not None
            self.transport.pause_reading()  # start_tls resumes it
            self._task = self._loop.create_task(self._complete(self.transport, data))
        else:
            self._received.append(data)

    def shutdown(self) -> None:
        """End a handshake that is not complete when the server stops."""
        if self.transport is not None:
            self.transport.abort()

    async def _complete(self, transport: asyncio.Transport, first: bytes) -> None:
        # By then start_tls has set its protocol, which has not begun yet.
        self._loop.call_soon(_feed, transport, first)
        try:
            tls = await self._loop.start_tls(
                transport, self, self._context, server_side=True, ssl_handshake_timeout=self._limits.header_timeout_s
            )
        except OSError:  # no handshake, no certificate they agree on, or the connection is lost
            transport.abort()
            return
        finally:
            self._forget()
        if tls is None or self._is_lost:
            transport.abort()
            return
        connection = self._http()
        connection.connection_made(tls)
        if tls.is_closing():
            return
        tls.set_protocol(connection)
        if self._received:
            connection.data_received(b"".join(self._received))

    def _late(self) -> None:
        assert self.transport is not None
        self._limits.count_end(EndReason.SLOW_TLS)
        self.transport.abort()

    def _forget(self) -> None:
        self._connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _feed(transport: asyncio.Transport, data: bytes) -> None:
    """Pass bytes to the protocol of a transport, an ``asyncio.BufferedProtocol`` in all but name, as if they arrived
    now."""
    protocol: Any = transport.get_protocol()
    while data:
        buffer = protocol.get_buffer(len(data))
        nbytes = min(len(buffer), len(data))
        buffer[:nbytes] = data[:nbytes]
        protocol.buffer_updated(nbytes)
        data = data[nbytes:]
