"""Live updates: committed batches, aggregated to one update a second for each series and reader."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from vantage.core.batch import Batch
from vantage.core.clock import Clock
from vantage.core.series import Series
from vantage.telemetry import Telemetry

SERIES_MAX: Final = 200  # of one reader
PENDING_MAX: Final = 600  # updates that may wait for a slow reader; the oldest are dropped
TICK_S: Final = 1.0


@dataclass(slots=True)
class Update:
    """A second of one series: number, sum, extremes, and the latest sample."""

    series: Series
    count: int
    total: float
    low: float
    high: float
    last: float
    last_ms: int

    def take(self, time_ms: int, value: float) -> None:
        self.count += 1
        self.total += value
        self.low, self.high = min(self.low, value), max(self.high, value)
        if time_ms >= self.last_ms:
            self.last, self.last_ms = value, time_ms


@dataclass(slots=True, eq=False)
class Reader:
    """Someone who listens. ``service`` and ``metric`` choose series, '' any; ``series`` False: only names of services.

    ``dropped`` counts updates that left because the reader was slow, ``left_out`` series beyond the limit.
    """

    service: str
    metric: str
    series: bool = True
    current: dict[int, Update] = field(default_factory=dict)
    pending: OrderedDict[int, Update] = field(default_factory=OrderedDict)
    followed: set[int] = field(default_factory=set)
    services: set[str] = field(default_factory=set)
    dropped: int = 0
    left_out: set[int] = field(default_factory=set)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(2**62)))

    def wants(self, one: Series) -> bool:
        if self.service not in ("", one.service) or self.metric not in ("", one.metric):
            return False
        if one.id in self.followed:
            return True
        if len(self.followed) >= SERIES_MAX:
            if len(self.left_out) < 10 * SERIES_MAX:
                self.left_out.add(one.id)
            return False
        self.followed.add(one.id)
        return True

    def tick(self) -> int:
        """Make what was gathered ready to be sent; how many updates had to be dropped."""
        for update in self.current.values():
            self.pending[next(self.numbers)] = update
        self.current = {}
        dropped = max(0, len(self.pending) - PENDING_MAX)
        for _ in range(dropped):
            self.pending.popitem(last=False)
        self.dropped += dropped
        if self.pending or self.services:
            self.wake.set()
        return dropped

    def drain(self) -> tuple[list[Update], set[str], int]:
        """Updates to send, services that changed, and how many updates were dropped since the last call."""
        updates, services, dropped = list(self.pending.values()), self.services, self.dropped
        self.pending.clear()
        self.services, self.dropped = set(), 0
        self.wake.clear()
        return updates, services, dropped


class Live:
    """Hands committed batches to the readers; never waits for one."""

    def __init__(self, *, clock: Clock, telemetry: Telemetry) -> None:
        self._clock = clock
        self._telemetry = telemetry
        self._readers: set[Reader] = set()

    @contextmanager
    def reader(self, *, service: str = "", metric: str = "", series: bool = True) -> Iterator[Reader]:
        """Listen for as long as the context lasts."""
        reader = Reader(service, metric, series)
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.discard(reader)

    def offer(self, batch: Batch) -> None:
        """Take a batch that was just committed."""
        if not self._readers:
            return
        services = {one.service for one in batch.series} | {span.service_name for span in batch.spans}
        rows: list[list[tuple[int, float]]] | None = None
        for reader in self._readers:
            if not reader.series:
                reader.services |= services
                continue
            for place, one in enumerate(batch.series):
                if reader.wants(one):
                    rows = _rows(batch) if rows is None else rows
                    _gather(reader.current, one, rows[place])

    async def run(self) -> None:
        """Tick once a second, for ever."""
        while True:
            await self._clock.sleep(TICK_S)
            for reader in list(self._readers):
                if dropped := reader.tick():
                    self._telemetry.live_dropped.inc(dropped)


async def messages(reader: Reader, *, heartbeat_s: float) -> AsyncIterator[tuple[list[Update], set[str], int]]:
    """What to send next, each time there is something; empty after ``heartbeat_s`` seconds of silence."""
    while True:
        try:
            async with asyncio.timeout(heartbeat_s):
                await reader.wake.wait()
        except TimeoutError:
            pass
        yield reader.drain()


def _rows(batch: Batch) -> list[list[tuple[int, float]]]:
    rows: list[list[tuple[int, float]]] = [[] for _ in batch.series]
    for place, time_ms, value in zip(batch.index.tolist(), batch.time_ms.tolist(), batch.value.tolist(), strict=True):
        rows[place].append((time_ms, value))
    return rows


def _gather(current: dict[int, Update], one: Series, rows: list[tuple[int, float]]) -> None:
    for time_ms, value in rows:
        held = current.get(one.id)
        if held is None:
            current[one.id] = Update(one, 1, value, value, value, value, time_ms)
        else:
            held.take(time_ms, value)
