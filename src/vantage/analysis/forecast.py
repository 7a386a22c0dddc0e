"""Whether a series will cross a limit within some hours, with an interval. Pure numpy.

The trend is the Theil-Sen line (H. Theil 1950, P. K. Sen 1968: the median of the slopes between pairs of hours) through
what remains of the hours without their hour of the day. The interval is measured rather than assumed: how far apart
remainders of this series were that lie as many hours apart, 1.96 times the robust spread of those differences. So it is
as wide as the noise for a series that is noise about a line, and widens for one that wanders.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from vantage.analysis.baseline import DAY_HOURS, SIGMA_OF_MAD, median_spread
from vantage.core.arrays import F64, I64
from vantage.core.rollup import HOUR_MS

HOURS_MIN: Final = 12  # with values, for a forecast
HOURS_USED: Final = 336  # the last 14 days
HOURS_AHEAD_MAX: Final = 168
DAYS_OF_PROFILE: Final = 3  # from here on the hour of the day is taken out
WIDTH: Final = 1.96  # of the interval, in spreads: 95 % if they are normal
PAIRS_MIN: Final = 8  # of hours that are as far apart, to measure a spread from


@dataclass(frozen=True, slots=True)
class Forecast:
    """Hour ``i`` begins at ``time_ms[i]``, the first one after the newest value. ``crossing_ms`` is when the expected
    value reaches the limit, ``earliest_ms`` and ``latest_ms`` when the interval begins and ends to; None for not within
    the hours. ``slope_per_hour`` is in the unit of the values; ``hours`` is how many values it rests on."""

    time_ms: I64
    expected: F64
    low: F64
    high: F64
    crossing_ms: int | None
    earliest_ms: int | None
    latest_ms: int | None
    slope_per_hour: float
    hours: int


def forecast(time_ms: I64, value: F64, *, limit: float, hours: int) -> Forecast | None:
    """Return the next ``hours`` (1 to HOURS_AHEAD_MAX) of a series of hourly values, in any order, and when it crosses
    the limit: from below if its newest value is below, else from above.

    Values that are not finite do not count; None with fewer than HOURS_MIN.
    """
    hours = min(max(1, hours), HOURS_AHEAD_MAX)
    hour = np.asarray(time_ms, np.int64) // HOUR_MS
    value = np.asarray(value, np.float64)
    usable = np.isfinite(value) & (np.abs(value) < 1e300)
    hour, first = np.unique(hour[usable], return_index=True)
    value = value[usable][first]
    recent = hour > (hour[-1] if len(hour) else 0) - HOURS_USED
    hour, value = hour[recent], value[recent]
    if len(hour) < HOURS_MIN:
        return None
    profile = _profile(hour, value)
    slope, start = _theil_sen(hour, value - profile[hour % DAY_HOURS])
    remainder = value - profile[hour % DAY_HOURS] - (start + slope * hour)
    ahead = hour[-1] + np.arange(1, hours + 1)
    # A level that changed lately counts: the line starts at the middle of the last hours' remainders.
    level = float(np.median(remainder[-DAY_HOURS // 4 :]))
    expected = profile[ahead % DAY_HOURS] + start + slope * ahead + level
    half = WIDTH * _spreads(hour, remainder, hours)
    low, high = expected - half, expected + half
    from_below = bool(value[-1] < limit)

    def first_crossing(line: F64) -> int | None:
        beyond = np.flatnonzero(line >= limit if from_below else line <= limit)
        return int(ahead[beyond[0]] * HOUR_MS) if beyond.size else None

    near, far = (high, low) if from_below else (low, high)
    return Forecast(
        ahead * HOUR_MS,
        expected,
        low,
        high,
        first_crossing(expected),
        first_crossing(near),
        first_crossing(far),
        slope,
        len(hour),
    )


def _profile(hour: I64, value: F64) -> F64:
    """Return what each hour of the day adds to the median of its day, zeros where there are too few days."""
    profile = np.zeros(DAY_HOURS)
    if hour[-1] - hour[0] < DAYS_OF_PROFILE * DAY_HOURS:
        return profile
    # Days end with the newest value, so that each has all hours; a trend within a day is not the hour's.
    day = (hour[-1] - hour) // DAY_HOURS
    middle = {int(number): float(np.median(value[day == number])) for number in np.unique(day)}
    slope, _ = _theil_sen(hour, value)
    within = (hour[-1] - hour) % DAY_HOURS - (DAY_HOURS - 1) / 2
    apart = value - np.array([middle[int(number)] for number in day]) + slope * within
    for number in range(DAY_HOURS):
        of_hour = apart[hour % DAY_HOURS == number]
        if len(of_hour) >= DAYS_OF_PROFILE:
            profile[number] = np.median(of_hour)
    return profile - np.median(profile)


def _theil_sen(hour: I64, value: F64) -> tuple[float, float]:
    """Return the slope per hour and the value at hour 0."""
    first, second = np.triu_indices(len(hour), 1)
    slope = float(np.median((value[second] - value[first]) / (hour[second] - hour[first])))
    return slope, float(np.median(value - slope * hour))


def _spreads(hour: I64, remainder: F64, hours: int) -> F64:
    """Return for each hour ahead the spread of the differences of remainders so many hours apart; it never shrinks."""
    spreads = np.zeros(hours)
    least = median_spread(remainder)[1]
    for ahead in range(1, hours + 1):
        _, first, second = np.intersect1d(hour + ahead, hour, assume_unique=True, return_indices=True)
        if len(first) >= PAIRS_MIN:
            least = max(least, SIGMA_OF_MAD * float(np.median(np.abs(remainder[second] - remainder[first]))))
        spreads[ahead - 1] = least
    return spreads
