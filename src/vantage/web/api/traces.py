"""``/api/traces``, and ``/traces/`` for clients that do not request a page."""

from __future__ import annotations

import asyncio
import gzip
from typing import Annotated, Any, Final, Literal

import msgspec
from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import Parameter

from vantage.core.errors import InputError
from vantage.core.sample import id_problem
from vantage.core.span import SPAN_NAME_LENGTH_MAX
from vantage.query.context import QueryContext
from vantage.query.traces import (
    Node,
    TraceTree,
    decode_cursor,
    encode_cursor,
    find_trace,
    find_traces,
    parse_duration_ns,
    trace_tree,
)
from vantage.storage.ports import ExemplarSample, Trace, TraceFilter
from vantage.web.api.params import End, Start, examples, pair, problems, time_range
from vantage.web.compression import GZIP_LEVEL
from vantage.web.exception_handlers import wants_page
from vantage.web.pages.traces import traces_page
from vantage.web.streaming import UNCOMPRESSED

ATTRIBUTE_FILTERS_MAX = 32
SPANS_PER_PIECE: Final = 500
_MS_OF_UNIT = {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3, "min": 6e4}


class TraceOut(msgspec.Struct):
    """One line of a listing; ``root_*`` are of the span without parent. Times: ``start`` epoch ms, ``duration`` ms."""

    trace_id: str
    root_service: str
    root_name: str
    start: float
    duration: float
    spans: int
    errors: int
    services: list[str]


class TracesOut(msgspec.Struct):
    traces: list[TraceOut]
    next_cursor: str | None


class SpanOut(msgspec.Struct, gc=False):
    """A span of a tree. ``start_ns`` since the epoch; ``self_ns`` is the time that no child covers; ``orphan``: its
    parent is missing."""

    span_id: str
    parent_span_id: str
    service: str
    name: str
    kind: str
    status: str
    start_ns: int
    duration_ns: int
    self_ns: int
    depth: int
    orphan: bool
    attributes: dict[str, str]
    children: list[str]


class ExemplarOut(msgspec.Struct):
    service: str
    metric: str
    unit: str
    timestamp: int
    value: float
    span_id: str


class TraceTreeOut(msgspec.Struct):
    """``spans`` are in drawing order, parents before children; ``roots`` and ``children`` are span ids. ``left_out``
    spans are beyond the limit of a trace."""

    trace_id: str
    start_ns: int
    duration_ns: int
    services: list[str]
    errors: int
    roots: list[str]
    spans: list[SpanOut]
    samples: list[ExemplarOut]
    left_out: int


@get("/api/traces", summary="Find traces", responses=problems(), tags=["traces"])
async def list_traces(
    context: NamedDependency[QueryContext],
    service: Annotated[str, Parameter(description="A service that has spans in the trace.", max_length=255)] = "",
    operation: Annotated[
        str, Parameter(description="The name of a span, exactly.", max_length=SPAN_NAME_LENGTH_MAX)
    ] = "",
    status: Annotated[Literal["", "unset", "ok", "error"], Parameter(description="The status of a span.")] = "",
    min_duration: Annotated[
        str,
        Parameter(description="A span took at least this long: `250us`, `1.5ms`, `1s`; or in ms.", max_length=16),
    ] = "",
    max_duration: Annotated[
        str,
        Parameter(description="A span took at most this long: `250us`, `1.5ms`, `1s`; or in ms.", max_length=16),
    ] = "",
    q: Annotated[
        str, Parameter(description="Part of an operation, an attribute value or a trace id.", max_length=200)
    ] = "",
    attribute: Annotated[
        list[str] | None,
        Parameter(
            description="A span has this attribute, as `key:value`; may repeat, one span must have all.",
            max_items=ATTRIBUTE_FILTERS_MAX,
            examples=examples(["http.route:/pay"]),
        ),
    ] = None,
    start: Start = "now-1h",
    end: End = "now",
    limit: Annotated[int, Parameter(description="Maximum number of traces.", ge=1, le=500)] = 50,
    cursor: Annotated[str, Parameter(description="`next_cursor` of the previous page.", max_length=200)] = "",
) -> TracesOut:
    """Return the latest traces in which one span meets every condition."""
    summaries = await find_traces(
        context,
        TraceFilter(
            time_range=time_range(start, end, now_ms=context.present().now_ms),
            service=service,
            operation=operation,
            status=status,
            min_duration_ns=_duration_ns(min_duration, "min_duration") or 0,
            max_duration_ns=_duration_ns(max_duration, "max_duration"),
            text=q,
            attributes=tuple(pair(text, field="attribute") for text in attribute or []),
            limit=limit,
            before=decode_cursor(cursor) if cursor else None,
        ),
    )
    return TracesOut(
        [
            TraceOut(
                trace.trace_id,
                trace.root_service,
                trace.root_name,
                trace.start_ns / 1e6,
                trace.duration_ns / 1e6,
                trace.spans,
                trace.errors,
                list(trace.services),
            )
            for trace in summaries
        ],
        encode_cursor(summaries[-1]) if len(summaries) == limit else None,
    )


