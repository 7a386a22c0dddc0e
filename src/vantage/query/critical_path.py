"""The critical path of a trace: which spans determined how long it took, and where the time went.

Read backwards from the end, a span waited for that child of its own which ended last; before that child began, for the
child which had ended last by then; and while it waited for none, its own time counts. A child that ran at the same time
as the one that was waited for has not made the trace longer. This is the definition of CRISP (Zhang and others: "CRISP:
Critical Path Analysis of Large-Scale Microservice Architectures", USENIX ATC 2022), which Jaeger follows as well.

Two things are added to it. The trace itself is the parent of its root spans and orphans, so that the path covers the
trace from its start to its end; where no span was waited for, it has none. And what goes on after its parent has ended
was not waited for by it: a consumer of a message, a span that begins later, or one of the same process that ends later.
Such a span is detached. It counts as a child of the trace, and before it began, its parent was waited for. A span of
another process that seems to end later is cut at its parent's end, since clocks differ.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from vantage.query.clocks import SKEW_NS_MIN, is_message, process_of
from vantage.query.traces import Node, TraceTree


class PathPart(NamedTuple):
    """A stretch of the path, in nanoseconds since the epoch; ``node`` None: no span was waited for."""

    node: Node | None
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class TimeShare:
    """The spans of one service and operation: their time on the critical path, their self time, how many they are and
    how many of them failed. Self times of concurrent spans add up to more than the trace took."""

    service: str
    operation: str
    path_ns: int
    self_ns: int
    spans: int
    errors: int


def critical_path(tree: TraceTree) -> list[PathPart]:
    """Return the stretches of the critical path by time. They cover the trace without gaps and do not overlap. Takes
    n log n steps for n spans, and no recursion."""
    parents, detached = _parents(tree)
    tops = [*tree.roots, *detached.values()]
    trace = _Stretch(None, tree.start_ns, tree.start_ns + tree.duration_ns, tops)
    parts: list[PathPart] = []
    pending = [trace]
    while pending:
        below = pending[-1].step(parts, detached)
        if below is not None:
            pending.append(below)
            continue
        read = pending.pop()
        if read.node is not None and id(read.node) in detached:
            callers = _callers(read.node, parents, detached)
            pending += trace.continue_in(callers, read.start_ns, parts, detached)
    parts.reverse()
    return parts


def time_shares(tree: TraceTree, path: Sequence[PathPart]) -> tuple[list[TimeShare], int]:
    """Return a share for each service and operation, the longest on the path first, and the nanoseconds of the path
    that belong to no span."""
    path_ns: defaultdict[int, int] = defaultdict(int)
    for node, start_ns, end_ns in path:
        path_ns[id(node) if node is not None else 0] += end_ns - start_ns
    sums: dict[tuple[str, str], list[int]] = {}
    for node in tree.walk():
        span = node.span
        total = sums.setdefault((span.service_name, span.name), [0, 0, 0, 0])
        total[0] += path_ns.get(id(node), 0)
        total[1] += node.self_ns
        total[2] += 1
        total[3] += span.is_error
    shares = [TimeShare(*key, *total) for key, total in sums.items()]
    shares.sort(key=lambda share: (-share.path_ns, -share.self_ns, share.service, share.operation))
    return shares, path_ns.get(0, 0)


class _Stretch:
    """A span's part of the path, of which is left what lies before ``until_ns``: it is read backwards."""

    __slots__ = ("_children", "end_ns", "node", "start_ns", "until_ns")

    def __init__(self, node: Node | None, start_ns: int, end_ns: int, children: list[Node]) -> None:
        self.node = node
        self.start_ns = start_ns
        self.end_ns = self.until_ns = end_ns
        # The last one ended last; of those that ended together it is the one that began first, or else comes last.
        self._children = sorted(children, key=lambda child: (_end_ns(child), -child.span.start_ns))

    def step(self, parts: list[PathPart], detached: Mapping[int, Node]) -> _Stretch | None:
        """Return the stretch of the child that was waited for next, None for none. Add the time after it to ``parts``
        as the span's own."""
        while self._children and self.until_ns > self.start_ns:
            below = self.below(self._children.pop(), detached)
            if below.start_ns < below.end_ns <= self.until_ns:
                self._read(parts, below.end_ns, self.node)
                self.until_ns = below.start_ns
                return below
        self._read(parts, self.start_ns, self.node)
        return None

    def continue_in(
        self, callers: Sequence[Node], before_ns: int, parts: list[PathPart], detached: Mapping[int, Node]
    ) -> list[_Stretch]:
        """Return the stretches of spans, each the child of the one before, as far as they began before ``before_ns``:
        what is left of them is read next."""
        stretches = [self]
        for caller in callers:
            below = stretches[-1].below(caller, detached)
            if below.start_ns >= min(below.end_ns, before_ns):
                break
            below.until_ns = min(below.end_ns, before_ns)
            stretches.append(below)
        if len(stretches) > 1:
            self._read(parts, stretches[-1].until_ns, None)  # such as the time of a message in its queue
        for upper, lower in pairwise(stretches):
            upper.until_ns = lower.start_ns
        return stretches[1:]

    def below(self, child: Node, detached: Mapping[int, Node]) -> _Stretch:
        """Return the stretch of a child, cut to this one; it may be empty."""
        start_ns, end_ns = max(child.span.start_ns, self.start_ns), min(_end_ns(child), self.end_ns)
        return _Stretch(child, start_ns, end_ns, [below for below in child.children if id(below) not in detached])

    def _read(self, parts: list[PathPart], start_ns: int, node: Node | None) -> None:
        if start_ns < self.until_ns:
            parts.append(PathPart(node, start_ns, self.until_ns))


def _parents(tree: TraceTree) -> tuple[dict[int, Node], dict[int, Node]]:
    """Return the parent of each span, and the spans that are detached, both by ``id()``."""
    parents: dict[int, Node] = {}
    detached: dict[int, Node] = {}
    for node in tree.walk():
        for child in node.children:
            parents[id(child)] = node
            if _outlives(child, node):
                detached[id(child)] = child
    return parents, detached


def _callers(node: Node, parents: Mapping[int, Node], detached: Mapping[int, Node]) -> list[Node]:
    """Return the parent of a span and its ancestors, from the first that is a child of the trace."""
    callers = [parents[id(node)]]
    while id(callers[-1]) in parents and id(callers[-1]) not in detached:
        callers.append(parents[id(callers[-1])])
    return callers[::-1]


def _outlives(child: Node, parent: Node) -> bool:
    """Return whether the parent cannot have waited for its child."""
    end_ns = _end_ns(parent)
    if child.span.start_ns >= end_ns and _end_ns(child) > end_ns:
        return True
    if _end_ns(child) <= end_ns + SKEW_NS_MIN:
        return False
    return is_message(child.span, parent.span) or process_of(child.span) == process_of(parent.span)


def _end_ns(node: Node) -> int:
    return node.span.start_ns + node.span.duration_ns
