"""Live updates: committed batches, aggregated to one update per second, series and subscriber."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import structlog

from vantage.core.batch import Batch
from vantage.core.clock import Clock
from vantage.core.errors import VantageError
from vantage.core.live_update import Update, decode_updates, services_of, updates_of
from vantage.core.series import Series
from vantage.telemetry import Telemetry

SERIES_MAX: Final = 200  # per subscriber
PENDING_MAX: Final = 600  # updates that may wait for a slow subscriber; the oldest are dropped
TICK_S: Final = 1.0
EVERYTHING: Final = "*"  # in place of the names of services
FOLLOWED_TICKS: Final = 300
FOLLOW_S: Final = 0.5
FOLLOW_AGAIN_S: Final = 2.0
_log = structlog.get_logger("vantage.query.live")


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

    def wants(self, series: Series) -> bool:
        """Return whether the feed selects a series."""
        return self.service in ("", series.service) and self.metric in ("", series.metric)

    def matches(self, series: Series) -> bool:
        """Return whether the feed follows a series, and start to follow it while the limit allows."""
        if not self.wants(series):
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
    only_heartbeats: bool = False  # nobody reads the names of services
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def queue(self, updates: Sequence[Update]) -> int:
        """Queue updates for sending, and wake the subscriber if there is anything to send. Return how many updates
        were dropped, the oldest first."""
        self.pending.extend(updates)
        dropped = max(0, len(self.pending) - PENDING_MAX)
        for _ in range(dropped):
            self.pending.popleft()
        self.dropped += dropped
        if self.pending or (self.services and not self.only_heartbeats):
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
        self.ticks = 0  # how often subscribers were notified of changes, once a second
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
    def subscribe_to_services(self, subscriber: Subscriber | None = None) -> Iterator[Subscriber]:
        """Subscribe to the names of services with new data for as long as the context lasts. Where no ``subscriber`` is
        given, the first is EVERYTHING: there may be changes since the page was rendered."""
        subscriber = subscriber or Subscriber(services={EVERYTHING})
        self._pages.add(subscriber)
        try:
            yield subscriber
        finally:
            self._pages.discard(subscriber)

    def publish(self, batch: Batch) -> None:
        """Add a batch that was just committed."""
        if self._pages:
            self._note_services(services_of([batch]))
        if any(feed.wants(series) for feed in self._feeds.values() for series in batch.series):
            self.add(updates_of([batch]))

    def add(self, updates: Sequence[Update], services: AbstractSet[str] = frozenset()) -> None:
        """Add what came of series, and names of services with new data."""
        if services:
            self._note_services(services)
        for feed in self._feeds.values():
            for update in updates:
                if feed.matches(update.series):
                    if current := feed.current.get(update.series.id):
                        current.merge(update)
                    else:
                        feed.current[update.series.id] = replace(update)

    def _note_services(self, services: AbstractSet[str]) -> None:
        for page in self._pages:
            page.services |= services

    def tick(self) -> None:
        """Queue the updates of this second for all subscribers."""
        self.ticks += 1
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


class LiveSource(Protocol):
    """Where other processes tell what they stored."""

    async def read(self, timeout_s: float) -> Sequence[bytes]:
        """Return the next messages, none after ``timeout_s``. Raises UnavailableError."""
        ...


class LiveFollower:
    """Hands what other processes stored to the subscribers of this one."""

    name = "live follower"

    def __init__(self, source: LiveSource, live: LiveUpdates, *, clock: Clock) -> None:
        self._source = source
        self._live = live
        self._clock = clock

    async def run(self) -> None:
        """Follow until cancelled. While the broker is away there are no live updates."""
        failing = ""
        while True:
            try:
                values = await self._source.read(FOLLOW_S)
            except VantageError as error:
                if str(error) != failing:
                    failing = str(error)
                    _log.warning("no live updates", reason=failing)
                await self._clock.sleep(FOLLOW_AGAIN_S)
                continue
            failing = ""
            for value in values:
                try:
                    self._live.add(*decode_updates(value))
                except ValueError as error:
                    _log.warning("a live update cannot be read", reason=str(error))
                await asyncio.sleep(0)


async def messages(subscriber: Subscriber, *, heartbeat_s: float) -> AsyncIterator[tuple[list[Update], set[str], int]]:
    """Yield the next message whenever there is one, an empty one after ``heartbeat_s`` seconds of silence."""
    while True:
        try:
            async with asyncio.timeout(heartbeat_s):
                await subscriber.wake.wait()
        except TimeoutError:
            pass
        yield subscriber.drain()
