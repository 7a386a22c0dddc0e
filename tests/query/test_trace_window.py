"""Which lines of a large trace are drawn, whatever was opened, closed, searched and selected."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.query.test_traces import at, tree
from vantage.core.span import Span, SpanStatus
from vantage.query.trace_index import TraceIndex, index_trace
from vantage.query.trace_window import LINES_MAX, Folding, Line, Window, neighbours, search, window


def keys_of(index: TraceIndex, lines: list[Line]) -> list[str]:
    return [index.keys[line.position] for line in lines]


def random_spans(count: int, seed: int, *, errors: float = 0.02) -> list[Span]:
    chance = random.Random(seed)
    return [
        at(
            f"s{number}",
            f"s{chance.randrange(max(0, number - 30), number)}" if number else "",
            number,
            chance.randint(1, 1000),
            status=SpanStatus.ERROR if chance.random() < errors else SpanStatus.OK,
        )
        for number in range(count)
    ]


LARGE = index_trace(tree(*random_spans(3000, 1)))


def pages(index: TraceIndex, folding: Folding) -> list[Line]:
    """Return the lines of all pages."""
    first = window(index, on_page(folding, page=1))
    rest = [window(index, on_page(folding, page=page)) for page in range(2, first.pages + 1)]
    lines = [line for part in (first, *rest) for line in part.lines]
    assert len(lines) == first.total
    return lines


def on_page(folding: Folding, *, page: int) -> Folding:
    return Folding(folding.opened, folding.closed, folding.all_open, folding.root, folding.selected, page)


def test_a_small_trace_is_open() -> None:
    index = index_trace(tree(at("a"), at("b", "a", 1), at("c", "b", 2), at("lost", "nobody", 3)))
    result = window(index, Folding())
    assert keys_of(index, result.lines) == ["a", "b", "c", "lost"]
    assert [index.depth[line.position] for line in result.lines] == [0, 1, 2, 1]
    assert index.missing == {3: "nobody"}
    assert (result.total, result.pages) == (4, 1)


def test_a_closed_line_says_what_is_below_it() -> None:
    index = index_trace(tree(at("a"), at("b", "a", 1), at("c", "b", 2, status=SpanStatus.ERROR), at("d", "c", 3)))
    result = window(index, Folding(closed=frozenset({"b"})))
    assert keys_of(index, result.lines) == ["a", "b"]
    assert (result.lines[1].hidden, result.lines[1].hidden_errors) == (2, 1)


def test_a_large_trace_begins_with_a_page_of_what_matters() -> None:
    result = window(LARGE, Folding())
    assert result.pages == 1
    assert LINES_MAX // 2 < len(result.lines) <= LINES_MAX
    closed = [line for line in result.lines if line.hidden]
    assert closed
    assert sum(line.hidden for line in closed) + len(result.lines) == len(LARGE)
    assert keys_of(LARGE, result.lines)[0] == "s0"


@pytest.mark.parametrize("before", [0, 1, 20])
def test_a_span_of_very_many_children_fills_pages(before: int) -> None:
    chain = [at(f"c{number}", f"c{number - 1}" if number else "", duration_ms=9999) for number in range(before + 1)]
    index = index_trace(tree(*chain, *(at(f"s{number}", f"c{before}", number, 1) for number in range(1000))))
    result = window(index, Folding())
    assert (result.total, len(result.lines), result.pages) == (1001 + before, LINES_MAX, 6)
    last = window(index, Folding(page=99))
    assert (last.page, keys_of(index, last.lines)[-1]) == (6, "s999")


def test_all_spans_are_on_some_page_when_all_is_open() -> None:
    lines = pages(LARGE, Folding(all_open=True))
    assert [line.position for line in lines] == list(range(3000))


@given(st.sampled_from(LARGE.keys))
@settings(max_examples=60)
def test_a_selected_span_is_on_the_page(key: str) -> None:
    result = window(LARGE, Folding(selected=key))
    assert key in keys_of(LARGE, result.lines)
    assert len(result.lines) <= LINES_MAX


@given(st.sampled_from(LARGE.keys))
@settings(max_examples=30)
def test_a_subtree_can_be_looked_at_alone(key: str) -> None:
    position = LARGE.positions[key]
    lines = pages(LARGE, Folding(root=key, all_open=True))
    assert [line.position for line in lines] == list(range(position, position + LARGE.size[position]))


@given(st.integers(0, 10**6), st.integers(1, 40), st.data())
@settings(max_examples=60, deadline=None)
def test_what_is_drawn_is_what_is_below_open_spans(seed: int, count: int, data: st.DataObject) -> None:
    index = index_trace(tree(*random_spans(count, seed)))
    closed = data.draw(st.frozensets(st.sampled_from(index.keys)))
    opened = data.draw(st.frozensets(st.sampled_from(index.keys)))
    lines = window(index, Folding(opened=opened, closed=closed)).lines
    expected = [
        position
        for position in range(count)
        if not any(index.keys[above] in closed for above in index.ancestors(position))
    ]
    assert [line.position for line in lines] == expected
    assert sum(line.hidden for line in lines) + len(lines) == count
    failed = sum(index.nodes[line.position].span.is_error + line.hidden_errors for line in lines)
    assert failed == index.tree.error_count


def test_unknown_keys_are_ignored() -> None:
    odd = frozenset({"nothing", "", "s1~2", "<b>"})
    assert window(LARGE, Folding(odd, odd, root="nothing", selected="~", page=-5)).lines == window(
        LARGE, Folding()
    ).lines  # fmt: skip


def test_a_search_lists_matches_below_what_is_above_them() -> None:
    index = index_trace(
        tree(
            at("a"),
            at("b", "a", 1, attributes={"user": "ZOË"}),
            at("c", "b", 2, name="Pay"),
            at("d", "a", 3),
            at("e", "d", 4, service="PAYMENTS"),
        )
    )
    matches = search(index, "pay")
    assert [index.keys[position] for position in matches] == ["c", "e"]
    lines = window(index, Folding(), matches).lines
    assert [(index.keys[line.position], line.is_match) for line in lines] == [
        ("a", False), ("b", False), ("c", True), ("d", False), ("e", True),
    ]  # fmt: skip
    assert [index.keys[position] for position in search(index, "zoë")] == ["b"]
    assert search(index, "user") == [1]
    assert search(index, "nothing") == []
    assert window(index, Folding(), []).lines == []
    assert [line.position for line in window(index, Folding(root="d"), matches).lines] == [3, 4]


def test_failed_spans_can_be_listed_alone() -> None:
    failed = search(LARGE, "", failed=True)
    assert failed == LARGE.failed()
    assert len(failed) == LARGE.tree.error_count > 0
    assert search(LARGE, "s1", failed=True) == [
        position for position in failed if "s1" in LARGE.nodes[position].span.span_id
    ]


@pytest.mark.parametrize(
    ("at_position", "expected"),
    [(-1, (None, 2)), (2, (None, 5)), (4, (2, 5)), (5, (2, 9)), (9, (5, None)), (10, (9, None))],
)
def test_neighbours(at_position: int, expected: tuple[int | None, int | None]) -> None:
    assert neighbours([2, 5, 9], at_position) == expected
    assert neighbours([], at_position) == (None, None)


def test_a_repeated_id_has_a_key_of_its_own() -> None:
    index = index_trace(tree(at("a"), at("b", "a", 1), at("b", "a", 2, name="again")))
    assert index.keys == ["a", "b", "b~2"]
    assert index.nodes[index.positions["b~2"]].span.name == "again"


@given(st.integers(0, 10**6), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_subtrees_are_ranges(seed: int, count: int) -> None:
    index = index_trace(tree(*random_spans(count, seed)))
    assert sorted(index.keys) == sorted(f"s{number}" for number in range(count))
    for position, node in enumerate(index.nodes):
        below = [id(item) for item in node.walk()]
        end = position + index.size[position]
        assert [id(item) for item in index.nodes[position:end]] == below
        assert [index.nodes[child] for child in index.children(position)] == list(node.children)
        assert index.errors_within(position) == sum(item.span.is_error for item in node.walk())
        for child in index.children(position):
            assert index.parent[child] == position


@pytest.mark.timeout(20)
def test_depth_is_no_recursion() -> None:
    depth = 10_000
    index = index_trace(tree(*(at(f"s{i}", f"s{i - 1}" if i else "", i, 2 * (depth - i)) for i in range(depth))))
    assert index.size[0] == depth
    result: Window = window(index, Folding(selected=f"s{depth - 1}"))
    assert (result.page, result.lines[-1].position) == (depth // LINES_MAX, depth - 1)
