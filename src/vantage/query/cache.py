"""Answers that were given lately: the least recently used leave first, and none is given for longer than 5 minutes.

What may be kept is the asker's to decide: an answer must be told by its key alone, and must not be changed by what is
sent from now on, late samples excepted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, Final, NamedTuple

from vantage.core.clock import Clock
from vantage.telemetry import Telemetry

TTL_S: Final = 300.0
SETTLE_MS_MIN: Final = 120_000  # senders collect for seconds, and send again for minutes
ENTRY_NBYTES: Final = 1024  # beside the value: the key and the places it is kept in, which bounds small entries too


class _Entry(NamedTuple):
    value: Any
    put_s: float
    nbytes: int
    data_end_ms: int


class Cache:
    """At most ``nbytes_max`` bytes, as those who put things estimate them; 0 keeps nothing. For one event loop."""

    def __init__(self, nbytes_max: int, *, clock: Clock, telemetry: Telemetry) -> None:
        self._nbytes_max = nbytes_max
        self._clock = clock
        self._telemetry = telemetry
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._nbytes = 0
        self._generation = 0

    @property
    def generation(self) -> int:
        """How often everything was let go of: whoever asks the store takes it before, and puts the answer with it."""
        return self._generation

    @property
    def enabled(self) -> bool:
        return self._nbytes_max > 0

    def get(self, key: Hashable) -> Any | None:
        """What was put under a key; None when it is not there, or older than 5 minutes. It is not to be changed."""
        if not self.enabled:
            return None
        entry = self._entries.get(key)
        if entry is not None and self._clock.monotonic_s() - entry.put_s >= TTL_S:
            self._drop(key)
            entry = None
        if entry is None:
            self._telemetry.cache_misses.inc()
            return None
        self._entries.move_to_end(key)
        self._telemetry.cache_hits.inc()
        return entry.value

    def put(self, key: Hashable, value: Any, *, nbytes: int, generation: int, data_end_ms: int) -> None:
        """Keep a value in place of what its key had; others leave for it. It tells of nothing at or after ``until_ms``.
        One that would take more than all there is is not kept, and neither is one of an earlier ``generation``: its
        answer was under way while data was forgotten or came late, and may be of before."""
        nbytes += ENTRY_NBYTES
        if generation != self._generation or nbytes > self._nbytes_max:
            return
        if key in self._entries:
            self._drop(key)
        now_s = self._clock.monotonic_s()
        while self._nbytes + nbytes > self._nbytes_max:
            oldest, entry = next(iter(self._entries.items()))
            self._drop(oldest)
            if now_s - entry.put_s < TTL_S:  # what was of no use any more is no loss
                self._telemetry.cache_evictions.inc()
        self._entries[key] = _Entry(value, now_s, nbytes, data_end_ms)
        self._nbytes += nbytes
        self._telemetry.cache_bytes.set(self._nbytes)

    def invalidate_from(self, at_ms: int) -> None:
        """Data of such a time was written by this process: what tells of that time is let go of, answers that are
        under way included. Data that is on time touches nothing."""
        if at_ms > self._clock.now_ms() - SETTLE_MS_MIN:
            return
        self._generation += 1
        for key in [key for key, entry in self._entries.items() if entry.data_end_ms > at_ms]:
            self._drop(key)

    def clear(self) -> None:
        """Let go of everything, answers that are under way included."""
        self._generation += 1
        self._entries.clear()
        self._nbytes = 0
        self._telemetry.cache_bytes.set(0)

    def _drop(self, key: Hashable) -> None:
        self._nbytes -= self._entries.pop(key).nbytes
        self._telemetry.cache_bytes.set(self._nbytes)
