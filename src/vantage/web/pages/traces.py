"""``/traces`` for people: find traces by service, status, duration, attribute and text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from litestar import Request, Response
from litestar.response import Redirect

from vantage.core.errors import InputError
from vantage.core.span import SpanStatus
from vantage.core.timerange import parse_duration_ms
from vantage.query.context import QueryContext
from vantage.query.traces import decode_cursor, encode_cursor
from vantage.storage.ports import TraceFilter
from vantage.web.pages.ranges import parse_range
from vantage.web.render import render, segment

PAGE: Final = 50
TEXT_LENGTH_MAX: Final = 200
STATUSES: Final = tuple(status.value for status in SpanStatus)


@dataclass(frozen=True, slots=True)
class Search:
    """What the form holds, as it was typed."""

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


async def traces_page(request: Request[Any, Any, Any], reads: QueryContext) -> Response[Any]:
    """The search, or one trace's own page when the URL names it."""
    asked = request.query_params
    if trace_id := asked.get("trace_id", ""):
        return Redirect(f"/traces/{segment(trace_id)}")
    chosen = parse_range(request, now_ms=reads.clock.now_ms())
    status = asked.get("status", "")
    search = Search(
        service=asked.get("service", ""),
        status=status if status in STATUSES else "",
        min_duration=asked.get("min_duration", "").strip(),
        attribute=asked.get("attribute", "").strip()[:TEXT_LENGTH_MAX],
        q=asked.get("q", "").strip()[:TEXT_LENGTH_MAX],
    )
    problems: dict[str, str] = {}
    problems["min_duration"], min_duration_ns = _min_duration_ns(search.min_duration)
    problems["attribute"], attributes = _attributes(search.attribute)
    cursor = asked.get("cursor", "")
    found = await reads.store.traces(
        TraceFilter(
            chosen.time_range,
            service=search.service,
            status=search.status,
            min_duration_ns=min_duration_ns,
            text=search.q,
            attributes=attributes,
            limit=PAGE,
            before=decode_cursor(cursor) if cursor else None,
        )
    )
    services = {one.service for one in await reads.store.services_with_spans()}
    return render(
        request,
        "pages/traces.html",
        section="traces",
        range=chosen,
        search=search,
        problems=problems,
        statuses=STATUSES,
        text_length_max=TEXT_LENGTH_MAX,
        services=sorted(services | ({search.service} - {""})),
        traces=found,
        longest_ns=max((one.duration_ns for one in found), default=0),
        base_url=str(request.base_url).rstrip("/"),
        cursor=cursor,
        next_cursor=encode_cursor(found[-1]) if len(found) == PAGE else "",
    )


def _attributes(text: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """What is wrong with the text, and the condition it makes."""
    if not text:
        return "", ()
    key, colon, value = (part.strip() for part in text.partition(":"))
    return ("", ((key, value),)) if key and colon else ("write a key and its value, as in http.route:/pay", ())


def _min_duration_ns(text: str) -> tuple[str, int]:
    """What is wrong with the text, and the duration; a bare number counts milliseconds."""
    if not text:
        return "", 0
    try:
        return "", parse_duration_ms(text, field="min_duration", default_unit="ms") * 1_000_000
    except InputError as error:
        return error.reason, 0
