"""Calls between services over a range: rows of edges added up, or computed from all spans of the range."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import numpy as np

from vantage.core.errors import InputError
from vantage.core.red import bincount
from vantage.core.rollup import FIVE_MINUTES_MS, HOUR_MS, NO_PARTIALS, Partials, concat_partials
from vantage.core.span_table import SpanTable
from vantage.core.timerange import TimeRange
from vantage.storage.edge_join import (
    NO_EDGE_SPANS,
    PARENT_REACH_MS,
    EdgeKeys,
    EdgeSpans,
    added_edges,
    concat_edge_spans,
    edge_spans,
)
from vantage.storage.ports import EdgeKind, ServiceEdge, ServiceEdges

SPANS_MAX: Final = 2_000_000  # about a microsecond each
COPIES: Final = 3  # of the columns in memory: those of each table, all together, and what sorting them takes
EDGE_WIDTHS_MS: Final = (FIVE_MINUTES_MS, HOUR_MS)
NARROW_KEPT_MS: Final = 2 * 86_400_000  # how long rows of 5 minutes are stored; those of an hour stay with their week


def edge_width(time_range: TimeRange, *, now_ms: int) -> int:
    """Return the width of the buckets that a range is made of, in milliseconds."""
    return FIVE_MINUTES_MS if time_range.start_ms >= now_ms - NARROW_KEPT_MS + HOUR_MS else HOUR_MS


def whole_buckets(time_range: TimeRange, *, width_ms: int) -> TimeRange:
    """Return the range of the buckets that a range touches."""
    return TimeRange(time_range.start_ms // width_ms * width_ms, -(-time_range.end_ms // width_ms) * width_ms)


def with_parents(time_range: TimeRange) -> TimeRange:
    """Return the range of the spans that the edges of a range depend on."""
    return TimeRange(time_range.start_ms - 2 * PARENT_REACH_MS, time_range.end_ms + 2 * PARENT_REACH_MS)


def sum_edges(parts: Iterable[Partials], keys: EdgeKeys, time_range: TimeRange) -> ServiceEdges:
    """Return the edges of rows whose buckets begin in the range."""
    rows = concat_partials([part for part in parts if len(part)])
    rows = rows.take(np.flatnonzero((rows.time_ms >= time_range.start_ms) & (rows.time_ms < time_range.end_ms)))
    codes, code = np.unique(rows.slot, return_inverse=True)
    named = [keys.keys[number] for number in codes.tolist()]
    numbers: dict[tuple[str, str, EdgeKind], int] = {}
    edge_of = [numbers.setdefault((key.caller, key.callee, key.kind), len(numbers)) for key in named]
    number = np.array(edge_of, np.int64)[code]
    failed = np.array([key.failed for key in named], np.bool_)[code]
    calls, errors, total = (
        bincount(number, weights, len(numbers)).astype(np.int64).tolist()
        for weights in (rows.count.astype(np.float64), (rows.count * failed).astype(np.float64), rows.sum)
    )
    longest = np.zeros(len(numbers))
    np.maximum.at(longest, number, rows.max)
    if not numbers:
        return ServiceEdges(time_range, ())
    edges = map(ServiceEdge, *zip(*numbers, strict=True), calls, errors, total, longest.astype(np.int64).tolist())
    return ServiceEdges(time_range, tuple(edge for edge in edges if edge.calls > 0))


def service_edges(
    tables: Iterable[SpanTable],
    time_range: TimeRange,
    *,
    spans_max: int = SPANS_MAX,
    take: Callable[[int], None] = lambda _: None,
) -> ServiceEdges:
    """Return the edges of the spans that start in the range, which begins and ends with a bucket of 5 minutes.

    The tables contain every span of ``with_parents`` of the range, and perhaps others. A span without its parent in
    them makes no edge; a peer without spans in them is external. A table is released before the next one is read.
    ``take`` is called with bytes of memory about to be used. Raises InputError beyond ``spans_max`` spans.
    """
    keys = EdgeKeys()
    spans = read_edge_spans(tables, spans_max=spans_max, take=take)
    return sum_edges([added_edges(spans, NO_EDGE_SPANS, keys) if len(spans) else NO_PARTIALS], keys, time_range)


def read_edge_spans(
    tables: Iterable[SpanTable], *, spans_max: int = SPANS_MAX, take: Callable[[int], None] = lambda _: None
) -> EdgeSpans:
    """Return the spans of all tables. Raises InputError beyond ``spans_max`` spans."""
    parts: list[EdgeSpans] = []
    total = 0
    for table in tables:
        total += len(table)
        if total > spans_max:
            raise InputError(f"the range has more than {spans_max} spans: narrow it")
        part = edge_spans(table)
        take(COPIES * part.nbytes)
        parts.append(part)
    return concat_edge_spans(parts)
