"""Requests, errors and durations (RED) of services, by the conventions of ``core.semconv``.

Rollups that the store keeps ready answer; where they do not suffice, a few grouped queries read samples and spans. A
service without requests and server spans is measured by the samples it sends. A bucket without data is None, never 0.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final, Literal

import numpy as np

from vantage.core.arrays import F64, I64
from vantage.core.red_table import RedQuery, RedTable
from vantage.core.semconv import DURATION, REQUESTS
from vantage.core.sketch import I32
from vantage.core.timerange import TimeRange
from vantage.query.context import QueryContext
from vantage.query.http_semconv import (
    QUANTILES_OVERVIEW,
    Buckets,
    RequestStats,
    metrics_query,
    parse_stats,
    pick_metrics,
    rate_per_s,
    select_items,
    spans_query,
    stats_of_rows,
    time_filter,
)
from vantage.vql.tree import And, Call, Column, Expr, In, Select
from vantage.vql.tree import Literal as Constant

ROWS_MAX: Final = 200_000  # services times buckets
RedSource = Literal["metrics", "spans", "samples"]
BucketValues = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class DurationCells:
    """Numbers of requests by bucket and duration, in no order: ``count[i]`` in the bucket at ``position[i]``, with
    durations of the sketch bucket ``key[i]``."""

    position: I64
    key: I32
    count: I64


@dataclass(frozen=True, slots=True)
class RedStats:
    """One service over a range. Counts are of the range; rates are per second, ratios from 0 to 1, durations ms.

    ``rate_per_s`` counts from the service's first data in the range, so that a service just started is not diluted.
    With source ``samples`` the rates are those of samples. ``p95_change``: the median of the buckets' p95 in the second
    half of the range against that of the first, 0.2 meaning 20 % slower. p50 and p99 are None unless requested. The
    tuples have one value per bucket, None without data. ``approximate``: quantiles are within 1 % of the exact ones.
    ``cells`` are there if requested, where rollups answered and there are durations.
    """

    source: RedSource
    requests: float
    rate_per_s: float
    error_ratio: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    p95_change: float | None
    rates_per_s: BucketValues
    error_ratios: BucketValues
    p50s_ms: BucketValues
    p95s_ms: BucketValues
    p99s_ms: BucketValues
    approximate: bool = False
    cells: DurationCells | None = None


@dataclass(frozen=True, slots=True)
class _Measured:
    """What one source says about a service: the figures of the range, and of each bucket."""

    total: RequestStats
    requests: BucketValues
    error_ratios: BucketValues
    quantiles_ms: Mapping[float, BucketValues]
    cells: DurationCells | None = None


async def read_red(
    context: QueryContext,
    buckets: Buckets,
    *,
    services: Mapping[str, int],
    quantiles: Sequence[float] = QUANTILES_OVERVIEW,
    exact: bool = False,
    with_cells: bool = False,
) -> dict[str, RedStats]:
    """Return the RED stats of each of ``services`` that has data in the range, by name.

    ``services`` are names, with the time of each one's first data in ms. ``quantiles`` is QUANTILES_OVERVIEW or
    QUANTILES_ALL. ``exact``: read samples and spans even where there are rollups. ``with_cells``: with the durations of
    each bucket.
    """
    if (
        not exact
        and (red := await _from_rollups(context, buckets, services, quantiles, with_cells=with_cells)) is not None
    ):
        return red
    red = await _from_metrics(context, buckets, tuple(services), quantiles)
    if remaining := [name for name in services if name not in red]:
        red |= await _from_spans(context, buckets, remaining, quantiles)
    if remaining := [name for name in services if name not in red]:
        red |= await _from_samples(context, buckets, remaining)
    return red


async def _from_rollups(
    context: QueryContext,
    buckets: Buckets,
    services: Mapping[str, int],
    quantiles: Sequence[float],
    *,
    with_cells: bool = False,
) -> dict[str, RedStats] | None:
    table = await context.red(
        RedQuery(
            TimeRange(buckets.start_ms, buckets.end_ms),
            buckets.step_ms,
            services=frozenset(services) if len(services) == 1 else None,
            quantiles=tuple(quantiles),
            with_cells=with_cells,
        )
    )
    return None if table is None else await asyncio.to_thread(_red_of_table, table, buckets, services, quantiles)


def _red_of_table(
    table: RedTable, buckets: Buckets, first_seen_ms: Mapping[str, int], quantiles: Sequence[float]
) -> dict[str, RedStats]:
    measured: dict[str, dict[str, _Measured]] = {}
    starts = np.searchsorted(table.buckets.group, np.arange(len(table.groups) + 1)).tolist()
    for row, number in enumerate(table.totals.group.tolist()):
        group = table.groups[number]
        if group.service not in first_seen_ms:  # it came a moment ago
            continue
        rows = slice(starts[number], starts[number + 1])
        position = (table.buckets.time_ms[rows] - buckets.start_ms) // buckets.step_ms
        requests, errors = table.buckets.requests[rows], table.buckets.errors[rows]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.where(requests > 0, np.minimum(1.0, errors / requests), np.nan)
        columns = (requests, ratios, *(column[rows] for column in table.buckets.quantiles_ms))
        of_requests, error_ratios, *values_ms = (_spread(column, position, buckets.count) for column in columns)
        measured.setdefault(group.service, {})[group.source] = _Measured(
            stats_of_rows(table.totals, row, quantiles, first_seen_ms=first_seen_ms[group.service]),
            of_requests,
            error_ratios,
            dict(zip(quantiles, values_ms, strict=True)),
            _cells_of(table, buckets, rows),
        )
    return {service: _red_of_sources(buckets, by_source) for service, by_source in measured.items()}


def p95_by_service(table: RedTable) -> dict[str, float]:
    """Return the p95 in ms of each service that has durations, from totals whose only quantile it is."""
    (values,) = table.totals.quantiles_ms
    return {
        table.groups[number].service: value
        for number, value in zip(table.totals.group.tolist(), values.tolist(), strict=True)
        if not math.isnan(value)
    }


def _cells_of(table: RedTable, buckets: Buckets, rows: slice) -> DurationCells | None:
    """Return the cells of a group, whose rows among the buckets are given; None without any."""
    cells = table.cells
    chosen = np.flatnonzero((cells.row >= rows.start) & (cells.row < rows.stop))
    if not chosen.size:
        return None
    position = (table.buckets.time_ms[cells.row[chosen]] - buckets.start_ms) // buckets.step_ms
    return DurationCells(position, cells.key[chosen], cells.count[chosen])


def _spread(values: F64, position: I64, size: int) -> BucketValues:
    """Return the values at their buckets' positions, None elsewhere and for NaN."""
    spread: list[float | None] = [None] * size
    for at, value in zip(position.tolist(), values.tolist(), strict=True):
        if not math.isnan(value):
            spread[at] = value
    return tuple(spread)


