"""Clocks that disagree between services: which spans they put in the wrong place of a trace, and by how much.

A call cannot begin before its caller, nor end after it. Where a span of another process seems to, its clock is off, and
the time that the network took is assumed to be the same both ways, as Jaeger does.
"""

from __future__ import annotations

from typing import Final

import msgspec

from vantage.core.span import Span, SpanKind
from vantage.query.traces import Node, TraceTree, build_tree
from vantage.storage.ports import Trace

SKEW_NS_MIN: Final = 1_000_000  # smaller ones are the noise of clocks that agree


def clock_skews(tree: TraceTree) -> dict[int, int]:
    """Return by how many nanoseconds the clock behind each span is ahead of that of the trace's root (negative: it is
    behind), by the ``id()`` of the span; spans in their right place are missing."""
    skews: dict[int, int] = {}
    pending: list[tuple[Node, Node | None, int]] = [(root, None, 0) for root in tree.roots]
    while pending:
        node, parent, skew_ns = pending.pop()
        if parent is not None and process_of(node.span) != process_of(parent.span):
            skew_ns = _skew_ns(node.span, parent.span, skew_ns)
        if abs(skew_ns) >= SKEW_NS_MIN:
            skews[id(node.span)] = skew_ns
        pending += [(child, node, skew_ns) for child in node.children]
    return skews


def shifted(tree: TraceTree, skews: dict[int, int]) -> TraceTree:
    """Return the trace as it would be if all clocks agreed with that of its root."""
    spans = tuple(
        msgspec.structs.replace(node.span, start_ns=node.span.start_ns - skews.get(id(node.span), 0))
        for node in tree.walk()
    )
    ordered = tuple(sorted(spans, key=lambda span: span.start_ns))
    return build_tree(Trace(tree.trace_id, ordered, tree.samples, tree.left_out))


def _skew_ns(child: Span, parent: Span, parent_skew_ns: int) -> int:
    """Return how far the child's clock is ahead, given that of its parent."""
    if is_message(child, parent):
        return 0  # a message is received after it was sent, at any time
    parent_start_ns = parent.start_ns - parent_skew_ns
    early_ns = parent_start_ns - child.start_ns
    if child.duration_ns > parent.duration_ns:  # the caller did not wait: the child only cannot begin before it
        return -early_ns if early_ns > 0 else 0
    if early_ns <= 0 and child.start_ns + child.duration_ns <= parent_start_ns + parent.duration_ns:
        return 0
    latency_ns = (parent.duration_ns - child.duration_ns) // 2
    return child.start_ns - (parent_start_ns + latency_ns)


def process_of(span: Span) -> tuple[str, str]:
    """Return what identifies the process of a span, whose clock it has."""
    return span.service_name, span.instance


def is_message(child: Span, parent: Span) -> bool:
    """Return whether the child received a message of its parent, which did not wait for it."""
    return child.kind is SpanKind.CONSUMER or parent.kind is SpanKind.PRODUCER
