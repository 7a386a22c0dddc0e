"""Calls between services, computed from spans."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tests.support.samples import NOW_MS, a_span
from vantage.core.errors import InputError
from vantage.core.span import Span, SpanKind, SpanStatus
from vantage.core.span_table import build_span_table
from vantage.core.timerange import TimeRange
from vantage.storage.edge_join import (
    NO_EDGE_SPANS,
    PARENT_REACH_MS,
    EdgeKeys,
    added_edges,
    concat_edge_spans,
    edge_spans,
)
from vantage.storage.ports import ServiceEdge
from vantage.storage.service_edges import service_edges, sum_edges

END_MS = NOW_MS // 300_000 * 300_000
RANGE = TimeRange(END_MS - 300_000, END_MS)


def at(span_id: str, parent: str, service: str, kind: str = "server", *, trace_id: str = "t1", start_ms: int = -1000,
       **other: object) -> Span:  # fmt: skip
    span = a_span(trace_id, span_id, parent, service=service, start_ms=END_MS + start_ms, **other)  # type: ignore[arg-type]
    fields = {name: getattr(span, name) for name in span.__struct_fields__}
    return Span(**fields | {"kind": SpanKind(kind)})


def edges(*spans: Span, parts: int = 1) -> list[ServiceEdge]:
    tables = [build_span_table(spans[part::parts]) for part in range(parts)]
    return sorted(service_edges(tables, RANGE).edges, key=lambda edge: (edge.caller, edge.callee, edge.kind))


def test_a_server_span_under_another_service_s_span_is_a_call() -> None:
    result = edges(at("a", "", "web"), at("b", "a", "web", "client"), at("c", "b", "api", duration_ms=4))
    assert result == [ServiceEdge("web", "api", "call", 1, 0, 4_000_000, 4_000_000)]


def test_calls_are_counted_with_errors_and_durations_of_the_called() -> None:
    spans = [at("a", "", "web", duration_ms=900)]
    spans += [at(f"c{i}", "a", "api", duration_ms=i, status=SpanStatus.ERROR if i == 3 else SpanStatus.OK)
              for i in (1, 2, 3)]  # fmt: skip
    assert edges(*spans) == [ServiceEdge("web", "api", "call", 3, 1, 6_000_000, 3_000_000)]


def test_a_consumer_span_is_a_message() -> None:
    result = edges(at("a", "", "shop", "producer"), at("b", "a", "mail", "consumer"))
    assert [(edge.caller, edge.callee, edge.kind, edge.calls) for edge in result] == [("shop", "mail", "message", 1)]


def test_spans_within_a_service_make_no_edge() -> None:
    assert edges(at("a", "", "api"), at("b", "a", "api"), at("c", "b", "api", "internal")) == []


@pytest.mark.parametrize("kind", ["internal", "client", "producer"])
def test_only_what_is_received_counts_as_called(kind: str) -> None:
    assert edges(at("a", "", "web"), at("b", "a", "api", kind)) == []


def test_a_parent_of_another_trace_is_none() -> None:
    assert edges(at("a", "", "web", trace_id="t2"), at("b", "a", "api")) == []


def test_a_parent_that_was_never_received_makes_no_edge() -> None:
    assert edges(at("b", "gone", "api")) == []


def test_parents_are_found_across_tables() -> None:
    spans = [at("a", "", "web"), at("b", "a", "api"), at("c", "b", "db"), at("d", "a", "db")]
    assert edges(*spans, parts=3) == edges(*spans)
    assert {(edge.caller, edge.callee) for edge in edges(*spans)} == {("web", "api"), ("api", "db"), ("web", "db")}


def test_children_are_counted_in_the_range_and_parents_may_start_before_it() -> None:
    before = -300_000 - PARENT_REACH_MS
    spans = [
        at("a", "", "web", start_ms=before),
        at("b", "a", "api", start_ms=-300_000),
        at("c", "a", "api", start_ms=-300_001),
        at("d", "a", "api", start_ms=0),
        at("e", "", "web", "client", start_ms=-300_001, attributes={"peer.service": "bank"}),
    ]
    assert [(edge.callee, edge.calls) for edge in edges(*spans)] == [("api", 1)]


@pytest.mark.parametrize(
    ("attributes", "callee"),
    [
        ({"peer.service": "bank", "server.address": "10.0.0.1"}, "bank"),
        ({"server.address": "10.0.0.1", "db.system.name": "postgresql"}, "postgresql"),
        ({"db.system": "mysql", "server.address": "db.internal"}, "mysql"),
        ({"messaging.system": "kafka"}, "kafka"),
        ({"server.address": "example.org"}, "example.org"),
        ({"peer.service": "", "server.address": "example.org"}, "example.org"),
    ],
)
def test_a_call_to_a_peer_without_spans_is_external(attributes: dict[str, str], callee: str) -> None:
    result = edges(at("a", "", "api", "client", attributes=attributes, status=SpanStatus.ERROR, duration_ms=2))
    assert result == [ServiceEdge("api", callee, "external", 1, 1, 2_000_000, 2_000_000)]


def test_a_call_that_is_answered_is_not_external() -> None:
    result = edges(at("a", "", "web", "client", attributes={"server.address": "api.internal"}), at("b", "a", "api"))
    assert [(edge.callee, edge.kind) for edge in result] == [("api", "call")]


def test_a_call_that_is_answered_after_the_range_is_not_external_either() -> None:
    called = at("b", "a", "api", start_ms=0)
    result = edges(at("a", "", "web", "client", attributes={"server.address": "api.internal"}), called)
    assert result == []


@pytest.mark.parametrize("kind", ["server", "internal", "consumer"])
def test_only_what_calls_names_a_peer(kind: str) -> None:
    assert edges(at("a", "", "api", kind, attributes={"peer.service": "bank"})) == []


def test_a_service_that_names_itself_calls_nobody() -> None:
    assert edges(at("a", "", "api", "client", attributes={"peer.service": "api"})) == []


def test_a_repeated_span_id_is_the_parent_once() -> None:
    result = edges(at("a", "", "other"), at("a", "", "web", start_ms=-1001), at("b", "a", "api"))
    assert [(edge.caller, edge.callee, edge.calls) for edge in result] == [("web", "api", 1)]


def test_ids_with_the_same_hash_are_distinguished(monkeypatch: pytest.MonkeyPatch) -> None:
    spans = tangle(60)
    expected = edges(*spans)
    monkeypatch.setattr("vantage.storage.edge_join.hash_pairs", lambda first, second: np.zeros(len(first), np.uint64))
    assert edges(*spans) == expected


def test_any_tangle_is_joined_as_plain_python_would() -> None:
    for seed in range(30):
        spans = tangle(80, seed=seed)
        by_id: dict[tuple[str, str], Span] = {}
        for span in spans:
            by_id.setdefault((span.trace_id, span.span_id), span)
        counted: dict[tuple[str, str, str], int] = {}
        for span in spans:
            parent = by_id.get((span.trace_id, span.parent_span_id))
            if parent and parent.service_name != span.service_name and span.kind in ("server", "consumer"):
                kind = "call" if span.kind is SpanKind.SERVER else "message"
                key = (parent.service_name, span.service_name, kind)
                counted[key] = counted.get(key, 0) + 1
        result = {(edge.caller, edge.callee, edge.kind): edge.calls for edge in edges(*spans, parts=3)}
        assert result == counted


def tangle(count: int, *, seed: int = 1) -> list[Span]:
    chance = random.Random(seed)
    ids = [f"s{i}" for i in range(count // 2)]
    made = [
        at(choice, chance.choice([*ids, ""]), f"service-{chance.randrange(4)}", chance.choice(list(SpanKind)),
           trace_id=f"t{chance.randrange(3)}")
        for choice in chance.choices(ids, k=count)
    ]  # fmt: skip
    return list({(span.trace_id, span.span_id): span for span in made}.values())


def test_more_spans_than_can_be_joined_are_refused() -> None:
    tables = [build_span_table(tangle(60, seed=seed)) for seed in range(3)]
    total = sum(map(len, tables))
    assert service_edges(tables, RANGE, spans_max=total).edges
    with pytest.raises(InputError, match="narrow"):
        service_edges(tables, RANGE, spans_max=total - 1)


def test_without_spans_there_are_no_edges() -> None:
    assert service_edges([], RANGE).edges == ()
    assert service_edges([build_span_table([])], RANGE).edges == ()


def test_a_parent_may_start_ten_minutes_later_and_no_more() -> None:
    start_ms = -1000 + PARENT_REACH_MS
    assert edges(at("a", "", "web", start_ms=start_ms), at("b", "a", "api"))
    assert edges(at("a", "", "web", start_ms=start_ms + 1), at("b", "a", "api")) == []


@pytest.mark.parametrize("seed", range(20))
def test_what_spans_add_is_the_same_in_whichever_pieces_they_come(seed: int) -> None:
    chance = random.Random(seed)
    spans = tangle(120, seed=seed)
    spans += [at(f"p{n}", chance.choice(spans).span_id, "service-1", "client", trace_id=f"t{n % 3}",
                 attributes={"peer.service": chance.choice(["bank", "service-2"])}) for n in range(20)]  # fmt: skip
    spans += [at(f"q{n}", f"p{n}", "service-3", trace_id=f"t{n % 3}") for n in range(0, 20, 2)]
    spans += chance.choices(spans, k=10)
    expected = edges(*spans)
    assert {edge.kind for edge in expected} == {"call", "message", "external"}
    chance.shuffle(spans)
    keys, counted, parts = EdgeKeys(), NO_EDGE_SPANS, []
    while spans:
        size = chance.randrange(1, 40)
        piece = edge_spans(build_span_table(spans[:size]))
        parts.append(added_edges(piece, counted, keys))
        counted, spans = concat_edge_spans([counted, piece]), spans[size:]
    result = sum_edges(parts, keys, RANGE).edges
    assert sorted(result, key=lambda edge: (edge.caller, edge.callee, edge.kind)) == expected
