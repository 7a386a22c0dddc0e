"""What is recorded and not yet sent: bounded in count and bytes, the oldest lost first, every loss counted."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

PLAIN_NBYTES = 560  # of a span without texts
WAKE_SHARE = 0.5  # a buffer this full is sent before the interval is over
# Whoever holds the lock may have been interrupted by a signal handler that waits for the exporter to send what is left:
# then the exporter goes on without it.
LOCK_S_MAX = 0.1


class Buffer:
    """A bounded queue between the application and the exporter.

    Most of what is recorded are spans that take ``PLAIN_NBYTES`` and are told with their duration: those lie in
    ``items`` as they are, and a deque needs no lock to take them. Whoever appends one calls ``look`` when
    ``len(items)`` has come to ``look_at``. Everything else is ``(nbytes, what, item)``.

    The lock is reentrant because a signal handler may record while the code it interrupted is recording.
    """

    def __init__(self, *, items_max: int, nbytes_max: int) -> None:
        self._items_max = items_max
        self._nbytes_max = nbytes_max
        self._lock = threading.RLock()
        self.items: deque[Any] = deque()
        self.look_at = 0
        self._beyond_in = 0  # bytes beyond ``PLAIN_NBYTES`` an item
        self._beyond_out = 0  # touched by the exporter alone
        self._is_filling = False
        self._losses: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.items)

    @property
    def nbytes(self) -> int:
        """Memory of what is held, by estimate."""
        return len(self.items) * PLAIN_NBYTES + self._beyond_in - self._beyond_out

    def append(self, nbytes: int, what: int, item: Any) -> bool:
        """Add an item, and lose the oldest where there is no room. True when it should be sent soon, as ``look``."""
        with self._lock:
            self.items.append((nbytes, what, item))
            if nbytes > PLAIN_NBYTES:
                self._beyond_in += nbytes - PLAIN_NBYTES
                self.look_at -= nbytes // PLAIN_NBYTES
            return len(self.items) >= self.look_at and self._look()

    def check(self) -> bool:
        """Lose the oldest where there is no room. True when what is there should be sent soon; that is said once
        until ``rearm``."""
        with self._lock:
            return self._look()

    def _look(self) -> bool:
        items = self.items
        if len(items) > self._items_max or self.nbytes > self._nbytes_max:
            self._make_room()
        is_filling = self._is_filling
        share = 1 if is_filling else WAKE_SHARE
        room = int(self._nbytes_max * share) - self._beyond_in + self._beyond_out
        self.look_at = min(int(self._items_max * share), room // PLAIN_NBYTES) + is_filling
        if is_filling or not self._is_full_enough():
            return False
        self._is_filling = True
        return True

    def _is_full_enough(self) -> bool:
        return len(self.items) >= self._items_max * WAKE_SHARE or self.nbytes >= self._nbytes_max * WAKE_SHARE

    def _make_room(self) -> None:
        """A hundredth more than there must be: while the server is away, not everything recorded shall take its turn
        here."""
        lost = 0
        items_max = self._items_max - self._items_max // 100
        nbytes_max = self._nbytes_max - self._nbytes_max // PLAIN_NBYTES // 100 * PLAIN_NBYTES
        while len(self.items) > items_max or (self.items and self.nbytes > nbytes_max):
            try:
                entry = self.items.popleft()
            except IndexError:  # the exporter was faster
                break
            if type(entry) is tuple:
                self._beyond_in -= _beyond(entry[0])
            lost += 1
        if lost:
            self.count_loss("buffer_full", lost)

    def take(self) -> Any:
        """The oldest entry; None when there is none. Takes no lock: the exporter never keeps the application
        waiting."""
        try:
            entry = self.items.popleft()
        except IndexError:
            return None
        if type(entry) is tuple:
            self._beyond_out += _beyond(entry[0])
        return entry

    def reset_wakeup(self) -> bool:
        """What could be sent was sent: it is told again when the buffer is filling. True when it is already, by what
        came in meanwhile."""
        is_held = self._lock.acquire(timeout=LOCK_S_MAX)
        self._is_filling = False
        self.look_at = 0
        if is_held:
            self._lock.release()
        return self._is_full_enough()

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


def _beyond(nbytes: int) -> int:
    """What an entry takes beyond a plain one. Never less than nothing: what is held beyond only falls as entries are
    taken, and ``look_at`` never comes too late."""
    return max(0, nbytes - PLAIN_NBYTES)