def _duration_ns(text: str, field: str) -> int | None:
    return parse_duration_ns(text, field=field) if text else None


@get(
    "/api/traces/{trace_id:str}",
    summary="One trace",
    responses=problems(404),
    tags=["traces"],
    opt={UNCOMPRESSED: True},
)
async def get_trace(
    request: Request[Any, Any, Any],
    context: NamedDependency[QueryContext],
    trace_id: Annotated[str, Parameter(description="The trace's id.", max_length=64, examples=examples("abc-123"))],
) -> Response[TraceTreeOut]:
    """Return the spans of a trace as a tree, and its exemplars."""
    tree = await trace_tree(context, _checked(trace_id))
    packed = "gzip" in request.headers.get("accept-encoding", "")
    body = await asyncio.to_thread(_tree_json, tree, packed=packed)
    headers = {"Vary": "Accept-Encoding", **({"Content-Encoding": "gzip"} if packed else {})}
    return Response(body, media_type="application/json", headers=headers)


def _tree_json(tree: TraceTree, *, packed: bool) -> Any:
    """Return JSON, with gzip where ``packed``, as bytes. Of a large trace it takes seconds: it is made in a thread, and
    in pieces, as encoding holds the interpreter lock."""
    head = TraceTreeOut(
        tree.trace_id,
        tree.start_ns,
        tree.duration_ns,
        list(tree.services),
        tree.error_count,
        [node.span.span_id for node in tree.roots],
        [],
        [_sample_out(sample) for sample in tree.samples],
        tree.left_out,
    )
    before, empty, after = msgspec.json.encode(head).partition(b'"spans":[]')  # quotes inside texts are escaped
    nodes = tree.walk()
    pieces = [
        msgspec.json.encode([_span_out(node) for node in nodes[start : start + SPANS_PER_PIECE]])[1:-1]
        for start in range(0, len(nodes), SPANS_PER_PIECE)
    ]
    body = b"".join([before, empty[:-1], b",".join(pieces), b"]", after])
    return gzip.compress(body, GZIP_LEVEL) if packed else body


@get(["/traces", "/traces/"], include_in_schema=False)
async def traces_or_page(request: Request[Any, Any, Any], context: NamedDependency[QueryContext]) -> Response[Any]:
    """Return a page for a browser; for other clients the trace ``trace_id``, one row per span."""
    if wants_page(request):
        return await traces_page(request, context)
    trace_id = request.query_params.get("trace_id", "")
    if not trace_id:
        raise InputError("is missing: /traces/?trace_id=…, or /api/traces to search", field="trace_id")
    trace = await find_trace(context, _checked(trace_id))
    body: Any = await asyncio.to_thread(lambda: msgspec.json.encode(_trace_rows(trace)))
    return Response(body, media_type="application/json")


def _trace_rows(trace: Trace) -> list[dict[str, Any]]:
    """Return spans, and exemplars without a span; ``duration`` in milliseconds."""
    rows: list[dict[str, Any]] = [
        {
            "service": span.service_name,
            "span_id": span.span_id,
            "duration": span.duration_ns / 1e6,
            "name": span.name,
            "parent_span_id": span.parent_span_id,
            "kind": span.kind.value,
            "status": span.status.value,
            "timestamp": span.start_ns // 1_000_000,
        }
        for span in trace.spans
    ]
    known = {span.span_id for span in trace.spans}
    for sample in trace.samples:
        if sample.span_id and sample.span_id in known:
            continue
        rows.append(
            {
                "service": sample.series.service,
                "span_id": sample.span_id,
                "duration": _duration_ms(sample),
                "name": sample.series.metric,
                "value": sample.value,
                "unit": sample.series.unit,
                "timestamp": sample.time_ms,
            }
        )
    return rows


def _duration_ms(sample: ExemplarSample) -> float | None:
    """Return the value in milliseconds if the metric is a duration: by its unit, or by its name (then in ms)."""
    factor = _MS_OF_UNIT.get(sample.series.unit)
    if factor is None and not sample.series.unit and "duration" in sample.series.metric:
        factor = 1.0
    return None if factor is None else sample.value * factor


def _checked(trace_id: str) -> str:
    if reason := id_problem(trace_id):
        raise InputError(reason, field="trace_id")
    return trace_id


_NONE: Final[list[str]] = []  # most spans have no children: one list for all of them


def _span_out(node: Node) -> SpanOut:
    span = node.span
    return SpanOut(
        span.span_id,
        span.parent_span_id,
        span.service_name,
        span.name,
        str.__str__(span.kind),  # several times as fast as an enum's value, and there are thousands of spans
        str.__str__(span.status),
        span.start_ns,
        span.duration_ns,
        node.self_ns,
        node.depth,
        node.orphan,
        span.attributes,
        [child.span.span_id for child in node.children] if node.children else _NONE,
    )


def _sample_out(sample: ExemplarSample) -> ExemplarOut:
    series = sample.series
    return ExemplarOut(series.service, series.metric, series.unit, sample.time_ms, sample.value, sample.span_id)


handlers = [list_traces, get_trace, traces_or_page]
