"""Which minutes a running store writes to, for a copy that follows it."""

from __future__ import annotations

import threading
from typing import Final

import numpy as np

from vantage.core.record import Record

MINUTE_MS: Final = 60_000
MINUTES_MAX: Final = 100_000  # noted at once; beyond that any minute may have changed


class TouchedMinutes:
    """The minutes since 1970 with new samples or spans, while somebody follows them. Any thread may call.

    Minutes are noted after their data is visible: data that a reader misses is in a minute that is taken later.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._followed = False
        self._minutes: set[int] = set()
        self._any = False

    def follow(self) -> None:
        """Begin to note minutes, from none."""
        with self._lock:
            self._followed, self._minutes, self._any = True, set(), False

    def stop(self) -> None:
        """Note nothing more."""
        with self._lock:
            self._followed, self._minutes = False, set()

    def add(self, record: Record) -> None:
        """Note the minutes of a commit."""
        if not self._followed:
            return
        minutes = np.unique(record.samples.time_ms // MINUTE_MS).tolist()
        minutes += [span.start_ms // MINUTE_MS for span in record.spans]
        with self._lock:
            if self._followed:
                self._minutes.update(minutes)
                if len(self._minutes) > MINUTES_MAX:
                    self._any, self._minutes = True, set()

    def add_any(self) -> None:
        """Note that any minute may have changed."""
        with self._lock:
            self._any = self._followed

    def take(self) -> list[int] | None:
        """Return the minutes since the last call, in order; None when any may have changed."""
        with self._lock:
            minutes, changed = self._minutes, self._any
            self._minutes, self._any = set(), False
        return None if changed else sorted(minutes)
