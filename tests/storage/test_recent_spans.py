"""Spans that are sent again: recognised as long as they are remembered, however many parts they are kept in."""

from __future__ import annotations

from vantage.core.span import Span
from vantage.storage.recent_spans import PARTS, RecentSpans


def spans(first: int, last: int) -> list[Span]:
    return [
        Span(trace_id="t", span_id=f"{number:x}", service_name="s", name="n", start_ns=number, duration_ns=1)
        for number in range(first, last)
    ]


def test_copies_within_a_batch_are_one_in_the_order_of_their_first() -> None:
    first, second = spans(0, 2)
    assert RecentSpans().unseen([first, second, first]) == (first, second)
    assert RecentSpans().unseen([]) == ()


def test_the_last_seven_eighths_are_remembered_and_never_more_than_all() -> None:
    spans_max, step = 800, 10
    recent = RecentSpans(spans_max=spans_max)
    for first in range(0, 4000, step):
        sent = spans(first, first + step)
        assert recent.unseen(sent) == tuple(sent)
        recent.remember(sent)
        assert recent.unseen(sent) == ()
        remembered = spans_max * (PARTS - 1) // PARTS
        since = max(0, first + step - remembered)
        assert recent.unseen(spans(since, first + step)) == ()
        evicted = spans(0, max(0, first + step - spans_max))
        assert recent.unseen(evicted) == tuple(evicted)
    recent.clear()
    assert recent.unseen(spans(0, 4000)) == tuple(spans(0, 4000))
