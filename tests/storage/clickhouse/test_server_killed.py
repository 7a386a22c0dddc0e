"""A server that is killed again and again under a writer that repeats until acknowledged: everything is stored once."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.support.clickhouse_server import ClickHouseServer, running_clickhouse
from tests.support.clickhouse_stores import server_store
from tests.support.samples import HOUR_MS, NOW_MS, MovedClock, a_series, a_span
from vantage.core.batch import Batch, build_batch
from vantage.core.errors import StoreUnavailable
from vantage.core.sample import Kind
from vantage.storage.clickhouse.engine import Insert
from vantage.storage.clickhouse.store import ClickHouseStore
from vantage.storage.ports import StreamBatch
from vantage.telemetry import Telemetry

pytest.importorskip("clickhouse_driver", reason="pip install 'vantage[clickhouse]'")

LONG = bool(os.environ.get("VANTAGE_TEST_LONG"))
KILLS = 20 if LONG else 3
BATCHES = 8 * KILLS
SERIES = 20
ROWS = 5000 if LONG else 500
EXPECTED = {
    "count() FROM samples": BATCHES * ROWS,
    "uniqExact(value) FROM samples": BATCHES * ROWS,
    "sum(count) FROM rollups_5m": BATCHES * ROWS,
    "sum(count) FROM rollups_1h": BATCHES * ROWS,
    "sum(count) FROM red_5m WHERE level = 'service' AND source != 'spans'": BATCHES * ROWS,
    "sum(count) FROM red_1h WHERE level = 'service' AND source != 'spans'": BATCHES * ROWS,
    "quantileBFloat16Merge(0.5)(sketch) > 0 FROM rollups_1h": 1,
    "count() FROM spans": BATCHES,
    "uniqExact(trace_id) FROM span_times": BATCHES,
    "count() FROM batch_ids": BATCHES,
    "uniqExact(series_id) FROM series": SERIES,
}


@pytest.fixture(scope="module")
def server() -> Iterator[ClickHouseServer]:
    with running_clickhouse() as server:
        yield server


class Killer:
    """Kills the server during inserts that chance selects, ``KILLS`` of them."""

    def __init__(self, server: ClickHouseServer, store: ClickHouseStore, chance: random.Random) -> None:
        self._server = server
        self._insert = store.engine.insert
        self._thread: threading.Thread | None = None
        self._due = set(chance.sample(range(5, 3 * BATCHES), KILLS))
        self._inserts = 0
        self.kills = 0
        store.engine.insert = self.insert  # type: ignore[method-assign]

    def insert(self, insert: Insert) -> None:
        self._inserts += 1
        if self._inserts in self._due:
            self.kills += 1
            self._thread = threading.Thread(target=self._server.kill)
            self._thread.start()
        self._insert(insert)

    def restart(self) -> None:
        """Start the server again, if it was killed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self._server.start()


def a_message(number: int) -> Batch:
    """Samples of two months with distinct values, and a span."""
    series = [a_series(tags={"n": str(n)}, kind=Kind.HISTOGRAM) for n in range(SERIES)]
    times = (NOW_MS - 1000 * number, NOW_MS - 40 * 24 * HOUR_MS)
    rows = [(series[n % SERIES], times[n % 7 == 0], 1.0 + number * ROWS + n) for n in range(ROWS)]
    batch = build_batch(rows)
    span = a_span(f"t{number}")
    return Batch(batch.series, batch.index, batch.time_ms, batch.value, spans=(span,), batch_id=f"b{number}")


async def repeat_until_stored(write: Callable[[], Awaitable[object]], killer: Killer) -> None:
    while True:
        try:
            await write()
        except StoreUnavailable:
            await asyncio.to_thread(killer.restart)
        else:
            return


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["batch", "range"])
async def test_every_batch_is_stored_once(server: ClickHouseServer, tmp_path: Path, kind: str) -> None:
    seed = int(os.environ.get("VANTAGE_TEST_SEED") or time.time_ns() % 2**32)
    print(f"seed {seed}")
    url = server.new_database()
    # The kernel survives: what it has need not be on the disk.
    options = {"clock": MovedClock(), "telemetry": Telemetry(), "synchronous": "NORMAL"}
    async with server_store(url, tmp_path, **options) as store:
        killer = Killer(server, store, random.Random(seed))
        for number in range(BATCHES):
            batch = a_message(number)

            def write(batch: Batch = batch, number: int = number) -> Awaitable[object]:
                if kind == "range":
                    return store.write_range(
                        [StreamBatch(batch, 0, number, NOW_MS)], token=f"t/0/{number}", until_s=float("inf")
                    )
                return store.write(batch)

            await repeat_until_stored(write, killer)
        await asyncio.to_thread(killer.restart)
        assert killer.kills == KILLS
    database = url.rpartition("/")[2]
    counts = {text: int(server.query(f"SELECT {text.replace('FROM ', f'FROM {database}.')}")) for text in EXPECTED}
    assert counts == EXPECTED
