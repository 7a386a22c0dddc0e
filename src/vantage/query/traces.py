"""Find traces, and build the tree of one."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from vantage.core.errors import InputError, NotFoundError
from vantage.core.span import DURATION_NS_MAX, SPAN_NAME_LENGTH_MAX, Span, SpanKind
from vantage.core.timerange import TimeRange
from vantage.query.context import QueryContext
from vantage.storage.ports import ExemplarSample, Trace, TraceFilter, TraceSummary
from vantage.storage.recent_spans import distinct_spans

NAMES_MAX: Final = 100
_NAMES_TRACES: Final = 100  # the latest, whose operations are listed
_NAMES_SPANS: Final = 5000
_NAMES_TTL_S: Final = 60.0
_DURATION: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?) ?(us|µs|ms|s|m|h|d|w)?")
_UNIT_NS: Final = {
    "us": 1000, "µs": 1000, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9,
    "w": 604800 * 10**9,
}  # fmt: skip


class Node(msgspec.Struct, eq=False, gc=False):
    """A span with its children by start, ties by id. ``self_ns`` is the time that no child covers; ``orphan``: its
    parent is missing.

    A Struct without garbage collection, since a trace has thousands: a data class takes several times as long to
    create, and no node can be its own descendant.
    """

    span: Span
    depth: int
    orphan: bool
    self_ns: int
    children: Sequence[Node] = ()

    def walk(self) -> Iterator[Node]:
        """Yield the node and everything below it, parents first, in the order to draw them. Without recursion, since a
        trace may be thousands of spans deep."""
        pending = [self]
        while pending:
            node = pending.pop()
            yield node
            pending += reversed(node.children)


@dataclass(frozen=True, slots=True)
class TraceTree:
    """A trace, complete but for ``left_out`` spans. ``roots`` are its root spans and orphans by start; times are
    absolute."""

    trace_id: str
    start_ns: int
    duration_ns: int
    roots: list[Node]
    span_count: int
    error_count: int
    services: tuple[str, ...]
    samples: tuple[ExemplarSample, ...]
    left_out: int

    def walk(self) -> list[Node]:
        """Return every node, parents first, in the order to draw them."""
        return [node for root in self.roots for node in root.walk()]


async def find_traces(context: QueryContext, trace_filter: TraceFilter) -> Sequence[TraceSummary]:
    """Return up to ``limit`` traces, the latest start first."""
    return await context.store.traces(trace_filter)


async def find_trace(context: QueryContext, trace_id: str) -> Trace:
    """Return the spans and exemplars of a trace; empty when it is unknown. A span that was sent again is one."""
    trace = await context.store.trace(trace_id)
    return await asyncio.to_thread(lambda: replace(trace, spans=tuple(distinct_spans(trace.spans))))


async def services_with_spans(context: QueryContext) -> set[str]:
    """Return the names of the services that have spans."""
    return {stats.service for stats in await context.store.services_with_spans()}


async def operations_of(context: QueryContext, time_range: TimeRange, *, service: str = "") -> list[str]:
    """Return up to NAMES_MAX operations of a service, '' for any, in the latest traces; those of most spans first. Up
    to a minute old, where there is a cache. Raises what the store raises."""

    async def read() -> list[str]:
        traces = await find_traces(context, TraceFilter(time_range, service=service, limit=_NAMES_TRACES))
        spans = await context.store.spans_of([trace.trace_id for trace in traces], spans_max=_NAMES_SPANS)
        counts = Counter(span.name for span in spans if service in ("", span.service_name))
        return [name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:NAMES_MAX]]

    nbytes = NAMES_MAX * 4 * SPAN_NAME_LENGTH_MAX
    return await context.cache.cached(("operations", service), read, ttl_s=_NAMES_TTL_S, nbytes=nbytes)


async def trace_tree(context: QueryContext, trace_id: str) -> TraceTree:
    """Return a trace by id. Raises NotFoundError when it is unknown."""
    trace = await find_trace(context, trace_id)
    if not trace.spans and not trace.samples:
        raise NotFoundError(f"there is no trace {trace_id[:64]!r}", field="trace_id")
    return await asyncio.to_thread(build_tree, trace)


def build_tree(trace: Trace) -> TraceTree:
    """Build the tree of a trace. Spans whose parent is missing are orphans, at the top; so is one span of each ring of
    spans that name each other as parent. If a span id repeats, its first span is the parent of others. Where client and
    server of a call share the id, as Zipkin's do, the server is below the client, each with its own children."""
    spans = trace.spans
    first = {span.span_id: span for span in reversed(spans)}
    shared = _shared_calls(spans) if len(first) < len(spans) else {}
    children: defaultdict[int, list[Span]] = defaultdict(list)  # by the parent's id()
    tops: list[Span] = []
    for span in spans:
        parent = first.get(span.parent_span_id) if span.parent_span_id != span.span_id else None
        if shared:
            parent = _shared_parent(span, parent, shared)
        if parent is None:
            tops.append(span)
        else:
            children[id(parent)].append(span)
    for siblings in children.values():
        if len(siblings) > 1:
            siblings.sort(key=_sort_key)
    nodes: list[Node] = []
    roots = [_build_subtree(span, children, nodes) for span in tops]
    if len(nodes) < len(spans):  # rings: no span in them is below a top
        placed = {id(node.span) for node in nodes}
        roots += [_build_subtree(span, children, nodes, placed) for span in spans if id(span) not in placed]
    roots.sort(key=lambda node: _sort_key(node.span))
    starts = [span.start_ns for span in spans] or [sample.time_ms * 1_000_000 for sample in trace.samples]
    start_ns = min(starts)
    return TraceTree(
        trace_id=trace.trace_id,
        start_ns=start_ns,
        duration_ns=max((span.start_ns + span.duration_ns for span in spans), default=start_ns) - start_ns,
        roots=roots,
        span_count=len(spans),
        error_count=sum(span.is_error for span in spans),
        services=tuple(
            sorted({span.service_name for span in spans} | {sample.series.service for sample in trace.samples})
        ),
        samples=trace.samples,
        left_out=trace.left_out,
    )


