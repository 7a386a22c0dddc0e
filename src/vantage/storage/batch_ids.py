"""The memory of batch ids: what makes a repeated batch change nothing."""

from __future__ import annotations

from collections import OrderedDict

from vantage.core.batch import BATCH_ID_MEMORY_MAX, BATCH_ID_MEMORY_MS


class BatchIds:
    """Ids committed within the last 60 minutes, a million at most; ``evicted`` counts those forgotten early."""

    def __init__(self, *, ids_max: int = BATCH_ID_MEMORY_MAX) -> None:
        self._at_ms: OrderedDict[str, int] = OrderedDict()
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
