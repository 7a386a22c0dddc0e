"""The sink of the role ``all``: the store's own journal is the queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vantage.core.batch import Batch
from vantage.storage.ports import TelemetryStore


class StoreSink:
    """Writes to the store, and calls ``watchers`` with every batch that was not a repeat, once it is durable."""

    def __init__(self, store: TelemetryStore, watchers: Sequence[Callable[[Batch], None]] = ()) -> None:
        self._store = store
        self._watchers = watchers

    async def publish(self, batch: Batch) -> None:
        if await self._store.write(batch):
            for watch in self._watchers:
                watch(batch)
