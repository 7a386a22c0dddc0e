"""``/services/{name}``: one service's charts, endpoints, neighbours, metrics and latest traces."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlencode

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from vantage.core.errors import BusyError, InputError, NotFoundError, StoreTimeout
from vantage.query import catalogue
from vantage.query.context import QueryContext
from vantage.query.deployments import deployments_if_known
from vantage.query.endpoints import read_endpoints
from vantage.query.http_semconv import split_buckets
from vantage.query.overview import read_service
from vantage.query.service_map import RECENT_MS, ServiceMap, read_service_map, recent_service_map
from vantage.query.traces import find_traces
from vantage.storage.ports import TraceFilter
from vantage.web.pages.charts import red_charts
from vantage.web.pages.ranges import PageRange, read_range
from vantage.web.render import shared_page

POINTS: Final = 120
TRACES_MAX: Final = 10
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
    deployments = await deployments_if_known(context, service=name, time_range=page_range.time_range)
    endpoints, endpoints_problem = [], ""
    if row.red is not None and row.has_traffic:
        try:
            endpoints = await read_endpoints(
                context, buckets, service=name, source=row.red.source, first_seen_ms=row.first_seen_ms
            )
        except (BusyError, InputError, StoreTimeout) as error:
            endpoints_problem = str(error)
    edges, edges_of, edges_problem = await _edges(context, page_range, name)
    metrics = await catalogue.metrics(context, name)
    return {
        "section": "overview",
        "range": page_range,
        "row": row,
        "red": row.red,
        "charts": red_charts(row.red, buckets, deployments, service=name) if row.red is not None else [],
        "endpoints": endpoints,
        "endpoints_problem": endpoints_problem,
        "callers": edges.callers_of(name),
        "callees": edges.callees_of(name),
        "neighbours_max": NEIGHBOURS_MAX,
        "neighbours_of": edges_of,
        "neighbours_problem": edges_problem,
        "deployments": deployments,
        "metrics": metrics[:METRICS_MAX],
        "metrics_omitted": max(0, len(metrics) - METRICS_MAX),
        "open_metric": request.query_params.get("metric", ""),
        "chart_url": _chart_url(name, page_range),
        "traces": await find_traces(context, TraceFilter(page_range.time_range, service=name, limit=TRACES_MAX)),
    }


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
