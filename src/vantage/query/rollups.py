"""Timeseries from rollups: when rollups suffice, and how they are read.

Counts, sums, means, extremes and rates of rollups equal those of the samples. Quantiles come from hourly sketches,
within ``sketch.RELATIVE_ERROR``, and only where reading every sample is too expensive or the samples have expired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from vantage.core.rollup import WIDTHS_MS
from vantage.core.sample import Kind
from vantage.core.timerange import TimeRange, step_offset_ms
from vantage.query.context import QueryContext
from vantage.query.timeseries_query import (
    ROWS_MAX,
    Point,
    PointRows,
    Source,
    Tier,
    TimeseriesQuery,
    group_by_exprs,
    series_filter,
)
from vantage.storage.ports import SeriesInfo
from vantage.vql.table import Table
from vantage.vql.tree import Call, Column, Expr, Literal, Order, Select, SelectItem, TableName

SAMPLES_READ_MAX: Final = 5_000_000  # more are not read for a chart that rollups can show
TABLES: Final[Mapping[str, TableName]] = {"5m": "rollups_5m", "1h": "rollups_1h"}
WIDTH_NAMES: Final = {"5m": "5 minutes", "1h": "1 hour"}
_EXACT: Final = ("avg", "min", "max", "sum", "count")


def rollup_tiers(agg: str, kind: Kind) -> tuple[Tier, ...]:
    """Return the rollups that an aggregate can be computed from, the widest first. Rollups of running totals have
    neither growth nor last values."""
    if agg in _EXACT or (agg == "rate" and kind in (Kind.COUNTER, Kind.HISTOGRAM)):
        return ("1h", "5m")
    return ("1h",) if agg.startswith("p") and kind is Kind.HISTOGRAM else ()


def choose_tier(
    usable: Sequence[Tier],
    step_ms: int,
    aligned: TimeRange,
    time_range: TimeRange,
    infos: Sequence[SeriesInfo],
    raw_since_ms: int,
) -> Tier | None:
    """Return the widest of the ``usable`` rollups whose buckets divide the step; None for samples."""
    fitting = [width for width in usable if step_ms % WIDTHS_MS[width] == 0]
    if not fitting:
        return None
    exact = len(usable) > 1
    if exact or time_range.start_ms < raw_since_ms or count_samples(infos, aligned) > SAMPLES_READ_MAX:
        return fitting[0]
    return None


def count_samples(infos: Sequence[SeriesInfo], time_range: TimeRange) -> float:
    """Estimate the number of samples in a range, as if the samples of each series were spread evenly."""
    total = 0.0
    for info in infos:
        length_ms = info.last_ms - info.first_ms + 1
        shared_ms = min(info.last_ms + 1, time_range.end_ms) - max(info.first_ms, time_range.start_ms)
        total += info.samples * max(0, shared_ms) / length_ms
    return total


async def read_rollups(
    context: QueryContext, query: TimeseriesQuery, tier: Tier, kind: Kind, step_ms: int, aligned: TimeRange
) -> PointRows:
    """Read the points of a range. A range that ends within a bucket is completed from samples."""
    width_ms = WIDTHS_MS[tier]
    if query.agg.startswith("p"):
        return await _quantiles(context, query, tier, step_ms, aligned)
    end_ms = query.time_range.end_ms
    cut_ms = max(end_ms // width_ms * width_ms, aligned.start_ms)
    parts: dict[tuple[tuple[str, ...], int], list[float]] = {}
    truncated = False
    source: Source = tier
    if cut_ms > aligned.start_ms:
        calls = (Call("sum", (Column("count"),)), *(Call(name, (Column(name),)) for name in ("sum", "min", "max")))
        table = await _read(context, query, TABLES[tier], calls, step_ms, aligned.start_ms, cut_ms)
        truncated |= table.truncated
        _add(parts, table)
    if end_ms > cut_ms:
        value = Column("value")
        calls = (Call("count"), *(Call(name, (value,)) for name in ("sum", "min", "max")))
        table = await _read(context, query, "metrics", calls, step_ms, cut_ms, end_ms)
        truncated |= table.truncated
        if len(table):
            source = "mixed" if parts else "raw"
        _add(parts, table)
    rows = [
        Point(group, at_ms, _value(query.agg, kind, step_ms, sums), round(sums[0]))
        for (group, at_ms), sums in sorted(parts.items(), key=lambda entry: entry[0][1])
    ]
    return PointRows(rows, source, truncated)


async def _read(
    context: QueryContext,
    query: TimeseriesQuery,
    table: TableName,
    calls: Sequence[Expr],
    step_ms: int,
    start_ms: int,
    end_ms: int,
) -> Table:
    keys = group_by_exprs(query)
    offset = Literal(step_offset_ms(step_ms))
    bucket = Call("toStartOfInterval", (Column("timestamp"), Literal(step_ms), offset))
    exprs = (*keys, bucket, *calls)
    select = Select(
        table,
        tuple(SelectItem(expr, f"c{i}") for i, expr in enumerate(exprs)),
        where=series_filter(query, start_ms, end_ms),
        group_by=(*keys, bucket),
        order_by=(Order(bucket),),
    )
    return await context.select("timeseries", select, rows_max=ROWS_MAX)


def _add(parts: dict[tuple[tuple[str, ...], int], list[float]], table: Table) -> None:
    """Add the count, sum, minimum and maximum of each group and bucket to ``parts``."""
    for *names, at_ms, count, total, low, high in table.rows():
        key = (tuple(names), at_ms)
        part = parts.get(key)
        total = float("inf") if total is None else total  # the sum overflowed
        if part is None:
            parts[key] = [count, total, low, high]
        else:
            parts[key] = [part[0] + count, part[1] + total, min(part[2], low), max(part[3], high)]


def _value(agg: str, kind: Kind, step_ms: int, sums: Sequence[float]) -> float | None:
    count, total, low, high = sums
    value = {
        "avg": total / count,
        "sum": total,
        "count": count,
        "min": low,
        "max": high,
        "rate": (total if kind is Kind.COUNTER else count) / (step_ms / 1000),
    }[agg]
    return value if abs(value) != float("inf") else None


async def _quantiles(
    context: QueryContext, query: TimeseriesQuery, tier: str, step_ms: int, aligned: TimeRange
) -> PointRows:
    """Read quantiles from sketches. The last hour counts completely, since a sketch cannot be cut."""
    end_ms = query.time_range.aligned(WIDTHS_MS[tier]).end_ms
    calls = (Call("sketchQuantile", (), int(query.agg[1:]) / 100), Call("sum", (Column("count"),)))
    table = await _read(context, query, TABLES[tier], calls, step_ms, aligned.start_ms, end_ms)
    rows = [Point(tuple(names), at_ms, value, round(count)) for *names, at_ms, value, count in table.rows()]
    return PointRows(rows, "1h", table.truncated)
