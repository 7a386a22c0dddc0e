"""A clock that fell back hides nothing: neither from queries without an upper bound, nor from ranges that end now."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.samples import NOW_MS, MovedClock, a_series
from vantage.core.batch import build_batch
from vantage.core.timerange import TimeRange
from vantage.query.context import QueryContext
from vantage.query.timeseries import timeseries
from vantage.query.timeseries_query import TimeseriesQuery
from vantage.query.vql import run_vql
from vantage.storage.memory import MemoryStore
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.telemetry import Telemetry
from vantage.web.pages.ranges import page_range

DAY_MS = 86_400_000
COUNT = "SELECT count() AS n FROM metrics"


@pytest.fixture
async def context() -> AsyncIterator[QueryContext]:
    """Data of the last day by a right clock, and a clock that is a day behind."""
    clock = MovedClock()
    async with MemoryMetadataStore(clock) as metadata:
        context = QueryContext(MemoryStore(clock=clock), metadata, clock, Telemetry())
        rows = [(a_series(), NOW_MS - hour * 3_600_000 - 1, 1.0) for hour in range(24)]
        await context.store.write(build_batch(rows))  # type: ignore[attr-defined]
        clock.now -= DAY_MS
        yield context


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("", 1),  # the last hour
        (" WHERE timestamp >= '2020-01-01'", 24),
        (" WHERE timestamp >= now() - INTERVAL 1 HOUR", 24),
    ],
)
async def test_a_query_without_an_upper_bound_has_the_newest_data(context: QueryContext, where: str, rows: int) -> None:
    result = await run_vql(context, COUNT + where, {})
    assert list(result.table.rows()) == [(rows,)]
    assert result.time_range.end_ms == NOW_MS
    assert "ahead of the server's clock" in result.warnings[-1]


async def test_a_query_with_an_upper_bound_keeps_it(context: QueryContext) -> None:
    result = await run_vql(context, f"{COUNT} WHERE timestamp >= '2020-01-01' AND timestamp <= now()", {})
    assert list(result.table.rows()) == [(0,)]
    assert result.warnings == ()


async def test_the_default_range_of_pages_ends_at_the_newest_data_and_charts_say_so(context: QueryContext) -> None:
    time_range = page_range(preset="1h", start="", end="", now_ms=context.present().now_ms).time_range
    assert time_range == TimeRange(NOW_MS - 3_600_000, NOW_MS)
    query = TimeseriesQuery(service="api", metric=a_series().metric, time_range=time_range, agg="count", step_ms=None)
    result = await timeseries(context, query)
    assert result.groups[0].points[-1] == 1, "the range is widened to whole steps"
    assert "ahead of the server's clock" in result.warnings[-1]


async def test_one_host_whose_clock_is_a_little_ahead_moves_no_page(context: QueryContext) -> None:
    context.clock.now += DAY_MS - 120_000  # type: ignore[attr-defined]
    assert context.present().now_ms == context.clock.now_ms()
    assert list((await run_vql(context, f"{COUNT} WHERE timestamp >= '2020-01-01'", {})).table.rows()) == [(24,)]
    assert context.present().warning == ""
