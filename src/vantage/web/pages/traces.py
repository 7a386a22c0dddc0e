"""``/traces`` for people: search traces, see how long they took, and what slow or failed ones have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from zlib import crc32

import msgspec
from litestar import Request, Response
from litestar.response import Redirect

from vantage.core.errors import BusyError, InputError, StoreTimeout
from vantage.core.span import ATTRIBUTE_KEY_LENGTH_MAX, SPAN_NAME_LENGTH_MAX, SpanStatus
from vantage.query.context import QueryContext
from vantage.query.trace_comparison import VALUE_LENGTH_MAX, Comparison, Target, Trait, compare_traces
from vantage.query.traces import (
    decode_cursor,
    encode_cursor,
    find_traces,
    operations_of,
    parse_duration_ns,
    services_with_spans,
)
from vantage.storage.ports import TraceFilter, TraceSummary
from vantage.web.pages.ranges import PageRange, read_range
from vantage.web.render import colour, query_string, segment, shared_page

PAGE: Final = 50
DOTS_MAX: Final = 300
DOT_LINES: Final = 128
ATTRIBUTES_MAX: Final = 8
TEXT_LENGTH_MAX: Final = 200
ATTRIBUTE_LENGTH_MAX: Final = ATTRIBUTE_KEY_LENGTH_MAX + 1 + VALUE_LENGTH_MAX
TITLE_LENGTH_MAX: Final = 80  # of a name beside a dot
STATUSES: Final = tuple(status.value for status in SpanStatus)
TARGETS: Final[dict[str, Target]] = {"slow": "slow", "failed": "failed"}


@dataclass(frozen=True, slots=True)
class Search:
    """The fields of the form, as typed."""

    service: str
    operation: str
    status: str
    min_duration: str
    max_duration: str
    attributes: tuple[str, ...]
    q: str

    def state(self) -> dict[str, str | tuple[str, ...]]:
        return {
            "service": self.service,
            "operation": self.operation,
            "status": self.status,
            "min_duration": self.min_duration,
            "max_duration": self.max_duration,
            "attribute": self.attributes,
            "q": self.q,
        }

    @property
    def is_narrow(self) -> bool:
        return any(self.state().values())

    @property
    def attribute_fields(self) -> tuple[str, ...]:
        return (*self.attributes, "")[:ATTRIBUTES_MAX]


async def traces_page(request: Request[Any, Any, Any], context: QueryContext) -> Response[Any]:
    """Return the search page, or a redirect to the page of the trace in the URL."""
    params = request.query_params
    if trace_id := params.get("trace_id", ""):
        return Redirect(f"/traces/{segment(trace_id)}")
    return await shared_page(request, "pages/traces.html", lambda: _read(request, context))


async def _read(request: Request[Any, Any, Any], context: QueryContext) -> dict[str, Any]:
    params = request.query_params
    page_range = await read_range(request, context)
    search = _search(request)
    problems: dict[str, str] = {}
    cursor = params.get("cursor", "")
    wanted = _filter(search, page_range, problems, cursor)
    target = TARGETS.get(params.get("compare", ""))
    latest = await find_traces(context, wanted)
    shown = [trace for trace in latest if wanted.max_duration_ns is None or trace.duration_ns <= wanted.max_duration_ns]
    comparison, comparison_problem = await _compared(context, wanted, target)
    services = await services_with_spans(context)
    return {
        "section": "traces",
        "range": page_range,
        "search": search,
        "problems": problems,
        "statuses": STATUSES,
        "text_length_max": TEXT_LENGTH_MAX,
        "attribute_length_max": ATTRIBUTE_LENGTH_MAX,
        "name_length_max": SPAN_NAME_LENGTH_MAX,
        "services": sorted(services | ({search.service} - {""})),
        "operations": await _operations(context, page_range, search.service),
        "traces": shown[:PAGE],
        "dots": _dots(shown),
        "dot_count": len(shown),
        "latest_count": len(latest),
        "is_cut": len(latest) == DOTS_MAX,
        "drawn_from_ms": latest[-1].start_ns // 10**6 if len(latest) == DOTS_MAX else page_range.time_range.start_ms,
        "longest_ns": max((trace.duration_ns for trace in shown[:PAGE]), default=0),
        "base_url": str(request.base_url).rstrip("/"),
        "cursor": cursor,
        "next_cursor": _next_cursor(latest, shown),
        "target": target or "",
        "comparison": comparison,
        "comparison_problem": comparison_problem,
        "trait_url": lambda trait: _trait_url(trait, search, page_range),
    }


def _search(request: Request[Any, Any, Any]) -> Search:
    params = request.query_params
    status = params.get("status", "")
    attributes = dict.fromkeys(text.strip()[:ATTRIBUTE_LENGTH_MAX] for text in params.getall("attribute", []))
    return Search(
        service=params.get("service", ""),
        operation=params.get("operation", "").strip()[:SPAN_NAME_LENGTH_MAX],
        status=status if status in STATUSES else "",
        min_duration=params.get("min_duration", "").strip()[:TEXT_LENGTH_MAX],
        max_duration=params.get("max_duration", "").strip()[:TEXT_LENGTH_MAX],
        attributes=tuple(text for text in attributes if text)[:ATTRIBUTES_MAX],
        q=params.get("q", "").strip()[:TEXT_LENGTH_MAX],
    )


def _filter(search: Search, page_range: PageRange, problems: dict[str, str], cursor: str) -> TraceFilter:
    """Return the filter of a search; what is invalid narrows nothing and has an entry in ``problems``."""
    durations: dict[str, int] = {}
    for name, text in (("min_duration", search.min_duration), ("max_duration", search.max_duration)):
        problems[name] = ""
        try:
            if text:
                durations[name] = parse_duration_ns(text, field=name)
        except InputError as error:
            problems[name] = error.reason
    pairs = [tuple(part.strip() for part in text.partition(":")[::2]) for text in search.attributes]
    if any(not key or ":" not in text for (key, _), text in zip(pairs, search.attributes, strict=True)):
        problems["attribute"] = "write a key and its value, as in http.route:/pay"
    else:
        problems["attribute"] = ""
    return TraceFilter(
        page_range.time_range,
        service=search.service,
        operation=search.operation,
        status=search.status,
        min_duration_ns=durations.get("min_duration", 0),
        max_duration_ns=durations.get("max_duration"),
        text=search.q,
        attributes=tuple((key, value) for key, value in pairs if key) if not problems["attribute"] else (),
        limit=DOTS_MAX,
        before=decode_cursor(cursor) if cursor else None,
    )


def _next_cursor(latest: Sequence[TraceSummary], shown: Sequence[TraceSummary]) -> str:
    """Return where the next page begins: after the last row, or after all that was read where few of it match."""
    if len(shown) > PAGE:
        return encode_cursor(shown[PAGE - 1])
    return encode_cursor(latest[-1]) if len(latest) == DOTS_MAX else ""


def _dots(traces: Sequence[TraceSummary]) -> str:
    """Return JSON for the script that draws them: start in ms, duration in ns, errors, id, class of the colour, service
    and operation of each trace. A trace is on the line of its id, so that an update of a live page is small: a new one
    moves no other."""
    lines: list[list[str]] = [[] for _ in range(DOT_LINES)]
    for trace in traces:
        dot = (
            trace.start_ns // 1_000_000,
            trace.duration_ns,
            trace.errors,
            trace.trace_id,
            colour(trace.root_service),
            trace.root_service[:TITLE_LENGTH_MAX],
            trace.root_name[:TITLE_LENGTH_MAX],
        )
        lines[crc32(trace.trace_id.encode()) % DOT_LINES].append(f"{msgspec.json.encode(dot).decode()},")
    return "\n".join(["[", *map("".join, lines), "null]"])


async def _operations(context: QueryContext, page_range: PageRange, service: str) -> list[str]:
    """Return names to choose from; none where reading them takes too much."""
    try:
        return await operations_of(context, page_range.time_range, service=service)
    except (BusyError, InputError, StoreTimeout):
        return []


async def _compared(context: QueryContext, wanted: TraceFilter, target: Target | None) -> tuple[Comparison | None, str]:
    if target is None:
        return None, ""
    try:
        return await compare_traces(context, wanted, target), ""
    except (BusyError, InputError, StoreTimeout) as error:
        return None, str(error)


def _trait_url(trait: Trait, search: Search, page_range: PageRange) -> str:
    """Return the search with a trait added. Conditions are for one span: a trait that no matching span has replaces
    them."""
    state: dict[str, Any] = dict(search.state()) if trait.narrows else {}
    if trait.kind == "service":
        state["service"] = trait.name
    elif trait.kind == "operation":
        state |= {"operation": trait.name, "service": trait.value}
    else:
        attributes = dict.fromkeys((*state.get("attribute", ()), f"{trait.name}:{trait.value}"))
        state["attribute"] = tuple(attributes)[-ATTRIBUTES_MAX:]
    return f"/traces{query_string(state, **page_range.state)}"
