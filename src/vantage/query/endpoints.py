"""The endpoints of a service: rate, errors and p95 of each, by the conventions of ``http_semconv``.

A span names its endpoint by attributes, as in OpenTelemetry's semantic conventions; otherwise the name of its operation
is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vantage.core.red import KEPT_MS
from vantage.core.red_table import RedQuery
from vantage.core.rollup import FIVE_MINUTES_MS, HOUR_MS
from vantage.core.semconv import DURATION, METHOD_ATTRIBUTES, METHOD_TAGS, REQUESTS, ROUTE_ATTRIBUTES, ROUTE_TAGS
from vantage.core.timerange import TimeRange
from vantage.query.context import QueryContext
from vantage.query.http_semconv import (
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

ENDPOINTS_MAX: Final = 50


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Rates per second, ratios from 0 to 1, durations in ms."""

    method: str
    route: str
    requests: float
    rate_per_s: float
    error_ratio: float | None
    p95_ms: float | None


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
    quantiles = (0.95,)
    wide = _widened(buckets, now_ms=context.present().now_ms)
    table = await context.red(
        RedQuery(
            TimeRange(wide.start_ms, wide.end_ms),
            wide.step_ms,
            level="endpoint",
            services=frozenset({service}),
            quantiles=quantiles,
        )
    )
    if table is None:
        return None
    names = {"requests": REQUESTS, "durations": DURATION, "spans": DURATION}
    sources = ("spans",) if source == "spans" else ("requests", "durations")
    merged: dict[tuple[str, str], dict[str, RequestStats]] = {}
    for row, number in enumerate(table.totals.group.tolist()):
        group = table.groups[number]
        if group.source in sources:
            stats = stats_of_rows(table.totals, row, quantiles, first_seen_ms=first_seen_ms)
            merged.setdefault((group.method, group.route), {})[names[group.source]] = stats
    return [_endpoint(*key, by_metric, buckets) for key, by_metric in merged.items()]


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
    query = spans_query(buckets, keys, where=service_filter)
    groups = parse_stats(query, await context.select("endpoints", query, rows_max=ROWS_MAX))
    # An operation is often named after method and route, as in "GET /users".
    return [
        _endpoint(method, route.removeprefix(f"{method} ") if method else route, {DURATION: stats}, buckets)
        for (route, method), stats in groups.items()
    ]


def _first_of(attributes: Sequence[str], default: Expr) -> Expr:
    """Return an expression for the first of the attributes that a span has."""
    values = [TagValue(key) for key in attributes]
    return Case(tuple((Compare("!=", value, Constant("")), value) for value in values), default)


async def _from_metrics(
    context: QueryContext, buckets: Buckets, service_filter: Sequence[Expr], catalogue: Sequence[SeriesInfo]
) -> list[Endpoint]:
    keys = {key for info in catalogue if info.series.metric in (REQUESTS, DURATION) for key, _ in info.series.tags}
    route = next((tag for tag in ROUTE_TAGS if tag in keys), None)
    if route is None:
        return []
    method = next((tag for tag in METHOD_TAGS if tag in keys), "")
    query = metrics_query(buckets, (Column("metric_name"), TagValue(route), TagValue(method)), where=service_filter)
    groups = parse_stats(query, await context.select("endpoints", query, rows_max=ROWS_MAX))
    merged: dict[tuple[str, str], dict[str, RequestStats]] = {}
    for (metric, route_name, method_name), stats in groups.items():
        merged.setdefault((method_name, route_name), {})[metric] = stats
    return [_endpoint(*key, by_metric, buckets) for key, by_metric in merged.items() if key[1]]


def _endpoint(method: str, route: str, by_metric: dict[str, RequestStats], buckets: Buckets) -> Endpoint:
    requests, errors = pick_metrics(by_metric)
    durations = by_metric.get(DURATION)
    return Endpoint(
        method,
        route,
        by_metric[requests].requests,
        rate_per_s(by_metric[requests], buckets),
        by_metric[errors].error_ratio,
        durations.quantile_ms(0.95) if durations else None,
    )
