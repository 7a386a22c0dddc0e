"""What slow and failed traces have in common, against counting by hand and a test by enumeration."""

from __future__ import annotations

import itertools
import math
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.context_writes import write_batch
from tests.support.samples import MovedClock, a_span, last_hours
from vantage.core.batch import Batch
from vantage.core.span import Span, SpanStatus
from vantage.query import trace_comparison
from vantage.query.context import QueryContext
from vantage.query.trace_comparison import Comparison, Target, Trait, chance_of, compare_traces
from vantage.storage.memory import MemoryStore
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.storage.ports import TraceFilter
from vantage.telemetry import Telemetry


@pytest.fixture
async def context() -> AsyncIterator[QueryContext]:
    clock = MovedClock()
    async with MemoryMetadataStore(clock) as metadata:
        yield QueryContext(MemoryStore(clock=clock), metadata, clock, Telemetry())


def a_trace(number: int, *, slow: bool = False, failed: bool = False, **attributes: str) -> list[Span]:
    root = a_span(
        f"t{number:03}", "a", duration_ms=900 if slow else 20 + number % 7, attributes={"user.id": f"u{number}"}
    )
    status = SpanStatus.ERROR if failed else SpanStatus.OK
    call = a_span(f"t{number:03}", "b", "a", service="db", name="SELECT", status=status, attributes=attributes)
    return [root, call]


async def fill(context: QueryContext) -> None:
    """Write 100 traces: 10 slow ones, 9 of them in zone b like 3 others, and 20 failed ones of version 2."""
    spans: list[Span] = []
    for number in range(100):
        slow, failed = number < 10, 40 <= number < 60
        zone = "b" if number < 9 or number >= 97 else "a"
        spans += a_trace(number, slow=slow, failed=failed, zone=zone, rack=f"r-{zone}", version="2" if failed else "1")
    await write_batch(context, Batch(spans=tuple(spans)))


async def comparison(context: QueryContext, target: Target, **conditions: object) -> Comparison:
    return await compare_traces(context, TraceFilter(last_hours(), **conditions), target)  # type: ignore[arg-type]


async def test_slow_traces_differ_by_what_more_of_them_have(context: QueryContext) -> None:
    await fill(context)
    result = await comparison(context, "slow")
    assert (result.targets, result.others, result.threshold_ns) == (10, 90, 900_000_000)
    (group,) = result.groups
    assert group.traits == (
        Trait("attribute", "rack", "r-b", narrows=True), Trait("attribute", "zone", "b", narrows=True),
    )  # fmt: skip
    assert (group.in_targets, group.in_others) == (9, 3)
    assert group.chance < 1e-8


async def test_failed_traces_are_compared_with_the_others(context: QueryContext) -> None:
    await fill(context)
    result = await comparison(context, "failed")
    assert (result.targets, result.others) == (20, 80)
    (group,) = result.groups
    assert (group.traits[0].name, group.in_targets, group.in_others) == ("version", 20, 0)
    again = await comparison(context, "failed", status="error")
    assert (again.targets, again.others) == (20, 80)


async def test_selected_durations_are_the_slow_ones(context: QueryContext) -> None:
    await fill(context)
    result = await comparison(context, "slow", min_duration_ns=500_000_000, max_duration_ns=10**9)
    assert (result.targets, result.others, result.limit_ns) == (10, 90, 10**9)
    assert result.groups[0].traits[0].name == "rack"
    below = await comparison(context, "slow", max_duration_ns=100_000_000)
    assert (below.targets, below.others) == (90, 10)


async def test_a_trait_of_another_span_than_the_matching_one_cannot_narrow(context: QueryContext) -> None:
    await fill(context)
    result = await comparison(context, "slow", service="api")
    assert [trait.narrows for trait in result.groups[0].traits] == [False, False]


async def test_traits_that_chance_explains_are_not_listed(context: QueryContext) -> None:
    spans = [span for number in range(40) for span in a_trace(number, slow=number % 10 == 0, coin=str(number % 2))]
    await write_batch(context, Batch(spans=tuple(spans)))
    result = await comparison(context, "slow")
    assert (result.targets, result.others, result.groups) == (4, 36, ())
    assert result.compared > 0


@pytest.mark.parametrize("target", ["slow", "failed"])
async def test_without_two_sides_nothing_is_compared(context: QueryContext, target: Target) -> None:
    assert (await comparison(context, target)).groups == ()
    await write_batch(context, Batch(spans=tuple(a_span(f"t{number}") for number in range(5))))
    result = await comparison(context, target)
    assert (result.targets, result.others, result.spans) == (0, 5, 0)


async def test_a_trace_that_is_too_large_is_left_out(context: QueryContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_comparison, "SPANS_OF_TRACE_MAX", 3)
    await fill(context)
    await write_batch(context, Batch(spans=tuple(a_span("large", f"s{number}") for number in range(4))))
    result = await comparison(context, "slow")
    assert (result.targets + result.others, result.traces_left_out) == (100, 1)


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))
def test_the_chance_is_that_of_drawing_traces(hits: int, misses: int, others_with: int, others_without: int) -> None:
    targets, others = hits + misses, others_with + others_without
    having = [True] * (hits + others_with) + [False] * (misses + others_without)
    draws = [sum(drawn) >= hits for drawn in itertools.combinations(having, targets)]
    result = chance_of(hits, others_with, targets=targets, others=others)
    assert math.isclose(result, sum(draws) / len(draws), rel_tol=1e-9)
