"""What is recorded and not yet sent: bounded, the oldest lost first, every loss counted."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any


class Buffer:
    """A bounded queue of samples (tuples) and spans (dicts) between the application and the exporter.

    The lock is reentrant because a signal handler may record while the code it interrupted is recording.
    """

    def __init__(self, *, items_max: int) -> None:
        self._items_max = items_max
        self._lock = threading.RLock()
        self._items: deque[Any] = deque()
        self._losses: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._items)

    def append(self, item: Any) -> int:
        """Add an item, and lose the oldest when there is no room. Returns how many are held."""
        with self._lock:
            self._items.append(item)
            held = len(self._items)
            if held > self._items_max and self.take() is not None:
                self.count_loss("buffer_full")
                held -= 1
            return held

    def take(self) -> Any | None:
        """The oldest item, or None. Takes no lock: the exporter never keeps the application waiting."""
        try:
            return self._items.popleft()
        except IndexError:
            return None

    def count_loss(self, reason: str, count: int = 1) -> None:
        with self._lock:
            self._losses[reason] = self._losses.get(reason, 0) + count

    def take_losses(self) -> dict[str, int]:
        """The losses since the last call; whoever takes them reports them or counts them again."""
        with self._lock:
            losses, self._losses = self._losses, {}
            return losses

    def put_back_losses(self, losses: dict[str, int]) -> None:
        for reason, count in losses.items():
            self.count_loss(reason, count)
