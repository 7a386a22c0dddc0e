"""The service map: calls between services, in figures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tests.support.context_writes import write_batch
from tests.support.samples import NOW_MS, MovedClock, a_span
from vantage.core.batch import Batch
from vantage.core.span import Span, SpanKind, SpanStatus
from vantage.core.timerange import TimeRange
from vantage.query.context import QueryContext
from vantage.query.service_map import EDGES_MAX, RECENT_MS, RECENT_TTL_S, read_service_map, recent_service_map
from vantage.storage.memory import MemoryStore
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.telemetry import Telemetry

BUCKET_MS = 300_000
MINUTE = TimeRange(NOW_MS - 60_000, NOW_MS)
SECONDS = NOW_MS % BUCKET_MS / 1000  # of the bucket that is not over


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
async def context(clock: MovedClock) -> AsyncIterator[QueryContext]:
    async with MemoryMetadataStore(clock) as metadata:
        yield QueryContext(MemoryStore(clock=clock), metadata, clock, Telemetry(), cache_nbytes_max=1 << 20)


def client(span_id: str, service: str, peer: str) -> Span:
    attributes = {"peer.service": peer}
    start_ns = (NOW_MS - 1000) * 1_000_000
    return Span("t1", span_id, service, "call", start_ns, 2_000_000, kind=SpanKind.CLIENT, attributes=attributes)


async def write(context: QueryContext, *spans: Span) -> None:
    await write_batch(context, Batch(spans=spans))


async def test_calls_have_a_rate_an_error_ratio_and_durations(context: QueryContext) -> None:
    called = [
        a_span(span_id=f"c{i}", parent="a", service="api", duration_ms=i,
               status=SpanStatus.ERROR if i == 1 else SpanStatus.OK)
        for i in (1, 2, 3)
    ]  # fmt: skip
    await write(context, a_span(span_id="a", service="web"), *called)
    (call,) = (await read_service_map(context, MINUTE)).calls
    assert (call.caller, call.callee, call.kind, call.is_known) == ("web", "api", "call", True)
    assert (call.calls, call.calls_per_s, call.error_ratio) == (3, 3 / SECONDS, 1 / 3)
    assert (call.mean_ms, call.max_ms) == (2.0, 3.0)


async def test_the_busiest_comes_first(context: QueryContext) -> None:
    await write(context, client("1", "a", "x"), client("2", "b", "x"), client("3", "b", "x"), client("4", "a", "w"))
    result = await read_service_map(context, MINUTE)
    assert [(call.caller, call.callee) for call in result.calls] == [("b", "x"), ("a", "w"), ("a", "x")]


async def test_a_service_has_callers_and_callees(context: QueryContext) -> None:
    await write(context, client("1", "a", "b"), client("2", "b", "c"), client("3", "a", "c"))
    result = await read_service_map(context, MINUTE, service="b")
    assert [call.caller for call in result.callers_of("b")] == ["a"]
    assert [call.callee for call in result.callees_of("b")] == ["c"]
    assert len(result.calls) == 2


async def test_a_callee_with_stored_spans_is_known(context: QueryContext) -> None:
    await write(context, client("1", "a", "b"), client("2", "b", "postgresql"))
    result = await read_service_map(context, MINUTE)
    assert {call.callee: call.is_known for call in result.calls} == {"b": True, "postgresql": False}


async def test_edges_beyond_the_limit_are_counted(context: QueryContext) -> None:
    await write(context, *(client(str(i), "a", f"10.0.{i // 250}.{i % 250}") for i in range(EDGES_MAX + 7)))
    result = await read_service_map(context, MINUTE)
    assert (len(result.calls), result.omitted) == (EDGES_MAX, 7)


async def test_pages_share_a_recent_map_until_it_expires(context: QueryContext, clock: MovedClock) -> None:
    context = replace(context, cache_nbytes_max=1 << 20)

    async def callees() -> list[str]:
        return [call.callee for call in (await recent_service_map(context, service="a")).calls]

    assert await callees() == []
    await write(context, client("1", "a", "x"))
    clock.now += int(RECENT_TTL_S * 1000) - 1
    assert await callees() == []
    clock.now += 1
    assert await callees() == ["x"]
    clock.now += RECENT_MS + BUCKET_MS
    assert await callees() == []


async def test_the_latest_edges_have_the_rate_of_their_minutes(context: QueryContext) -> None:
    await write(context, client("1", "a", "x"))
    (call,) = (await recent_service_map(context, service="a")).calls
    start_ms = (NOW_MS - RECENT_MS) // BUCKET_MS * BUCKET_MS
    assert call.calls_per_s == 1000 / (NOW_MS + 1 - start_ms)


async def test_without_spans_nobody_calls_anybody(context: QueryContext) -> None:
    assert (await read_service_map(context, MINUTE)).calls == ()
