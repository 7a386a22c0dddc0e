"""The buffer of items to send: bounded in count and bytes, the oldest dropped first, every loss counted."""

from __future__ import annotations

from collections import deque
from typing import Any

from vantage_agent._native import new_rlock

PLAIN_NBYTES = 560  # of a span without texts of its own
WAKE_SHARE = 0.5  # a buffer this full is sent before the interval ends
# The owner of the lock may be interrupted by a signal handler that waits for the exporter to send the rest: then the
# exporter goes on without the lock.
LOCK_S_MAX = 0.1


class Buffer:
    """A bounded queue between the application and the exporter.

    Most items are spans that take ``PLAIN_NBYTES`` and are sent with a sample of their duration: they are in ``items``
    as they are, since appending to a deque needs no lock. After appending, call ``check()`` once
    ``len(items) >= check_at_len``. Everything else is ``(nbytes, what, item)``.

    The lock is reentrant because a signal handler may record while the code it interrupted is recording.
    """

    def __init__(self, *, items_max: int, nbytes_max: int) -> None:
        self._items_max = items_max
        self._nbytes_max = nbytes_max
        self._lock = new_rlock()
        self.items: deque[Any] = deque()
        self.check_at_len = 0
        self._extra_in = 0  # bytes beyond ``PLAIN_NBYTES`` an item
        self._extra_out = 0  # used by the exporter alone
        self._is_filling = False
        self._losses: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.items)

    @property
    def nbytes(self) -> int:
        """Estimated memory of the items."""
        return len(self.items) * PLAIN_NBYTES + self._extra_in - self._extra_out

    def append(self, nbytes: int, what: int, item: Any) -> bool:
        """Add an item, and drop the oldest when the buffer is full. Return as ``check``."""
        with self._lock:
            self.items.append((nbytes, what, item))
            if nbytes > PLAIN_NBYTES:
                self._extra_in += nbytes - PLAIN_NBYTES
                self.check_at_len -= nbytes // PLAIN_NBYTES
            return len(self.items) >= self.check_at_len and self._check()

    def check(self) -> bool:
        """Drop the oldest items when the buffer is full. Return whether to send soon: True once until
        ``reset_wakeup``."""
        with self._lock:
            return self._check()

    def _check(self) -> bool:
        items = self.items
        if len(items) > self._items_max or self.nbytes > self._nbytes_max:
            self._make_room()
        is_filling = self._is_filling
        share = 1 if is_filling else WAKE_SHARE
        free_nbytes = int(self._nbytes_max * share) - self._extra_in + self._extra_out
        self.check_at_len = min(int(self._items_max * share), free_nbytes // PLAIN_NBYTES) + is_filling
        if is_filling or not self._is_full_enough():
            return False
        self._is_filling = True
        return True

    def _is_full_enough(self) -> bool:
        return len(self.items) >= self._items_max * WAKE_SHARE or self.nbytes >= self._nbytes_max * WAKE_SHARE

    def _make_room(self) -> None:
        """Drop a hundredth more than needed, so that this does not run for every item while the server is away."""
        dropped = 0
        items_max = self._items_max - self._items_max // 100
        nbytes_max = self._nbytes_max - self._nbytes_max // PLAIN_NBYTES // 100 * PLAIN_NBYTES
        while len(self.items) > items_max or (self.items and self.nbytes > nbytes_max):
            try:
                entry = self.items.popleft()
            except IndexError:  # the exporter took it
                break
            if type(entry) is tuple:
                self._extra_in -= _extra_nbytes(entry[0])
            dropped += 1
        if dropped:
            self.count_loss("buffer_full", dropped)

    def take(self) -> Any:
        """Remove and return the oldest entry; None when there is none. Without a lock, so that the application never
        waits for the exporter."""
        try:
            entry = self.items.popleft()
        except IndexError:
            return None
        if type(entry) is tuple:
            self._extra_out += _extra_nbytes(entry[0])
        return entry

    def reset_wakeup(self) -> bool:
        """Let ``check`` return True again, after everything was sent. Return whether the buffer is filling again
        already."""
        is_locked = self._lock.acquire(timeout=LOCK_S_MAX)
        self._is_filling = False
        self.check_at_len = 0
        if is_locked:
            self._lock.release()
        return self._is_full_enough()

    def count_loss(self, reason: str, count: int = 1) -> None:
        is_locked = self._lock.acquire(timeout=LOCK_S_MAX)
        try:
            self._losses[reason] = self._losses.get(reason, 0) + count
        finally:
            if is_locked:
                self._lock.release()

    def take_losses(self) -> dict[str, int]:
        """Return the losses since the last call; the caller reports them or counts them again."""
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


def _extra_nbytes(nbytes: int) -> int:
    """Return the bytes of an entry beyond ``PLAIN_NBYTES``, never less than 0, so that ``check_at_len`` is never too
    large."""
    return max(0, nbytes - PLAIN_NBYTES)
