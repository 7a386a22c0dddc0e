"""One metric over time: buckets of a step, one series a group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from vantage.core.errors import InputError
from vantage.core.rollup import WIDTHS_MS
from vantage.core.sample import Kind
from vantage.core.timerange import TimeRange, auto_step_ms
from vantage.query.context import QueryContext
from vantage.query.rollups import WIDTH_NAMES, choose_tier, read_rollups, rollup_tiers
from vantage.query.timeseries_cache import PointLoader, cached_points
from vantage.query.timeseries_query import (
    BUCKETS_MAX,
    ROWS_MAX,
    Point,
    PointRows,
    Source,
    TimeseriesQuery,
    group_by_exprs,
    series_filter,
)
from vantage.storage.ports import SeriesInfo
from vantage.vql.signatures import series_only
from vantage.vql.tree import Arithmetic, Call, Column, Expr, Literal, Order, Select, SelectItem

AGGREGATIONS: Final = ("avg", "min", "max", "sum", "count", "rate", "last", "p50", "p75", "p90", "p95", "p99")
STEP_MS_MAX: Final = 3650 * 86_400_000
GROUPS_MAX: Final = 200
GROUP_KEYS_MAX: Final = 5
_LOOKBACK_MS: Final = 300_000
_VALUE: Final = Column("value")
_TIME: Final = Column("timestamp")


@dataclass(frozen=True, slots=True)
class Group:
    """One series of the answer; ``points[i]`` belongs to the bucket ``start_ms + i * step_ms``, None where empty."""

    tags: dict[str, str]
    points: list[float | None]


@dataclass(frozen=True, slots=True)
class Timeseries:
    """The answer. ``time_range`` is that asked for, in whole steps; ``source`` what was read: ``raw`` samples, ``5m``
    or ``1h`` rollups, or ``mixed``: rollups, and samples where the range ends within a bucket of theirs.
    ``approximate``: values may be off by ``sketch.RELATIVE_ERROR``; everything else is exact."""

    query: TimeseriesQuery
    unit: str
    time_range: TimeRange
    step_ms: int
    groups: list[Group]
    warnings: list[str]
    source: Source
    approximate: bool


async def timeseries(reads: QueryContext, asked: TimeseriesQuery) -> Timeseries:
    """Answer. Raises InputError naming the parameter at fault."""
    if asked.agg not in AGGREGATIONS:
        raise InputError(f"is none of {', '.join(AGGREGATIONS)}", field="agg")
    if len(asked.group_by) > GROUP_KEYS_MAX:
        raise InputError(f"names more than {GROUP_KEYS_MAX} keys", field="group_by")
    warnings: list[str] = []
    found = await reads.store.list_series(service=asked.service, metric=asked.metric)
    kind, unit = _kind_and_unit(asked, found, warnings)
    raw_since_ms = await reads.store.raw_since_ms()
    # Rollups have no single samples to look at.
    can = rollup_tiers(asked.agg, kind) if asked.where is None or series_only(asked.where) else ()
    step_ms = asked.step_ms or _auto_step_ms(asked.time_range, raw_since_ms, can)
    if step_ms > STEP_MS_MAX:
        raise InputError(f"is longer than {STEP_MS_MAX // 86_400_000} days", field="step")
    aligned = asked.time_range.aligned(step_ms)
    buckets = aligned.length_ms // step_ms
    if buckets > BUCKETS_MAX:
        raise InputError(f"makes {buckets} points, at most {BUCKETS_MAX} are given", field="step")
    tier = choose_tier(can, step_ms, aligned, asked.time_range, found, raw_since_ms)
    if tier is None and asked.time_range.start_ms < raw_since_ms:
        warnings.append(_select_groups(raw_since_ms, can))
    if kind is Kind.CUMULATIVE and tier is None and asked.agg not in ("rate", "last"):
        warnings.append("the metric is a running total: agg=rate gives its growth")

    def since(start_ms: int) -> Awaitable[PointRows]:
        part = TimeRange(start_ms, aligned.end_ms)
        if tier is None:
            return _from_samples(reads, asked, kind, step_ms, part)
        return read_rollups(reads, asked, tier, kind, step_ms, part)

    # Series that are new, and history that is sent now, are seen at once.
    determines = (kind, raw_since_ms, len(found), min((info.first_ms for info in found), default=0))
    # The growth in a series' first bucket is told by its last sample before, however long ago that was.
    joins = not (asked.agg == "rate" and kind is Kind.CUMULATIVE)
    reading = PointLoader(aligned, step_ms, source=tier or "raw", determines=determines, joins=joins, since=since)
    points = await cached_points(reads, asked, reading)
    if points.truncated:
        warnings.append("there are more points than can be given: narrow the range or group by fewer tags")
    return Timeseries(
        asked,
        unit if asked.agg not in ("count", "rate") else ("" if asked.agg == "count" else "1/s"),
        aligned,
        step_ms,
        _fill_buckets(asked, points, aligned, step_ms, buckets, warnings),
        warnings,
        points.source,
        points.source != "raw" and asked.agg.startswith("p"),
    )


def _auto_step_ms(time_range: TimeRange, raw_since_ms: int, can: Sequence[str]) -> int:
    """About 300 points; no finer than the rollups where they alone are left."""
    step_ms = auto_step_ms(time_range)
    if time_range.start_ms < raw_since_ms and can:
        step_ms = max(step_ms, min(WIDTHS_MS[width] for width in can))
    return step_ms


def _select_groups(raw_since_ms: int, can: Sequence[str]) -> str:
    at = datetime.fromtimestamp(raw_since_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    told = f"samples before {at} have left to make room"
    return f"{told}: ask with a step of whole {WIDTH_NAMES[can[-1]]} to see their rollups" if can else told


def _fill_buckets(
    asked: TimeseriesQuery, points: PointRows, aligned: TimeRange, step_ms: int, buckets: int, warnings: list[str]
) -> list[Group]:
    """Points in their places, for the groups that are given and no others: there may be a group a row."""
    rows = [row for row in points.rows if row.at_ms >= aligned.start_ms]
    weight: Counter[tuple[str, ...]] = Counter()
    for row in rows:
        weight[row.group] += row.samples
    heaviest = sorted(weight, key=lambda group: (-weight[group], group))[:GROUPS_MAX]
    groups: dict[tuple[str, ...], list[float | None]] = {group: [None] * buckets for group in heaviest}
    for row in rows:
        if row.group in groups:
            groups[row.group][(row.at_ms - aligned.start_ms) // step_ms] = row.value
    if len(groups) < len(weight):
        warnings.append(f"{len(weight)} series match; the {GROUPS_MAX} with the most samples are given")
    return [Group(dict(zip(asked.group_by, group, strict=True)), groups[group]) for group in sorted(groups)]


async def _from_samples(
    reads: QueryContext, asked: TimeseriesQuery, kind: Kind, step_ms: int, aligned: TimeRange
) -> PointRows:
    value, lookback_ms = _value(asked.agg, kind, step_ms)
    keys = group_by_exprs(asked)
    bucket = Call("toStartOfInterval", (_TIME, Literal(step_ms)))
    select = Select(
        table="metrics",
        items=(
            *(SelectItem(key, f"key{i}") for i, key in enumerate(keys)),
            SelectItem(bucket, "bucket"),
            SelectItem(value, "value"),
            SelectItem(Call("count"), "samples"),
        ),
        where=series_filter(asked, aligned.start_ms - lookback_ms, asked.time_range.end_ms),
        group_by=(*keys, bucket),
        order_by=(Order(bucket),),
    )
    table = await reads.select("timeseries", select, rows_max=ROWS_MAX)
    rows = [Point(tuple(names), at_ms, found, samples) for *names, at_ms, found, samples in table.rows()]
    return PointRows(rows, "raw", table.truncated)


def _kind_and_unit(asked: TimeseriesQuery, found: Sequence[SeriesInfo], warnings: list[str]) -> tuple[Kind, str]:
    """Those of most samples; a metric sent with several is worth a warning."""
    if not found:
        warnings.append(f"service {asked.service!r} has sent no metric {asked.metric!r}")
        return Kind.GAUGE, ""
    kinds: Counter[Kind] = Counter()
    units: Counter[str] = Counter()
    for info in found:
        kinds[info.series.kind] += info.samples
        units[info.series.unit] += info.samples
    if len(kinds) > 1:
        warnings.append(f"the metric was sent with several kinds: {', '.join(sorted(kinds))}")
    if len(units) > 1:
        warnings.append(
            f"the metric was sent with several units: {', '.join(unit or 'none' for unit in sorted(units))}"
        )
    return kinds.most_common(1)[0][0], units.most_common(1)[0][0]


def _value(agg: str, kind: Kind, step_ms: int) -> tuple[Expr, int]:
    """The aggregate of one bucket, and how far before the range it must look."""
    if agg == "rate":
        seconds = Literal(step_ms / 1000)
        if kind is Kind.GAUGE:
            raise InputError("a gauge has no rate: use avg, min, max or last", field="agg")
        if kind is Kind.CUMULATIVE:
            return Arithmetic("/", Call("increase"), seconds), max(step_ms, _LOOKBACK_MS)
        total = Call("sum", (_VALUE,)) if kind is Kind.COUNTER else Call("count")
        return Arithmetic("/", total, seconds), 0
    if agg == "last":
        return Call("argMax", (_VALUE, _TIME)), 0
    if agg.startswith("p"):
        return Call("quantile", (_VALUE,), int(agg[1:]) / 100), 0
    return Call(agg, () if agg == "count" else (_VALUE,)), 0
