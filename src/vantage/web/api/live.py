"""``WS /ws/metrics`` for programs and charts, ``WS /ws/pages`` for Vantage's pages."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Final, cast

import msgspec
import structlog
from litestar import WebSocket, websocket
from litestar.di import NamedDependency
from litestar.exceptions import WebSocketDisconnect

from vantage.core.api_key import Scope
from vantage.core.errors import BusyError, VantageError
from vantage.core.live_update import Update
from vantage.query.live import SERIES_MAX, LiveUpdates, Subscriber, messages
from vantage.telemetry import Telemetry
from vantage.web.auth import Principal
from vantage.web.authorize import Authorizer
from vantage.web.middleware import refuse_websocket
from vantage.web.problems import problem_of
from vantage.web.pushed_views import PushedViews, Tab, Watch

HEARTBEAT_S: Final = 30.0
SEND_TIMEOUT_S: Final = 30.0
RETRY_AFTER_S: Final = 5.0
_log = structlog.get_logger("vantage.web")
SEND_NBYTES: Final = 64 << 10
FRAMES: Final = "vantage.frames"  # the extension of ASGI by which our server takes frames as they are
_TEXT: Final = 0x81
_BINARY: Final = 0x82
_encode: Final = msgspec.json.Encoder().encode
_decode_watch: Final = msgspec.json.Decoder(Watch).decode
PATHS: Final = ("/ws/metrics", "/ws/pages")
Socket = WebSocket[Any, Any, Any]


@websocket(PATHS[0])
async def metrics_socket(
    socket: Socket, live: NamedDependency[LiveUpdates], telemetry: NamedDependency[Telemetry]
) -> None:
    """Send ``metric_update`` messages of the series that ``service`` and ``metric`` select."""
    service, metric = socket.query_params.get("service", ""), socket.query_params.get("metric", "")
    await _serve(socket, live.subscribe(service=service, metric=metric), telemetry)


@websocket(PATHS[1])
async def pages_socket(
    socket: Socket, live: NamedDependency[LiveUpdates], telemetry: NamedDependency[Telemetry]
) -> None:
    """Send what changes of the view that a ``watch`` message names, and until there is one ``changed`` messages that
    name services with new data."""
    await _serve(socket, live.subscribe_to_services(), telemetry, is_page=True)


async def _serve(
    socket: Socket,
    subscription: AbstractContextManager[Subscriber],
    telemetry: Telemetry,
    *,
    is_page: bool = False,
) -> None:
    """Open the socket, if it is allowed to, and serve it. One that is refused is never open."""
    authorizer: Authorizer = socket.app.state.authorizer
    try:
        principal = await authorizer.authorize(socket, Scope.READ)
        if telemetry.value("vantage_api_websocket_connections") >= socket.app.state.websockets_max:
            raise BusyError("too many WebSockets are open", retry_after_s=RETRY_AFTER_S)
    except VantageError as error:
        await socket.receive()
        await refuse_websocket(socket.scope, socket.send, problem_of(error))
        return
    telemetry.websocket_connections.inc()
    try:
        await socket.accept()
        with subscription as subscriber:
            async with asyncio.TaskGroup() as tasks:
                sender = _Sender(socket, authorizer)
                tasks.create_task(_send_all(sender, subscriber))
                if is_page:
                    tasks.create_task(_follow_views(sender, principal, subscriber, tasks))
                else:
                    tasks.create_task(_wait_for_disconnect(socket))
    except* (WebSocketDisconnect, _Disconnected, OSError):  # of the time limit, or a peer that is gone
        pass
    except* Exception:  # noqa: BLE001 - whatever it is, the log says it and the peer hears of it
        _log.exception("a WebSocket failed")
        with contextlib.suppress(Exception):
            await socket.close(code=1011, reason="something went wrong inside Vantage")
    finally:
        telemetry.websocket_connections.dec()


class _Disconnected(Exception):
    """The subscriber disconnected, or stopped reading."""


async def _wait_for_disconnect(socket: Socket) -> None:
    """Ignore what a subscriber sends; raise _Disconnected when it disconnects."""
    with contextlib.suppress(WebSocketDisconnect):
        while (await socket.receive())["type"] != "websocket.disconnect":
            pass
    raise _Disconnected


async def _follow_views(
    sender: _Sender, principal: Principal, subscriber: Subscriber, tasks: asyncio.TaskGroup
) -> None:
    """Push the view that the latest ``watch`` message names, until the page disconnects. Other messages are ignored."""
    socket = sender.socket
    pushed: PushedViews = socket.app.state.pushed_views
    tab = Tab(cast(Any, socket.scope))
    try:
        while (event := cast(dict[str, Any], await socket.receive()))["type"] == "websocket.receive":
            try:
                watch = _decode_watch(event.get("text") or event.get("bytes") or b"")
            except (msgspec.MsgspecError, UnicodeError):
                continue
            if not subscriber.only_heartbeats:
                subscriber.only_heartbeats = True
                tasks.create_task(_send_views(sender, tab))
            pushed.watch(cast(Any, socket.app), tab, watch, (principal.id, principal.by_session))
    except WebSocketDisconnect:
        pass
    finally:
        pushed.leave(tab)
    raise _Disconnected


async def _send_views(sender: _Sender, tab: Tab) -> None:
    while True:
        await sender.send([binary_frame(await tab.next_message())])


async def _send_all(sender: _Sender, subscriber: Subscriber) -> None:
    skipped = 0
    async for updates, services, dropped in messages(subscriber, heartbeat_s=HEARTBEAT_S):
        if subscriber.only_heartbeats:
            services = set()
        out: list[bytes] = []
        if dropped:
            out.append(text_frame({"type": "dropped", "count": dropped}))
        for update in updates:
            update.encoded = update.encoded or text_frame({"type": "metric_update", "data": _data(update)})
            out.append(update.encoded)
        feed = subscriber.feed
        if feed is not None and len(feed.series_skipped) > skipped:
            skipped = len(feed.series_skipped)
            text = f"{skipped} more series match than the {SERIES_MAX} a socket sends: select a service or metric"
            out.append(text_frame({"type": "limited", "series": skipped, "detail": text}))
        if services:
            out.append(text_frame({"type": "changed", "services": sorted(services)}))
        if not updates and not services and not dropped:
            out.append(text_frame({"type": "heartbeat"}))
        await sender.send(out)


class _Sender:
    """Sends frames to one reader, one list after the other."""

    def __init__(self, socket: Socket, authorizer: Authorizer) -> None:
        self.socket = socket
        self._authorizer = authorizer
        self._takes_frames = FRAMES in (socket.scope.get("extensions") or {})
        self._lock = asyncio.Lock()

    async def send(self, frames: list[bytes]) -> None:
        """Send frames, which may be the same for all readers. Raises _Disconnected when the reader may read no longer,
        TimeoutError when it does not."""
        try:
            self._authorizer.check_again(self.socket, Scope.READ)
        except VantageError as error:
            await self.socket.close(code=1008, reason=str(error)[:120])
            raise _Disconnected from error
        async with asyncio.timeout(SEND_TIMEOUT_S), self._lock:
            if self._takes_frames:  # our server's WebSockets: many with one write
                for group in _groups(frames):
                    await self.socket.send(cast(Any, {"type": "websocket.send", FRAMES: group}))
            else:
                for frame in frames:
                    payload = payload_of(frame)
                    send = self.socket.send_bytes if frame[0] == _BINARY else self.socket.send_text
                    await send(payload)


def _groups(frames: list[bytes]) -> Iterator[bytes]:
    """Yield the frames joined to pieces of about ``SEND_NBYTES``: between two of them a slow reader is waited for."""
    group: list[bytes] = []
    nbytes = 0
    for frame in frames:
        group.append(frame)
        nbytes += len(frame)
        if nbytes >= SEND_NBYTES:
            yield b"".join(group)
            group, nbytes = [], 0
    if group:
        yield b"".join(group)


def text_frame(message: Any) -> bytes:
    """Return a message, as JSON, as a frame of a server: final, text, unmasked (RFC 6455, 5.2)."""
    return _frame(_TEXT, _encode(message))


def binary_frame(payload: bytes) -> bytes:
    """Return bytes as a frame of a server: final, binary, unmasked."""
    return _frame(_BINARY, payload)


def _frame(first: int, payload: bytes) -> bytes:
    nbytes = len(payload)
    if nbytes < 126:
        return b"%c%c%b" % (first, nbytes, payload)
    if nbytes < 1 << 16:
        return b"%c\x7e%b%b" % (first, nbytes.to_bytes(2, "big"), payload)
    return b"%c\x7f%b%b" % (first, nbytes.to_bytes(8, "big"), payload)


def payload_of(frame: bytes) -> bytes:
    """Return the message of a frame that is made here."""
    return frame[{126: 4, 127: 10}.get(frame[1], 2) :]


def _data(update: Update) -> dict[str, Any]:
    series = update.series
    return {
        "service": series.service,
        "environment": series.environment,
        "metric": series.metric,
        "kind": series.kind.value,
        "unit": series.unit,
        "tags": dict(series.tags),
        "timestamp": update.last_ms,
        "value": update.last,
        "count": update.count,
        "sum": update.total,
        "min": update.low,
        "max": update.high,
    }


handlers = [metrics_socket, pages_socket]
