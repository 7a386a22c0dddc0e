"""What is recorded and not yet sent: bounded in count and bytes, the oldest lost first, every loss counted."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

WAKE_SHARE = 0.5  # a buffer this full is sent before the interval is over
# Whoever holds the lock may have been interrupted by a signal handler that waits for the exporter to send what is left:
# then the exporter goes on without it.
LOCK_S_MAX = 0.1


class Buffer:
    """A bounded queue of ``(nbytes, what, item)`` between the application and the exporter.

    The lock is reentrant because a signal handler may record while the code it interrupted is recording.
    """

    def __init__(self, *, items_max: int, nbytes_max: int) -> None:
        self._items_max = items_max
        self._nbytes_max = nbytes_max
        self._items_wake = items_max * WAKE_SHARE
        self._nbytes_wake = nbytes_max * WAKE_SHARE
        self._lock = threading.RLock()
        self._items: deque[tuple[int, int, Any]] = deque()
        self._nbytes_in = 0
        self._nbytes_out = 0  # touched by the exporter alone
        self._is_filling = False
        self._losses: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._items)

    @property
    def nbytes(self) -> int:
        """Memory of what is held, by estimate."""
        return self._nbytes_in - self._nbytes_out

    def append(self, nbytes: int, what: int, item: Any) -> bool:
        """Add an item, and lose the oldest where there is no room. True when it should be sent soon; that is said
        once until ``rearm``."""
        items = self._items
        with self._lock:
            items.append((nbytes, what, item))
            self._nbytes_in = nbytes_in = self._nbytes_in + nbytes
            if len(items) < self._items_wake and nbytes_in - self._nbytes_out < self._nbytes_wake:
                return False
            if len(items) > self._items_max or self.nbytes > self._nbytes_max:
                self._make_room()
            if self._is_filling:
                return False
            self._is_filling = True
            return True

    def _make_room(self) -> None:
        lost = 0
        while len(self._items) > self._items_max or (self._items and self.nbytes > self._nbytes_max):
            try:
                nbytes, _, _ = self._items.popleft()
            except IndexError:  # the exporter was faster
                break
            self._nbytes_in -= nbytes
            lost += 1
        if lost:
            self.count_loss("buffer_full", lost)

    def take(self) -> tuple[int, Any] | None:
        """What the oldest item is, and the item; None when there is none. Takes no lock: the exporter never keeps the
        application waiting."""
        try:
            nbytes, what, item = self._items.popleft()
        except IndexError:
            return None
        self._nbytes_out += nbytes
        return what, item

    def rearm(self) -> bool:
        """What could be sent was sent: ``append`` tells again when the buffer is filling. True when it is already, by
        what came in meanwhile."""
        self._is_filling = False
        return len(self._items) >= self._items_wake or self.nbytes >= self._nbytes_wake

    def count_loss(self, reason: str, count: int = 1) -> None:
        is_held = self._lock.acquire(timeout=LOCK_S_MAX)
        try:
            self._losses[reason] = self._losses.get(reason, 0) + count
        finally:
            if is_held:
                self._lock.release()

    def take_losses(self) -> dict[str, int]:
        """The losses since the last call; whoever takes them reports them or counts them again."""
        if not self._lock.acquire(timeout=LOCK_S_MAX):
            return {}
        try:
            losses, self._losses = self._losses, {}
            return losses
        finally:
            self._lock.release()

    def put_back_losses(self, losses: dict[str, int]) -> None:
        for reason, count in losses.items():
            self.count_loss(reason, count)
