"""Traces: finding them, and one as a tree."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass, field

from vantage.core.errors import InputError, NotFoundError
from vantage.core.span import Span
from vantage.query.reads import Reads
from vantage.storage.ports import LinkedSample, Trace, TraceSummary


@dataclass(frozen=True, slots=True)
class Node:
    """A span with its children. ``self_ns`` is the time that no child covers; ``orphan``: its parent is not known."""

    span: Span
    depth: int
    orphan: bool
    self_ns: int
    children: list[Node] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TraceTree:
    """A whole trace. ``roots`` are its root spans and orphans by start; times are absolute."""

    trace_id: str
    start_ns: int
    duration_ns: int
    roots: list[Node]
    span_count: int
    error_count: int
    services: tuple[str, ...]
    samples: tuple[LinkedSample, ...]

    def flat(self) -> list[Node]:
        """Every node, parents before children, in the order to draw them."""
        found: list[Node] = []
        waiting = list(reversed(self.roots))
        while waiting:
            node = waiting.pop()
            found.append(node)
            waiting.extend(reversed(node.children))
        return found


async def trace_tree(reads: Reads, trace_id: str) -> TraceTree:
    """A trace by id. Raises NotFoundError when nothing is kept of it."""
    trace = await reads.store.trace(trace_id)
    if not trace.spans and not trace.samples:
        raise NotFoundError(f"no trace {trace_id[:64]!r} is kept", field="trace_id")
    return tree_of(trace)


def tree_of(trace: Trace) -> TraceTree:
    """Put spans under their parents. Spans whose parent is missing are orphans, at the top; so is one span of each
    ring of spans that name each other as parent. Repeated span ids keep their first span as the parent of others."""
    by_id: dict[str, Span] = {}
    for span in trace.spans:
        by_id.setdefault(span.span_id, span)
    children: dict[str, list[Span]] = {}
    tops: list[Span] = []
    for span in trace.spans:
        if span.parent_span_id in by_id and span.parent_span_id != span.span_id:
            children.setdefault(span.parent_span_id, []).append(span)
        else:
            tops.append(span)
    placed: set[int] = set()
    roots = [_node(span, by_id, children, placed) for span in tops]
    roots += [_node(span, by_id, children, placed) for span in trace.spans if id(span) not in placed]
    roots.sort(key=lambda node: (node.span.start_ns, node.span.span_id))
    starts = [span.start_ns for span in trace.spans] or [sample.time_ms * 1_000_000 for sample in trace.samples]
    start_ns = min(starts)
    return TraceTree(
        trace_id=trace.trace_id,
        start_ns=start_ns,
        duration_ns=max((span.start_ns + span.duration_ns for span in trace.spans), default=start_ns) - start_ns,
        roots=roots,
        span_count=len(trace.spans),
        error_count=sum(span.is_error for span in trace.spans),
        services=tuple(
            sorted({span.service_name for span in trace.spans} | {one.series.service for one in trace.samples})
        ),
        samples=trace.samples,
    )


def _node(top: Span, by_id: dict[str, Span], children: dict[str, list[Span]], placed: set[int]) -> Node:
    """The tree below a span, without recursion: a trace may be thousands of spans deep."""
    root = _single(top, 0, by_id, children)
    placed.add(id(top))
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if by_id.get(node.span.span_id) is not node.span:
            continue  # a repeated span id: the children are under the first
        for child in children.get(node.span.span_id, ()):
            if id(child) not in placed:
                placed.add(id(child))
                below = _single(child, node.depth + 1, by_id, children)
                node.children.append(below)
                waiting.append(below)
    return root


def _single(span: Span, depth: int, by_id: dict[str, Span], children: dict[str, list[Span]]) -> Node:
    below = children.get(span.span_id, ()) if by_id.get(span.span_id) is span else ()
    return Node(span, depth, depth == 0 and bool(span.parent_span_id), _self_ns(span, below))


def _self_ns(span: Span, children: Sequence[Span]) -> int:
    """The span's duration less the union of its children's, each cut to the span."""
    end_ns = span.start_ns + span.duration_ns
    covered, reached = 0, span.start_ns
    for child in sorted(children, key=lambda child: child.start_ns):
        start, end = max(child.start_ns, reached), min(child.start_ns + child.duration_ns, end_ns)
        if end > start:
            covered += end - start
            reached = end
    return span.duration_ns - covered


def cursor_of(last: TraceSummary) -> str:
    """An opaque text that continues a listing after ``last``."""
    return base64.urlsafe_b64encode(f"{last.start_ns}.{last.trace_id}".encode()).decode().rstrip("=")


def read_cursor(text: str) -> tuple[int, str]:
    """What ``cursor_of`` wrote. Raises InputError."""
    try:
        plain = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
        start, _, trace_id = plain.partition(".")
        return int(start), trace_id
    except (ValueError, binascii.Error):
        raise InputError("is not a cursor of this listing", field="cursor") from None
