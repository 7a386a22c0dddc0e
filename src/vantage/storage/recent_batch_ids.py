"""Recent batch ids, by which repeated batches are recognised."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any

from vantage.core.batch import BATCH_ID_MEMORY_MAX, BATCH_ID_MEMORY_MS
from vantage.core.clock import Clock


class RecentBatchIds:
    """Ids committed within the last 60 minutes, a million at most; ``evicted`` counts ids dropped before that.

    Their time passes as the monotonic clock does, from where ``start_from`` sets it: a wall clock that jumps makes no
    id older.
    """

    def __init__(self, clock: Clock, *, ids_max: int = BATCH_ID_MEMORY_MAX) -> None:
        self._clock = clock
        self._start_ms, self._start_s = clock.now_ms(), clock.monotonic_s()
        self._at_ms: OrderedDict[str, int] = OrderedDict()
        self._in_flight: dict[str, asyncio.Future[Any]] = {}
        self._ids_max = ids_max
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._at_ms)

    def start_from(self, newest_ms: int) -> None:
        """Continue from the time of the newest id, which another process committed."""
        self._start_ms, self._start_s = newest_ms, self._clock.monotonic_s()

    def now_ms(self) -> int:
        """Return the time to commit ids with. Any thread may ask."""
        return self._start_ms + round((self._clock.monotonic_s() - self._start_s) * 1000)

    def add(self, batch_id: str, at_ms: int | None = None) -> None:
        """Add an id, committed now unless ``at_ms`` says when."""
        self._at_ms[batch_id] = self.now_ms() if at_ms is None else at_ms
        self._at_ms.move_to_end(batch_id)
        while len(self._at_ms) > self._ids_max:
            self._at_ms.popitem(last=False)
            self.evicted += 1

    def ages_ms(self) -> list[tuple[str, int]]:
        """Return each id of the last 60 minutes with its age."""
        now_ms = self.now_ms()
        ages = ((batch_id, now_ms - at_ms) for batch_id, at_ms in self._at_ms.items())
        return [(batch_id, age_ms) for batch_id, age_ms in ages if age_ms <= BATCH_ID_MEMORY_MS]

    def seen(self, batch_id: str) -> bool:
        """Return whether the id was committed within the last 60 minutes."""
        oldest_ms = self.now_ms() - BATCH_ID_MEMORY_MS
        while self._at_ms:
            first = next(iter(self._at_ms))
            if self._at_ms[first] >= oldest_ms:
                break
            del self._at_ms[first]
        return batch_id in self._at_ms

    async def is_duplicate(self, batch_id: str) -> bool:
        """Return whether the batch was committed before; wait for a batch of that id in flight. After False the caller
        may call ``mark_in_flight`` before anyone else can, if it awaits nothing in between."""
        while (in_flight := self._in_flight.get(batch_id)) is not None:
            await asyncio.wait([in_flight])
            if not in_flight.cancelled() and in_flight.exception() is None:
                return True
        return self.seen(batch_id)

    def mark_in_flight(self, batch_id: str, done: asyncio.Future[Any]) -> None:
        """Mark the batch as in flight until ``done``, which fails when the batch is not committed."""
        self._in_flight[batch_id] = done
        done.add_done_callback(lambda _: self._in_flight.pop(batch_id, None))
