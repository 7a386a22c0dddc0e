"""``/palette``: results of the command palette as JSON, for the script of every page."""

from __future__ import annotations

from typing import Any, Final

from litestar import Request, get
from litestar.di import NamedDependency

from vantage.query.context import QueryContext
from vantage.query.palette import Hit, find
from vantage.web.render import explore_query, query_string, segment

TEXT_LENGTH_MAX: Final = 200


@get("/palette", include_in_schema=False)
async def palette(request: Request[Any, Any, Any], context: NamedDependency[QueryContext]) -> list[dict[str, str]]:
    hits = await find(context, request.query_params.get("q", "")[:TEXT_LENGTH_MAX])
    return [
        {"kind": hit.kind, "label": hit.name or "(no name)", "detail": hit.service, "href": _href(hit)} for hit in hits
    ]


def _href(hit: Hit) -> str:
    if hit.kind == "service":
        return f"/services/{segment(hit.name)}"
    if hit.kind == "trace":
        return f"/traces/{segment(hit.name)}"
    return f"/explore{query_string(explore_query(hit.service, hit.name))}"


handlers = [palette]
