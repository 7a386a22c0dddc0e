"""The telemetry contract on every implementation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contracts.telemetry_contract import TelemetryContract
from tests.support.samples import MovedClock
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.memory import MemoryStore
from vantage.storage.ports import TelemetryStore
from vantage.telemetry import Telemetry


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


class TestMemoryStore(TelemetryContract):
    @pytest.fixture
    async def store(self, clock: MovedClock) -> AsyncIterator[TelemetryStore]:
        async with MemoryStore(clock=clock) as store:
            yield store


class TestEmbeddedStore(TelemetryContract):
    @pytest.fixture
    async def store(self, clock: MovedClock, tmp_path: Path) -> AsyncIterator[TelemetryStore]:
        async with EmbeddedStore(tmp_path, clock=clock, telemetry=Telemetry()) as store:
            yield store
