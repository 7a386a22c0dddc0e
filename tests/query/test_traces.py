"""One trace as a tree, whatever its spans claim about each other."""

from __future__ import annotations

import random

import pytest

from tests.support.samples import NOW_MS, a_span
from vantage.core.errors import InputError
from vantage.core.span import Span, SpanStatus
from vantage.query.traces import Node, TraceTree, build_tree, decode_cursor, encode_cursor
from vantage.storage.ports import Trace, TraceSummary


def tree(*spans: Span) -> TraceTree:
    return build_tree(Trace("t1", spans, ()))


def at(span_id: str, parent: str = "", start_ms: int = 0, duration_ms: float = 10, **other: object) -> Span:
    return a_span("t1", span_id, parent, start_ms=NOW_MS + start_ms, duration_ms=duration_ms, **other)  # type: ignore[arg-type]


def shape(result: TraceTree) -> list[tuple[str, int, bool]]:
    return [(node.span.span_id, node.depth, node.orphan) for node in result.walk()]


def test_children_stand_under_their_parents_in_the_order_of_their_start() -> None:
    result = tree(at("c", "a", 5), at("a"), at("b", "a", 1), at("d", "b", 2))
    assert [node.span.span_id for node in result.roots] == ["a"]
    by_id = {node.span.span_id: node for node in result.walk()}
    assert [child.span.span_id for child in by_id["a"].children] == ["b", "c"]
    assert [node.span.span_id for node in result.walk()] == ["a", "b", "d", "c"]
    assert (by_id["a"].depth, by_id["b"].depth, by_id["d"].depth) == (0, 1, 2)


def test_spans_whose_parent_is_missing_are_orphans_at_the_top() -> None:
    result = tree(at("root", start_ms=5), at("lost", "nobody", 1), at("below", "lost", 2))
    assert shape(result) == [("lost", 0, True), ("below", 1, False), ("root", 0, False)]


@pytest.mark.parametrize(
    "parents",
    [
        {"a": "a"},
        {"a": "b", "b": "a"},
        {"a": "b", "b": "c", "c": "a"},
        {"r": "", "a": "b", "b": "c", "c": "a", "d": "c"},
    ],
)
def test_spans_that_name_each_other_in_a_ring_are_all_there_once(parents: dict[str, str]) -> None:
    result = tree(*(at(span_id, parent) for span_id, parent in parents.items()))
    assert sorted(node.span.span_id for node in result.walk()) == sorted(parents)
    assert result.span_count == len(parents)


def test_a_repeated_span_id_appears_twice_and_its_children_once() -> None:
    result = tree(at("a", start_ms=0), at("a", start_ms=1, name="again"), at("b", "a", 2))
    assert sorted(node.span.name for node in result.walk()) == ["GET /", "GET /", "again"]
    assert sum(len(node.children) for node in result.walk()) == 1
    (parent,) = [node for node in result.walk() if node.children]
    assert parent.span.name == "GET /"


def test_a_repeated_root_inside_its_own_children_ends() -> None:
    result = tree(at("a"), at("b", "a"), at("a", "b", name="again"))
    assert len(result.walk()) == 3


@pytest.mark.timeout(20)
def test_a_chain_of_ten_thousand_spans_is_no_recursion() -> None:
    depth = 10_000
    spans = [at(f"s{i}", f"s{i - 1}" if i else "", i, depth * 2 - i) for i in range(depth)]
    random.Random(7).shuffle(spans)
    result = tree(*spans)
    assert [node.depth for node in result.walk()] == list(range(depth))
    assert sum(node.self_ns for node in result.walk()) > 0


@pytest.mark.timeout(20)
def test_ten_thousand_children_of_one_span_are_quick() -> None:
    result = tree(at("root", duration_ms=20_000), *(at(f"s{i}", "root", i, 1) for i in range(10_000)))
    assert result.roots[0].self_ns == 10_000 * 1_000_000


@pytest.mark.parametrize(
    ("children", "self_ms"),
    [
        ([], 100),
        ([(0, 100)], 0),
        ([(10, 20)], 80),
        ([(10, 20), (50, 10)], 70),
        ([(10, 30), (20, 30)], 60),
        ([(10, 50), (20, 10)], 50),
        ([(10, 20), (10, 20)], 80),
        ([(-50, 60)], 90),
        ([(90, 500)], 90),
        ([(-50, 500)], 0),
        ([(200, 10)], 100),
        ([(-50, 10)], 100),
        ([(10, 0)], 100),
    ],
)
def test_self_time_is_what_no_child_covers(children: list[tuple[int, int]], self_ms: int) -> None:
    spans = [at(f"c{i}", "a", start, duration) for i, (start, duration) in enumerate(children)]
    root = next(node for node in tree(at("a", duration_ms=100), *spans).walk() if node.span.span_id == "a")
    assert root.self_ns == self_ms * 1_000_000


def test_a_trace_is_as_long_as_from_its_first_start_to_its_last_end() -> None:
    result = tree(at("a", start_ms=10, duration_ms=10), at("b", "a", 5, 1), at("c", "a", 15, 100))
    assert (result.start_ns, result.duration_ns) == ((NOW_MS + 5) * 1_000_000, 110 * 1_000_000)


def test_errors_and_services_are_gathered() -> None:
    result = tree(
        at("a", service="web", status=SpanStatus.ERROR), at("b", "a", service="db"), at("c", "a", service="web")
    )
    assert (result.error_count, result.services) == (1, ("db", "web"))


def test_any_tangle_of_parents_shows_every_span_once_and_parents_first() -> None:
    chance = random.Random(11)
    for _ in range(200):
        ids = [f"s{i}" for i in range(chance.randint(1, 12))]
        spans = [
            at(item, chance.choice([*ids, "", "gone"]), chance.randint(0, 20), chance.randint(0, 30)) for item in ids
        ]
        nodes: list[Node] = tree(*spans).walk()
        assert sorted(node.span.span_id for node in nodes) == sorted(ids)
        seen: dict[str, int] = {}
        for node in nodes:
            if node.depth:
                assert seen[node.span.parent_span_id] == node.depth - 1
            seen[node.span.span_id] = node.depth
            assert 0 <= node.self_ns <= node.span.duration_ns


def test_a_cursor_comes_back_as_it_went() -> None:
    last = TraceSummary("t:1.2", "a", "b", NOW_MS * 1_000_000, 5, 1, 0, ("a",))
    assert decode_cursor(encode_cursor(last)) == (last.start_ns, last.trace_id)


@pytest.mark.parametrize("text", ["", "!", "AAAA", "=", "ää", "eA", "x" * 199])
def test_a_made_up_cursor_is_refused(text: str) -> None:
    with pytest.raises(InputError) as refused:
        decode_cursor(text)
    assert refused.value.field == "cursor"
