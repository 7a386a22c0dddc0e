"""``/services/{name}``: one service's charts, latency, routes, neighbours and metrics, from rollups and catalogues.

What reads spans or samples (exceptions, traces, deployments by version, processes) is loaded after the page and seldom:
see ``service_parts``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from vantage.core.errors import BusyError, InputError, NotFoundError, StoreTimeout
from vantage.core.red_table import RedQuery
from vantage.core.timerange import TimeRange
from vantage.query import catalogue
from vantage.query.alerts import open_by_service
from vantage.query.context import QueryContext
from vantage.query.deployments import deployments_if_known
from vantage.query.endpoints import Endpoint, read_endpoints
from vantage.query.heatmap import build_heatmap
from vantage.query.http_semconv import Buckets, split_buckets
from vantage.query.overview import ServiceRow, read_service
from vantage.query.red import p95_by_service
from vantage.query.service_map import RECENT_MS, ServiceCall, ServiceMap, read_service_map, recent_service_map
from vantage.web.pages.charts import red_charts
from vantage.web.pages.health import health_panel
from vantage.web.pages.heatmap import heatmap_view
from vantage.web.pages.ranges import PageRange, read_range
from vantage.web.pages.routes import routes_view
from vantage.web.pages.service_parts import PARTS, part_urls
from vantage.web.render import query_string, shared_page

POINTS: Final = 120
ROUTES_TTL_S: Final = 10.0
ROUTES_NBYTES: Final = 1 << 20  # of 2000 endpoints, about
METRICS_MAX: Final = 300
NEIGHBOURS_MAX: Final = 20
DEFAULT_AGGREGATIONS: Final = {"counter": "rate", "cumulative": "rate", "histogram": "p95", "gauge": "avg"}


@get("/services/{name:str}", include_in_schema=False)
async def service(
    request: Request[Any, Any, Any], context: NamedDependency[QueryContext], name: FromPath[str]
) -> Response[bytes]:
    return await shared_page(request, "pages/service.html", lambda: _read(request, context, name))


async def _read(request: Request[Any, Any, Any], context: QueryContext, name: str) -> dict[str, Any]:
    page_range = await read_range(request, context, service=name)
    buckets = split_buckets(page_range.time_range, points=POINTS, now_ms=context.present().now_ms)
    row = await read_service(context, buckets, service=name, exact=page_range.is_exact)
    if row is None:
        raise NotFoundError(f"no service {name[:80]!r} has sent anything", field="name")
    red = row.red
    deployments = await deployments_if_known(context, service=name, time_range=page_range.time_range)
    endpoints, endpoints_problem = await _endpoints(context, page_range, buckets, row)
    edges, edges_of, edges_problem = await _edges(context, page_range, name)
    callers, callees = edges.callers_of(name), edges.callees_of(name)
    metrics = await catalogue.metrics(context, name)
    heatmap = None
    if red is not None and red.cells is not None:
        heatmap = heatmap_view(await asyncio.to_thread(build_heatmap, red.cells, buckets), page_range, name)
    params = request.query_params
    routes = await asyncio.to_thread(routes_view, params, endpoints, page_range, service=name, metrics=metrics)
    return {
        "section": "overview",
        "range": page_range,
        "row": row,
        "red": red,
        "charts": red_charts(red, buckets, deployments, service=name) if red is not None else [],
        "alerts": (await open_by_service(context)).get(name, ()),
        "health": await health_panel(context, name, page_range),
        "health_state": "" if page_range.is_live else query_string({}, end=page_range.time_range.end_ms),
        "heatmap": heatmap,
        "routes": routes,
        "endpoints_problem": endpoints_problem,
        "callers": callers,
        "callees": callees,
        "neighbours_max": NEIGHBOURS_MAX,
        "neighbours_of": edges_of,
        "neighbours_problem": edges_problem,
        "p95s_ms": await _p95s(context, page_range, buckets, name, callers, callees),
        "parts": PARTS,
        "part_urls": part_urls(name, page_range),
        "part_key": page_range.preset or f"{page_range.time_range.start_ms}-{page_range.time_range.end_ms}",
        "metrics": metrics[:METRICS_MAX],
        "metrics_omitted": max(0, len(metrics) - METRICS_MAX),
        "open_metric": params.get("metric", ""),
        "chart_url": _chart_url(name, page_range),
    }


async def _endpoints(
    context: QueryContext, page_range: PageRange, buckets: Buckets, row: ServiceRow
) -> tuple[Sequence[Endpoint], str]:
    """Return the endpoints, and why there are none although there may be some. Those of a live page may be ROUTES_TTL_S
    old: with a thousand routes they are most of what the page computes and sends."""
    red = row.red
    if red is None or not row.has_traffic:
        return (), ""

    async def load() -> Sequence[Endpoint]:
        return await read_endpoints(
            context,
            buckets,
            service=row.name,
            source=red.source,
            first_seen_ms=row.first_seen_ms,
            exact=page_range.is_exact,
        )

    try:
        if not page_range.is_live:
            return await load(), ""
        key = ("routes", row.name, red.source, *page_range.state.items())
        return await context.cache.cached(key, load, ttl_s=ROUTES_TTL_S, nbytes=ROUTES_NBYTES), ""
    except (BusyError, InputError, StoreTimeout) as error:
        return (), str(error)


async def _p95s(
    context: QueryContext,
    page_range: PageRange,
    buckets: Buckets,
    service: str,
    callers: Sequence[ServiceCall],
    callees: Sequence[ServiceCall],
) -> Mapping[str, float]:
    """Return the p95 in ms of neighbours, by name, of all their requests in the range; without those that have no
    rollups of durations."""
    shown = {call.caller for call in callers[:NEIGHBOURS_MAX]} | {call.callee for call in callees[:NEIGHBOURS_MAX]}
    names = sorted(shown - {service})

    async def load() -> Mapping[str, float]:
        time_range = TimeRange(buckets.start_ms, buckets.end_ms)
        query = RedQuery(
            time_range,
            buckets.step_ms,
            services=frozenset(names),
            quantiles=(0.95,),
            with_bucket_quantiles=False,
        )
        table = await context.red(query)
        return {} if table is None else p95_by_service(table)

    if not names:
        return {}
    try:
        key = ("neighbours", service, *names, *page_range.state.items())
        return await context.cache.cached(key, load, ttl_s=ROUTES_TTL_S)
    except (BusyError, InputError, StoreTimeout):
        return {}


async def _edges(context: QueryContext, page_range: PageRange, service: str) -> tuple[ServiceMap, str, str]:
    """Return callers and callees, their time range as text, and a problem if they cannot be read. A live page
    shows the last minutes."""
    try:
        if page_range.is_live:
            minutes = RECENT_MS // 60_000
            return await recent_service_map(context, service=service), f"the last {minutes} minutes", ""
        return await read_service_map(context, page_range.time_range, service=service), "this range", ""
    except (BusyError, InputError, StoreTimeout) as error:
        return ServiceMap(page_range.time_range, (), 0), "", str(error)


def _chart_url(service: str, page_range: PageRange) -> Any:
    """Return a function from a metric to the URL of its points."""
    start, end = (
        (f"now-{page_range.preset}", "now")
        if page_range.is_live
        else (str(page_range.time_range.start_ms), str(page_range.time_range.end_ms))
    )

    def url(metric: catalogue.Metric) -> str:
        agg = DEFAULT_AGGREGATIONS.get(metric.kind, "avg")
        params = {"service": service, "metric": metric.name, "start": start, "end": end, "agg": agg}
        return f"/api/metrics/timeseries?{urlencode(params)}"

    return url


handlers = [service]