def _red_of_sources(buckets: Buckets, by_source: Mapping[str, _Measured]) -> RedStats:
    names = {REQUESTS: "requests", DURATION: "durations"}
    by_metric = {metric: by_source[source].total for metric, source in names.items() if source in by_source}
    if by_metric:
        requests, errors = pick_metrics(by_metric)
        parts = (by_source[names[requests]], by_source[names[errors]], by_source.get("durations"))
        return _red(buckets, "metrics", *parts, approximate=True)
    if (spans := by_source.get("spans")) is not None:
        return _red(buckets, "spans", spans, spans, spans, approximate=True)
    return _red(buckets, "samples", by_source["samples"], None, None)


def _bucket(buckets: Buckets) -> Expr:
    return Call("toStartOfInterval", (Column("timestamp"), Constant(buckets.step_ms)))


async def _measure(context: QueryContext, name: str, query: Select) -> dict[tuple[Any, ...], RequestStats]:
    return parse_stats(query, await context.select(name, query, rows_max=ROWS_MAX))


async def _from_metrics(
    context: QueryContext, buckets: Buckets, services: Sequence[str], quantiles: Sequence[float]
) -> dict[str, RedStats]:
    keys = (Column("metric_name"), Column("service_name"))
    service_filter = (In(Column("service_name"), tuple(services)),)
    totals = await _measure(context, "red", metrics_query(buckets, keys, where=service_filter, quantiles=quantiles))
    if not totals:
        return {}
    query = metrics_query(buckets, (*keys, _bucket(buckets)), where=service_filter, quantiles=quantiles)
    parts = _by_service(await _measure(context, "red_buckets", query), keys=2)
    red = {}
    for service in {key[1] for key in totals}:
        by_metric = {metric: stats for metric in (REQUESTS, DURATION) if (stats := totals.get((metric, service)))}
        measured = {
            metric: _measured(buckets, stats, parts.get((metric, service), {}), quantiles)
            for metric, stats in by_metric.items()
        }
        requests, errors = pick_metrics(by_metric)
        red[service] = _red(buckets, "metrics", measured[requests], measured[errors], measured.get(DURATION))
    return red


