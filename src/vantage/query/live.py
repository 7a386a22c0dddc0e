"""Live updates: committed batches, aggregated to one update per second, series and subscriber."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from vantage.core.batch import Batch
from vantage.core.clock import Clock
from vantage.core.series import Series
from vantage.telemetry import Telemetry

SERIES_MAX: Final = 200  # per subscriber
PENDING_MAX: Final = 600  # updates that may wait for a slow subscriber; the oldest are dropped
TICK_S: Final = 1.0
FOLLOWED_TICKS: Final = 300


@dataclass(slots=True)
class Update:
    """One second of a series: count, sum, extremes and the latest sample."""

    series: Series
    count: int
    total: float
    low: float
    high: float
    last: float
    last_ms: int
    encoded: bytes = b""  # what the web sends of it, made once for all subscribers

    def merge(self, later: Update) -> None:
        """Merge a later update into this one."""
        self.count += later.count
        self.total += later.total
        self.low, self.high = min(self.low, later.low), max(self.high, later.high)
        if later.last_ms >= self.last_ms:
            self.last, self.last_ms = later.last, later.last_ms


@dataclass(slots=True, eq=False)
class Feed:
    """What subscribers with the same selection receive, summed up once for all of them. ``service`` and ``metric``
    select series, '' any. ``series_skipped`` has the series beyond the limit."""

    service: str
    metric: str
    subscribers: set[Subscriber] = field(default_factory=set)
    current: dict[int, Update] = field(default_factory=dict)
    followed: dict[int, int] = field(default_factory=dict)  # series id: the tick of its latest sample
    ticks: int = 0
    series_skipped: set[int] = field(default_factory=set)

    def matches(self, series: Series) -> bool:
        """Return whether the feed follows a series, and start to follow it while the limit allows."""
        if self.service not in ("", series.service) or self.metric not in ("", series.metric):
            return False
        if series.id in self.followed:
            self.followed[series.id] = self.ticks
            return True
        if len(self.followed) >= SERIES_MAX:
            if len(self.series_skipped) < 10 * SERIES_MAX:
                self.series_skipped.add(series.id)
            return False
        self.followed[series.id] = self.ticks
        return True

    def tick(self) -> int:
        """Queue the updates of this second for sending. Return how many updates were dropped."""
        self.ticks += 1
        if self.ticks % FOLLOWED_TICKS == 0:  # stop following series that went silent, after a deployment for example
            oldest = self.ticks - FOLLOWED_TICKS
            self.followed = {series_id: tick for series_id, tick in self.followed.items() if tick > oldest}
            self.series_skipped.clear()
        updates = list(self.current.values())
        self.current = {}
        return sum(subscriber.queue(updates) for subscriber in self.subscribers)


@dataclass(slots=True, eq=False)
class Subscriber:
    """A live page. Without a feed it receives names of services alone.

    ``dropped`` counts updates that a slow subscriber lost. Updates are shared with others: they must not be changed.
    """

    feed: Feed | None = None
    pending: deque[Update] = field(default_factory=deque)
    services: set[str] = field(default_factory=set)
    dropped: int = 0
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def queue(self, updates: Sequence[Update]) -> int:
        """Queue updates for sending, and wake the subscriber if there is anything to send. Return how many updates
        were dropped, the oldest first."""
        self.pending.extend(updates)
        dropped = max(0, len(self.pending) - PENDING_MAX)
        for _ in range(dropped):
            self.pending.popleft()
        self.dropped += dropped
        if self.pending or self.services:
            self.wake.set()
        return dropped

    def drain(self) -> tuple[list[Update], set[str], int]:
        """Return updates to send, services that changed, and the number of updates dropped since the last call."""
        updates, services, dropped = list(self.pending), self.services, self.dropped
        self.pending.clear()
        self.services, self.dropped = set(), 0
        self.wake.clear()
        return updates, services, dropped


class LiveUpdates:
    """Hands committed batches to the subscribers; never waits for one."""

    name = "live updates"

    def __init__(self, *, clock: Clock, telemetry: Telemetry) -> None:
        self._clock = clock
        self._telemetry = telemetry
        self._feeds: dict[tuple[str, str], Feed] = {}
        self._pages: set[Subscriber] = set()

    @contextmanager
    def subscribe(self, *, service: str = "", metric: str = "") -> Iterator[Subscriber]:
        """Subscribe to the updates of series for as long as the context lasts."""
        feed = self._feeds.setdefault((service, metric), Feed(service, metric))
        subscriber = Subscriber(feed)
        feed.subscribers.add(subscriber)
        try:
            yield subscriber
        finally:
            feed.subscribers.discard(subscriber)
            if not feed.subscribers:
                del self._feeds[service, metric]

    @contextmanager
    def subscribe_to_services(self) -> Iterator[Subscriber]:
        """Subscribe to the names of services with new data for as long as the context lasts."""
        subscriber = Subscriber()
        self._pages.add(subscriber)
        try:
            yield subscriber
        finally:
            self._pages.discard(subscriber)

    def publish(self, batch: Batch) -> None:
        """Add a batch that was just committed."""
        if self._pages:
            services = {series.service for series in batch.series} | {span.service_name for span in batch.spans}
            for page in self._pages:
                page.services |= services
        updates: list[Update | None] | None = None  # computed once for all feeds
        for feed in self._feeds.values():
            for index, series in enumerate(batch.series):
                if feed.matches(series):
                    updates = _updates(batch) if updates is None else updates
                    if (update := updates[index]) is None:
                        continue
                    if current := feed.current.get(series.id):
                        current.merge(update)
                    else:
                        feed.current[series.id] = replace(update)

    def tick(self) -> None:
        """Queue the updates of this second for all subscribers."""
        dropped = sum(feed.tick() for feed in self._feeds.values())
        for page in self._pages:
            page.queue(())
        if dropped:
            self._telemetry.live_dropped.inc(dropped)

    async def run(self) -> None:
        """Tick once a second, forever."""
        while True:
            await self._clock.sleep(TICK_S)
            self.tick()


async def messages(subscriber: Subscriber, *, heartbeat_s: float) -> AsyncIterator[tuple[list[Update], set[str], int]]:
    """Yield the next message whenever there is one, an empty one after ``heartbeat_s`` seconds of silence."""
    while True:
        try:
            async with asyncio.timeout(heartbeat_s):
                await subscriber.wake.wait()
        except TimeoutError:
            pass
        yield subscriber.drain()


def _updates(batch: Batch) -> list[Update | None]:
    """Return the update of each series of a batch; None for a series without a sample."""
    updates: list[Update | None] = [None] * len(batch.series)
    for index, time_ms, value in zip(batch.index.tolist(), batch.time_ms.tolist(), batch.value.tolist(), strict=True):
        update = updates[index]
        if update is None:
            updates[index] = Update(batch.series[index], 1, value, value, value, value, time_ms)
            continue
        update.count += 1
        update.total += value
        if value < update.low:
            update.low = value
        elif value > update.high:
            update.high = value
        if time_ms >= update.last_ms:
            update.last, update.last_ms = value, time_ms
    return updates
