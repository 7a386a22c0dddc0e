"""The memory of batch ids: what makes a repeated batch change nothing."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any

from vantage.core.batch import BATCH_ID_MEMORY_MAX, BATCH_ID_MEMORY_MS
from vantage.core.clock import Clock


class RecentBatchIds:
    """Ids committed within the last 60 minutes, a million at most; ``evicted`` counts those forgotten early."""

    def __init__(self, *, ids_max: int = BATCH_ID_MEMORY_MAX) -> None:
        self._at_ms: OrderedDict[str, int] = OrderedDict()
        self._under_way: dict[str, asyncio.Future[Any]] = {}
        self._ids_max = ids_max
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._at_ms)

    def add(self, batch_id: str, at_ms: int) -> None:
        self._at_ms[batch_id] = at_ms
        self._at_ms.move_to_end(batch_id)
        while len(self._at_ms) > self._ids_max:
            self._at_ms.popitem(last=False)
            self.evicted += 1

    def seen(self, batch_id: str, now_ms: int) -> bool:
        """Whether the id was committed within the memory's time."""
        while self._at_ms:
            first = next(iter(self._at_ms))
            if self._at_ms[first] >= now_ms - BATCH_ID_MEMORY_MS:
                break
            del self._at_ms[first]
        return batch_id in self._at_ms

    async def is_duplicate(self, batch_id: str, clock: Clock) -> bool:
        """Whether the batch was committed before; one of that id that is under way is waited for. After False the
        caller may ``begin`` the batch before anyone else can, if it awaits nothing in between."""
        while (under_way := self._under_way.get(batch_id)) is not None:
            await asyncio.wait([under_way])
            if not under_way.cancelled() and under_way.exception() is None:
                return True
        return self.seen(batch_id, clock.now_ms())

    def mark_in_flight(self, batch_id: str, done: asyncio.Future[Any]) -> None:
        """The batch is under way until ``done``, which fails when it was not committed."""
        self._under_way[batch_id] = done
        done.add_done_callback(lambda _: self._under_way.pop(batch_id, None))
