"""An embedded store in a folder of the test's own, opened as often as it likes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.samples import MovedClock
from vantage.storage.embedded.store import EmbeddedStore
from vantage.telemetry import Telemetry


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
def opened(tmp_path: Path, clock: MovedClock) -> Callable[..., Any]:
    """``async with opened(**options) as store``, always on the same folder ``data``."""

    @asynccontextmanager
    async def open_store(**options: Any) -> AsyncIterator[EmbeddedStore]:
        async with EmbeddedStore(tmp_path / "data", clock=clock, telemetry=Telemetry(), **options) as store:
            yield store

    return open_store
