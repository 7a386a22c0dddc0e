"""The expected band of many series: hour of the day or of the week, whichever predicts better, with trend; robust.

A ring has the mean of each of the last 28 days' hours. What an hour is expected to be is the median of the same hour of
earlier days (of the last week), of earlier weeks, or of all hours of the last week: whichever had the least mean
absolute error so far. To that comes the median of what the last 24 hours differed from their expectation: the trend,
and a new level, are followed within half a day, while an incident that is shorter moves nothing. The spread is the
median, over days, of the mean absolute difference of values within the hour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from vantage.core.arrays import F64, I64, Array, Mask
from vantage.core.rollup import HOUR_MS

RING_HOURS: Final = 672  # 28 days
DAY_HOURS: Final = 24
WEEK_HOURS: Final = 168
DAYS: Final = 7  # of the same hour, for a profile by day
SAME_HOURS_MIN: Final = 3
BAND_SPREADS: Final = 3.0
SIGMA_OF_ABS: Final = 1.2533  # root of pi / 2: standard deviation of a normal value by its mean absolute deviation
PERIODS: Final = ("all hours", "hour of day", "hour of week")
_ERROR_WEIGHT: Final = 1 / 48  # of the newest hour in the mean absolute error of a period
_BETTER: Final = 0.95  # a longer period is chosen when its error is less than this of a shorter one's


@dataclass(frozen=True, slots=True)
class Band:
    """By series, in the unit of the values, NaN while unknown. ``same_hour`` is the median of the same hour of earlier
    days alone."""

    same_hour: F64
    expected: F64
    low: F64
    high: F64


class Profile:
    """The bands of many series. Values are differences from any fixed value of their series."""

    def __init__(self, series: int) -> None:
        self._a: dict[str, Array] = {}
        self.grow(series)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self._a.values())

    def grow(self, series: int) -> None:
        """Add series at the end, which know nothing, until there are so many."""
        new: dict[str, Array] = {
            "hour": np.full(series, -1, np.int64),  # that of the newest value
            "sum": np.zeros(series),
            "abs": np.zeros(series),
            "count": np.zeros(series, np.int64),
            "means": np.full((series, RING_HOURS), np.nan, np.float32),
            "abs_means": np.full((series, WEEK_HOURS), np.nan, np.float32),
            "differences": np.full((series, DAY_HOURS), np.nan, np.float32),
            "errors": np.full((series, len(PERIODS)), np.nan),
            "same": np.full((series, len(PERIODS)), np.nan),  # what each period says of this hour
            "period": np.zeros(series, np.int64),
            "trend": np.zeros(series),
            "expected": np.full(series, np.nan),
            "spread": np.full(series, np.nan),
        }
        for name, array in new.items():
            if name in self._a:
                array[: len(self._a[name])] = self._a[name]
        self._a = new

    def step(self, time_ms: I64, value: F64, present: Mask) -> Band:
        """Return what was expected of the newest values, then learn them."""
        a = self._a
        hour = np.where(present, np.asarray(time_ms, np.int64) // HOUR_MS, a["hour"])
        begun = np.flatnonzero(hour != a["hour"])
        if begun.size:
            self._close(begun)
            self._skip(begun, hour[begun])
            a["hour"][begun] = hour[begun]
            self._expect(begun)
        half = BAND_SPREADS * a["spread"]
        band = Band(a["same"][:, 1].copy(), a["expected"].copy(), a["expected"] - half, a["expected"] + half)
        a["sum"] += np.where(present, value, 0.0)
        a["count"] += present
        a["abs"] += np.where(present & np.isfinite(a["expected"]), np.abs(value - np.nan_to_num(a["expected"])), 0.0)
        return band

    def basis(self, series: int) -> tuple[str, list[float], float, list[float]]:
        """Return what the expectation of a series rests on: the period, the means of the same hours, the trend, and the
        mean absolute differences of the same hours."""
        a = self._a
        period = int(a["period"][series])
        hours = _earlier(int(a["hour"][series]), period)
        values = a["means"][series, hours % RING_HOURS]
        spreads = a["abs_means"][series, _days_of(int(a["hour"][series])) % WEEK_HOURS]
        if np.isfinite(spreads).sum() < SAME_HOURS_MIN:
            spreads = a["abs_means"][series]
        return (
            PERIODS[period],
            [float(item) for item in values if np.isfinite(item)],
            float(a["trend"][series]),
            [float(item) for item in spreads if np.isfinite(item)],
        )

    def _close(self, rows: I64) -> None:
        """End the hour of some series: note its mean, and what the periods said of it."""
        a = self._a
        rows = rows[a["count"][rows] > 0]
        if not rows.size:
            return
        hour, count = a["hour"][rows], a["count"][rows]
        mean = a["sum"][rows] / count
        a["means"][rows, hour % RING_HOURS] = mean
        known = np.isfinite(a["expected"][rows])
        a["abs_means"][rows, hour % WEEK_HOURS] = np.where(known, a["abs"][rows] / count, np.nan)
        chosen = a["same"][rows, a["period"][rows]]
        a["differences"][rows, hour % DAY_HOURS] = mean - chosen
        error = np.abs(mean[:, None] - (a["same"][rows] + a["trend"][rows][:, None]))
        before = a["errors"][rows]
        learnt = np.where(np.isnan(before), error, before + (error - before) * _ERROR_WEIGHT)
        a["errors"][rows] = np.where(np.isnan(error), before, learnt)
        a["sum"][rows] = a["abs"][rows] = a["count"][rows] = 0

    def _skip(self, rows: I64, hour: I64) -> None:
        """Make hours without values unknown, rather than what they were a ring ago."""
        a = self._a
        missed = np.where(a["hour"][rows] < 0, 0, hour - a["hour"][rows] - 1)
        for at in np.flatnonzero(missed > 0).tolist():
            row, first = int(rows[at]), int(a["hour"][rows[at]]) + 1
            for name in ("means", "abs_means", "differences"):
                size = a[name].shape[1]
                a[name][row, np.arange(first, first + min(int(missed[at]), size)) % size] = np.nan

    def _expect(self, rows: I64) -> None:
        """Compute what is expected of the hour that some series begin."""
        a = self._a
        hour = a["hour"][rows]
        means = a["means"]
        by_period = (
            (means[rows[:, None], (hour[:, None] - np.arange(1, WEEK_HOURS + 1)) % RING_HOURS], 1),
            (means[rows[:, None], (hour[:, None] - DAY_HOURS * np.arange(1, DAYS + 1)) % RING_HOURS], 1),
            (means[rows[:, None], (hour[:, None] - WEEK_HOURS * np.arange(1, 5)) % RING_HOURS], SAME_HOURS_MIN),
        )
        same = np.stack([_median_of(values, at_least) for values, at_least in by_period], axis=1)
        a["same"][rows] = same
        errors = np.where(np.isnan(same), np.inf, np.where(np.isnan(a["errors"][rows]), np.inf, a["errors"][rows]))
        period = np.zeros(len(rows), np.int64)
        for longer in (1, 2):
            best = errors[np.arange(len(rows)), period]
            period = np.where(errors[:, longer] < best * _BETTER, longer, period)
        a["period"][rows] = period
        trend = np.nan_to_num(_median_of(a["differences"][rows], DAY_HOURS // 2))
        a["trend"][rows] = trend
        a["expected"][rows] = same[np.arange(len(rows)), period] + trend
        days = a["abs_means"][rows[:, None], (hour[:, None] - DAY_HOURS * np.arange(1, DAYS + 1)) % WEEK_HOURS]
        all_hours = _median_of(a["abs_means"][rows], DAY_HOURS // 4)
        of_hour = _median_of(days, SAME_HOURS_MIN)
        a["spread"][rows] = SIGMA_OF_ABS * np.where(np.isnan(of_hour), all_hours, of_hour)


def _earlier(hour: int, period: int) -> I64:
    steps = ((1, WEEK_HOURS), (DAY_HOURS, DAYS), (WEEK_HOURS, 4))[period]
    return hour - steps[0] * np.arange(1, steps[1] + 1)


def _days_of(hour: int) -> I64:
    return hour - DAY_HOURS * np.arange(1, DAYS + 1)


def _median_of(values: Array, at_least: int) -> F64:
    """Return the median of each row without NaN; NaN for rows with fewer than ``at_least`` values."""
    result = np.full(len(values), np.nan)
    enough = np.isfinite(values).sum(axis=1) >= at_least
    if enough.any():
        result[enough] = np.nanmedian(values[enough], axis=1)
    return result
