"""What every question needs to be answered."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from vantage.core.batch import Batch
from vantage.core.clock import Clock
from vantage.query.cache import Cache
from vantage.storage.ports import MetadataStore, TelemetryStore
from vantage.telemetry import Telemetry
from vantage.vql.check import check
from vantage.vql.table import Table
from vantage.vql.tree import Select

KEPT_MAX: Final = 64
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class QueryContext:
    """The stores, the clock and the time limit of one query. ``cache_nbytes_max`` bounds ``cache``; 0: nothing is kept
    there. ``_kept``: answers by question, and when they were given (monotonic seconds)."""

    store: TelemetryStore
    metadata: MetadataStore
    clock: Clock
    telemetry: Telemetry
    timeout_s: float = 30.0
    rows_max: int = 10_000
    cache_nbytes_max: int = 0
    cache: Cache = field(init=False)
    _kept: dict[tuple[Any, ...], tuple[float, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        cache = Cache(self.cache_nbytes_max, clock=self.clock, telemetry=self.telemetry)
        object.__setattr__(self, "cache", cache)  # frozen: nobody puts another in its place

    def on_written(self, batch: Batch) -> None:
        """A batch is in the store: answers that it changes are kept no longer."""
        times = [] if not batch.samples else [int(batch.time_ms.min())]
        times += [span.start_ms for span in batch.spans]
        if times:
            self.cache.invalidate_from(min(times))

    async def select(self, name: str, query: Select, *, rows_max: int | None = None) -> Table:
        """Check and run a query; ``name`` is the label its duration is counted under. Raises what the store raises,
        and InputError from the checker."""
        checked = check(query, now_ms=self.clock.now_ms(), rows_max=rows_max or self.rows_max)
        started = time.perf_counter()
        try:
            return await self.store.select(checked, deadline_s=self.timeout_s)
        finally:
            self.telemetry.query_duration.labels(name).observe(time.perf_counter() - started)

    async def lately(self, question: tuple[Any, ...], ask: Callable[[], Awaitable[T]], *, age_s_max: float) -> T:
        """The answer to a question that is dear, and asked again whenever a live page refreshes: asked anew when the
        last answer is older than ``age_s_max``. Raises what ``ask`` raises."""
        now_s = self.clock.monotonic_s()
        given_s, answer = self._kept.get(question, (now_s - age_s_max - 1, None))
        if now_s - given_s <= age_s_max:
            found: T = answer
            return found
        fresh = await ask()
        if len(self._kept) >= KEPT_MAX:
            self._kept.clear()
        self._kept[question] = (now_s, fresh)
        return fresh
