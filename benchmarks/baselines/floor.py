"""The floor: a bare ASGI function that decodes the payload with msgspec and stores nothing. It checks no key, limit or
name."""

from __future__ import annotations

from typing import Any

import msgspec


class Metric(msgspec.Struct, gc=False):
    timestamp: int
    metric_name: str
    value: float
    service_name: str = ""
    metric_type: str = "gauge"
    tags: dict[str, str] = {}
    trace_id: str | None = None
    span_id: str | None = None


class Payload(msgspec.Struct):
    metrics: list[Metric]
    service_name: str = ""
    environment: str = ""


_decoder = msgspec.json.Decoder(Payload)


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    parts = []
    more = True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    payload = _decoder.decode(b"".join(parts))
    body = b'{"accepted":%d}' % len(payload.metrics)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 202, "headers": headers})
    await send({"type": "http.response.body", "body": body})
