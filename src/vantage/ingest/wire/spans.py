"""``POST /v1/spans``, as JSON or MessagePack."""

from __future__ import annotations

from collections.abc import Sequence
from sys import intern
from typing import Any, Final

import msgspec
from msgspec import Raw

from vantage.core.span import Span, SpanKind, SpanStatus
from vantage.ingest.origin_limits import OriginLimits
from vantage.ingest.series_cache import DEFAULT_ENVIRONMENT, Resource
from vantage.ingest.wire.decoded import (
    DecodedRequest,
    Rejection,
    add_spans,
    decode_body,
    decode_each,
)
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


class _LooseSpan(WireSpan, kw_only=True):
    """A span with attributes of any kind, such as arrays."""

    attributes: dict[str, Any] = {}


class _Envelope(msgspec.Struct, kw_only=True):
    service_name: str = ""
    environment: str = ""
    service_version: str = ""
    instance: str = ""


class _TypedEnvelope(_Envelope, kw_only=True):
    spans: list[WireSpan]


class _LooseEnvelope(_Envelope, kw_only=True):
    spans: list[Raw]


_NO_PARENT: Final = "0" * 16  # a root, as several senders write it


def to_span(wire: WireSpan, resource: Resource) -> Span:
    """Return the span, unchecked. Attribute values become text: booleans true and false, null the empty text, arrays
    and objects JSON."""
    return Span(
        trace_id=wire.trace_id,
        span_id=wire.span_id,
        service_name=intern(resource.service_name if wire.service_name is None else wire.service_name),
        name=intern(wire.name),
        start_ns=wire.start_ns,
        duration_ns=wire.duration_ns,
        parent_span_id="" if wire.parent_span_id == _NO_PARENT else wire.parent_span_id or "",
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
    if isinstance(value, int | float):
        return str(value).lower() if isinstance(value, bool) else str(value)
    return msgspec.json.encode(value).decode()


class LooseSpans:
    """Decodes spans one by one, when a body cannot be decoded in one go."""

    def __init__(self, encoding: str) -> None:
        module: Any = msgspec.json if encoding == "json" else msgspec.msgpack
        self._decoder = module.Decoder(_LooseSpan)

    def decode(self, raw_spans: Sequence[Raw]) -> list[WireSpan | Rejection]:
        """Return each span, or why it is rejected."""
        return decode_each(raw_spans, self._decoder.decode, fault="span")


class SpansFormat:
    """Decodes one of the two encodings."""

    def __init__(self, encoding: str, limits: OriginLimits) -> None:
        module: Any = msgspec.json if encoding == "json" else msgspec.msgpack
        self._limits = limits
        self._typed = module.Decoder(_TypedEnvelope)
        self._loose = module.Decoder(_LooseEnvelope)
        self._spans = LooseSpans(encoding)

    def receive(self, body: bytes, *, batch_id: str, now_ms: int, oldest_ms: int) -> DecodedRequest:
        """Decode a body; single spans are rejected one by one. Raises InputError when the body cannot be read."""
        envelope, sent = self._decode(body)
        resource = Resource(envelope.service_name, envelope.environment, envelope.service_version, envelope.instance)
        received = DecodedRequest()
        spans = [wire if isinstance(wire, Rejection) else to_span(wire, resource) for wire in sent]
        add_spans(received, spans, self._limits, now_ms=now_ms, oldest_ms=oldest_ms, batch_id=batch_id)
        return received

    def _decode(self, body: bytes) -> tuple[_Envelope, Sequence[WireSpan | Rejection]]:
        decoded = decode_body(body, self._typed, self._loose)
        return decoded, self._spans.decode(decoded.spans) if isinstance(decoded, _LooseEnvelope) else decoded.spans
