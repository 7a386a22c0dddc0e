"""The critical path, against its definition in plain words and against another way to compute it."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.query.test_traces import at, tree
from tests.support.samples import NOW_MS
from vantage.core.span import Span, SpanKind
from vantage.query.critical_path import critical_path, time_shares
from vantage.query.traces import Node, TraceTree

ORIGIN_NS = NOW_MS * 1_000_000


def path(result: TraceTree) -> list[tuple[str, int, int]]:
    """Return the stretches in milliseconds from the start, '' for time of no span."""
    return [
        (
            part.node.span.span_id if part.node else "",
            (part.start_ns - ORIGIN_NS) // 1_000_000,
            (part.end_ns - ORIGIN_NS) // 1_000_000,
        )
        for part in critical_path(result)
    ]


def test_a_span_without_children_is_the_path() -> None:
    assert path(tree(at("a", duration_ms=10))) == [("a", 0, 10)]


def test_children_in_a_row_are_on_the_path_with_the_time_between_them() -> None:
    result = tree(at("a", duration_ms=100), at("b", "a", 10, 20), at("c", "a", 40, 50))
    assert path(result) == [("a", 0, 10), ("b", 10, 30), ("a", 30, 40), ("c", 40, 90), ("a", 90, 100)]


def test_of_concurrent_children_the_last_to_end_was_waited_for() -> None:
    result = tree(at("a", duration_ms=100), at("b", "a", 10, 40), at("c", "a", 12, 70), at("d", "a", 0, 11))
    assert path(result) == [("d", 0, 11), ("a", 11, 12), ("c", 12, 82), ("a", 82, 100)]


def test_time_between_roots_belongs_to_no_span() -> None:
    assert path(tree(at("a", duration_ms=10), at("b", "lost", 15, 5))) == [("a", 0, 10), ("", 10, 15), ("b", 15, 20)]


def test_what_goes_on_in_the_same_process_after_its_parent_was_not_waited_for() -> None:
    result = tree(at("a", duration_ms=10), at("b", "a", 5, 50), at("c", "a", 2, 2))
    assert path(result) == [("a", 0, 2), ("c", 2, 4), ("a", 4, 5), ("b", 5, 55)]


def test_before_a_detached_span_the_spans_that_led_to_it_are_on_the_path() -> None:
    result = tree(
        at("a", duration_ms=20), at("b", "a", 5, 10), at("c", "b", 8, 50), at("d", "a", 1, 2), at("e", "a", 11, 9)
    )
    assert path(result) == [("a", 0, 1), ("d", 1, 3), ("a", 3, 5), ("b", 5, 8), ("c", 8, 58)]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (SpanKind.SERVER, [("a", 0, 5), ("b", 5, 10), ("", 10, 55)]),  # cut: its clock may be ahead
        (SpanKind.CONSUMER, [("a", 0, 5), ("b", 5, 55)]),
    ],
)
def test_a_later_end_in_another_process_is_cut_unless_it_is_a_message(
    kind: SpanKind, expected: list[tuple[str, int, int]]
) -> None:
    other = msgspec.structs.replace(at("b", "a", 5, 50, service="other"), kind=kind)
    assert path(tree(at("a", duration_ms=10), other)) == expected


def test_a_message_that_is_received_later_is_on_the_path() -> None:
    other = at("b", "a", 30, 20, service="other")
    assert path(tree(at("a", duration_ms=10), other)) == [("a", 0, 10), ("", 10, 30), ("b", 30, 50)]


def test_shares_add_up_to_the_trace_and_list_self_time() -> None:
    result = tree(
        at("a", duration_ms=100, name="GET /"),
        at("b", "a", 10, 30, service="db", name="SELECT"),
        at("c", "a", 20, 60, service="db", name="SELECT"),
        at("d", "lost", 110, 10, name="late"),
    )
    shares, idle_ns = time_shares(result, critical_path(result))
    assert [(share.operation, share.path_ns // 10**6, share.self_ns // 10**6, share.spans) for share in shares] == [
        ("SELECT", 60, 90, 2),
        ("GET /", 40, 30, 1),
        ("late", 10, 10, 1),
    ]
    assert idle_ns == 10 * 10**6
    assert sum(share.path_ns for share in shares) + idle_ns == result.duration_ns


@pytest.mark.timeout(20)
@pytest.mark.parametrize("depth", [10_000])
def test_a_chain_of_thousands_of_spans_is_no_recursion(depth: int) -> None:
    spans = [at(f"s{i}", f"s{i - 1}" if i else "", i, 2 * (depth - i)) for i in range(depth)]
    random.Random(7).shuffle(spans)
    result = tree(*spans)
    parts = critical_path(result)
    assert len(parts) == 2 * depth - 1
    assert sum(part.end_ns - part.start_ns for part in parts) == result.duration_ns


@st.composite
def span_lists(draw: st.DrawFn) -> list[Span]:
    """Generate a few spans with any parents, also missing ones and rings, in few milliseconds."""
    count = draw(st.integers(1, 9))
    names = [f"s{number}" for number in range(count)]
    return [
        msgspec.structs.replace(
            at(
                name,
                draw(st.sampled_from(["", "lost", *names])),
                draw(st.integers(0, 30)),
                draw(st.integers(0, 30)),
                service=draw(st.sampled_from(["web", "db"])),
            ),
            kind=draw(st.sampled_from([SpanKind.SERVER, SpanKind.CONSUMER])),
        )
        for name in names
    ]


def waited_for(result: TraceTree) -> dict[int, list[Node]]:
    """Return the children of each node and of the trace (0), by the rules of the module's docstring."""
    children: dict[int, list[Node]] = {0: list(result.roots)}
    for node in result.walk():
        children[id(node)] = []
        node_end = node.span.start_ns + node.span.duration_ns
        for child in node.children:
            span = child.span
            end = span.start_ns + span.duration_ns
            later = end > node_end and span.start_ns >= node_end
            async_call = end > node_end + 1_000_000 and (
                span.kind is SpanKind.CONSUMER or span.service_name == node.span.service_name
            )
            children[0 if later or async_call else id(node)].append(child)
    return children


