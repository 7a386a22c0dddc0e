"""Exceptions of failed spans: grouped by type and origin, the newest read first, bounds stated."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.context_writes import write_batch
from tests.support.pages import page_context
from tests.support.samples import HOUR_MS, NOW_MS, a_span
from vantage.core.batch import Batch
from vantage.core.span import Span, SpanStatus
from vantage.core.timerange import TimeRange
from vantage.query.failures import GROUPS_MAX, SPANS_MAX, group_failures, read_failures

LAST_HOUR = TimeRange(NOW_MS - HOUR_MS, NOW_MS + 1)


def failed(number: int, *, kind: str = "ValueError", function: str = "pay", line: int = 1, **other: Any) -> Span:
    stacktrace = f'Traceback (most recent call last):\n  File "/srv/app/pay.py", line {line}, in {function}\n{kind}'
    attributes = {"exception.type": kind, "exception.message": f"no {number}", "exception.stacktrace": stacktrace}
    settings: dict[str, Any] = {"attributes": attributes, "status": SpanStatus.ERROR} | other
    return a_span(f"t{number}", f"s{number}", start_ms=NOW_MS - 1000 * number, **settings)


def test_spans_of_one_type_and_function_are_one_group_whatever_the_line() -> None:
    (group,) = group_failures([failed(3, line=7), failed(1, line=9), failed(2, line=8)])
    assert (group.type, group.count, group.first_ms, group.last_ms) == ("ValueError", 3, NOW_MS - 3000, NOW_MS - 1000)
    assert group.frame is not None
    assert (group.frame.path, group.frame.function, group.frame.line) == ("srv/app/pay.py", "pay", 9)
    assert (group.latest.trace_id, group.message) == ("t1", "no 1")
    assert group.stacktrace.startswith("Traceback")


def test_another_type_or_function_is_another_group_and_the_most_frequent_come_first() -> None:
    spans = [failed(1), failed(2, kind="KeyError"), failed(3, function="load"), failed(4, kind="KeyError")]
    groups = group_failures(spans)
    assert [(group.type, group.frame.function if group.frame else "", group.count) for group in groups] == [
        ("KeyError", "pay", 2), ("ValueError", "pay", 1), ("ValueError", "load", 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("attributes", "kind"),
    [
        ({"error.type": "TimeoutError"}, "TimeoutError"),
        ({"error.type": "503"}, "HTTP 503"),
        ({"http.response.status_code": "500"}, "HTTP 500"),
        ({}, ""),
    ],
    ids=["type", "status as type", "status", "nothing"],
)
def test_spans_without_an_exception_are_grouped_by_what_they_say_and_their_operation(
    attributes: dict[str, str], kind: str
) -> None:
    spans = [failed(number, attributes=attributes, name=f"GET /{number % 2}") for number in range(4)]
    groups = group_failures(spans)
    assert [(group.type, group.frame, group.operation, group.count) for group in groups] == [
        (kind, None, "GET /0", 2), (kind, None, "GET /1", 2),
    ]  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from("ABC"), st.sampled_from("fgh"), st.integers(1, 50)), max_size=40))
def test_every_span_is_in_the_group_of_its_type_and_function(failures: list[tuple[str, str, int]]) -> None:
    spans = [failed(number, kind=kind, function=function, line=line)
             for number, (kind, function, line) in enumerate(failures)]  # fmt: skip
    groups = group_failures(spans)
    counts = {(group.type, group.frame.function if group.frame else ""): group.count for group in groups}
    assert counts == Counter((kind, function) for kind, function, _ in failures)
    assert [group.count for group in groups] == sorted(counts.values(), reverse=True)


async def test_what_is_read_is_bounded_and_says_so() -> None:
    async with page_context() as context:
        await write_batch(context, Batch(spans=tuple(failed(number) for number in range(SPANS_MAX - 1))))
        every = await read_failures(context, LAST_HOUR, service="api")
        assert (every.spans, every.since_ms) == (SPANS_MAX - 1, None)
        await write_batch(context, Batch(spans=tuple(failed(1000 + number) for number in range(30))))
        cut = await read_failures(context, LAST_HOUR, service="api")
        assert (cut.spans, cut.since_ms) == (SPANS_MAX, NOW_MS - 1_000_000)
        assert cut.groups[0].count == SPANS_MAX
        nothing = await read_failures(context, LAST_HOUR, service="other")
        assert (nothing.groups, nothing.spans, nothing.since_ms) == ((), 0, None)


async def test_groups_beyond_the_limit_are_counted() -> None:
    async with page_context() as context:
        kinds = GROUPS_MAX + 5
        await write_batch(context, Batch(spans=tuple(failed(number, kind=f"E{number}") for number in range(kinds))))
        failures = await read_failures(context, LAST_HOUR, service="api")
        assert (len(failures.groups), failures.omitted) == (GROUPS_MAX, 5)
