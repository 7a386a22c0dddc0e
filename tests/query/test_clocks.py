"""Clocks that disagree between services, and spans whose ids other senders write in their own ways."""

from __future__ import annotations

import msgspec
import pytest

from tests.query.test_traces import at, shape, tree
from tests.support.samples import NOW_MS
from vantage.core.span import Span, SpanKind
from vantage.ingest.series_cache import Resource
from vantage.ingest.wire.spans import WireSpan, to_span
from vantage.query.clocks import clock_skews, shifted
from vantage.query.traces import TraceTree


def of(kind: SpanKind, span: Span) -> Span:
    return msgspec.structs.replace(span, kind=kind)


def skews_ms(result: TraceTree) -> dict[str, float]:
    skews = clock_skews(result)
    return {node.span.span_id: skews[id(node.span)] / 1e6 for node in result.walk() if id(node.span) in skews}


@pytest.mark.parametrize(
    ("start_ms", "duration_ms", "skew_ms"),
    [
        (10, 50, None),  # inside its caller
        (-30, 50, -55.0),  # it seems to begin before: the network took 25 ms each way
        (80, 50, 55.0),  # it seems to end after
        (-5, 200, -5.0),  # longer than its caller, which did not wait
        (5, 200, None),
        (-0.4, 100, None),  # clocks that agree
    ],
)
def test_a_span_of_another_service_outside_its_caller_has_another_clock(
    start_ms: float, duration_ms: float, skew_ms: float | None
) -> None:
    other = at("b", "a", duration_ms=duration_ms, service="other")
    other = msgspec.structs.replace(other, start_ns=NOW_MS * 1_000_000 + int(start_ms * 1e6))
    result = tree(at("a", duration_ms=100), other)
    assert skews_ms(result) == ({} if skew_ms is None else {"b": skew_ms})


def test_what_is_below_a_span_has_its_clock_up_to_the_next_process() -> None:
    result = tree(
        at("a", duration_ms=100),
        at("b", "a", 1000, 50, service="other"),
        at("c", "b", 1010, 10, service="other"),
        at("d", "c", 38, 4, service="third"),
        at("e", "a", 120, 10),  # of the same process, which outlives its parent
    )
    assert skews_ms(result) == {"b": 975.0, "c": 975.0}
    placed = shifted(result, clock_skews(result))
    starts = {node.span.span_id: node.span.start_ns / 1e6 - NOW_MS for node in placed.walk()}
    assert starts == pytest.approx({"a": 0, "b": 25, "c": 35, "d": 38, "e": 120}, abs=1e-3)
    assert placed.duration_ns < result.duration_ns


def test_a_message_that_is_received_later_is_no_skew() -> None:
    result = tree(
        of(SpanKind.PRODUCER, at("a", duration_ms=1)), of(SpanKind.CONSUMER, at("b", "a", 5000, 50, service="worker"))
    )
    assert skews_ms(result) == {}


def test_a_parent_of_zeros_is_a_root() -> None:
    assert shape(tree(at("a", "0" * 16), at("b", "a"))) == [("a", 0, False), ("b", 1, False)]
    wire = WireSpan("t", "s", "n", 1, 1, parent_span_id="0" * 16)
    assert to_span(wire, Resource("api", "", "", "")).parent_span_id == ""


@pytest.mark.parametrize("server_first", [False, True])
@pytest.mark.parametrize("server_parent", ["root", "", "call"])
def test_client_and_server_that_share_an_id_keep_their_places(server_parent: str, *, server_first: bool) -> None:
    client = of(SpanKind.CLIENT, at("call", "root", 1, 8))
    server = at("call", server_parent, 0 if server_first else 2, 6, service="other")
    below = at("query", "call", 3, 2, service="other")
    hook = at("hook", "call", 8, 1)
    spans = sorted([at("root"), client, server, below, hook], key=lambda span: span.start_ns)
    nodes = [(node.span.span_id, node.span.service_name, node.depth) for node in tree(*spans).walk()]
    assert nodes[:2] == [("root", "api", 0), ("call", "api", 1)]
    assert sorted(nodes[2:]) == [("call", "other", 2), ("hook", "api", 2), ("query", "other", 3)]
    assert not [node for node in tree(*spans).walk() if node.orphan]
