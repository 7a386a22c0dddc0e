"""The endpoints of a service: rate, errors and p95 of each, by the conventions of ``conventions``.

Spans name theirs by attributes, as OpenTelemetry's semantic conventions have it; one that does not is named by its
operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vantage.query.context import QueryContext
from vantage.query.http_semconv import (
    DURATION,
    REQUESTS,
    Buckets,
    RequestStats,
    metrics_query,
    parse_stats,
    pick_metrics,
    rate_per_s,
    spans_query,
)
from vantage.query.red import ROWS_MAX, RedSource
from vantage.storage.ports import SeriesInfo
from vantage.vql.tree import Case, Column, Compare, Expr, TagValue, equals
from vantage.vql.tree import Literal as Constant

ROUTE_TAGS: Final = ("http.route", "route", "endpoint", "path", "handler")
METHOD_TAGS: Final = ("http.request.method", "http.method", "method")
ROUTE_ATTRIBUTES: Final = ("http.route", "url.template")
METHOD_ATTRIBUTES: Final = ("http.request.method", "http.method")
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
    reads: QueryContext, buckets: Buckets, *, service: str, source: RedSource, catalogue: Sequence[SeriesInfo]
) -> list[Endpoint]:
    """The busiest first, at most ENDPOINTS_MAX. Empty when the service does not name its endpoints."""
    here = (equals("service_name", service),)
    if source == "spans":
        found = await _from_spans(reads, buckets, here)
    else:
        found = await _from_metrics(reads, buckets, here, catalogue)
    return sorted(found, key=lambda one: (-one.requests, one.route, one.method))[:ENDPOINTS_MAX]


async def _from_spans(reads: QueryContext, buckets: Buckets, here: Sequence[Expr]) -> list[Endpoint]:
    keys = (_first_of(ROUTE_ATTRIBUTES, Column("name")), _first_of(METHOD_ATTRIBUTES, Constant("")))
    query = spans_query(buckets, keys, where=here)
    groups = parse_stats(query, await reads.select("endpoints", query, rows_max=ROWS_MAX))
    # An operation is often named after method and route, as in "GET /users".
    return [
        _endpoint(method, route.removeprefix(f"{method} ") if method else route, {DURATION: one}, buckets)
        for (route, method), one in groups.items()
    ]


def _first_of(attributes: Sequence[str], otherwise: Expr) -> Expr:
    """The first of some attributes that a span has."""
    values = [TagValue(key) for key in attributes]
    return Case(tuple((Compare("!=", value, Constant("")), value) for value in values), otherwise)


async def _from_metrics(
    reads: QueryContext, buckets: Buckets, here: Sequence[Expr], catalogue: Sequence[SeriesInfo]
) -> list[Endpoint]:
    held = {key for info in catalogue if info.series.metric in (REQUESTS, DURATION) for key, _ in info.series.tags}
    route = next((tag for tag in ROUTE_TAGS if tag in held), None)
    if route is None:
        return []
    method = next((tag for tag in METHOD_TAGS if tag in held), "")
    query = metrics_query(buckets, (Column("metric_name"), TagValue(route), TagValue(method)), where=here)
    groups = parse_stats(query, await reads.select("endpoints", query, rows_max=ROWS_MAX))
    merged: dict[tuple[str, str], dict[str, RequestStats]] = {}
    for (metric, at_route, at_method), one in groups.items():
        merged.setdefault((at_method, at_route), {})[metric] = one
    return [_endpoint(*key, counted, buckets) for key, counted in merged.items() if key[1]]


def _endpoint(method: str, route: str, counted: dict[str, RequestStats], buckets: Buckets) -> Endpoint:
    requests, errors = pick_metrics(counted)
    durations = counted.get(DURATION)
    return Endpoint(
        method,
        route,
        counted[requests].requests,
        rate_per_s(counted[requests], buckets),
        counted[errors].error_ratio,
        durations.quantile_ms(0.95) if durations else None,
    )
