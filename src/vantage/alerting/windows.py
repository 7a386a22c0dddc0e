"""Times of silences: one window, or one from each time of a cron expression in a timezone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final
from zoneinfo import ZoneInfo

from vantage.core.errors import InputError
from vantage.core.silence import Silence
from vantage.core.timerange import TIME_MS_MAX

MINUTE_MS: Final = 60_000
SEARCHED_MAX: Final = 1000  # occurrences read to find those within the silence's own range


@dataclass(frozen=True, slots=True)
class Window:
    """A time in which a silence is active: ``start_ms`` inclusive, ``end_ms`` exclusive."""

    start_ms: int
    end_ms: int


def check_recurrence(cron: str, timezone: str) -> None:
    """Raise InputError for a cron expression or timezone that cannot be read, or that never comes."""
    zone = zone_of(timezone)
    if cron and next(cron_times(cron, zone, 0), None) is None:
        raise InputError("never comes", field="cron")


def active_window(silence: Silence, at_ms: int) -> Window | None:
    """Return the window that a silence is in, None if it is not active. A window lasts its duration, also where clocks
    are changed in it; a start that a spring change leaves out is at the end of what it leaves out. The start and the
    end of the silence cut it."""
    start_ms, end_ms = silence.start_ms, silence.end_ms if silence.end_ms is not None else TIME_MS_MAX
    if not start_ms <= at_ms < end_ms:
        return None
    if not silence.cron:
        return Window(start_ms, end_ms)
    begun_ms = _latest_ms(silence.cron, silence.timezone, at_ms // MINUTE_MS)
    if begun_ms is None or begun_ms + silence.duration_ms <= at_ms:
        return None
    return Window(max(start_ms, begun_ms), min(end_ms, begun_ms + silence.duration_ms))


def next_windows(silence: Silence, at_ms: int, *, limit: int) -> list[Window]:
    """Return up to ``limit`` windows that begin after a time."""
    end_ms = silence.end_ms if silence.end_ms is not None else TIME_MS_MAX
    if not silence.cron:
        return [Window(silence.start_ms, end_ms)] if at_ms < silence.start_ms and limit else []
    windows: list[Window] = []
    after_ms = max(at_ms, silence.start_ms - 1)
    for count, begun_ms in enumerate(cron_times(silence.cron, zone_of(silence.timezone), after_ms)):
        if len(windows) >= limit or begun_ms >= end_ms or count >= SEARCHED_MAX:
            break
        windows.append(Window(begun_ms, min(end_ms, begun_ms + silence.duration_ms)))
    return windows


def latest_time(cron: str, timezone: str, at_ms: int) -> int | None:
    """Return the latest time of a cron expression that is not after the minute of a time; None: there is none. Raises
    InputError."""
    return _latest_ms(cron, timezone, at_ms // MINUTE_MS)


@lru_cache(4096)
def _latest_ms(cron: str, timezone: str, minute: int) -> int | None:
    """Return the latest time of a cron expression that is not after the end of a minute since the epoch's."""
    return next(cron_times(cron, zone_of(timezone), (minute + 1) * MINUTE_MS, reverse=True), None)


def cron_times(cron: str, zone: ZoneInfo, after_ms: int, *, reverse: bool = False) -> Iterator[int]:
    """Yield the times of a cron expression after a time, or backwards before it. Raises InputError."""
    import cronsim

    moment = datetime.fromtimestamp(max(after_ms, 0) / 1000, tz=UTC).astimezone(zone)
    try:
        times: Any = cronsim.CronSim(cron, moment, reverse=reverse)
    except cronsim.CronSimError as error:
        raise InputError(f"is not a cron expression: {error}", field="cron") from error
    for time in times:
        yield int(time.timestamp()) * 1000


@lru_cache(256)
def zone_of(name: str) -> ZoneInfo:
    """Return a timezone by its name. Raises InputError."""
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError) as error:  # KeyError: of ZoneInfoNotFoundError
        raise InputError(f"{name[:60]!r} is not a timezone, such as Europe/Berlin", field="timezone") from error


def local_text(at_ms: int, timezone: str) -> str:
    """Return a time in a timezone, as people write it, with the name of the zone."""
    return (
        (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms))
        .astimezone(zone_of(timezone))
        .strftime("%a %d %b %Y, %H:%M %Z")
    )
