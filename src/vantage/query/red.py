"""Requests, errors and durations (RED) of services, by the conventions of ``http_semconv``.

A few grouped queries read all services. A service without requests and server spans is measured by the samples it
sends. A bucket without data is None, never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final, Literal

from vantage.query.context import QueryContext
from vantage.query.http_semconv import (
    DURATION,
    QUANTILES_OVERVIEW,
    REQUESTS,
    Buckets,
    RequestStats,
    metrics_query,
    parse_stats,
    pick_metrics,
    rate_per_s,
    select_items,
    spans_query,
    time_filter,
)
from vantage.vql.tree import And, Call, Column, Expr, In, Select
from vantage.vql.tree import Literal as Constant

ROWS_MAX: Final = 200_000  # services times buckets
RedSource = Literal["metrics", "spans", "samples"]
BucketValues = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class RedStats:
    """One service over a range. Counts are of the range; rates are per second, ratios from 0 to 1, durations ms.

    ``rate_per_s`` counts from the service's first data in the range, so that a service just started is not diluted.
    With source ``samples`` the rates are those of samples. ``p95_change``: the median of the buckets' p95 in the second
    half of the range against that of the first, 0.2 meaning 20 % slower. p50 and p99 are None unless requested. The
    tuples have one value per bucket, None without data.
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


async def read_red(
    context: QueryContext, buckets: Buckets, *, services: Sequence[str], quantiles: Sequence[float] = QUANTILES_OVERVIEW
) -> dict[str, RedStats]:
    """Return the RED stats of each of ``services`` that has data in the range, by name.

    ``quantiles`` is QUANTILES_OVERVIEW or QUANTILES_ALL.
    """
    red = await _from_metrics(context, buckets, services, quantiles)
    if remaining := [name for name in services if name not in red]:
        red |= await _from_spans(context, buckets, remaining, quantiles)
    if remaining := [name for name in services if name not in red]:
        red |= await _from_samples(context, buckets, remaining)
    return red


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
        requests, errors = pick_metrics(by_metric)
        red[service] = _red(
            buckets,
            "metrics",
            (by_metric[requests], by_metric[errors], by_metric.get(DURATION)),
            (parts.get((requests, service), {}), parts.get((errors, service), {}), parts.get((DURATION, service), {})),
        )
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
    return {key[0]: _red(buckets, "spans", (stats,) * 3, (parts[key],) * 3) for key, stats in totals.items()}


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
        red[key[0]] = _red(buckets, "samples", (total, None, None), (by_bucket, {}, {}))
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


def _red(
    buckets: Buckets,
    source: RedSource,
    totals: tuple[RequestStats, RequestStats | None, RequestStats | None],
    parts: tuple[dict[int, RequestStats], dict[int, RequestStats], dict[int, RequestStats]],
) -> RedStats:
    requests, errors, durations = totals
    durations = durations or RequestStats(0, 0, 0)

    def points(which: int, get: Callable[[RequestStats], float | None]) -> BucketValues:
        by_bucket = parts[which]
        return tuple(get(stats) if (stats := by_bucket.get(at_ms)) else None for at_ms in buckets.starts_ms())

    # A rate over the first moments of a bucket is noise: the newest bucket counts once a quarter of it has passed.
    shortest_s = buckets.step_ms / 4000
    counts = points(0, lambda stats: stats.requests)
    p95s_ms = points(2, lambda stats: stats.quantile_ms(0.95))
    rates = (
        None if count is None or (passed_s := buckets.seconds(i)) < shortest_s else count / passed_s
        for i, count in enumerate(counts)
    )
    return RedStats(
        source=source,
        requests=requests.requests,
        rate_per_s=rate_per_s(requests, buckets),
        error_ratio=errors.error_ratio if errors else None,
        p50_ms=durations.quantile_ms(0.5),
        p95_ms=durations.quantile_ms(0.95),
        p99_ms=durations.quantile_ms(0.99),
        p95_change=_change(p95s_ms),
        rates_per_s=tuple(rates),
        error_ratios=points(1, lambda stats: stats.error_ratio),
        p50s_ms=points(2, lambda stats: stats.quantile_ms(0.5)),
        p95s_ms=p95s_ms,
        p99s_ms=points(2, lambda stats: stats.quantile_ms(0.99)),
    )
