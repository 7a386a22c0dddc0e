"""``/``: every service with its rate, errors and p95, at a glance."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.response import Redirect

from vantage.query.context import QueryContext
from vantage.query.http_semconv import split_buckets
from vantage.query.overview import read_overview
from vantage.web.pages.ranges import parse_range
from vantage.web.render import render

POINTS = 60  # of a sparkline


@get("/", include_in_schema=False)
async def overview(request: Request[Any, Any, Any], reads: NamedDependency[QueryContext]) -> Response[str]:
    chosen = parse_range(request, now_ms=reads.clock.now_ms())
    found = await read_overview(reads, split_buckets(chosen.time_range, points=POINTS))
    return render(
        request,
        "pages/overview.html",
        section="overview",
        range=chosen,
        overview=found,
        base_url=str(request.base_url).rstrip("/"),
    )


@get("/services", include_in_schema=False)
async def services(request: Request[Any, Any, Any]) -> Redirect:
    """The overview is the list of services."""
    asked = request.url.query
    return Redirect(f"/?{asked}" if asked else "/")


handlers = [overview, services]
