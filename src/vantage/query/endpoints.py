"""The endpoints of a service: rate, errors and durations of each, by the conventions of ``http_semconv``.

A span names its endpoint by attributes, as in OpenTelemetry's semantic conventions; otherwise the name of its operation
is used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np

from vantage.core.red import KEPT_MS
from vantage.core.red_table import RedQuery, RedTable
from vantage.core.rollup import FIVE_MINUTES_MS, HOUR_MS
from vantage.core.semconv import DURATION, METHOD_ATTRIBUTES, METHOD_TAGS, REQUESTS, ROUTE_ATTRIBUTES, ROUTE_TAGS
from vantage.core.timerange import TimeRange
from vantage.query.context import QueryContext
from vantage.query.http_semconv import (
    QUANTILES_ALL,
    Buckets,
    RequestStats,
    metrics_query,
    parse_stats,
    pick_metrics,
    rate_per_s,
    spans_query,
    stats_of_rows,
)
from vantage.query.red import ROWS_MAX, RedSource
from vantage.storage.ports import SeriesInfo
from vantage.vql.tree import Case, Column, Compare, Expr, TagValue, equals
from vantage.vql.tree import Literal as Constant

ENDPOINTS_MAX: Final = 2000
PAGE: Final = 200
TREND_POINTS_MAX: Final = 24
_Name = tuple[str, str]  # method and route
SortName = Literal["route", "requests", "errors", "error_rate", "p50", "p95", "p99", "time"]
SORTS: Final[tuple[SortName, ...]] = get_args(SortName)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Rates per second, ratios from 0 to 1, durations in ms. ``time_share``: of the time that all requests took
    together, those of this endpoint. ``trend`` are rates in up to TREND_POINTS_MAX equal parts of the range, where they
    are known."""

    method: str
    route: str
    requests: float
    rate_per_s: float
    error_ratio: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    time_share: float | None = None
    trend: tuple[float | None, ...] = ()

    @property
    def errors(self) -> float | None:
        return None if self.error_ratio is None else self.error_ratio * self.requests

    def figure(self, sort: SortName) -> float | None:
        """Return what endpoints are sorted by, but for their names."""
        figures = {
            "requests": self.requests,
            "errors": self.errors,
            "error_rate": self.error_ratio,
            "p50": self.p50_ms,
            "p95": self.p95_ms,
            "p99": self.p99_ms,
            "time": self.time_share,
        }
        return figures.get(sort)


@dataclass(frozen=True, slots=True)
class EndpointPage:
    """Up to PAGE endpoints of ``matching`` that match a search, out of ``total``; pages count from 1."""

    endpoints: tuple[Endpoint, ...]
    matching: int
    total: int
    page: int
    pages: int


