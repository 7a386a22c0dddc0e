"""Means and quantiles of numbers near the end of what a float holds: their sums and distances have no float."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.samples import NOW_MS, MovedClock, a_batch, a_series
from vantage.core.timerange import TimeRange
from vantage.query.context import QueryContext
from vantage.query.timeseries import timeseries
from vantage.query.timeseries_query import TimeseriesQuery
from vantage.query.vql import run_vql
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.telemetry import Telemetry

START_MS = NOW_MS // 600_000 * 600_000 - 1_200_000
MINUTE_MS = 60_000


@pytest.fixture(params=["head", "segments"])
async def context(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[QueryContext]:
    clock = MovedClock()
    async with (
        EmbeddedStore(tmp_path, clock=clock, telemetry=Telemetry()) as store,
        MemoryMetadataStore(clock) as metadata,
    ):
        values = {"huge": [1.5e308] * 3, "low": [-1.5e308] * 3, "wide": [-1.7e308, 1.7e308, 1.7e308], "usual": [1.0, 3]}
        for metric, numbers in values.items():
            await store.write(a_batch(*numbers, series=a_series(metric=metric), at_ms=START_MS))
        if request.param == "segments":
            await store.seal()
        yield QueryContext(store, metadata, clock, Telemetry())


@pytest.mark.parametrize(
    ("item", "metric", "expected"),
    [
        ("avg(value)", "huge", 1.5e308),
        ("avg(value)", "low", -1.5e308),
        ("avg(value)", "usual", 2.0),
        ("avgIf(value, value > 0)", "wide", 1.7e308),
        ("sum(value)", "huge", None),
        ("quantile(0.25)(value)", "wide", 0.0),
        ("median(value)", "wide", 1.7e308),
    ],
)
async def test_an_overflow_is_null_only_where_the_result_has_no_float(
    context: QueryContext, item: str, metric: str, expected: float | None
) -> None:
    query = f"SELECT {item} AS x FROM metrics WHERE metric_name = '{metric}'"
    assert list((await run_vql(context, query, {})).table.rows()) == [(expected,)]


@pytest.mark.parametrize("step_ms", [MINUTE_MS, 5 * MINUTE_MS])
async def test_means_of_a_timeseries_are_never_lost_to_their_sum(context: QueryContext, step_ms: int) -> None:
    for metric, expected in (("huge", 1.5e308), ("low", -1.5e308), ("usual", 2.0)):
        query = TimeseriesQuery("api", metric, TimeRange(START_MS, START_MS + 10 * MINUTE_MS), "avg", step_ms)
        result = await timeseries(context, query)
        assert [point for point in result.groups[0].points if point is not None] == [expected]
        is_rolled_up = step_ms == 5 * MINUTE_MS and metric == "usual"
        assert result.source == ("5m" if is_rolled_up else "raw")
