"""``WS /ws/metrics`` for programs and charts, ``WS /ws/pages`` for our own pages."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

import msgspec
from litestar import WebSocket, websocket
from litestar.di import NamedDependency
from litestar.exceptions import WebSocketDisconnect

from vantage.core.api_key import Scope
from vantage.core.errors import VantageError
from vantage.query.live import SERIES_MAX, LiveUpdates, Subscriber, Update, messages
from vantage.telemetry import Telemetry
from vantage.web.authorize import Authorizer

HEARTBEAT_S: Final = 30.0
SEND_TIMEOUT_S: Final = 30.0
Socket = WebSocket[Any, Any, Any]


@websocket("/ws/metrics")
async def metrics_socket(
    socket: Socket, live: NamedDependency[LiveUpdates], telemetry: NamedDependency[Telemetry]
) -> None:
    """``metric_update`` messages of the series that ``service`` and ``metric`` choose."""
    service, metric = socket.query_params.get("service", ""), socket.query_params.get("metric", "")
    with live.subscribe(service=service, metric=metric) as reader:
        await _serve(socket, reader, telemetry)


@websocket("/ws/pages")
async def pages_socket(
    socket: Socket, live: NamedDependency[LiveUpdates], telemetry: NamedDependency[Telemetry]
) -> None:
    """``changed`` messages that name services with new data: pages fetch themselves again."""
    with live.subscribe(series=False) as reader:
        await _serve(socket, reader, telemetry)


async def _serve(socket: Socket, reader: Subscriber, telemetry: Telemetry) -> None:
    admission: Authorizer = socket.app.state.admission
    try:
        admission.authorize(socket, Scope.READ)
        if telemetry.value("vantage_api_websocket_connections") >= socket.app.state.websockets_max:
            raise VantageError("too many WebSockets are open")
    except VantageError as error:
        await socket.accept()
        await socket.close(code=1008, reason=str(error)[:120])
        return
    await socket.accept()
    telemetry.websocket_connections.inc()
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_wait_for_disconnect(socket))
            tasks.create_task(_send_all(socket, reader, admission))
    except* (WebSocketDisconnect, _Disconnected, TimeoutError):
        pass
    finally:
        telemetry.websocket_connections.dec()


class _Disconnected(Exception):
    """The reader left, or stopped reading."""


async def _wait_for_disconnect(socket: Socket) -> None:
    """Whatever a reader sends is ignored; its leaving ends the connection."""
    with contextlib.suppress(WebSocketDisconnect):
        while (await socket.receive())["type"] != "websocket.disconnect":
            pass
    raise _Disconnected


async def _send_all(socket: Socket, reader: Subscriber, admission: Authorizer) -> None:
    left_out = 0
    async for updates, services, dropped in messages(reader, heartbeat_s=HEARTBEAT_S):
        try:
            admission.check_again(socket, Scope.READ)
        except VantageError as error:
            await socket.close(code=1008, reason=str(error)[:120])
            raise _Disconnected from error
        out: list[dict[str, Any]] = []
        if dropped:
            out.append({"type": "dropped", "count": dropped})
        if reader.series:
            out += [{"type": "metric_update", "data": _data(update)} for update in updates]
            if len(reader.series_skipped) > left_out:
                left_out = len(reader.series_skipped)
                text = f"{left_out} more series match; a socket carries {SERIES_MAX}: choose a service and a metric"
                out.append({"type": "limited", "series": left_out, "detail": text})
        elif services:
            out.append({"type": "changed", "services": sorted(services)})
        if not updates and not services and not dropped:
            out.append({"type": "heartbeat"})
        async with asyncio.timeout(SEND_TIMEOUT_S):
            for message in out:
                await socket.send_text(msgspec.json.encode(message).decode())


def _data(update: Update) -> dict[str, Any]:
    one = update.series
    return {
        "service": one.service,
        "environment": one.environment,
        "metric": one.metric,
        "kind": one.kind.value,
        "unit": one.unit,
        "tags": dict(one.tags),
        "timestamp": update.last_ms,
        "value": update.last,
        "count": update.count,
        "sum": update.total,
        "min": update.low,
        "max": update.high,
    }


handlers = [metrics_socket, pages_socket]
