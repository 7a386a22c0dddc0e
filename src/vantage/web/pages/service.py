"""``/services/{name}``: one service's charts, endpoints, neighbours, metrics and latest traces."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlencode

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from vantage.core.errors import InputError, NotFoundError, StoreTimeout
from vantage.query import catalogue
from vantage.query.context import QueryContext
from vantage.query.endpoints import read_endpoints
from vantage.query.http_semconv import split_buckets
from vantage.query.overview import read_service
from vantage.query.service_map import RECENT_MS, ServiceMap, read_service_map, recent_service_map
from vantage.storage.ports import TraceFilter
from vantage.web.pages.charts import red_charts
from vantage.web.pages.ranges import PageRange, parse_range
from vantage.web.render import render

POINTS: Final = 120
TRACES_MAX: Final = 10
METRICS_MAX: Final = 300
NEIGHBOURS_MAX: Final = 20
DEFAULT_AGGREGATIONS: Final = {"counter": "rate", "cumulative": "rate", "histogram": "p95", "gauge": "avg"}


@get("/services/{name:str}", include_in_schema=False)
async def service(
    request: Request[Any, Any, Any], reads: NamedDependency[QueryContext], name: FromPath[str]
) -> Response[str]:
    chosen = parse_range(request, now_ms=reads.clock.now_ms())
    buckets = split_buckets(chosen.time_range, points=POINTS)
    row = await read_service(reads, buckets, service=name)
    if row is None:
        raise NotFoundError(f"no service {name[:80]!r} has sent anything", field="name")
    deployments = await reads.metadata.deployments(service=name, time_range=chosen.time_range)
    endpoints = []
    if row.red is not None and row.has_traffic:
        held = await reads.store.list_series(service=name)
        endpoints = await read_endpoints(reads, buckets, service=name, source=row.red.source, catalogue=held)
    edges, edges_of, edges_problem = await _edges(reads, chosen, name)
    metrics = await catalogue.metrics(reads, name)
    return render(
        request,
        "pages/service.html",
        section="overview",
        range=chosen,
        row=row,
        red=row.red,
        charts=red_charts(row.red, buckets, deployments) if row.red is not None else [],
        endpoints=endpoints,
        callers=edges.callers_of(name),
        callees=edges.callees_of(name),
        neighbours_max=NEIGHBOURS_MAX,
        neighbours_of=edges_of,
        neighbours_problem=edges_problem,
        deployments=deployments,
        metrics=metrics[:METRICS_MAX],
        metrics_left_out=max(0, len(metrics) - METRICS_MAX),
        open_metric=request.query_params.get("metric", ""),
        chart_url=_chart_url(name, chosen),
        traces=await reads.store.traces(TraceFilter(chosen.time_range, service=name, limit=TRACES_MAX)),
    )


async def _edges(reads: QueryContext, chosen: PageRange, service: str) -> tuple[ServiceMap, str, str]:
    """Who calls the service and whom it calls, of which time, and why that is not told. A live page asks again every
    second, and every span of the time is read: so it tells of the last minutes alone."""
    try:
        if chosen.is_live:
            minutes = RECENT_MS // 60_000
            return await recent_service_map(reads, service=service), f"the last {minutes} minutes", ""
        return await read_service_map(reads, chosen.time_range, service=service), "this range", ""
    except (InputError, StoreTimeout) as error:
        return ServiceMap((), 0), "", str(error)


def _chart_url(service: str, chosen: PageRange) -> Any:
    """From a metric to the address of its points."""
    start, end = (
        (f"now-{chosen.preset}", "now")
        if chosen.is_live
        else (str(chosen.time_range.start_ms), str(chosen.time_range.end_ms))
    )

    def url(metric: catalogue.Metric) -> str:
        agg = DEFAULT_AGGREGATIONS.get(metric.kind, "avg")
        asked = {"service": service, "metric": metric.name, "start": start, "end": end, "agg": agg}
        return f"/api/metrics/timeseries?{urlencode(asked)}"

    return url


handlers = [service]
