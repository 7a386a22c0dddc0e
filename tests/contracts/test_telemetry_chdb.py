"""The telemetry contract on ClickHouse's engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contracts.telemetry_contract import TelemetryContract
from tests.support.clickhouse_stores import chdb_store, copy_tables
from tests.support.samples import MovedClock
from vantage.storage.ports import TelemetryStore
from vantage.telemetry import Telemetry

pytest.importorskip("chdb", reason="pip install 'vantage[chdb]'")


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


class TestClickHouseStore(TelemetryContract):
    @pytest.fixture
    async def store(self, clock: MovedClock, tmp_path: Path) -> AsyncIterator[TelemetryStore]:
        copy_tables(tmp_path)
        async with chdb_store(tmp_path, clock=clock, telemetry=Telemetry()) as store:
            yield store
