"""What every query needs: the stores, the clock, limits and the cache."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from vantage.core.batch import Batch
from vantage.core.clock import Clock
from vantage.core.present import Present
from vantage.core.red_table import RedQuery, RedTable
from vantage.query.cache import Cache
from vantage.query.red_cache import read_cached
from vantage.storage.metadata.ports import MetadataReader
from vantage.storage.ports import TelemetryReader
from vantage.telemetry import Telemetry
from vantage.vql.check import check
from vantage.vql.table import Table
from vantage.vql.tree import Select


@dataclass(frozen=True, slots=True)
class QueryContext:
    """The stores to read, the clock, the limits of one query and the cache of ``cache_nbytes_max`` bytes (0: none)."""

    store: TelemetryReader
    metadata: MetadataReader
    clock: Clock
    telemetry: Telemetry
    timeout_s: float = 30.0
    rows_max: int = 10_000
    cache_nbytes_max: int = 0
    cache: Cache = field(init=False)

    def __post_init__(self) -> None:
        cache = Cache(self.cache_nbytes_max, clock=self.clock, telemetry=self.telemetry)
        object.__setattr__(self, "cache", cache)  # the dataclass is frozen

    def on_written(self, batch: Batch) -> None:
        """Drop the cached results that a committed batch changes."""
        times = [] if not batch.samples else [int(batch.time_ms.min())]
        times += [span.start_ms for span in batch.spans]
        if times:
            self.cache.invalidate_from(min(times))

    def present(self) -> Present:
        """Return the present: the clock's, and that of the data."""
        return Present(self.clock.now_ms(), self.store.newest_ms())

    async def red(self, query: RedQuery) -> RedTable | None:
        """Read rollups of requests; None where there are none for all of it. Raises what the store raises."""

        async def read(part: RedQuery) -> RedTable | None:
            return await self.store.red(part, deadline_s=self.timeout_s)

        started = time.perf_counter()
        try:
            return await read_cached(read, self.cache, query, now_ms=self.present().now_ms)
        finally:
            self.telemetry.query_duration.labels("red_rollups").observe(time.perf_counter() - started)

    async def select(self, name: str, query: Select, *, rows_max: int | None = None) -> Table:
        """Check and run a query; ``name`` labels its duration. Raises InputError and what the store raises."""
        present = self.present()
        checked = check(query, now_ms=present.clock_ms, newest_ms=present.newest_ms, rows_max=rows_max or self.rows_max)
        started = time.perf_counter()
        try:
            return await self.store.select(checked, deadline_s=self.timeout_s)
        finally:
            self.telemetry.query_duration.labels(name).observe(time.perf_counter() - started)
