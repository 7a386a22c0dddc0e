"""Execution of a checked query on a store's own columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from vantage.core.arrays import Array, Mask
from vantage.core.dict_column import DictColumn
from vantage.vql.check import CheckedSelect, aggregates_of
from vantage.vql.exec.aggregate import Groups, aggregate
from vantage.vql.exec.budget import DISTINCT_NBYTES, NUMBER_NBYTES, QueryBudget
from vantage.vql.exec.frame import Frame, PerSeries
from vantage.vql.exec.scan_samples import scan_rollups, scan_samples
from vantage.vql.exec.scan_spans import scan_spans
from vantage.vql.exec.source import ColumnSource
from vantage.vql.exec.vector import Vector, dense_codes
from vantage.vql.signatures import series_only
from vantage.vql.table import Table, TableColumn, null_if_nan
from vantage.vql.tree import Column, Expr, Order, TagValue

QUERY_SAMPLES_MAX: Final = 50_000_000
SPAN_COSTS: Final = 10
EXPLAIN_COLUMNS: Final = (TableColumn("tier", "string"), TableColumn("chunks", "int"), TableColumn("rows", "int"))
_CODE_MAX: Final = 1 << 31
_GROUPING_VECTORS: Final = 4  # as long as the frame, made and dropped while rows are grouped or sorted


def execute(
    query: CheckedSelect, source: ColumnSource, budget: QueryBudget, *, samples_max: int = QUERY_SAMPLES_MAX
) -> Table:
    """Answer a checked query.

    Raises StoreTimeout, and InputError when it takes more memory than the budget has, or when more than ``samples_max``
    samples would have to be read; a span, which takes more room, counts as ten.
    """
    table = query.select.table
    if table == "spans":
        frame = scan_spans(query, source, budget, rows_max=samples_max // SPAN_COSTS)
    else:
        rows_of = scan_samples if table == "metrics" else scan_rollups
        frame = rows_of(query, source, budget, rows_max=samples_max)
    budget.check()
    if query.row_where is not None:
        keep = frame.condition(query.row_where)
        frame.forget_but([*query.select.group_by, *_results_of(query)])
        frame = _filter(frame, keep)
    return to_table(query, _group_and_aggregate(query, frame) if query.grouped else frame)


def _results_of(query: CheckedSelect) -> list[Expr]:
    """Return the expressions that the answer shows or is sorted by."""
    return [*(item.expr for item in query.select.items), *(order.expr for order in query.select.order_by)]


def explain(query: CheckedSelect, source: ColumnSource) -> Table:
    """Return what answering would read, tier by tier: chunks, and the rows in them."""
    table = query.select.table
    slots = np.empty(0, np.bool_) if table == "spans" else source.series().matching(query.series_where)
    plan = source.plan(table, query.time_range, slots)
    return Table(
        EXPLAIN_COLUMNS,
        (
            [estimate.tier for estimate in plan],
            [estimate.chunks for estimate in plan],
            [estimate.rows for estimate in plan],
        ),
    )


def _filter(frame: Frame, keep: Mask) -> Frame:
    """Return the rows that ``keep`` selects; columns are cut when they are used."""
    rows = np.flatnonzero(keep)
    return frame if rows.size == frame.rows else _take(frame, rows)


def _take(frame: Frame, rows: Array) -> Frame:
    def cut(expr: Expr) -> Callable[[], Vector]:
        return lambda: frame.vector_at(expr, rows)

    def cut_shared(shared: PerSeries) -> PerSeries:
        of, first = dense_codes(shared.row_of[rows])
        return PerSeries(_take(shared.frame, shared.row_of[rows[first]]), of)

    shared = frame.per_series
    return Frame(
        rows.size,
        {name: cut(Column(name)) for name in frame.names},
        tag=lambda key: cut(TagValue(key))(),
        shared=None if shared is None else lambda: cut_shared(shared),
        budget=frame.budget,
    )


def _group_and_aggregate(query: CheckedSelect, frame: Frame) -> Frame:
    """Return a frame of one row per group, with the keys and every aggregate."""
    calls = aggregates_of(query.select)
    with frame.budget.working(_GROUPING_VECTORS * NUMBER_NBYTES * frame.rows if query.select.group_by else 0):
        groups, keys = _group(query.select.group_by, frame)
    frame.budget.take(groups.ids.nbytes if query.select.group_by else 0)
    result = Frame(groups.count, {}, budget=frame.budget)
    for expr, vector in zip(query.select.group_by, keys, strict=True):
        result.set(expr, vector)
    for number, call in enumerate(calls):
        frame.forget_but(calls[number:])
        result.set(call, aggregate(call, frame, groups))
    if query.select.having is not None:
        rows = np.flatnonzero(result.condition(query.select.having))
        result = result.take(rows)
    return result


def _group(keys: Sequence[Expr], frame: Frame) -> tuple[Groups, list[Vector]]:
    """Return the group of each row, and each key by group. Without keys there is one group, also of no rows."""
    if not keys:
        return Groups(np.broadcast_to(np.int64(0), frame.rows), 1), []
    shared = frame.per_series
    columns, of_series = [], [key for key in keys if shared is not None and series_only(key)]
    if shared is not None and of_series:  # few series are grouped instead of many rows
        groups, values = _group(of_series, shared.frame)
        groups = Groups(groups.ids[shared.row_of], groups.count)
        if len(of_series) == len(keys):
            return groups, values
        columns.append(groups.ids)
    columns += [_codes(frame.vector(key), frame.budget) for key in keys if key not in of_series]
    ids, first = _combine_codes(columns)
    return Groups(ids, len(first)), [frame.vector_at(key, first) for key in keys]


def _combine_codes(columns: Sequence[Array]) -> tuple[Array, Array]:
    """Return numbers without gaps for combinations of codes, and the first row of each."""
    ids, first = dense_codes(columns[0])
    for codes in columns[1:]:
        if codes.max(initial=0) > _CODE_MAX:  # so that the product below stays within 64 bits
            codes = dense_codes(codes)[0]
        ids, first = dense_codes(ids * (int(codes.max(initial=0)) + 1) + codes)
    return ids, first


def _codes(vector: Vector, budget: QueryBudget) -> Array:
    return budget.merge_equal_values(vector) if isinstance(vector, DictColumn) else _dense(vector)


def _dense(key: Array) -> Array:
    """Return small codes for numbers: buckets of time are few multiples of their step, and need no sorting."""
    if key.dtype.kind in "iu" and key.size:
        offset: Array = key - key.min()
        offset //= int(np.gcd.reduce(offset)) or 1
        return offset
    if key.dtype.kind == "b":
        return key.astype(np.int64)
    return np.unique(key, return_inverse=True)[1]


def to_table(query: CheckedSelect, frame: Frame) -> Table:
    """Return the table of a frame that has a row for each row of the answer, or more."""
    rows = _order(query, frame)
    frame.forget_but(_results_of(query))
    is_limited = query.select.limit is not None and query.select.limit <= query.limit
    return Table(
        query.columns,
        tuple(_to_list(_last_use(frame, number, query, rows), column) for number, column in enumerate(query.columns)),
        truncated=query.limit < frame.rows and not is_limited,
    )


def _last_use(frame: Frame, number: int, query: CheckedSelect, rows: Array) -> Vector:
    """Return the rows of an item, and forget the vectors that no later item needs."""
    items = query.select.items
    vector = frame.vector_at(items[number].expr, rows)
    frame.forget_but(item.expr for item in items[number + 1 :])
    return vector


def _order(query: CheckedSelect, frame: Frame) -> Array:
    """Return the rows of the answer in their order.

    Where rows are cut off, the items from left to right decide between equal keys, so that every store returns the same
    rows.
    """
    keys = list(query.select.order_by)
    if frame.rows > query.limit:
        keys += [Order(item.expr) for item in query.select.items]
    rows, left, room = np.empty(0, np.int64), np.arange(frame.rows), query.limit
    for key in keys if frame.rows > query.limit else ():
        if not 0 < room < left.size:
            break
        with frame.budget.working(_GROUPING_VECTORS * NUMBER_NBYTES * left.size):
            ranks = _sort_values(frame.vector_at(key.expr, left), frame.budget, descending=key.descending)
        last = np.partition(ranks, room - 1)[room - 1]
        before = ~np.isnan(ranks) if np.isnan(last) else ranks < last
        tied = np.isnan(ranks) if np.isnan(last) else ranks == last
        rows = np.concatenate([rows, left[before]])
        left, room = left[tied], query.limit - rows.size
    rows = np.sort(np.concatenate([rows, left[:room]]))
    if not keys or rows.size < 2:
        return rows
    columns = [
        _sort_values(frame.vector_at(key.expr, rows), frame.budget, descending=key.descending) for key in reversed(keys)
    ]
    return rows[np.lexsort(columns)]


def _sort_values(vector: Vector, budget: QueryBudget, *, descending: bool) -> Array:
    """Return numbers in the order of the values, NaN for nulls: they come last either way, as in ClickHouse."""
    if isinstance(vector, DictColumn):
        codes, first = dense_codes(vector.codes)
        with budget.working(DISTINCT_NBYTES * 2 * len(first)):
            values = [vector.values[code] for code in vector.codes[first].tolist()]
            texts = budget.sort(list({_text_key(value) for value in values} - {None}))
            ranks = {value: rank for rank, value in enumerate(texts)}
            vector = np.array([ranks.get(_text_key(value), np.nan) for value in values], np.float64)[codes]
    elif vector.dtype.kind == "b":
        vector = vector.astype(np.int64)
    return -vector if descending else vector


def _text_key(value: Any) -> Any:
    """Text as it is; a map by its keys, then its values."""
    return (tuple(value), tuple(value.values())) if isinstance(value, dict) else value


def _to_list(vector: Vector, column: TableColumn) -> list[Any]:
    if isinstance(vector, DictColumn):
        return [vector.values[code] for code in vector.codes.tolist()]
    values: list[Any] = vector.tolist()
    if vector.dtype.kind == "f":
        if not np.isfinite(vector).all():
            values = null_if_nan(values)
        if column.type in ("int", "time"):
            values = [None if value is None else int(value) for value in values]
    return values
