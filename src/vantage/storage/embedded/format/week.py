"""Weeks: a segment covers one UTC week, from Monday to Monday, named as in ISO 8601."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Final

from vantage.core.arrays import I64
from vantage.core.timerange import TimeRange

DAY_MS: Final = 86_400_000
WEEK_MS: Final = 7 * DAY_MS
_MONDAY_MS: Final = -3 * DAY_MS  # 1970-01-01 was a Thursday
_NAME: Final = re.compile(r"(\d{4})-W(\d{2})")


def week_of(time_ms: int) -> int:
    """Return the number of the week, counted from that of 1970-01-01."""
    return (time_ms - _MONDAY_MS) // WEEK_MS


def week_numbers(times_ms: I64) -> I64:
    weeks: I64 = (times_ms - _MONDAY_MS) // WEEK_MS
    return weeks


def week_range(week: int) -> TimeRange:
    start_ms = _MONDAY_MS + week * WEEK_MS
    return TimeRange(start_ms, start_ms + WEEK_MS)


def week_name(week: int) -> str:
    """Return a name such as 2026-W47."""
    year, number, _ = (datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=week_range(week).start_ms)).isocalendar()
    return f"{year:04d}-W{number:02d}"


def parse_week(name: str) -> int:
    """Return the inverse of ``week_name``. Raises ValueError."""
    match = _NAME.fullmatch(name)
    if not match:
        raise ValueError(f"{name!r} names no week")
    monday = date.fromisocalendar(int(match[1]), int(match[2]), 1)
    return week_of((monday - date(1970, 1, 1)).days * DAY_MS)
