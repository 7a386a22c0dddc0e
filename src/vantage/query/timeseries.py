"""One metric over time: buckets of a step, one series per group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from vantage.core.errors import InputError
from vantage.core.rollup import WIDTHS_MS
from vantage.core.sample import Kind
from vantage.core.timerange import TimeRange, auto_step_ms, step_offset_ms
from vantage.query.context import QueryContext
from vantage.query.rollups import (
    SAMPLES_READ_MAX,
    WIDTH_NAMES,
    choose_tier,
    count_samples,
    read_rollups,
    rollup_tiers,
)
from vantage.query.timeseries_cache import PointLoader, cached_points
from vantage.query.timeseries_query import (
    BUCKETS_MAX,
    ROWS_MAX,
    Point,
    PointRows,
    Source,
    TimeseriesQuery,
    group_by_exprs,
    key_warnings,
    series_filter,
)
from vantage.storage.ports import SeriesInfo
from vantage.vql.signatures import series_only
from vantage.vql.tree import Arithmetic, Call, Column, Expr, Literal, Order, Select, SelectItem

PASSED_MS_MIN: Final = 1000
AGGREGATIONS: Final = ("avg", "min", "max", "sum", "count", "rate", "last", "p50", "p75", "p90", "p95", "p99")
STEP_MS_MAX: Final = 3650 * 86_400_000
GROUPS_MAX: Final = 200
GROUP_KEYS_MAX: Final = 5
_LOOKBACK_MS: Final = 300_000
_VALUE: Final = Column("value")
_TIME: Final = Column("timestamp")


@dataclass(frozen=True, slots=True)
class Group:
    """One series of the result; ``points[i]`` belongs to the bucket ``start_ms + i * step_ms``, None where empty."""

    tags: dict[str, str]
    points: list[float | None]


@dataclass(frozen=True, slots=True)
class Timeseries:
    """The result. ``time_range`` is the requested range, aligned to the step; ``source`` is what was read: ``raw``
    samples, ``5m`` or ``1h`` rollups, or ``mixed``: rollups, and samples where the range ends within a rollup bucket.
    ``approximate``: values may be off by ``sketch.RELATIVE_ERROR``; everything else is exact."""

    query: TimeseriesQuery
    unit: str
    time_range: TimeRange
    step_ms: int
    groups: list[Group]
    warnings: list[str]
    source: Source
    approximate: bool


async def timeseries(context: QueryContext, query: TimeseriesQuery) -> Timeseries:
    """Run a timeseries query. Raises InputError naming the parameter at fault."""
    if query.agg not in AGGREGATIONS:
        raise InputError(f"is not one of {', '.join(AGGREGATIONS)}", field="agg")
    if len(query.group_by) > GROUP_KEYS_MAX:
        raise InputError(f"names more than {GROUP_KEYS_MAX} keys", field="group_by")
    warnings: list[str] = []
    infos = await context.store.list_series(service=query.service, metric=query.metric)
    kind, unit = _kind_and_unit(query, infos, warnings)
    raw_since_ms = await context.store.raw_since_ms()
    # Rollups have no single samples that a condition could filter.
    usable = rollup_tiers(query.agg, kind) if query.where is None or series_only(query.where) else ()
    step_ms = query.step_ms or _auto_step_ms(query.time_range, raw_since_ms, usable)
    if step_ms > STEP_MS_MAX:
        raise InputError(f"is longer than {STEP_MS_MAX // 86_400_000} days", field="step")
    aligned = query.time_range.aligned(step_ms)
    buckets = aligned.length_ms // step_ms
    if buckets > BUCKETS_MAX:
        raise InputError(f"makes {buckets} points, at most {BUCKETS_MAX} are allowed", field="step")
    tier = choose_tier(usable, step_ms, aligned, query.time_range, infos, raw_since_ms)
    if tier is None and query.time_range.start_ms < raw_since_ms:
        warnings.append(_expired_warning(raw_since_ms, usable))
    warnings += key_warnings(query, infos)
    present = context.present()
    warnings += [present.warning] if present.warning and query.time_range.end_ms >= present.now_ms else []
    if kind is Kind.CUMULATIVE and tier is None and query.agg not in ("rate", "last"):
        warnings.append("the metric is a running total: use agg=rate for its growth")

    async def since(start_ms: int) -> PointRows:
        part = TimeRange(start_ms, aligned.end_ms)
        if tier is None:
            return await _from_samples(context, query, kind, step_ms, part)
        rows = await read_rollups(context, query, tier, kind, step_ms, part)
        are_there = start_ms >= raw_since_ms and count_samples(infos, part) <= SAMPLES_READ_MAX
        if _has_lost_means(query, rows) and are_there:
            return await _from_samples(context, query, kind, step_ms, part)
        return rows

    # New series, and history that is sent late, invalidate cached points.
    determines = (kind, raw_since_ms, len(infos), min((info.first_ms for info in infos), default=0))
    # The growth in a series' first bucket depends on the last sample before it, however old.
    joins = not (query.agg == "rate" and kind is Kind.CUMULATIVE)
    loader = PointLoader(aligned, step_ms, source=tier or "raw", determines=determines, joins=joins, since=since)
    points = await cached_points(context, query, loader)
    if points.truncated:
        warnings.append("there are more points than can be returned: narrow the range or group by fewer tags")
    groups = _fill_buckets(query, points, aligned, step_ms, buckets, warnings)
    if query.agg == "rate":
        _correct_last(groups, aligned, step_ms, present.now_ms)
    return Timeseries(
        query,
        unit if query.agg not in ("count", "rate") else ("" if query.agg == "count" else "1/s"),
        aligned,
        step_ms,
        groups,
        warnings,
        points.source,
        points.source != "raw" and query.agg.startswith("p"),
    )


def _has_lost_means(query: TimeseriesQuery, rows: PointRows) -> bool:
    """Return whether the sum of a bucket has no float: its mean has one all the same."""
    return query.agg == "avg" and any(point.value is None for point in rows.rows)


def _correct_last(groups: Sequence[Group], aligned: TimeRange, step_ms: int, now_ms: int) -> None:
    """Make the rate of the bucket that is not over that of the time passed, at least a second: a rate over moments is
    noise."""
    index, passed_ms = divmod(now_ms - aligned.start_ms, step_ms)
    for group in groups:
        if 0 <= index < len(group.points) and (rate := group.points[index]) is not None:
            group.points[index] = rate * step_ms / max(passed_ms, min(step_ms, PASSED_MS_MIN))


def _auto_step_ms(time_range: TimeRange, raw_since_ms: int, usable: Sequence[str]) -> int:
    """Return a step for about 300 points; no finer than the rollups where samples have expired."""
    step_ms = auto_step_ms(time_range)
    if time_range.start_ms < raw_since_ms and usable:
        step_ms = max(step_ms, min(WIDTHS_MS[width] for width in usable))
    return step_ms


def _expired_warning(raw_since_ms: int, usable: Sequence[str]) -> str:
    until = datetime.fromtimestamp(raw_since_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    warning = f"samples before {until} have expired to free disk space"
    return (
        f"{warning}: use a step that is a multiple of {WIDTH_NAMES[usable[-1]]} to see their rollups"
        if usable
        else warning
    )


def _fill_buckets(
    query: TimeseriesQuery, points: PointRows, aligned: TimeRange, step_ms: int, buckets: int, warnings: list[str]
) -> list[Group]:
    """Sort the points into buckets, for up to GROUPS_MAX groups: every row may have a group of its own."""
    rows = [row for row in points.rows if row.at_ms >= aligned.start_ms]
    weights: Counter[tuple[str, ...]] = Counter()
    for row in rows:
        weights[row.group] += row.samples
    heaviest = sorted(weights, key=lambda group: (-weights[group], group))[:GROUPS_MAX]
    groups: dict[tuple[str, ...], list[float | None]] = {group: [None] * buckets for group in heaviest}
    for row in rows:
        if row.group in groups:
            groups[row.group][(row.at_ms - aligned.start_ms) // step_ms] = row.value
    if len(groups) < len(weights):
        warnings.append(f"{len(weights)} series match; the {GROUPS_MAX} with the most samples are shown")
    return [Group(dict(zip(query.group_by, group, strict=True)), groups[group]) for group in sorted(groups)]


async def _from_samples(
    context: QueryContext, query: TimeseriesQuery, kind: Kind, step_ms: int, aligned: TimeRange
) -> PointRows:
    value, lookback_ms = aggregate(query.agg, kind, step_ms)
    keys = group_by_exprs(query)
    bucket = Call("toStartOfInterval", (_TIME, Literal(step_ms), Literal(step_offset_ms(step_ms))))
    select = Select(
        table="metrics",
        items=(
            *(SelectItem(key, f"key{i}") for i, key in enumerate(keys)),
            SelectItem(bucket, "bucket"),
            SelectItem(value, "value"),
            SelectItem(Call("count"), "samples"),
        ),
        where=series_filter(query, aligned.start_ms - lookback_ms, query.time_range.end_ms),
        group_by=(*keys, bucket),
        order_by=(Order(bucket),),
    )
    table = await context.select("timeseries", select, rows_max=ROWS_MAX)
    rows = [Point(tuple(names), at_ms, number, samples) for *names, at_ms, number, samples in table.rows()]
    return PointRows(rows, "raw", table.truncated)


def _kind_and_unit(query: TimeseriesQuery, infos: Sequence[SeriesInfo], warnings: list[str]) -> tuple[Kind, str]:
    """Return the kind and unit of most samples; warn when there are several."""
    if not infos:
        warnings.append(f"service {query.service!r} has sent no metric {query.metric!r}")
        return Kind.GAUGE, ""
    kinds: Counter[Kind] = Counter()
    units: Counter[str] = Counter()
    for info in infos:
        kinds[info.series.kind] += info.samples
        units[info.series.unit] += info.samples
    if len(kinds) > 1:
        warnings.append(f"the metric was sent with several kinds: {', '.join(sorted(kinds))}")
    if len(units) > 1:
        warnings.append(
            f"the metric was sent with several units: {', '.join(unit or 'none' for unit in sorted(units))}"
        )
    return kinds.most_common(1)[0][0], units.most_common(1)[0][0]


def aggregate(agg: str, kind: Kind, step_ms: int) -> tuple[Expr, int]:
    """Return the aggregate of one bucket, and how many ms before the range it must read. Raises InputError for the rate
    of a gauge."""
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
