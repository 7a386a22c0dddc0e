"""WebSockets: uvicorn's protocol with bounds on handshakes, frames, fragments and closing."""

from __future__ import annotations

from asyncio.events import TimerHandle
from asyncio.transports import BaseTransport
from typing import Any, Final, cast

import structlog
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Request

from vantage.connections.limits import FRAGMENTS_MAX, FRAMES_PER_S_MAX, ConnectionLimits, EndReason
from vantage.web.api.live import FRAMES

FEED_NBYTES: Final = 1 << 10  # parsed before frames are counted: at most 170 frames, some 10 ms
_log = structlog.get_logger("vantage.server")


class WebSocketConnection(WebSocketsSansIOProtocol):
    """A WebSocket whose peer can neither keep it without a handshake, nor fill memory, nor occupy the event loop."""

    limits: ConnectionLimits

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.drains = 0
        self._handshake_timer: TimerHandle | None = None
        self._frames_since_s = 0.0
        self._frame_count = 0

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        self._handshake_timer = self.loop.call_later(self.limits.header_timeout_s, self._handshake_late)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._handshake_timer is not None:
            self._handshake_timer.cancel()
            self._handshake_timer = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), FEED_NBYTES):
            self.conn.receive_data(data[start : start + FEED_NBYTES])
            if self.conn.parser_exc is not None:
                if self.conn.close_sent is None:  # uvicorn expects the frame of an open connection
                    self._end(EndReason.BAD_UPGRADE)
                    return
                self.handle_parser_exception()
                self.close_timer = self.loop.call_later(self.close_timeout, self.transport.abort)
                return
            if self._exceeds_frames(len(self.conn.events)):
                self._end(EndReason.TOO_MANY_FRAMES)
                return
            self.handle_events()
            if self.transport.is_closing():
                return

    def handle_cont(self, event: Frame) -> None:
        super().handle_cont(event)
        if len(self.frames) > FRAGMENTS_MAX:
            self._end(EndReason.TOO_MANY_FRAMES)

    def handle_ping(self) -> None:
        if self.close_sent or not self.writable.is_set():
            self.conn.data_to_send()  # a peer that does not read gets no answer
            return
        super().handle_ping()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.limits.on_unread(self.transport.get_write_buffer_size())
        if not self.read_paused:
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.drains += 1
        super().resume_writing()
        if not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def shutdown(self) -> None:
        try:
            super().shutdown()
        except Exception:  # noqa: BLE001 - one connection never keeps the others from draining
            _log.exception("a WebSocket could not be closed")
            self.transport.abort()

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if not self.close_sent:
            cast(dict[str, Any], self.scope["extensions"])[FRAMES] = {}

    async def send(self, message: ASGISendEvent) -> None:
        if (frames := cast(dict[str, Any], message).get(FRAMES)) is not None:
            await self.writable.wait()
            if self.disconnected or self.transport.is_closing():
                raise ClientDisconnected
            if not self.close_sent:
                self.transport.write(frames)
            return
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            self.handshake_complete = True  # uvicorn forgets it, and reports that the application did not answer
        if message["type"] == "websocket.close" and self.close_timer is not None:
            # uvicorn would close, and so wait for the peer to read.
            self.close_timer.cancel()
            self.close_timer = self.loop.call_later(self.close_timeout, self.transport.abort)

    def _exceeds_frames(self, count: int) -> bool:
        now_s = self.loop.time()
        if now_s - self._frames_since_s >= 1.0:
            self._frames_since_s = now_s
            self._frame_count = 0
        self._frame_count += count
        return self._frame_count > FRAMES_PER_S_MAX

    def _handshake_late(self) -> None:
        if not self.handshake_complete:
            self._end(EndReason.SLOW_HEADERS)

    def _end(self, reason: EndReason) -> None:
        if not self.transport.is_closing():
            self.limits.count_end(reason)
            self.transport.abort()
