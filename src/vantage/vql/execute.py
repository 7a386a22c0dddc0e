"""Running a checked query on the columns of a store that keeps them itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vantage.core.errors import StoreTimeout
from vantage.vql.aggregate import Groups, aggregate
from vantage.vql.check import CheckedSelect
from vantage.vql.functions import AGGREGATES, series_only
from vantage.vql.samples import rollups_frame, samples_frame
from vantage.vql.source import Source, spans_frame
from vantage.vql.table import Table, TableColumn, null_if_nan
from vantage.vql.tree import Call, Column, Expr, TagValue, children
from vantage.vql.vectors import Array, Coded, Frame, Shared, Vector, compressed, take

_CODE_MAX: Final = 1 << 31


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
    table = query.select.table
    if table == "spans":
        frame = spans_frame(query, source, tick=deadline.check)
    else:
        rows_of = samples_frame if table == "metrics" else rollups_frame
        frame = rows_of(query, source, tick=deadline.check, samples_max=samples_max)
    deadline.check()
    if query.row_where is not None:
        frame = _restrict(frame, frame.condition(query.row_where))
    return _answer(query, _grouped(query, frame, deadline) if query.grouped else frame)


def _restrict(frame: Frame, keep: NDArray[np.bool_]) -> Frame:
    """The rows that ``keep`` leaves; columns are cut when they are used."""
    rows = np.flatnonzero(keep)
    return frame if rows.size == frame.rows else _cut(frame, rows)


def _cut(frame: Frame, rows: Array) -> Frame:
    def cut(expr: Expr) -> Callable[[], Vector]:
        return lambda: frame.vector_at(expr, rows)

    def cut_shared(shared: Shared) -> Shared:
        of, first = compressed(shared.of[rows])
        return Shared(_cut(shared.frame, shared.of[rows[first]]), of)

    shared = frame.shared
    return Frame(
        rows.size,
        {name: cut(Column(name)) for name in frame.names},
        tag=lambda key: cut(TagValue(key))(),
        shared=None if shared is None else lambda: cut_shared(shared),
    )


def _grouped(query: CheckedSelect, frame: Frame, deadline: Deadline) -> Frame:
    """A frame of one row a group that knows the keys and every aggregate."""
    groups, keys = _group(query.select.group_by, frame)
    result = Frame(groups.count, {})
    for expr, vector in zip(query.select.group_by, keys, strict=True):
        result.know(expr, vector)
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


def _group(keys: Sequence[Expr], frame: Frame) -> tuple[Groups, list[Vector]]:
    """Which group each row belongs to, and each key by group. No key: one group, also of no rows."""
    if not keys:
        return Groups(np.zeros(frame.rows, np.int64), 1), []
    shared = frame.shared
    columns, of_series = [], [key for key in keys if shared is not None and series_only(key)]
    if shared is not None and of_series:  # few series are grouped instead of many rows
        groups, values = _group(of_series, shared.frame)
        groups = Groups(groups.ids[shared.of], groups.count)
        if len(of_series) == len(keys):
            return groups, values
        columns.append(groups.ids)
    columns += [_codes(frame.vector(key)) for key in keys if key not in of_series]
    ids, first = _combined(columns)
    return Groups(ids, len(first)), [frame.vector_at(key, first) for key in keys]


def _combined(columns: Sequence[Array]) -> tuple[Array, Array]:
    """Numbers without gaps for combinations of codes, and the first row of each."""
    ids, first = compressed(columns[0])
    for codes in columns[1:]:
        if codes.max(initial=0) > _CODE_MAX:  # so that the product below stays within 64 bits
            codes = compressed(codes)[0]
        ids, first = compressed(ids * (int(codes.max(initial=0)) + 1) + codes)
    return ids, first


def _codes(vector: Vector) -> Array:
    return vector.merged() if isinstance(vector, Coded) else _dense(vector)


def _dense(key: Array) -> Array:
    """Small codes for numbers: buckets of time are few multiples of their step, and need no sorting."""
    if key.dtype.kind in "iu" and key.size:
        offset: Array = key - key.min()
        offset //= int(np.gcd.reduce(offset)) or 1
        return offset
    if key.dtype.kind == "b":
        return key.astype(np.int64)
    return np.unique(key, return_inverse=True)[1]


def _aggregates(exprs: list[Expr]) -> list[Call]:
    found: dict[Call, None] = {}

    def look(expr: Expr) -> None:
        if isinstance(expr, Call) and expr.function in AGGREGATES:
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
        rows = rows[_sort(take(frame.vector(order.expr), rows), descending=order.descending)]
    truncated = query.limit < rows.size
    asked = query.select.limit is not None and query.select.limit <= query.limit
    rows = rows[: query.limit]
    return Table(
        query.columns,
        tuple(
            _plain(take(frame.vector(item.expr), rows), column)
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
        if not np.isfinite(vector).all():
            plain = null_if_nan(plain)
        if column.type in ("int", "time"):
            plain = [None if value is None else int(value) for value in plain]
    return plain
