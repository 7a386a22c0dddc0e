"""What a query reads: a store's columns, as frames of the rows that its range and its series leave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vantage.core.batch import F64, I64, NO_LINKS, U32, Links
from vantage.core.errors import InputError
from vantage.core.series import Series
from vantage.core.span import Span
from vantage.core.timerange import TimeRange
from vantage.vql.check import CheckedSelect
from vantage.vql.functions import SPANS
from vantage.vql.tree import Column, Expr, children
from vantage.vql.vectors import Array, Coded, Frame, Vector, coded, compressed


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some samples as columns; ``slot`` is an index into the source's series."""

    slot: U32
    time_ms: I64
    value: F64
    links: Links = NO_LINKS


class Source(Protocol):
    """A consistent view of a store's columns, taken for one query."""

    def series(self) -> Sequence[Series | None]:
        """By slot; None where a series is gone."""
        ...

    def samples(self, time_range: TimeRange) -> Iterator[Chunk]:
        """Chunks that hold every sample of the range, and perhaps others."""
        ...

    def spans(self, time_range: TimeRange) -> Iterator[Sequence[Span]]:
        """Lists that hold every span starting in the range, and perhaps others."""
        ...


def samples_frame(query: CheckedSelect, source: Source, *, tick: Callable[[], None], samples_max: int) -> Frame:
    """The samples of the query's range and series. ``tick`` is called once a chunk. Raises what it raises, and
    InputError when more than ``samples_max`` samples are left."""
    series = source.series()
    chosen = _chosen_series(query.series_where, series)
    start, end = query.time_range.start_ms, query.time_range.end_ms
    kept: list[Chunk] = []
    total = 0
    with_links = _uses(query, "trace_id") or _uses(query, "span_id")
    for chunk in source.samples(query.time_range):
        tick()
        keep = chosen[chunk.slot]
        if chunk.time_ms.size and (chunk.time_ms.min() < start or chunk.time_ms.max() >= end):
            keep = keep & (chunk.time_ms >= start) & (chunk.time_ms < end)
        rows = np.flatnonzero(keep)
        if rows.size:
            links = chunk.links.take(rows) if with_links else NO_LINKS
            kept.append(Chunk(chunk.slot[rows], chunk.time_ms[rows], chunk.value[rows], links))
            total += rows.size
            if total > samples_max:
                raise InputError(f"the query reads more than {samples_max} samples: narrow its time range or filters")
    slot = _joined([chunk.slot for chunk in kept], np.uint32).astype(np.int64)

    @cache
    def by_series() -> tuple[Array, Array]:
        codes, first = compressed(slot)
        return codes, slot[first]

    def codes() -> Array:
        """For each row, the place of its series among ``held``."""
        return by_series()[0]

    @cache
    def held() -> list[Series]:
        return [one for place in by_series()[1].tolist() if (one := series[place]) is not None]

    return Frame(
        total,
        {
            "timestamp": lambda: _joined([chunk.time_ms for chunk in kept], np.int64),
            "value": lambda: _joined([chunk.value for chunk in kept], np.float64),
            "series": lambda: slot,
            "service_name": lambda: _of_series(codes(), held(), lambda one: one.service),
            "environment": lambda: _of_series(codes(), held(), lambda one: one.environment),
            "metric_name": lambda: _of_series(codes(), held(), lambda one: one.metric),
            "metric_type": lambda: _of_series(codes(), held(), lambda one: one.kind.value),
            "unit": lambda: _of_series(codes(), held(), lambda one: one.unit),
            "tags": lambda: Coded(codes(), [dict(one.tags) for one in held()]),
            "trace_id": lambda: _linked(kept, lambda links: links.trace_id),
            "span_id": lambda: _linked(kept, lambda links: links.span_id),
        },
    )


def _chosen_series(where: Expr | None, series: Sequence[Series | None]) -> NDArray[np.bool_]:
    """Which slots meet the condition: evaluated once a series."""
    present = np.fromiter((one is not None for one in series), np.bool_, len(series))
    if where is None:
        return present
    slots = np.flatnonzero(present)
    held = [one for one in series if one is not None]
    every = np.arange(len(held))
    frame = Frame(
        len(held),
        {
            "service_name": lambda: coded(one.service for one in held),
            "environment": lambda: coded(one.environment for one in held),
            "metric_name": lambda: coded(one.metric for one in held),
            "metric_type": lambda: coded(one.kind.value for one in held),
            "unit": lambda: coded(one.unit for one in held),
            "tags": lambda: Coded(every, [dict(one.tags) for one in held]),
        },
    )
    chosen = np.zeros(len(series), np.bool_)
    chosen[slots] = frame.condition(where)
    return chosen


def _of_series(codes: Array, held: list[Series], get: Callable[[Series], str]) -> Coded:
    found = coded(get(one) for one in held)
    return Coded(found.codes[codes] if held else codes, found.values)


def _linked(chunks: list[Chunk], get: Callable[[Links], Sequence[str]]) -> Coded:
    numbers: dict[str, int] = {"": 0}
    parts: list[Array] = []
    for chunk in chunks:
        codes = np.zeros(len(chunk.slot), np.int64)
        for position, text in zip(chunk.links.position.tolist(), get(chunk.links), strict=True):
            codes[position] = numbers.setdefault(text, len(numbers))
        parts.append(codes)
    return Coded(_joined(parts, np.int64), list(numbers))


def _joined(parts: list[Any], dtype: Any) -> Array:
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def spans_frame(query: CheckedSelect, source: Source, *, tick: Callable[[], None]) -> Frame:
    """The spans that start in the query's range."""
    spans: list[Span] = []
    start, end = query.time_range.start_ms, query.time_range.end_ms
    for some in source.spans(query.time_range):
        tick()
        spans.extend(span for span in some if start <= span.start_ns // 1_000_000 < end)
    return _frame_of_spans(spans)


def _frame_of_spans(spans: Sequence[Span]) -> Frame:
    """Spans as columns, each made on first use."""

    def text(name: str) -> Callable[[], Vector]:
        return lambda: coded(str(getattr(span, name)) for span in spans)

    def whole(get: Callable[[Span], int]) -> Callable[[], Vector]:
        return lambda: np.fromiter((get(span) for span in spans), np.int64, len(spans))

    columns: dict[str, Callable[[], Vector]] = {name: text(name) for name, kind in SPANS.items() if kind == "string"}
    columns["timestamp"] = whole(lambda span: span.start_ns // 1_000_000)
    columns["start_ns"] = whole(lambda span: span.start_ns)
    columns["duration_ns"] = whole(lambda span: span.duration_ns)
    columns["attributes"] = lambda: Coded(np.arange(len(spans)), [span.attributes for span in spans])
    return Frame(len(spans), columns)


def _uses(query: CheckedSelect, name: str) -> bool:
    def inside(expr: Expr) -> bool:
        return expr == Column(name) or any(inside(part) for part in children(expr))

    select = query.select
    exprs = [item.expr for item in select.items] + [order.expr for order in select.order_by] + list(select.group_by)
    return any(inside(expr) for expr in [*exprs, select.where, select.having] if expr is not None)
