"""A trace as frames: spans of the same path are one, and widths add up."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.query.test_trace_window import LARGE, random_spans
from tests.query.test_traces import at, tree
from vantage.core.span import SpanStatus
from vantage.query.flame import FRAMES_MAX, ROWS_MAX, Flame, flame
from vantage.query.trace_index import index_trace


def names(result: Flame) -> list[tuple[str, int, int, int]]:
    return [(frame.operation, frame.row, frame.spans, frame.total_ns // 10**6) for frame in result.frames]


SHOP = index_trace(
    tree(
        at("a", duration_ms=100, name="GET /"),
        at("b", "a", 10, 30, name="SELECT"),
        at("c", "a", 50, 40, name="SELECT", status=SpanStatus.ERROR),
        at("d", "c", 55, 10, name="parse"),
        at("e", "b", 15, 10, name="parse"),
        at("f", "a", 0, 5, name="auth"),
    )
)


def test_spans_with_the_same_operations_above_are_one_frame() -> None:
    result = flame(SHOP)
    assert names(result) == [("GET /", 0, 1, 100), ("SELECT", 1, 2, 70), ("auth", 1, 1, 5), ("parse", 2, 2, 20)]
    select = result.frames[1]
    assert (select.x, select.width, select.errors, select.self_ns) == (0, 0.7, 1, 50_000_000)
    assert (result.rows, result.left_out, result.total_ns) == (3, 0, 100_000_000)


def test_a_frame_can_fill_the_drawing() -> None:
    assert names(flame(SHOP, root="c")) == [("SELECT", 0, 2, 70), ("parse", 1, 2, 20)]
    assert flame(SHOP, root="c").frames[0].width == 1
    assert flame(SHOP, root="nothing") == flame(SHOP)


def test_spans_without_time_are_as_wide_as_they_are_many() -> None:
    spans = [at("a", duration_ms=0), *(at(f"b{i}", "a", duration_ms=0, name="x") for i in range(3))]
    result = flame(index_trace(tree(*spans)))
    assert result.is_counted
    assert [(frame.operation, frame.width) for frame in result.frames] == [("GET /", 1.0), ("x", 0.75)]


def test_what_is_too_narrow_or_too_deep_is_left_out_and_counted() -> None:
    thin = index_trace(tree(at("a", duration_ms=10_000), at("b", "a", 1, 1, name="thin"), at("c", "b", 1, 1)))
    assert (names(flame(thin)), flame(thin).left_out) == ([("GET /", 0, 1, 10_000)], 2)
    deep = index_trace(tree(*(at(f"s{i}", f"s{i - 1}" if i else "", duration_ms=100) for i in range(3000))))
    assert (flame(deep).rows, flame(deep).left_out) == (ROWS_MAX, 3000 - ROWS_MAX)
    many = index_trace(tree(*(at(f"s{i}", name=f"op{i % 450}") for i in range(900))))
    assert (len(flame(many).frames), flame(many).left_out) == (FRAMES_MAX, 900 - 2 * FRAMES_MAX)


@given(st.integers(0, 10**6), st.integers(1, 60))
@settings(max_examples=40, deadline=None)
def test_children_lie_side_by_side_below_their_parents(seed: int, count: int) -> None:
    index = index_trace(tree(*random_spans(count, seed)))
    result = flame(index)
    assert sum(frame.spans for frame in result.frames) + result.left_out == count
    assert result.total_ns == sum(node.self_ns for node in index.nodes)
    rows: Counter[int] = Counter()
    for frame in result.frames:
        assert frame.x >= 0
        assert frame.x + frame.width <= 1 + 1e-9
        rows[frame.row] += 1
        others = [other for other in result.frames if other.row == frame.row and other is not frame]
        assert not [other for other in others if frame.x < other.x < frame.x + frame.width - 1e-9]
        if frame.row:
            above = [other for other in result.frames if other.row == frame.row - 1]
            assert [
                other
                for other in above
                if other.x - 1e-9 <= frame.x and frame.x + frame.width <= other.x + other.width + 1e-9
            ]
    assert sorted(rows) == list(range(result.rows))


@pytest.mark.timeout(20)
def test_a_large_trace_has_few_frames() -> None:
    assert len(flame(LARGE).frames) <= FRAMES_MAX
