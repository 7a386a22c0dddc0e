"""``/traces`` for people: search traces by service, status, duration, attribute and text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from litestar import Request, Response
from litestar.response import Redirect

from vantage.core.errors import InputError
from vantage.core.span import SpanStatus
from vantage.core.timerange import parse_duration_ms
from vantage.query.context import QueryContext
from vantage.query.traces import decode_cursor, encode_cursor, find_traces, services_with_spans
from vantage.storage.ports import TraceFilter
from vantage.web.pages.ranges import read_range
from vantage.web.render import segment, shared_page

PAGE: Final = 50
TEXT_LENGTH_MAX: Final = 200
STATUSES: Final = tuple(status.value for status in SpanStatus)


@dataclass(frozen=True, slots=True)
class Search:
    """The fields of the form, as typed."""

    service: str
    status: str
    min_duration: str
    attribute: str
    q: str

    def state(self) -> dict[str, str]:
        return {
            "service": self.service,
            "status": self.status,
            "min_duration": self.min_duration,
            "attribute": self.attribute,
            "q": self.q,
        }

    @property
    def is_narrow(self) -> bool:
        return any(self.state().values())


async def traces_page(request: Request[Any, Any, Any], context: QueryContext) -> Response[Any]:
    """Return the search page, or a redirect to the page of the trace in the URL."""
    params = request.query_params
    if trace_id := params.get("trace_id", ""):
        return Redirect(f"/traces/{segment(trace_id)}")
    return await shared_page(request, "pages/traces.html", lambda: _read(request, context))


async def _read(request: Request[Any, Any, Any], context: QueryContext) -> dict[str, Any]:
    params = request.query_params
    page_range = await read_range(request, context)
    status = params.get("status", "")
    search = Search(
        service=params.get("service", ""),
        status=status if status in STATUSES else "",
        min_duration=params.get("min_duration", "").strip(),
        attribute=params.get("attribute", "").strip()[:TEXT_LENGTH_MAX],
        q=params.get("q", "").strip()[:TEXT_LENGTH_MAX],
    )
    problems: dict[str, str] = {}
    problems["min_duration"], min_duration_ns = _min_duration_ns(search.min_duration)
    problems["attribute"], attributes = _attributes(search.attribute)
    cursor = params.get("cursor", "")
    summaries = await find_traces(
        context,
        TraceFilter(
            page_range.time_range,
            service=search.service,
            status=search.status,
            min_duration_ns=min_duration_ns,
            text=search.q,
            attributes=attributes,
            limit=PAGE,
            before=decode_cursor(cursor) if cursor else None,
        ),
    )
    services = await services_with_spans(context)
    return {
        "section": "traces",
        "range": page_range,
        "search": search,
        "problems": problems,
        "statuses": STATUSES,
        "text_length_max": TEXT_LENGTH_MAX,
        "services": sorted(services | ({search.service} - {""})),
        "traces": summaries,
        "longest_ns": max((trace.duration_ns for trace in summaries), default=0),
        "base_url": str(request.base_url).rstrip("/"),
        "cursor": cursor,
        "next_cursor": encode_cursor(summaries[-1]) if len(summaries) == PAGE else "",
    }


def _attributes(text: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return a problem of the text, '' for none, and its condition."""
    if not text:
        return "", ()
    key, colon, value = (part.strip() for part in text.partition(":"))
    return ("", ((key, value),)) if key and colon else ("write a key and its value, as in http.route:/pay", ())


def _min_duration_ns(text: str) -> tuple[str, int]:
    """Return a problem of the text, '' for none, and the duration; a number without unit is in milliseconds."""
    if not text:
        return "", 0
    try:
        return "", parse_duration_ms(text, field="min_duration", default_unit="ms") * 1_000_000
    except InputError as error:
        return error.reason, 0