async def _from_spans(
    context: QueryContext, buckets: Buckets, services: Sequence[str], quantiles: Sequence[float]
) -> dict[str, RedStats]:
    keys = (Column("service_name"),)
    service_filter = (In(Column("service_name"), tuple(services)),)
    totals = await _measure(context, "red", spans_query(buckets, keys, where=service_filter, quantiles=quantiles))
    if not totals:
        return {}
    query = spans_query(buckets, (*keys, _bucket(buckets)), where=service_filter, quantiles=quantiles)
    parts = _by_service(await _measure(context, "red_buckets", query), keys=1)
    red = {}
    for key, stats in totals.items():
        measured = _measured(buckets, stats, parts[key], quantiles)
        red[key[0]] = _red(buckets, "spans", measured, measured, measured)
    return red


async def _from_samples(context: QueryContext, buckets: Buckets, services: Sequence[str]) -> dict[str, RedStats]:
    keys = (Column("service_name"), _bucket(buckets))
    items = select_items((*keys, Call("count"), Call("min", (Column("timestamp"),))))
    where = And((In(Column("service_name"), tuple(services)), *time_filter(buckets)))
    table = await context.select("red_samples", Select("metrics", items, where=where, group_by=keys), rows_max=ROWS_MAX)
    parts = _by_service({row[:2]: RequestStats(row[2], 0, 0, first_ms=row[3]) for row in table.rows()}, keys=1)
    red = {}
    for key, by_bucket in parts.items():
        stats = by_bucket.values()
        total = RequestStats(sum(s.requests for s in stats), 0, 0, first_ms=min(s.first_ms for s in stats))
        red[key[0]] = _red(buckets, "samples", _measured(buckets, total, by_bucket, ()), None, None)
    return red


def _by_service(
    groups: dict[tuple[Any, ...], RequestStats], *, keys: int
) -> dict[tuple[Any, ...], dict[int, RequestStats]]:
    """Nest groups whose last key is the bucket: buckets by the other keys."""
    nested: dict[tuple[Any, ...], dict[int, RequestStats]] = {}
    for key, stats in groups.items():
        nested.setdefault(key[:keys], {})[key[keys]] = stats
    return nested


def _change(points: BucketValues) -> float | None:
    """Return the growth of the median from the first to the second half; None if a half is empty or the first is 0."""
    middle = len(points) // 2
    before = [value for value in points[:middle] if value is not None]
    after = [value for value in points[middle:] if value is not None]
    if not before or not after or not (base := median(before)):
        return None
    return median(after) / base - 1


def _measured(
    buckets: Buckets, total: RequestStats, by_bucket: Mapping[int, RequestStats], quantiles: Sequence[float]
) -> _Measured:
    def points(get: Callable[[RequestStats], float | None]) -> BucketValues:
        return tuple(get(stats) if (stats := by_bucket.get(at_ms)) else None for at_ms in buckets.starts_ms())

    return _Measured(
        total,
        points(lambda stats: stats.requests),
        points(lambda stats: stats.error_ratio),
        {p: points(lambda stats, p=p: stats.quantile_ms(p)) for p in quantiles},  # type: ignore[misc]
    )


def _red(
    buckets: Buckets,
    source: RedSource,
    requests: _Measured,
    errors: _Measured | None,
    durations: _Measured | None,
    *,
    approximate: bool = False,
) -> RedStats:
    # A rate over the first moments of a bucket is noise: the newest bucket counts once a quarter of it has passed.
    shortest_s = buckets.step_ms / 4000
    rates = (
        None if count is None or (passed_s := buckets.seconds(i)) < shortest_s else count / passed_s
        for i, count in enumerate(requests.requests)
    )
    nothing: BucketValues = (None,) * buckets.count
    totals_ms = durations.total.quantiles_ms if durations else {}
    points_ms = durations.quantiles_ms if durations else {}
    p95s_ms = points_ms.get(0.95, nothing)
    return RedStats(
        source=source,
        requests=requests.total.requests,
        rate_per_s=rate_per_s(requests.total, buckets),
        error_ratio=errors.total.error_ratio if errors else None,
        p50_ms=totals_ms.get(0.5),
        p95_ms=totals_ms.get(0.95),
        p99_ms=totals_ms.get(0.99),
        p95_change=_change(p95s_ms),
        rates_per_s=tuple(rates),
        error_ratios=errors.error_ratios if errors else nothing,
        p50s_ms=points_ms.get(0.5, nothing),
        p95s_ms=p95s_ms,
        p99s_ms=points_ms.get(0.99, nothing),
        approximate=approximate,
        cells=durations.cells if durations else None,
    )
