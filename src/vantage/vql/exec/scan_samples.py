"""The frames of samples and of rollups: the rows within a query's range and series."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final

import numpy as np

from vantage.core.arrays import U32, Array
from vantage.core.dict_column import TEXT_NBYTES, DictColumn, TextColumn
from vantage.core.exemplars import Exemplars
from vantage.core.idhash import Ids, decode_ids
from vantage.core.rollup import Partials, concat_partials
from vantage.core.sample_columns import SampleColumns, constant_column
from vantage.vql.check import CheckedSelect
from vantage.vql.exec.budget import DISTINCT_NBYTES, NUMBER_NBYTES, QueryBudget
from vantage.vql.exec.frame import Frame, PerSeries
from vantage.vql.exec.series_table import SeriesColumns
from vantage.vql.exec.source import ColumnSource, check_scan_limit
from vantage.vql.signatures import ROLLUP_WIDTHS_MS
from vantage.vql.tree import Call, Column, Expr, children

# What one row of a frame takes: its columns, and about as much again while it is grouped.
ROW_NBYTES: Final = 64


def scan_samples(query: CheckedSelect, source: ColumnSource, budget: QueryBudget, *, rows_max: int) -> Frame:
    """Return the samples of the query's range and series.

    Raises what the budget raises, and InputError when more than ``rows_max`` samples would have to be read.
    """
    series = source.series()
    slots = series.matching(query.series_where)
    start, end = query.time_range.start_ms, query.time_range.end_ms
    wanted = _sample_columns(query)
    check_scan_limit(source, query, slots, rows_max=rows_max)
    chunks: list[SampleColumns] = []
    for chunk in source.samples(query.time_range, slots, wanted=wanted):
        budget.check()
        keep = slots[chunk.slot]
        if chunk.time_ms.size and (chunk.time_ms.min() < start or chunk.time_ms.max() >= end):
            keep = keep & (chunk.time_ms >= start) & (chunk.time_ms < end)
        if not keep.all():
            chunk = chunk.take(np.flatnonzero(keep))
        if len(chunk):
            chunk = _without_others(chunk, wanted)
            budget.take(chunk.nbytes)
            chunks.append(chunk)
    slot = _concat([chunk.slot for chunk in chunks], np.uint32)
    return Frame(
        len(slot),
        {
            "timestamp": lambda: _concat([chunk.time_ms for chunk in chunks], np.int64),
            "value": lambda: _concat([chunk.value for chunk in chunks], np.float64),
            "series": lambda: slot.astype(np.int64),
            "trace_id": lambda: _exemplar_ids(chunks, lambda exemplars: exemplars.trace_id, budget),
            "span_id": lambda: _exemplar_ids(chunks, lambda exemplars: exemplars.span_id, budget),
        },
        shared=lambda: _per_series(series, slot, budget),
        budget=budget,
    )


def _sample_columns(query: CheckedSelect) -> frozenset[str]:
    """Return the columns of samples that a query reads, as ``ColumnSource.samples`` calls them."""
    names, functions = referenced_names(query)
    wanted = names & {"timestamp", "value"}
    if "increase" in functions:  # it orders each series' samples itself
        wanted |= {"timestamp", "value"}
    if names & {"trace_id", "span_id"}:
        wanted.add("exemplars")
    return frozenset(wanted)


def _without_others(chunk: SampleColumns, wanted: frozenset[str]) -> SampleColumns:
    """Return a chunk that keeps no memory for columns that are not wanted."""
    if {"timestamp", "value"} <= wanted:
        return chunk
    rows = len(chunk)
    return replace(
        chunk,
        time_ms=chunk.time_ms if "timestamp" in wanted else constant_column(0, rows, np.int64),
        value=chunk.value if "value" in wanted else constant_column(np.nan, rows, np.float64),
    )


def scan_rollups(query: CheckedSelect, source: ColumnSource, budget: QueryBudget, *, rows_max: int) -> Frame:
    """Return the partials whose buckets begin in the query's range. Raises as ``scan_samples`` does."""
    series = source.series()
    slots = series.matching(query.series_where)
    start, end = query.time_range.start_ms, query.time_range.end_ms
    columns, functions = referenced_names(query)
    wanted = frozenset(columns & {"sum", "min", "max"} | ({"sketches"} if "sketchQuantile" in functions else set()))
    check_scan_limit(source, query, slots, rows_max=rows_max)
    parts: list[Partials] = []
    width_ms = ROLLUP_WIDTHS_MS[query.select.table]
    for part in source.partials(query.time_range, slots, width_ms=width_ms, wanted=wanted):
        budget.check()
        rows = np.flatnonzero(slots[part.slot] & (part.time_ms >= start) & (part.time_ms < end))
        if rows.size:
            parts.append(part if rows.size == len(part) else part.take(rows))
            budget.take(2 * parts[-1].nbytes)  # they are concatenated
    partials = concat_partials(parts)
    return Frame(
        len(partials),
        {
            "timestamp": lambda: partials.time_ms,
            "count": lambda: partials.count,
            "sum": lambda: partials.sum,
            "min": lambda: partials.min,
            "max": lambda: partials.max,
            # Of each sketch's bucket the row, the key and the count: no vector of rows, for sketchQuantile alone.
            "sketch_row": lambda: partials.sketches.row,
            "sketch_key": lambda: partials.sketches.key,
            "sketch_count": lambda: partials.sketches.count,
        },
        shared=lambda: _per_series(series, partials.slot, budget),
        budget=budget,
    )


def _per_series(series: SeriesColumns, slot: U32, budget: QueryBudget) -> PerSeries:
    budget.take(NUMBER_NBYTES * len(slot))
    present = np.zeros(len(series), np.bool_)
    present[slot] = True
    return PerSeries(series.frame(np.flatnonzero(present), budget), (np.cumsum(present) - 1)[slot])


def _exemplar_ids(chunks: Iterable[SampleColumns], get: Callable[[Exemplars], Ids], budget: QueryBudget) -> TextColumn:
    """Return one id per sample, '' where it carries none."""
    numbers: dict[str, int] = {"": 0}
    parts: list[Array] = []
    nbytes = 0
    try:
        for chunk in chunks:
            ids = get(chunk.exemplars)
            chunk_nbytes = len(ids) * (DISTINCT_NBYTES + TEXT_NBYTES + ids.itemsize) + NUMBER_NBYTES * len(chunk)
            budget.take(chunk_nbytes)
            nbytes += chunk_nbytes
            codes = np.zeros(len(chunk), np.int64)
            for position, text in zip(chunk.exemplars.position.tolist(), decode_ids(ids), strict=True):
                codes[position] = numbers.setdefault(text, len(numbers))
            parts.append(codes)
        return DictColumn(_concat(parts, np.int64), list(numbers))
    finally:
        budget.give(nbytes)  # the frame counts the column


def _concat(parts: list[Any], dtype: Any) -> Array:
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def referenced_names(query: CheckedSelect) -> tuple[set[str], set[str]]:
    """Return the columns that a query reads of its rows, and the functions that it calls. Its time range and its
    conditions on series are not among them."""
    select = query.select
    left: list[Expr] = [
        *(item.expr for item in select.items),
        *(order.expr for order in select.order_by),
        *select.group_by,
        *(expr for expr in (query.row_where, select.having) if expr is not None),
    ]
    columns: set[str] = set()
    functions: set[str] = set()
    while left:
        expr = left.pop()
        if isinstance(expr, Column):
            columns.add(expr.name)
        elif isinstance(expr, Call):
            functions.add(expr.function)
        left.extend(children(expr))
    return columns, functions