def endpoint_page(
    endpoints: Sequence[Endpoint],
    *,
    sort: SortName = "requests",
    ascending: bool = False,
    text: str = "",
    page: int = 1,
) -> EndpointPage:
    """Return a page of the endpoints whose method and route contain a text, in any case. Those without a figure come
    last, in either direction; ties are by route and method. A page that is not there becomes the nearest one."""
    wanted = text.casefold()
    matching = [item for item in endpoints if wanted in f"{item.method} {item.route}".casefold()]
    matching.sort(key=lambda item: (item.route, item.method), reverse=sort == "route" and not ascending)
    if sort != "route":
        sign = 1 if ascending else -1
        matching.sort(key=lambda item: (item.figure(sort) is None, sign * (item.figure(sort) or 0.0)))
    pages = max(1, -(-len(matching) // PAGE))
    page = min(max(1, page), pages)
    shown = matching[(page - 1) * PAGE : page * PAGE]
    return EndpointPage(tuple(shown), len(matching), len(endpoints), page, pages)


async def read_endpoints(
    context: QueryContext,
    buckets: Buckets,
    *,
    service: str,
    source: RedSource,
    first_seen_ms: int = 0,
    exact: bool = False,
) -> list[Endpoint]:
    """Return up to ENDPOINTS_MAX endpoints, the busiest first. Empty when the service does not name its endpoints.
    ``first_seen_ms`` is the time of the service's first data. ``exact``: from samples and spans."""
    service_filter = (equals("service_name", service),)
    endpoints: list[Endpoint] | None = None
    if not exact:
        endpoints = await _from_rollups(context, buckets, service, source, first_seen_ms)
    if endpoints is not None:
        pass
    elif source == "spans":
        endpoints = await _from_spans(context, buckets, service_filter)
    else:
        series = await context.store.list_series(service=service)
        endpoints = await _from_metrics(context, buckets, service_filter, series)
    busiest = sorted(endpoints, key=lambda endpoint: (-endpoint.requests, endpoint.route, endpoint.method))
    return busiest[:ENDPOINTS_MAX]


async def _from_rollups(
    context: QueryContext, buckets: Buckets, service: str, source: RedSource, first_seen_ms: int
) -> list[Endpoint] | None:
    wide = _widened(buckets, now_ms=context.present().now_ms)
    table = await context.red(
        RedQuery(
            TimeRange(wide.start_ms, wide.end_ms),
            wide.step_ms,
            level="endpoint",
            services=frozenset({service}),
            quantiles=QUANTILES_ALL,
            with_bucket_quantiles=False,
        )
    )
    return None if table is None else await asyncio.to_thread(_of_table, table, buckets, wide, source, first_seen_ms)


def _of_table(
    table: RedTable, buckets: Buckets, wide: Buckets, source: RedSource, first_seen_ms: int
) -> list[Endpoint]:
    names = {"requests": REQUESTS, "durations": DURATION, "spans": DURATION}
    sources = ("spans",) if source == "spans" else ("requests", "durations")
    merged: dict[_Name, dict[str, RequestStats]] = {}
    numbers: dict[tuple[_Name, str], int] = {}
    for row, number in enumerate(table.totals.group.tolist()):
        group = table.groups[number]
        if group.source in sources:
            stats = stats_of_rows(table.totals, row, QUANTILES_ALL, first_seen_ms=first_seen_ms)
            name, metric = (group.method, group.route), names[group.source]
            merged.setdefault(name, {})[metric] = stats
            numbers[name, metric] = number
    trends = _trends(table, wide)
    return _endpoints(
        merged, buckets, {name: trends[numbers[name, pick_metrics(stats)[0]]] for name, stats in merged.items()}
    )


def _trends(table: RedTable, wide: Buckets) -> list[tuple[float | None, ...]]:
    """Return the rate of each group over time: None before its first request, and where too little time has passed."""
    per_point = -(-wide.count // TREND_POINTS_MAX)
    points = -(-wide.count // per_point)
    rows = table.buckets
    position = (rows.time_ms - wide.start_ms) // wide.step_ms // per_point
    sums = np.bincount(rows.group * points + position, rows.requests, points * len(table.groups))
    starts_ms = wide.start_ms + np.arange(points) * wide.step_ms * per_point
    passed_s = (np.minimum(starts_ms + wide.step_ms * per_point, wide.end_ms) - starts_ms) / 1000
    rates = sums.reshape(len(table.groups), points) / passed_s
    known = points - int(passed_s[-1] * 4000 < wide.step_ms * per_point)
    trends: list[tuple[float | None, ...]] = []
    for of_group in rates[:, :known]:
        first = int(np.argmax(of_group > 0))
        trends.append((*[None] * first, *of_group[first:].tolist()))
    return trends


def _widened(buckets: Buckets, *, now_ms: int) -> Buckets:
    """Return buckets for which there are rollups, where that makes the range longer by a twelfth at most: only their
    sums are read."""
    length_ms = buckets.end_ms - buckets.start_ms
    is_recent = buckets.start_ms - FIVE_MINUTES_MS >= now_ms - KEPT_MS["endpoint", FIVE_MINUTES_MS]
    width_ms = FIVE_MINUTES_MS if is_recent else HOUR_MS
    if buckets.step_ms % width_ms == 0 or length_ms < 12 * width_ms:
        return buckets
    return Buckets(buckets.start_ms // width_ms * width_ms, buckets.end_ms, width_ms)


async def _from_spans(context: QueryContext, buckets: Buckets, service_filter: Sequence[Expr]) -> list[Endpoint]:
    keys = (_first_of(ROUTE_ATTRIBUTES, Column("name")), _first_of(METHOD_ATTRIBUTES, Constant("")))
    query = spans_query(buckets, keys, where=service_filter, quantiles=QUANTILES_ALL)
    groups = parse_stats(query, await context.select("endpoints", query, rows_max=ROWS_MAX))
    # An operation is often named after method and route, as in "GET /users".
    merged = {
        (method, route.removeprefix(f"{method} ") if method else route): {DURATION: stats}
        for (route, method), stats in groups.items()
    }
    return _endpoints(merged, buckets, {})


def _first_of(attributes: Sequence[str], default: Expr) -> Expr:
    """Return an expression for the first of the attributes that a span has."""
    values = [TagValue(key) for key in attributes]
    return Case(tuple((Compare("!=", value, Constant("")), value) for value in values), default)


async def _from_metrics(
    context: QueryContext, buckets: Buckets, service_filter: Sequence[Expr], catalogue: Sequence[SeriesInfo]
) -> list[Endpoint]:
    tags = {key for info in catalogue if info.series.metric in (REQUESTS, DURATION) for key, _ in info.series.tags}
    route = next((tag for tag in ROUTE_TAGS if tag in tags), None)
    if route is None:
        return []
    method = next((tag for tag in METHOD_TAGS if tag in tags), "")
    keys = (Column("metric_name"), TagValue(route), TagValue(method))
    query = metrics_query(buckets, keys, where=service_filter, quantiles=QUANTILES_ALL)
    groups = parse_stats(query, await context.select("endpoints", query, rows_max=ROWS_MAX))
    merged: dict[_Name, dict[str, RequestStats]] = {}
    for (metric, route_name, method_name), stats in groups.items():
        if route_name:
            merged.setdefault((method_name, route_name), {})[metric] = stats
    return _endpoints(merged, buckets, {})


def _endpoints(
    merged: Mapping[_Name, dict[str, RequestStats]], buckets: Buckets, trends: Mapping[_Name, tuple[float | None, ...]]
) -> list[Endpoint]:
    total_ms = sum(stats[DURATION].sum_ms for stats in merged.values() if DURATION in stats)
    return [_endpoint(name, stats, buckets, total_ms, trends.get(name, ())) for name, stats in merged.items()]


def _endpoint(
    name: _Name,
    by_metric: dict[str, RequestStats],
    buckets: Buckets,
    total_ms: float,
    trend: tuple[float | None, ...],
) -> Endpoint:
    requests, errors = pick_metrics(by_metric)
    durations = by_metric.get(DURATION)
    p50_ms, p95_ms, p99_ms = (durations.quantile_ms(p) if durations else None for p in QUANTILES_ALL)
    return Endpoint(
        *name,
        by_metric[requests].requests,
        rate_per_s(by_metric[requests], buckets),
        by_metric[errors].error_ratio,
        p50_ms,
        p95_ms,
        p99_ms,
        durations.sum_ms / total_ms if durations and total_ms > 0 else None,
        trend,
    )
