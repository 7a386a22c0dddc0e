"""Work on the tables in the background: edges are counted, and what an earlier version did not write is filled in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import structlog

from vantage.core.clock import Clock
from vantage.core.rollup import FIVE_MINUTES_MS
from vantage.core.timerange import TimeRange
from vantage.storage.clickhouse.edges import SETTLE_MS, EdgeTable
from vantage.storage.clickhouse.filling import Filler, What

INTERVAL_S: Final = 60.0
PAUSE_S: Final = 2.0  # between two pieces of work, so that requests and queries come first

_log = structlog.get_logger("vantage.storage.clickhouse")


class Upkeep:
    """One piece of work at a time. ``in_thread`` runs a function beside the commits, ``between_commits`` between two of
    this process; ``deletions`` counts what this process deleted."""

    def __init__(
        self,
        edges: EdgeTable,
        filler: Filler,
        *,
        clock: Clock,
        now_ms: Callable[[], int],
        in_thread: Callable[[Callable[[], Any]], Awaitable[Any]],
        between_commits: Callable[[Callable[[], Any]], Awaitable[Any]],
        deletions: Callable[[], int],
    ) -> None:
        self._edges = edges
        self._filler = filler
        self._clock = clock
        self._now_ms = now_ms
        self._in_thread = in_thread
        self._between_commits = between_commits
        self._deletions = deletions
        self.since_ms: dict[str, int] = {}  # see ``Filler.since``

    def load(self) -> None:
        """Read up to when something is missing. Blocks."""
        self.since_ms = self._filler.since()

    async def step(self, *, raw_since_ms: int) -> bool:
        """Do one piece of work, and return whether there may be more. Raises what the engine raises."""
        since_ms = self.since_ms.get("edges", 0)
        start_ms = max(since_ms + 1 if since_ms else 0, raw_since_ms)
        start_ms = -(-start_ms // FIVE_MINUTES_MS) * FIVE_MINUTES_MS
        now_ms = self._now_ms()
        if now_ms - SETTLE_MS > start_ms:
            of_all = TimeRange(start_ms, now_ms)
            ended_ms = now_ms - SETTLE_MS
            if await self._in_thread(lambda: self._edges.count_again(of_all, clock=self._clock, ended_ms=ended_ms)):
                return True
        return await self._fill("edges") or await self._fill("red")

    async def _fill(self, what: What) -> bool:
        """Fill in one hour. Returns False when nothing is missing."""
        since_ms = self.since_ms.get(what, 0)
        if not since_ms:
            return False
        hour = await self._in_thread(lambda: self._filler.next_hour(what, since_ms))
        if hour is not None and not await (self._edge_hour(hour) if what == "edges" else self._red_hour(hour)):
            return True  # data came meanwhile
        self.since_ms[what] = 0 if hour is None else hour.start_ms - 1
        await self._in_thread(lambda: self._filler.note_since(what, self.since_ms[what]))
        _log.info("filled in", what=what, since_ms=self.since_ms[what])
        return True

    async def _edge_hour(self, hour: TimeRange) -> bool:
        def count() -> bool:
            self._edges.add_buckets(hour)
            self._edges.count_again(hour, clock=self._clock)
            return True

        return bool(await self._in_thread(count))

    async def _red_hour(self, hour: TimeRange) -> bool:
        deletions = self._deletions()
        prepared = await self._in_thread(lambda: self._filler.prepare(hour, now_ms=self._now_ms()))
        return bool(
            await self._between_commits(lambda: deletions == self._deletions() and self._filler.insert(prepared))
        )


class KeepsUp(Protocol):
    """A store with work in the background."""

    async def keep_up(self) -> bool:
        """Do one piece of it; return whether there may be more."""
        ...


class UpkeepLoop:
    """Does the work of a store in the background, a piece at a time."""

    name = "upkeep"

    def __init__(self, store: KeepsUp, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def run(self) -> None:
        more = True
        while True:
            await self._clock.sleep(PAUSE_S if more else INTERVAL_S)
            more = await self._store.keep_up()
