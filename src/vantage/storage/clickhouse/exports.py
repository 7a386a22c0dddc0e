"""Exports: samples and spans in batches, as the engine streams them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np

from vantage.core.batch import Batch
from vantage.core.errors import BusyError, StoreUnavailable
from vantage.core.timerange import TimeRange
from vantage.core.turns import wait_in_thread
from vantage.storage.clickhouse.engine import Engine, QueryResult
from vantage.storage.clickhouse.lookups import Lookups
from vantage.storage.clickhouse.rows import read_samples, read_spans
from vantage.storage.clickhouse.series_table import SeriesTable
from vantage.storage.ports import Selector

EXPORTS_MAX: Final = 2
EXPORTED_MAX: Final = 2000  # samples or spans per batch


class Exports:
    """Runs exports, EXPORTS_MAX at once, in threads of their own. Call it on the event loop."""

    def __init__(self, engine: Engine, lookups: Lookups, series: SeriesTable) -> None:
        self._engine = engine
        self._lookups = lookups
        self._series = series
        self._streams: ThreadPoolExecutor | None = None
        self._running = 0

    def start(self) -> None:
        """Start the threads."""
        self._streams = ThreadPoolExecutor(EXPORTS_MAX, "vantage-export")

    async def stop(self) -> None:
        """Wait for the threads to end."""
        if self._streams is not None:
            await wait_in_thread(self._streams.shutdown, wait=True, cancel_futures=True)
        self._streams = None

    async def export(self, selector: Selector, time_range: TimeRange) -> AsyncGenerator[Batch, None]:
        """Yield batches as the port says."""
        if self._streams is None:
            raise StoreUnavailable("the store is closed")
        if self._running >= EXPORTS_MAX:
            raise BusyError("other exports are running", retry_after_s=60.0)
        self._running += 1
        loop, threads = asyncio.get_running_loop(), self._streams
        samples = self._engine.stream(self._lookups.exported_samples(selector, time_range))
        spans = self._engine.stream(self._lookups.exported_spans(selector, time_range))
        try:
            # Both begin now, and do not see later writes.
            first = await loop.run_in_executor(threads, next, samples, None)
            first_spans = await loop.run_in_executor(threads, next, spans, None)
            while first is not None:
                series = await loop.run_in_executor(threads, self._series.known, first.to_list("series_id"))
                for batch in read_samples(first, series, rows_max=EXPORTED_MAX):
                    yield batch
                first = await loop.run_in_executor(threads, next, samples, None)
            while first_spans is not None:
                for batch in _span_batches(first_spans):
                    yield batch
                first_spans = await loop.run_in_executor(threads, next, spans, None)
        finally:
            self._running -= 1
            await asyncio.shield(loop.run_in_executor(threads, _close_all, [samples, spans]))


def _span_batches(result: QueryResult) -> Iterator[Batch]:
    table = read_spans(result)
    for start in range(0, len(table), EXPORTED_MAX):
        rows = np.arange(start, min(start + EXPORTED_MAX, len(table)))
        yield Batch(spans=tuple(table.spans(rows)))


def _close_all(streams: Sequence[Any]) -> None:
    for stream in streams:
        stream.close()