class Reference:
    """The path by recursion, as the module's docstring defines it; every child is looked at each time."""

    def __init__(self, result: TraceTree) -> None:
        self.children = waited_for(result)
        self.callers = {id(child): node for node in result.walk() for child in node.children}
        self.attached = {id(child): node for node in result.walk() for child in self.children[id(node)]}
        self.ends = (result.start_ns, result.start_ns + result.duration_ns)
        self.parts: list[tuple[str, int, int]] = []
        self.read(None, self.ends[1])

    def window(self, node: Node | None) -> tuple[int, int]:
        """Return start and end of a span within all spans that wait for it."""
        start, end = self.ends
        while node is not None:
            start, end = max(start, node.span.start_ns), min(end, node.span.start_ns + node.span.duration_ns)
            node = self.attached.get(id(node))
        return start, end

    def add(self, node: Node | None, start: int, end: int) -> None:
        if start < end:
            self.parts.insert(0, (node.span.span_id if node else "", start, end))

    def read(self, node: Node | None, until: int) -> None:
        start, _ = self.window(node)
        while until > start:
            children = self.children[id(node) if node else 0]
            windows = [(*self.window(child), child) for child in reversed(children)]  # of equal ones the last is taken
            ended = [entry for entry in windows if entry[0] < entry[1] <= until]
            if not ended:
                break
            below_start, below_end, below = max(
                ended, key=lambda entry: (entry[2].span.start_ns + entry[2].span.duration_ns, -entry[2].span.start_ns)
            )
            self.add(node, below_end, until)
            self.read(below, below_end)
            until = below_start
            while node is None and id(below) in self.callers:
                until, below = self.read_callers(below, until)
        self.add(node, start, until)

    def read_callers(self, detached: Node, until: int) -> tuple[int, Node]:
        """Read what led to a detached span; return how far, and the span there that no other waits for."""
        caller: Node | None = self.callers[id(detached)]
        top = caller
        while top is not None and id(top) in self.attached:
            top = self.attached[id(top)]
        assert top is not None
        while caller is not None and any(
            start >= min(end, until) for start, end in map(self.window, self.line_of(caller))
        ):
            caller = self.attached.get(id(caller))
        if caller is None:
            return until, Node(top.span, 0, False, 0)
        self.add(None, self.window(caller)[1], until)
        until = min(until, self.window(caller)[1])
        while caller is not None:
            self.read(caller, until)
            until = self.window(caller)[0]
            caller = self.attached.get(id(caller))
        return until, top

    def line_of(self, node: Node | None) -> list[Node]:
        line = []
        while node is not None:
            line.append(node)
            node = self.attached.get(id(node))
        return line


@given(span_lists())
def test_the_path_is_that_of_a_recursion(spans: list[Span]) -> None:
    result = tree(*spans)
    parts = critical_path(result)
    if result.duration_ns:
        edges = [result.start_ns, *(part.end_ns for part in parts)]
        assert [part.start_ns for part in parts] == edges[:-1]
        assert edges[-1] == result.start_ns + result.duration_ns
    for node, start_ns, end_ns in parts:
        assert start_ns < end_ns
        if node is not None:
            assert node.span.start_ns <= start_ns
            assert end_ns <= node.span.start_ns + node.span.duration_ns
    assert [(node.span.span_id if node else "", start, end) for node, start, end in parts] == Reference(result).parts
