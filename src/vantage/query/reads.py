"""What every question needs to be answered."""

from __future__ import annotations

import time
from dataclasses import dataclass

from vantage.core.clock import Clock
from vantage.storage.ports import MetadataStore, TelemetryStore
from vantage.telemetry import Telemetry
from vantage.vql.check import check
from vantage.vql.table import Table
from vantage.vql.tree import Select


@dataclass(frozen=True, slots=True)
class Reads:
    """The stores, the clock and the time limit of one query."""

    store: TelemetryStore
    metadata: MetadataStore
    clock: Clock
    telemetry: Telemetry
    timeout_s: float = 30.0
    rows_max: int = 10_000

    async def select(self, name: str, query: Select, *, rows_max: int | None = None) -> Table:
        """Check and run a query; ``name`` is the label its duration is counted under. Raises what the store raises,
        and InputError from the checker."""
        checked = check(query, now_ms=self.clock.now_ms(), rows_max=rows_max or self.rows_max)
        started = time.perf_counter()
        try:
            return await self.store.select(checked, deadline_s=self.timeout_s)
        finally:
            self.telemetry.query_duration.labels(name).observe(time.perf_counter() - started)
