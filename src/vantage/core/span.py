"""Spans: one timed operation of a trace, a record of its own."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from sys import getsizeof
from typing import Final

import msgspec

from vantage.core.sample import (
    FUTURE_MS_MAX,
    TIME_MS_MIN,
    id_problem,
    metric_name_problem,
    service_name_problem,
    text_problem,
)

SPAN_NAME_LENGTH_MAX: Final = 512
ATTRIBUTES_MAX: Final = 64
ATTRIBUTE_KEY_LENGTH_MAX: Final = 128
ATTRIBUTE_VALUE_LENGTH_MAX: Final = 2048
DURATION_NS_MAX: Final = 7 * 86_400 * 1_000_000_000  # a week
# Memory of a span without attributes, its row in the columns that the first query makes included: measured.
SPAN_NBYTES: Final = 800


class SpanKind(StrEnum):
    """OpenTelemetry's span kinds, in lower case."""

    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"
    PRODUCER = "producer"
    CONSUMER = "consumer"


class SpanStatus(StrEnum):
    """OpenTelemetry's span status, in lower case."""

    UNSET = "unset"
    OK = "ok"
    ERROR = "error"


class Span(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One span; encoded as an array, fields in this order. ``start_ns`` is nanoseconds since the epoch; an empty
    ``parent_span_id`` marks a root span."""

    trace_id: str
    span_id: str
    service_name: str
    name: str
    start_ns: int
    duration_ns: int
    parent_span_id: str = ""
    kind: SpanKind = SpanKind.INTERNAL
    status: SpanStatus = SpanStatus.UNSET
    environment: str = ""
    service_version: str = ""
    instance: str = ""
    attributes: dict[str, str] = {}

    @property
    def start_ms(self) -> int:
        return self.start_ns // 1_000_000

    @property
    def is_error(self) -> bool:
        return self.status is SpanStatus.ERROR


def spans_nbytes(spans: Iterable[Span]) -> int:
    """Estimate the memory of spans, in bytes.

    Keys, like names, are mostly shared by many spans, so only their characters are counted.
    """
    total = 0
    for span in spans:
        total += SPAN_NBYTES + len(span.name) + len(span.service_name)
        if attributes := span.attributes:
            total += getsizeof(attributes) + sum(map(len, attributes)) + sum(map(getsizeof, attributes.values()))
    return total


def span_problem(span: Span, *, now_ms: int, oldest_ms: int = TIME_MS_MIN) -> tuple[str, str]:
    """``(field, reason)`` for the first thing wrong with a decoded span, or two empty strings."""
    for field, reason in (
        ("trace_id", id_problem(span.trace_id)),
        ("span_id", id_problem(span.span_id)),
        ("parent_span_id", id_problem(span.parent_span_id) if span.parent_span_id else ""),
        ("service_name", service_name_problem(span.service_name)),
        ("environment", metric_name_problem(span.environment) if span.environment else ""),
        ("name", text_problem(span.name, SPAN_NAME_LENGTH_MAX) if span.name else "is empty"),
        ("service_version", text_problem(span.service_version, 255)),
        ("instance", text_problem(span.instance, 255)),
    ):
        if reason:
            return field, reason
    if span.start_ns < TIME_MS_MIN * 1_000_000:
        return "start_ns", "lies before 2000-01-01: is it in nanoseconds?"
    if span.start_ns > (now_ms + FUTURE_MS_MAX) * 1_000_000:
        return "start_ns", f"lies more than {FUTURE_MS_MAX // 60_000} minutes ahead of the server's clock"
    if span.start_ns < oldest_ms * 1_000_000:
        return "start_ns", "is older than the retention"
    if not 0 <= span.duration_ns <= DURATION_NS_MAX:
        return "duration_ns", "is negative or longer than 7 days"
    if len(span.attributes) > ATTRIBUTES_MAX:
        return "attributes", f"holds {len(span.attributes)} attributes, at most {ATTRIBUTES_MAX} are allowed"
    for key, value in span.attributes.items():
        if not key or (reason := text_problem(key, ATTRIBUTE_KEY_LENGTH_MAX)):
            return "attributes", f"key {key[:ATTRIBUTE_KEY_LENGTH_MAX]!r} {reason if key else 'is empty'}"
        if reason := text_problem(value, ATTRIBUTE_VALUE_LENGTH_MAX):
            return f"attributes.{key}", reason
    return "", ""
