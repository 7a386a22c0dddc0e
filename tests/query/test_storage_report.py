"""What takes the space, and what grows, by service, metric and tier."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.context_writes import write_batch
from tests.support.samples import HOUR_MS, NOW_MS, MovedClock, a_batch, a_series, a_span
from vantage.core.batch import Batch
from vantage.query.context import QueryContext
from vantage.query.storage_report import read_storage_report
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.telemetry import Telemetry


@pytest.fixture
async def context(tmp_path: Path) -> AsyncIterator[QueryContext]:
    clock = MovedClock()
    async with EmbeddedStore(tmp_path, clock=clock, telemetry=Telemetry()) as store:
        yield QueryContext(store, MemoryMetadataStore(clock), clock, Telemetry())


async def test_usage_is_reported_by_service_metric_and_tier(context: QueryContext) -> None:
    store = context.store
    assert isinstance(store, EmbeddedStore)
    for n in range(3):
        await store.write(a_batch(*[0.123 * n] * 1000, series=a_series("big", tags={"n": str(n)})))
    await store.write(a_batch(1.0, 2.0, series=a_series("small", "other")))
    await store.write(Batch(spans=(a_span(service="big"), a_span("t2", service="small"))))
    await store.seal()
    usage = (await read_storage_report(context)).usage
    rows = {(row.service, row.metric, row.tier): row for row in usage.rows}
    assert (rows["big", "m", "samples"].items, rows["big", "m", "samples"].series) == (3000, 3)
    assert rows["small", "other", "samples"].items == 2
    assert rows["big", "", "spans"].items == rows["small", "", "spans"].items == 1
    assert rows["big", "m", "rollups"].nbytes > 0
    assert all(row.nbytes > 0 for row in usage.rows)
    assert [row.nbytes for row in usage.rows] == sorted((row.nbytes for row in usage.rows), reverse=True)
    recorded = sum(row.nbytes for row in usage.rows)
    assert recorded <= usage.files["samples"] + usage.files["rollups"]
    assert usage.memory_nbytes == 0


async def test_what_is_not_sealed_counts_as_memory_and_still_grows(context: QueryContext) -> None:
    await write_batch(context, a_batch(*[1.0] * 500))
    result = await read_storage_report(context)
    assert result.usage.rows == ()
    assert result.usage.memory_nbytes > 0
    ((growing),) = result.growing
    assert (growing.service, growing.metric, growing.samples, growing.nbytes) == ("api", "m", 500, None)


async def test_the_series_that_grow_fastest_come_first_and_the_old_do_not_count(context: QueryContext) -> None:
    store = context.store
    assert isinstance(store, EmbeddedStore)
    await store.write(a_batch(*[1.0] * 900, series=a_series("old"), at_ms=NOW_MS - 40 * HOUR_MS))
    await store.write(a_batch(*[1.0] * 50, series=a_series("slow")))
    await store.write(a_batch(*[1.0] * 300, series=a_series("fast", tags={"k": "v"})))
    await store.seal()
    result = await read_storage_report(context)
    assert [(growing.service, growing.samples) for growing in result.growing] == [("fast", 300), ("slow", 50)]
    assert result.growing[0].tags == {"k": "v"}
    assert all(growing.nbytes for growing in result.growing)
    assert {(row.service, row.new, row.series) for row in result.new_series} == {("fast", 1, 1), ("slow", 1, 1)}
