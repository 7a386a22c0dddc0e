"""``POST /v1/spans``, as JSON or MessagePack."""

from __future__ import annotations

from sys import intern
from typing import Any

import msgspec

from vantage.core.span import Span, SpanKind, SpanStatus
from vantage.ingest.series_cache import DEFAULT_ENVIRONMENT, Resource
from vantage.ingest.wire.decoded import DECODE_ERRORS, DecodedRequest, add_spans, input_error
from vantage.ingest.wire.native import Int64


class WireSpan(msgspec.Struct, gc=False):
    """A span as it is sent: ids and times are required, the envelope and defaults supply the rest."""

    trace_id: str
    span_id: str
    name: str
    start_ns: Int64
    duration_ns: Int64
    parent_span_id: str | None = None
    service_name: str | None = None
    kind: SpanKind = SpanKind.INTERNAL
    status: SpanStatus = SpanStatus.UNSET
    environment: str | None = None
    service_version: str | None = None
    instance: str | None = None
    attributes: dict[str, str | int | float | bool | None] = {}


class _Envelope(msgspec.Struct):
    spans: list[WireSpan]
    service_name: str = ""
    environment: str = ""
    service_version: str = ""
    instance: str = ""


def to_span(wire: WireSpan, resource: Resource) -> Span:
    """Return the span, unchecked. Attribute values become text: booleans true and false, null the empty text."""
    return Span(
        trace_id=wire.trace_id,
        span_id=wire.span_id,
        service_name=intern(resource.service_name if wire.service_name is None else wire.service_name),
        name=intern(wire.name),
        start_ns=wire.start_ns,
        duration_ns=wire.duration_ns,
        parent_span_id=wire.parent_span_id or "",
        kind=wire.kind,
        status=wire.status,
        environment=intern((wire.environment or resource.environment) or DEFAULT_ENVIRONMENT),
        service_version=intern(wire.service_version or resource.service_version),
        instance=intern(wire.instance or resource.instance),
        attributes={intern(key): _text(value) for key, value in wire.attributes.items()},
    )


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


class SpansFormat:
    """Decodes one of the two encodings."""

    def __init__(self, encoding: str) -> None:
        self._decoder: Any = (msgspec.json if encoding == "json" else msgspec.msgpack).Decoder(_Envelope)

    def receive(self, body: bytes, *, batch_id: str, now_ms: int, oldest_ms: int) -> DecodedRequest:
        """Decode a body; single spans are rejected one by one. Raises InputError when the body cannot be read."""
        try:
            envelope: _Envelope = self._decoder.decode(body)
        except DECODE_ERRORS as error:
            raise input_error(error) from error
        resource = Resource(envelope.service_name, envelope.environment, envelope.service_version, envelope.instance)
        received = DecodedRequest()
        spans = [to_span(wire, resource) for wire in envelope.spans]
        add_spans(received, spans, now_ms=now_ms, oldest_ms=oldest_ms, batch_id=batch_id)
        return received
