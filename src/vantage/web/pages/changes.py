"""``/changes``: what moved in a window, against the time before it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from litestar import Request, Response, get
from litestar.di import NamedDependency

from vantage.core import number_format
from vantage.core.errors import BusyError, InputError, NotFoundError, StoreTimeout
from vantage.query import catalogue
from vantage.query.change_explanation import change_snippet, change_vql
from vantage.query.context import QueryContext
from vantage.query.what_changed import AGAINST, Change, Changes, Item, read_changes
from vantage.web.pages.ranges import read_range
from vantage.web.render import explore_query, query_string, render, segment

SERVICES_MAX: Final = 500  # of the list to choose from
TEXT_LENGTH_MAX: Final = 255
AGAINST_TEXTS: Final = {"before": "the time before", "day": "the day before", "week": "the week before"}
TITLES: Final = {"requests": "requests", "errors": "errors", "p95": "p95"}


@dataclass(frozen=True, slots=True)
class ChangeLine:
    """A change as texts; ``points`` are those of both windows, ``level`` colours it. URLs are '' where there is no
    such page."""

    change: Change
    name: str
    before: str
    after: str
    growth: str
    level: str
    points: tuple[float | None, ...]
    url: str
    explore_url: str
    vql: str
    vql_url: str
    snippet: str


@get("/changes", include_in_schema=False)
async def changes(request: Request[Any, Any, Any], context: NamedDependency[QueryContext]) -> Response[str]:
    params = request.query_params
    service = params.get("service", "")[:TEXT_LENGTH_MAX]
    against = params.get("against", "")
    against = against if against in AGAINST else AGAINST[0]
    page_range = await read_range(request, context, service=service)
    if service and not await catalogue.has_data(context, service=service):
        raise NotFoundError(f"no service {service[:80]!r} has sent anything", field="service")
    result: Changes | None = None
    problem = ""
    try:
        result = await read_changes(context, page_range.time_range, service=service, against=against)
    except (BusyError, InputError, StoreTimeout) as error:
        problem = str(error)
    names = [info.name for info in await catalogue.services(context)]
    state = {**page_range.state, "service": service, "against": "" if against == AGAINST[0] else against}
    times = page_range.time_range
    json_state = {"start": times.start_ms, "end": times.end_ms, "service": service, "against": state["against"]}
    lines = [change_line(change) for change in result.changes] if result else []
    return await render(
        request,
        "pages/changes.html",
        section="",
        range=page_range,
        service=service,
        services=names[:SERVICES_MAX],
        services_omitted=max(0, len(names) - SERVICES_MAX),
        against=against,
        against_texts=AGAINST_TEXTS,
        result=result,
        problem=problem,
        sure=[line for line in lines if line.change.is_beyond_chance],
        unsure=[line for line in lines if not line.change.is_beyond_chance],
        state=state,
        filters={"service": state["service"], "against": state["against"]},
        json_url=f"/api/changes{query_string(json_state)}",
    )


def change_line(change: Change) -> ChangeLine:
    """Return a change as it is shown."""
    item, window = change.item, change.scope.window
    state = {"start": window.start_ms, "end": window.end_ms}
    query = change_vql(change)
    explore = ""
    if item.what == "metric":
        aggregation = "rate" if item.kind == "counter" else "avg"
        tags = f"{item.tag}:{item.value}" if item.tag else None
        fields = explore_query(item.service, item.metric, agg=aggregation, tag=tags)
        explore = f"/explore{query_string(state, **fields)}"
    return ChangeLine(
        change,
        TITLES.get(item.what, item.metric),
        _text(item, change.before),
        _text(item, change.after),
        _growth(change),
        _level(change),
        tuple(None if math.isnan(value) else value for value in (*change.points_before, *change.points_after)),
        f"/services/{segment(item.service)}{query_string(state)}",
        explore,
        query,
        f"/vql?{urlencode({'query': query})}" if query else "",
        change_snippet(change),
    )


def _text(item: Item, value: float | None) -> str:
    if value is None:
        return "nothing"
    if item.what == "requests" or (item.what == "metric" and item.kind == "counter"):
        return number_format.rate(value)
    if item.what == "errors":
        return number_format.ratio(value)
    return number_format.duration_ms(value) if item.what == "p95" else number_format.quantity(value, item.unit)


def _growth(change: Change) -> str:
    if change.growth is not None:
        return number_format.change(change.growth)
    return "new" if change.after else "gone"


def _level(change: Change) -> str:
    """More errors and slower is worse, the opposite better; of other figures nobody knows."""
    if change.item.what not in ("errors", "p95") or change.after is None:
        return ""
    return "bad" if change.growth is None or change.growth > 0 else "good"


handlers = [changes]
