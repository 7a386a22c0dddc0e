"""Timeseries from rollups: when they will do, and how they are read.

Counts, sums, means, extremes and rates of rollups are those of the samples. Quantiles come from the hours' sketches,
within ``sketch.RELATIVE_ERROR``, and only where reading every sample would be too much, or they are no longer there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from vantage.core.rollup import WIDTHS_MS
from vantage.core.sample import Kind
from vantage.core.timerange import TimeRange
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

QUANTILE_SAMPLES_MAX: Final = 5_000_000  # more are not sorted for a chart: the hours' sketches answer
TABLES: Final[Mapping[str, TableName]] = {"5m": "rollups_5m", "1h": "rollups_1h"}
WIDTH_NAMES: Final = {"5m": "5 minutes", "1h": "hours"}
_EXACT: Final = ("avg", "min", "max", "sum", "count")


def rollup_tiers(agg: str, kind: Kind) -> tuple[Tier, ...]:
    """Which rollups can tell an aggregate, the widest first; of running totals they know neither growth nor last
    values."""
    if agg in _EXACT or (agg == "rate" and kind in (Kind.COUNTER, Kind.HISTOGRAM)):
        return ("1h", "5m")
    return ("1h",) if agg.startswith("p") and kind is Kind.HISTOGRAM else ()


def choose_tier(
    can: Sequence[Tier],
    step_ms: int,
    aligned: TimeRange,
    time_range: TimeRange,
    found: Sequence[SeriesInfo],
    raw_since_ms: int,
) -> Tier | None:
    """The widest rollup that fits into the step; None for samples."""
    fitting = [width for width in can if step_ms % WIDTHS_MS[width] == 0]
    if not fitting:
        return None
    exact = len(can) > 1
    if exact or time_range.start_ms < raw_since_ms or _count_samples(found, aligned) > QUANTILE_SAMPLES_MAX:
        return fitting[0]
    return None


def _count_samples(found: Sequence[SeriesInfo], time_range: TimeRange) -> float:
    """About how many samples lie in a range, as if each series' were spread evenly."""
    total = 0.0
    for info in found:
        length_ms = info.last_ms - info.first_ms + 1
        shared_ms = min(info.last_ms + 1, time_range.end_ms) - max(info.first_ms, time_range.start_ms)
        total += info.samples * max(0, shared_ms) / length_ms
    return total


async def read_rollups(
    reads: QueryContext, asked: TimeseriesQuery, tier: Tier, kind: Kind, step_ms: int, aligned: TimeRange
) -> PointRows:
    """The points of a range. Where it ends within a bucket, its end is read from samples."""
    width_ms = WIDTHS_MS[tier]
    if asked.agg.startswith("p"):
        return await _quantiles(reads, asked, tier, step_ms, aligned)
    end_ms = asked.time_range.end_ms
    cut_ms = max(end_ms // width_ms * width_ms, aligned.start_ms)
    parts: dict[tuple[tuple[str, ...], int], list[float]] = {}
    truncated = False
    source: Source = tier
    if cut_ms > aligned.start_ms:
        calls = (Call("sum", (Column("count"),)), *(Call(name, (Column(name),)) for name in ("sum", "min", "max")))
        table = await _read(reads, asked, TABLES[tier], calls, step_ms, aligned.start_ms, cut_ms)
        truncated |= table.truncated
        _add(parts, table)
    if end_ms > cut_ms:
        value = Column("value")
        calls = (Call("count"), *(Call(name, (value,)) for name in ("sum", "min", "max")))
        table = await _read(reads, asked, "metrics", calls, step_ms, cut_ms, end_ms)
        truncated |= table.truncated
        if len(table):
            source = "mixed" if parts else "raw"
        _add(parts, table)
    rows = [
        Point(group, at_ms, _value(asked.agg, kind, step_ms, found), round(found[0]))
        for (group, at_ms), found in sorted(parts.items(), key=lambda entry: entry[0][1])
    ]
    return PointRows(rows, source, truncated)


async def _read(
    reads: QueryContext,
    asked: TimeseriesQuery,
    table: TableName,
    calls: Sequence[Expr],
    step_ms: int,
    start_ms: int,
    end_ms: int,
) -> Table:
    keys = group_by_exprs(asked)
    bucket = Call("toStartOfInterval", (Column("timestamp"), Literal(step_ms)))
    exprs = (*keys, bucket, *calls)
    select = Select(
        table,
        tuple(SelectItem(expr, f"c{i}") for i, expr in enumerate(exprs)),
        where=series_filter(asked, start_ms, end_ms),
        group_by=(*keys, bucket),
        order_by=(Order(bucket),),
    )
    return await reads.select("timeseries", select, rows_max=ROWS_MAX)


def _add(parts: dict[tuple[tuple[str, ...], int], list[float]], table: Table) -> None:
    """Count, sum, least and greatest of each group and bucket."""
    for *names, at_ms, count, total, least, most in table.rows():
        key = (tuple(names), at_ms)
        held = parts.get(key)
        total = float("inf") if total is None else total  # additions that overflowed
        if held is None:
            parts[key] = [count, total, least, most]
        else:
            parts[key] = [held[0] + count, held[1] + total, min(held[2], least), max(held[3], most)]


def _value(agg: str, kind: Kind, step_ms: int, found: Sequence[float]) -> float | None:
    count, total, least, most = found
    value = {
        "avg": total / count,
        "sum": total,
        "count": count,
        "min": least,
        "max": most,
        "rate": (total if kind is Kind.COUNTER else count) / (step_ms / 1000),
    }[agg]
    return value if abs(value) != float("inf") else None


async def _quantiles(
    reads: QueryContext, asked: TimeseriesQuery, tier: str, step_ms: int, aligned: TimeRange
) -> PointRows:
    """An hour in which the range ends counts whole: its sketch cannot be cut."""
    end_ms = asked.time_range.aligned(WIDTHS_MS[tier]).end_ms
    calls = (Call("sketchQuantile", (), int(asked.agg[1:]) / 100), Call("sum", (Column("count"),)))
    table = await _read(reads, asked, TABLES[tier], calls, step_ms, aligned.start_ms, end_ms)
    rows = [Point(tuple(names), at_ms, value, round(count)) for *names, at_ms, value, count in table.rows()]
    return PointRows(rows, "1h", table.truncated)
