"""``/``: every service with its rate, errors and p95."""

from __future__ import annotations

from typing import Any, Final

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.response import Redirect

from vantage.query.alerts import open_by_service
from vantage.query.context import QueryContext
from vantage.query.http_semconv import split_buckets
from vantage.query.overview import read_overview
from vantage.web.pages.health import healths_of
from vantage.web.pages.ranges import read_range
from vantage.web.render import query_string, shared_page

POINTS: Final = 60  # of a sparkline
SEARCH_FROM: Final = 20  # so many services need a search
TEXT_LENGTH_MAX: Final = 200


@get("/", include_in_schema=False)
async def overview(request: Request[Any, Any, Any], context: NamedDependency[QueryContext]) -> Response[bytes]:
    async def read() -> dict[str, Any]:
        page_range = await read_range(request, context)
        buckets = split_buckets(page_range.time_range, points=POINTS, now_ms=context.present().now_ms)
        text = request.query_params.get("q", "").strip()[:TEXT_LENGTH_MAX]
        number = request.query_params.get("page", "1")
        page = int(number) if number.isascii() and number.isdigit() and len(number) < 9 else 1
        overview = await read_overview(context, buckets, exact=page_range.is_exact, text=text, page=page)
        return {
            "section": "overview",
            "range": page_range,
            "overview": overview,
            "healths": await healths_of(context, overview.services, page_range),
            "alerts": await open_by_service(context),
            "health_state": "" if page_range.is_live else query_string({}, end=page_range.time_range.end_ms),
            "text": text,
            "text_length_max": TEXT_LENGTH_MAX,
            "search_from": SEARCH_FROM,
            "base_url": str(request.base_url).rstrip("/"),
        }

    return await shared_page(request, "pages/overview.html", read)


@get("/services", include_in_schema=False)
async def services(request: Request[Any, Any, Any]) -> Redirect:
    """Redirect to the overview, which is the list of services."""
    query = request.url.query
    return Redirect(f"/?{query}" if query else "/")


handlers = [overview, services]
