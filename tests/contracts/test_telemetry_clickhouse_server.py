"""The telemetry contract on a ClickHouse server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.contracts.telemetry_contract import TelemetryContract
from tests.support.clickhouse_server import ClickHouseServer, running_clickhouse
from tests.support.clickhouse_stores import server_store
from tests.support.samples import MovedClock
from vantage.storage.ports import TelemetryStore
from vantage.telemetry import Telemetry

pytest.importorskip("clickhouse_driver", reason="pip install 'vantage[clickhouse]'")


@pytest.fixture(scope="module")
def server() -> Iterator[ClickHouseServer]:
    with running_clickhouse() as server:
        yield server


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


class TestClickHouseServerStore(TelemetryContract):
    @pytest.fixture
    async def store(self, server: ClickHouseServer, clock: MovedClock, tmp_path: Path) -> AsyncIterator[TelemetryStore]:
        async with server_store(server.new_database(), tmp_path, clock=clock, telemetry=Telemetry()) as store:
            yield store
