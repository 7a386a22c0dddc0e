"""Watching series on ClickHouse's engine: the same is noticed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from tests.query.test_anomalies import END_MS, POINTS, STEP_MS, calm, requests, watch_of, write
from tests.support.clickhouse_stores import chdb_store, copy_tables
from tests.support.samples import MovedClock
from vantage.core.timerange import TimeRange
from vantage.query.anomalies import list_anomalies, read_band
from vantage.query.anomaly_points import SeriesKey
from vantage.query.context import QueryContext
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.telemetry import Telemetry

pytest.importorskip("chdb", reason="pip install 'vantage[chdb]'")


@pytest.fixture
async def context(tmp_path: Path) -> AsyncIterator[QueryContext]:
    clock = MovedClock(END_MS + 61_000)
    telemetry = Telemetry()
    copy_tables(tmp_path)
    async with (
        MemoryMetadataStore(clock) as metadata,
        chdb_store(tmp_path, clock=clock, telemetry=telemetry) as store,
    ):
        yield QueryContext(store, metadata, clock, telemetry)


async def test_an_incident_and_errors_are_noticed(context: QueryContext) -> None:
    values = calm()
    values[-30:-20] = 400
    await write(context, "shop", "queue.depth", values, unit="jobs")
    count = np.random.default_rng(4).poisson(30, POINTS)
    failed = np.zeros(POINTS, np.int64)
    failed[-100:-90] = count[-100:-90] // 2
    await requests(context, "shop", count, failed)
    await watch_of(context).advance()
    by_figure = {row.figure: row for row in await list_anomalies(context)}
    assert by_figure["metric"].start_ms == END_MS - 30 * STEP_MS
    assert by_figure["errors"].start_ms == END_MS - 100 * STEP_MS
    key = SeriesKey("shop", "metric", "queue.depth")
    band = await read_band(context, key, TimeRange(END_MS - 3_600_000, END_MS))
    assert np.isfinite(band.low).all()
