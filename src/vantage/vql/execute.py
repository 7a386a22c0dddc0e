"""Running a checked query on the columns of a store that keeps them itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vantage.core.batch import F64, I64, NO_LINKS, U32, Links
from vantage.core.errors import InputError, StoreTimeout
from vantage.core.series import Series
from vantage.core.span import Span
from vantage.core.timerange import TimeRange
from vantage.vql.aggregate import Groups, aggregate
from vantage.vql.check import CheckedSelect
from vantage.vql.functions import FUNCTIONS, SPANS
from vantage.vql.table import Table, TableColumn, null_if_nan
from vantage.vql.tree import Call, Column, Expr, children
from vantage.vql.vectors import Array, Coded, Frame, Vector, coded

_TABLE_MAX = 1 << 20  # entries of a look-up table that is cheaper than sorting


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


class Deadline:
    """Raises StoreTimeout once ``seconds`` have passed; checked once a chunk and once an operation."""

    def __init__(self, seconds: float, *, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._monotonic_s = monotonic_s
        self._end_s = monotonic_s() + seconds

    def check(self) -> None:
        if self._monotonic_s() > self._end_s:
            raise StoreTimeout(f"the query took longer than {self._seconds:g} s: narrow its time range or its filters")


def execute(query: CheckedSelect, source: Source, deadline: Deadline, *, samples_max: int = 50_000_000) -> Table:
    """Answer a checked query. Raises StoreTimeout, and InputError when more than ``samples_max`` samples survive."""
    if query.select.table == "metrics":
        frame = _samples_frame(query, source, deadline, samples_max)
    else:
        frame = _spans_frame(query, source, deadline)
    deadline.check()
    if query.row_where is not None:
        frame = _restrict(frame, frame.condition(query.row_where))
    return _answer(query, _grouped(query, frame, deadline) if query.grouped else frame)


def _samples_frame(query: CheckedSelect, source: Source, deadline: Deadline, samples_max: int) -> Frame:
    series = source.series()
    chosen = _chosen_series(query.series_where, series)
    start, end = query.time_range.start_ms, query.time_range.end_ms
    kept: list[Chunk] = []
    total = 0
    with_links = _uses(query, "trace_id") or _uses(query, "span_id")
    for chunk in source.samples(query.time_range):
        deadline.check()
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
        codes, first = _compressed(slot)
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


def _spans_frame(query: CheckedSelect, source: Source, deadline: Deadline) -> Frame:
    spans: list[Span] = []
    start, end = query.time_range.start_ms, query.time_range.end_ms
    for some in source.spans(query.time_range):
        deadline.check()
        spans.extend(span for span in some if start <= span.start_ns // 1_000_000 < end)
    return spans_frame(spans)


def spans_frame(spans: Sequence[Span]) -> Frame:
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


def _restrict(frame: Frame, keep: NDArray[np.bool_]) -> Frame:
    """The rows that ``keep`` leaves; columns are cut when they are used."""
    rows = np.flatnonzero(keep)
    if rows.size == frame.rows:
        return frame

    def cut(name: str) -> Callable[[], Vector]:
        return lambda: _take(frame.vector(Column(name)), rows)

    return Frame(rows.size, {name: cut(name) for name in frame.names})


def _take(vector: Vector, rows: Array) -> Vector:
    return Coded(vector.codes[rows], vector.values) if isinstance(vector, Coded) else vector[rows]


def _grouped(query: CheckedSelect, frame: Frame, deadline: Deadline) -> Frame:
    """A frame of one row a group that knows the keys and every aggregate."""
    keys = [frame.vector(key) for key in query.select.group_by]
    groups, first = _group(keys, frame.rows)
    result = Frame(groups.count, {})
    for expr, vector in zip(query.select.group_by, keys, strict=True):
        result.know(expr, _take(vector, first))
    having = [query.select.having] if query.select.having is not None else []
    for call in _aggregates(
        [*(item.expr for item in query.select.items), *having, *(order.expr for order in query.select.order_by)]
    ):
        deadline.check()
        result.know(call, aggregate(call, frame, groups))
    if query.select.having is not None:
        rows = np.flatnonzero(result.condition(query.select.having))
        result = result.taken(rows)
    return result


def _group(keys: list[Vector], rows: int) -> tuple[Groups, Array]:
    """Group numbers, and the first row of each group. No key: one group, also of no rows."""
    if not keys:
        return Groups(np.zeros(rows, np.int64), 1), np.zeros(1, np.int64)
    ids = np.zeros(rows, np.int64)
    first = np.empty(0, np.int64)
    for key in keys:
        codes = _merged(key) if isinstance(key, Coded) else _dense(key)
        ids, first = _compressed(ids * (int(codes.max(initial=0)) + 1) + codes)
    return Groups(ids, len(first)), first


def _dense(key: Array) -> Array:
    """Small codes for numbers: buckets of time are few multiples of their step, and need no sorting."""
    if key.dtype.kind in "iu" and key.size:
        offset: Array = key - key.min()
        offset //= int(np.gcd.reduce(offset)) or 1
        return offset
    if key.dtype.kind == "b":
        return key.astype(np.int64)
    return np.unique(key, return_inverse=True)[1]


def _compressed(codes: Array) -> tuple[Array, Array]:
    """Codes without gaps, in the same order, and the first row of each."""
    size = int(codes.max(initial=-1)) + 1
    if size > max(_TABLE_MAX, 2 * len(codes)):
        _, first, ids = np.unique(codes, return_index=True, return_inverse=True)
        return ids, first
    first_of = np.full(size, -1, np.int64)
    rows = np.arange(len(codes) - 1, -1, -1)
    first_of[codes[::-1]] = rows  # of repeated targets numpy keeps the last: here the first row
    present = first_of >= 0
    return (np.cumsum(present) - 1)[codes], first_of[present]


def _merged(key: Coded) -> Array:
    """Codes that are equal where values are: a function or a tag look-up may give several codes one value."""
    numbers: dict[str, int] = {}
    table = np.fromiter((numbers.setdefault(repr(v), len(numbers)) for v in key.values), np.int64, len(key.values))
    return table[key.codes]


def _aggregates(exprs: list[Expr]) -> list[Call]:
    found: dict[Call, None] = {}

    def look(expr: Expr) -> None:
        if isinstance(expr, Call) and FUNCTIONS[expr.function].aggregate:
            found[expr] = None
            return
        for part in children(expr):
            look(part)

    for expr in exprs:
        look(expr)
    return list(found)


def _answer(query: CheckedSelect, frame: Frame) -> Table:
    rows = np.arange(frame.rows)
    for order in reversed(query.select.order_by):  # a stable sort by the last key first
        rows = rows[_sort(_take(frame.vector(order.expr), rows), descending=order.descending)]
    truncated = query.limit < rows.size
    asked = query.select.limit is not None and query.select.limit <= query.limit
    rows = rows[: query.limit]
    return Table(
        query.columns,
        tuple(
            _plain(_take(frame.vector(item.expr), rows), column)
            for item, column in zip(query.select.items, query.columns, strict=True)
        ),
        truncated=truncated and not asked,
    )


def _sort(vector: Vector, *, descending: bool) -> Array:
    """A stable order; nulls last either way, as in ClickHouse."""
    if isinstance(vector, Coded):
        ranked = {value: rank for rank, value in enumerate(sorted({str(v) for v in vector.values if v is not None}))}
        ranks = [np.nan if value is None else float(ranked[str(value)]) for value in vector.values]
        vector = np.array(ranks, np.float64)[vector.codes]
    if descending:
        vector = -vector.astype(np.float64) if vector.dtype.kind in "bf" else -vector
    return np.argsort(vector, kind="stable")  # NaN sorts last


def _plain(vector: Vector, column: TableColumn) -> list[Any]:
    if isinstance(vector, Coded):
        return [vector.values[code] for code in vector.codes.tolist()]
    plain: list[Any] = vector.tolist()
    if vector.dtype.kind == "f":
        plain = null_if_nan(plain)
        if column.type in ("int", "time"):
            plain = [None if value is None else int(value) for value in plain]
    return plain
