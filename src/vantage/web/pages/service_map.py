"""``/map``: which service calls which, drawn and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from litestar import Request, Response, get
from litestar.di import NamedDependency

from vantage.core import number_format
from vantage.core.errors import BusyError, InputError, StoreTimeout
from vantage.query.context import QueryContext
from vantage.query.http_semconv import split_buckets
from vantage.query.overview import ServiceRow, read_overview
from vantage.query.service_map import ServiceCall, ServiceMap, read_service_map
from vantage.query.thresholds import error_level
from vantage.web.pages.ranges import PageRange, read_range
from vantage.web.render import query_string, segment, shared_page

POINTS: Final = 30
NODES_MAX: Final = 150  # that are drawn, those of the most calls first
CALLS_SHOWN_MAX: Final = 200


@get("/map", include_in_schema=False)
async def service_map(request: Request[Any, Any, Any], context: NamedDependency[QueryContext]) -> Response[bytes]:
    return await shared_page(request, "pages/map.html", lambda: _read(request, context))


async def _read(request: Request[Any, Any, Any], context: QueryContext) -> dict[str, Any]:
    page_range = await read_range(request, context)
    buckets = split_buckets(page_range.time_range, points=POINTS, now_ms=context.present().now_ms)
    problem, calls = "", ServiceMap(page_range.time_range, (), 0)
    try:
        calls = await read_service_map(context, page_range.time_range)
    except (BusyError, InputError, StoreTimeout) as error:
        problem = str(error)
    overview = await read_overview(context, buckets)
    services = {row.name: row for row in overview.services}
    drawn, left_out = _drawn(calls)
    return {
        "section": "map",
        "range": page_range,
        "graph": msgspec.json.encode(_graph(drawn, services, page_range)).decode() if drawn else "",
        "calls": calls.calls[:CALLS_SHOWN_MAX],
        "calls_left_out": len(calls.calls) - len(calls.calls[:CALLS_SHOWN_MAX]) + calls.omitted,
        "nodes_left_out": left_out,
        "services": services,
        "problem": problem or overview.problem,
        "base_url": str(request.base_url).rstrip("/"),
    }


def _drawn(calls: ServiceMap) -> tuple[list[ServiceCall], int]:
    """Return the calls between the first NODES_MAX services, and how many services are left out."""
    nodes: dict[tuple[str, bool], None] = {}
    for call in calls.calls:
        for node in ((call.caller, False), (call.callee, call.kind == "external" and not call.is_known)):
            nodes.setdefault(node)
    chosen = set(list(nodes)[:NODES_MAX])
    return [
        call
        for call in calls.calls
        if (call.caller, False) in chosen and (call.callee, call.kind == "external" and not call.is_known) in chosen
    ], max(0, len(nodes) - NODES_MAX)


def _graph(calls: list[ServiceCall], services: Mapping[str, ServiceRow], page_range: PageRange) -> dict[str, Any]:
    """Return nodes and edges as the script draws them: texts are ready to be shown."""
    nodes: dict[str, dict[str, Any]] = {}
    edges = []
    for call in calls:
        external = call.kind == "external" and not call.is_known
        callee = f"external:{call.callee}" if external else f"service:{call.callee}"
        caller = f"service:{call.caller}"
        nodes.setdefault(caller, _node(call.caller, services.get(call.caller), page_range))
        nodes.setdefault(callee, _node(call.callee, None if external else services.get(call.callee), page_range))
        rate, mean = number_format.rate(call.calls_per_s), number_format.duration_ms(call.mean_ms)
        edges.append(
            {
                "from": caller,
                "to": callee,
                "rate": call.calls_per_s,
                "level": error_level(call.error_ratio),
                "kind": call.kind,
                "text": f"{rate}, {number_format.ratio(call.error_ratio)} errors, {mean}",
            }
        )
    return {"nodes": nodes, "edges": edges}


def _node(name: str, row: ServiceRow | None, page_range: PageRange) -> dict[str, Any]:
    if row is None:
        return {"name": name, "level": "external", "text": "sends no spans", "href": ""}
    red = row.red if row.has_traffic else None
    text = f"{number_format.rate(red.rate_per_s)} · {number_format.ratio(red.error_ratio)}" if red else "no requests"
    level = error_level(red.error_ratio) if red else "idle"
    href = f"/services/{segment(name)}{query_string(page_range.state)}"
    return {"name": name, "level": level, "text": text, "href": href}


handlers = [service_map]
