"""Times as people write them, time ranges, and steps. Internally a time is int64 milliseconds since the epoch, UTC."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from vantage.core.errors import InputError

_RELATIVE = re.compile(r"now(?:-(\d{1,9})(ms|s|m|h|d|w))?")
_DURATION = re.compile(r"(\d{1,12})(ms|s|m|h|d|w)?")
_UNIT_MS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_SECONDS_BELOW: Final = 10**11  # numbers below are epoch seconds, others epoch milliseconds
TIME_MS_MAX: Final = 253_402_300_799_999  # 9999-12-31

STEPS_MS: Final = tuple(
    1000 * s
    for s in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800)
)


def parse_time(text: str, *, now_ms: int, field: str = "time") -> int:
    """Return epoch milliseconds for epoch seconds or milliseconds, RFC 3339, ``now`` or ``now-15m``. Raises InputError
    naming ``field``."""
    text = text.strip()
    if match := _RELATIVE.fullmatch(text):
        back = int(match[1]) * _UNIT_MS[match[2]] if match[1] else 0
        return max(0, now_ms - back)
    try:
        number = float(text)
    except ValueError:
        pass
    else:
        if number == number and 0 <= number <= TIME_MS_MAX:
            return int(number * 1000 if number < _SECONDS_BELOW else number)
        raise InputError("is outside the years 1970 to 9999", field=field)
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0, int(moment.timestamp() * 1000))
    except (ValueError, OverflowError):
        raise InputError(
            "is no time: give epoch seconds or milliseconds, RFC 3339, 'now' or 'now-15m'", field=field
        ) from None


def parse_duration_ms(text: str, *, field: str, default_unit: str = "s") -> int:
    """Return milliseconds for ``90``, ``250ms``, ``5m`` …; a bare number is in ``default_unit``. Raises InputError."""
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise InputError("is not a duration: use 30s, 5m, 1h or 7d", field=field)
    return int(match[1]) * _UNIT_MS[match[2] or default_unit]


WEEK_MS: Final = 7 * 86_400_000
MONDAY_MS: Final = 4 * 86_400_000  # 1970-01-05, the first Monday


@dataclass(frozen=True, slots=True)
class TimeRange:
    """A range of time: ``start_ms`` inclusive, ``end_ms`` exclusive."""

    start_ms: int
    end_ms: int

    def __post_init__(self) -> None:
        if self.start_ms >= self.end_ms:
            raise InputError("must lie after start", field="end")

    @property
    def length_ms(self) -> int:
        return self.end_ms - self.start_ms

    def aligned(self, step_ms: int) -> TimeRange:
        """Return the smallest range of whole steps that contains this one."""
        offset_ms = step_offset_ms(step_ms)
        return TimeRange(
            (self.start_ms - offset_ms) // step_ms * step_ms + offset_ms,
            -(-(self.end_ms - offset_ms) // step_ms) * step_ms + offset_ms,
        )


def step_offset_ms(step_ms: int) -> int:
    """Return where steps are counted from: 1970, and weeks from its first Monday, as ClickHouse counts them."""
    return MONDAY_MS if step_ms % WEEK_MS == 0 else 0


def auto_step_ms(time_range: TimeRange, *, points: int = 300) -> int:
    """Return the smallest round step that gives at most ``points`` buckets."""
    for step in STEPS_MS:
        if time_range.length_ms <= step * points:
            return step
    whole_weeks = -(-time_range.length_ms // (points * STEPS_MS[-1]))
    return int(whole_weeks * STEPS_MS[-1])
