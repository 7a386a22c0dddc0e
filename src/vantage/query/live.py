"""Live updates: committed batches, aggregated to one update a second for each series and reader."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from vantage.core.batch import Batch
from vantage.core.clock import Clock
from vantage.core.series import Series
from vantage.telemetry import Telemetry

SERIES_MAX: Final = 200  # of one reader
PENDING_MAX: Final = 600  # updates that may wait for a slow reader; the oldest are dropped
TICK_S: Final = 1.0
FOLLOWED_TICKS: Final = 300


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

    def take(self, later: Update) -> None:
        """Add what came after."""
        self.count += later.count
        self.total += later.total
        self.low, self.high = min(self.low, later.low), max(self.high, later.high)
        if later.last_ms >= self.last_ms:
            self.last, self.last_ms = later.last, later.last_ms


@dataclass(slots=True, eq=False)
class Subscriber:
    """Someone who listens. ``service`` and ``metric`` choose series, '' any; ``series`` False: only names of services.

    ``dropped`` counts updates that left because the reader was slow, ``left_out`` series beyond the limit.
    """

    service: str
    metric: str
    series: bool = True
    current: dict[int, Update] = field(default_factory=dict)
    pending: OrderedDict[int, Update] = field(default_factory=OrderedDict)
    followed: dict[int, int] = field(default_factory=dict)  # series, and the tick at which each last had a sample
    ticks: int = 0
    services: set[str] = field(default_factory=set)
    dropped: int = 0
    series_skipped: set[int] = field(default_factory=set)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(2**62)))

    def matches(self, one: Series) -> bool:
        if self.service not in ("", one.service) or self.metric not in ("", one.metric):
            return False
        if one.id in self.followed:
            self.followed[one.id] = self.ticks
            return True
        if len(self.followed) >= SERIES_MAX:
            if len(self.series_skipped) < 10 * SERIES_MAX:
                self.series_skipped.add(one.id)
            return False
        self.followed[one.id] = self.ticks
        return True

    def tick(self) -> int:
        """Make what was gathered ready to be sent; how many updates had to be dropped."""
        self.ticks += 1
        if self.ticks % FOLLOWED_TICKS == 0:  # a series that fell silent, after a deployment say, makes room
            self.followed = {one: seen for one, seen in self.followed.items() if seen > self.ticks - FOLLOWED_TICKS}
            self.series_skipped.clear()
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


class LiveUpdates:
    """Hands committed batches to the readers; never waits for one."""

    def __init__(self, *, clock: Clock, telemetry: Telemetry) -> None:
        self._clock = clock
        self._telemetry = telemetry
        self._readers: set[Subscriber] = set()

    @contextmanager
    def subscribe(self, *, service: str = "", metric: str = "", series: bool = True) -> Iterator[Subscriber]:
        """Listen for as long as the context lasts."""
        reader = Subscriber(service, metric, series)
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.discard(reader)

    def publish(self, batch: Batch) -> None:
        """Take a batch that was just committed."""
        if not self._readers:
            return
        services = {one.service for one in batch.series} | {span.service_name for span in batch.spans}
        updates: list[Update | None] | None = None  # made once, however many readers there are
        for reader in self._readers:
            if not reader.series:
                reader.services |= services
                continue
            for place, one in enumerate(batch.series):
                if reader.matches(one):
                    updates = _updates(batch) if updates is None else updates
                    if (update := updates[place]) is None:
                        continue
                    if held := reader.current.get(one.id):
                        held.take(update)
                    else:
                        reader.current[one.id] = replace(update)

    async def run(self) -> None:
        """Tick once a second, for ever."""
        while True:
            await self._clock.sleep(TICK_S)
            for reader in list(self._readers):
                if dropped := reader.tick():
                    self._telemetry.live_dropped.inc(dropped)


async def messages(reader: Subscriber, *, heartbeat_s: float) -> AsyncIterator[tuple[list[Update], set[str], int]]:
    """What to send next, each time there is something; empty after ``heartbeat_s`` seconds of silence."""
    while True:
        try:
            async with asyncio.timeout(heartbeat_s):
                await reader.wake.wait()
        except TimeoutError:
            pass
        yield reader.drain()


def _updates(batch: Batch) -> list[Update | None]:
    """What a batch says of each of its series; None where it holds no sample of one."""
    found: list[Update | None] = [None] * len(batch.series)
    for place, time_ms, value in zip(batch.index.tolist(), batch.time_ms.tolist(), batch.value.tolist(), strict=True):
        held = found[place]
        if held is None:
            found[place] = Update(batch.series[place], 1, value, value, value, value, time_ms)
            continue
        held.count += 1
        held.total += value
        if value < held.low:
            held.low = value
        elif value > held.high:
            held.high = value
        if time_ms >= held.last_ms:
            held.last, held.last_ms = value, time_ms
    return found