def _shared_calls(spans: Sequence[Span]) -> dict[str, tuple[Span, Span]]:
    """Return client and server of the calls of which both have the same span id."""
    halves: defaultdict[str, dict[SpanKind, Span]] = defaultdict(dict)
    for span in spans:
        halves[span.span_id].setdefault(span.kind, span)
    return {
        span_id: (kinds[SpanKind.CLIENT], kinds[SpanKind.SERVER])
        for span_id, kinds in halves.items()
        if SpanKind.CLIENT in kinds and SpanKind.SERVER in kinds
    }


def _shared_parent(span: Span, parent: Span | None, shared: Mapping[str, tuple[Span, Span]]) -> Span | None:
    """Return the parent of a span in a trace with such calls: of a server its client, of what a server's service did
    the server, and of the rest the client."""
    client, server = shared.get(span.span_id, (None, None))
    if span is server:
        return client
    if parent is not None and parent.span_id in shared:
        client, server = shared[parent.span_id]
        return server if span.service_name == server.service_name else client
    return parent


def _sort_key(span: Span) -> tuple[int, str]:
    return span.start_ns, span.span_id


def _build_subtree(
    top: Span,
    children: Mapping[int, list[Span]],
    nodes: list[Node],
    placed: set[int] | None = None,
) -> Node:
    """Build the tree below a span, without recursion, and add its nodes to ``nodes``. Where a ring is possible,
    ``placed`` has the ``id()`` of each span object that is in the tree already."""
    root = Node(top, 0, bool(top.parent_span_id.strip("0")), top.duration_ns)
    if placed is not None:
        placed.add(id(top))
    pending = [root]
    while pending:
        node = pending.pop()
        nodes.append(node)
        span = node.span
        spans = children.get(id(span))
        if spans is None:
            continue
        node.self_ns = _self_ns(span, spans)
        if placed is not None:
            spans = [child for child in spans if id(child) not in placed]
            placed.update(map(id, spans))
        depth = node.depth + 1
        node.children = [Node(child, depth, False, child.duration_ns) for child in spans]
        pending += node.children
    return root


def _self_ns(span: Span, children: Sequence[Span]) -> int:
    """Return the span's duration without the union of its children, each cut to the span; the children by start."""
    end_ns = span.start_ns + span.duration_ns
    covered, reached = 0, span.start_ns
    for child in children:
        start, end = child.start_ns, child.start_ns + child.duration_ns
        if start < reached:
            start = reached
        if end > end_ns:
            end = end_ns
        if end > start:
            covered += end - start
            reached = end
    return span.duration_ns - covered


def encode_cursor(last: TraceSummary) -> str:
    """Return an opaque text that continues a listing after ``last``."""
    return base64.urlsafe_b64encode(f"{last.start_ns}.{last.trace_id}".encode()).decode().rstrip("=")


def decode_cursor(text: str) -> tuple[int, str]:
    """Return the start and trace id of a cursor. Raises InputError."""
    try:
        cursor = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
        start, _, trace_id = cursor.partition(".")
        start_ns = int(start)
    except (ValueError, binascii.Error):
        start_ns, trace_id = -1, ""
    if not 0 <= start_ns < 2**63:
        raise InputError("is not a cursor of this listing", field="cursor")
    return start_ns, trace_id


def parse_duration_ns(text: str, *, field: str) -> int:
    """Return nanoseconds for ``250us``, ``1.5ms``, ``2s``, ``1m``, ``1h``; a bare number is in milliseconds. What is
    longer than a span can be is as long as that and a bit more. Raises InputError."""
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise InputError("is not a duration: use 250us, 1.5ms, 2s or 1m", field=field)
    return min(round(float(match[1]) * _UNIT_NS[match[2] or "ms"]), DURATION_NS_MAX + 1)
