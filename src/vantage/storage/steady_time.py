"""Steady time: the wall clock, unless it jumps. Ages are counted from it, so that a wrong clock deletes nothing."""

from __future__ import annotations

import threading
from typing import Final

import structlog

from vantage.core.clock import Clock

JUMP_MS_MIN: Final = 300_000  # a difference below is drift, or NTP at work
TRUST_AFTER_S: Final = 24 * 3600.0  # for so long a clock that jumped ahead must stay there to be believed
STANDSTILL_MS_MAX: Final = 24 * 3_600_000  # a clock farther ahead of the newest data is not believed at start
_log = structlog.get_logger("vantage.clock")


class SteadyTime:
    """Follows the wall clock while that agrees with the monotonic one. Any thread may ask.

    A wall clock that jumps back is followed, since nothing expires then. One that jumps ahead is followed only after
    ``TRUST_AFTER_S``: until then steady time passes as the monotonic clock does.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._at_ms, self._at_s = clock.now_ms(), clock.monotonic_s()
        self._jumped_s: float | None = None

    def start_from(self, newest_ms: int) -> None:
        """Begin at the time of the newest data, where the wall clock is far ahead of it: either the server was stopped
        for long, or the clock is wrong."""
        with self._lock:
            self._at_s = self._clock.monotonic_s()
            ahead_ms = self._clock.now_ms() - newest_ms
            if ahead_ms > STANDSTILL_MS_MAX:
                self._at_ms = newest_ms
                self._note_jump(ahead_ms)

    def now_ms(self) -> int:
        """Return milliseconds since the epoch."""
        with self._lock:
            wall_ms, now_s = self._clock.now_ms(), self._clock.monotonic_s()
            steady_ms = self._at_ms + round((now_s - self._at_s) * 1000)
            ahead_ms = wall_ms - steady_ms
            if ahead_ms > JUMP_MS_MIN and self._jumped_s is None:
                self._note_jump(ahead_ms)
            if self._jumped_s is not None and ahead_ms > JUMP_MS_MIN and now_s - self._jumped_s < TRUST_AFTER_S:
                return steady_ms
            if self._jumped_s is not None:
                _log.warning("the clock is believed again", ahead_s=ahead_ms // 1000)
                self._jumped_s = None
            self._at_ms, self._at_s = wall_ms, now_s
            return wall_ms

    def offset_s(self) -> float:
        """Return by how many seconds the wall clock is ahead of steady time."""
        return (self._clock.now_ms() - self.now_ms()) / 1000

    def _note_jump(self, ahead_ms: int) -> None:
        self._jumped_s = self._clock.monotonic_s()
        _log.error(
            "the clock jumped ahead, or nothing was stored for long: data does not expire by this clock yet",
            ahead_s=ahead_ms // 1000,
            believed_after_s=int(TRUST_AFTER_S),
        )
