"""What is expected of an hour: the median and the robust spread of the same hour of weeks or days before.

Pure numpy. Hours are those of UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from vantage.core.arrays import F64, I64
from vantage.core.rollup import HOUR_MS

DAY_HOURS: Final = 24
WEEK_HOURS: Final = 168
SAMPLES_MIN: Final = 4  # hours that a baseline rests on: of three, an incident would be a third
SIGMA_OF_MAD: Final = 1.4826  # 1 / the 0.75 quantile of the standard normal distribution
# The MAD of few values is too small. C. Croux, P. J. Rousseeuw: Time-efficient algorithms for two highly robust
# estimators of scale (1992), for 2 to 9 values; n / (n - 0.8) beyond.
_SMALL_SAMPLES: Final = (1.196, 1.495, 1.363, 1.206, 1.200, 1.140, 1.129, 1.107)

BaselineLevel = Literal["hour of week", "hour of day", "all hours"]


@dataclass(frozen=True, slots=True)
class Baseline:
    """What is expected at a time, in the unit of the values. ``spread`` stands for a standard deviation; ``samples`` is
    the number of hours it rests on, which ``level`` says how they were chosen."""

    expected: float
    spread: float
    samples: int
    level: BaselineLevel


def median_spread(value: F64) -> tuple[float, float]:
    """Return the median of one or more finite values, and 1.4826 times their MAD, corrected for few values: the
    standard deviation, if they are normal."""
    middle = _median(value)
    with np.errstate(over="ignore"):
        return middle, SIGMA_OF_MAD * _small_sample(len(value)) * _median(np.abs(value - middle))


def hour_of_week_baseline(time_ms: I64, value: F64, at_ms: int) -> Baseline | None:
    """Return what is expected at ``at_ms`` from values of hours before: ``value[i]`` is of the hour of ``time_ms[i]``,
    in any order.

    The same hour of earlier weeks counts, of earlier days where there are fewer than SAMPLES_MIN of those, of all
    earlier hours where there are too few of those too; None for still fewer. Several values of an hour count as their
    median, so that each hour weighs alike. Values that are not finite, and those of the hour of ``at_ms`` and later,
    do not count.
    """
    hour = np.asarray(time_ms, np.int64) // HOUR_MS
    value = np.asarray(value, np.float64)
    at_hour = at_ms // HOUR_MS
    usable = np.isfinite(value) & (hour < at_hour)
    hour, value = _median_by(hour[usable], value[usable])
    ago = at_hour - hour
    levels: tuple[tuple[BaselineLevel, int], ...] = (
        ("hour of week", WEEK_HOURS),
        ("hour of day", DAY_HOURS),
        ("all hours", 1),
    )
    for level, period in levels:
        of_level = value[ago % period == 0]
        if len(of_level) >= SAMPLES_MIN:
            expected, spread = median_spread(of_level)
            return Baseline(expected, spread, len(of_level), level)
    return None


def _median_by(key: I64, value: F64) -> tuple[I64, F64]:
    """Return the distinct keys, ascending, and the median of the values of each."""
    order = np.lexsort((value, key))
    key, value = key[order], value[order]
    first = np.flatnonzero(np.append(True, key[1:] != key[:-1])) if len(key) else key
    size = np.diff(np.append(first, len(key)))
    low, high = first + (size - 1) // 2, first + size // 2
    return key[first], value[low] / 2 + value[high] / 2


def _median(value: F64) -> float:
    """Return the median; unlike numpy's, of enormous values too."""
    value = np.sort(value)
    return float(value[(len(value) - 1) // 2] / 2 + value[len(value) // 2] / 2)


def _small_sample(count: int) -> float:
    if count < 2:
        return 1.0
    return _SMALL_SAMPLES[count - 2] if count - 2 < len(_SMALL_SAMPLES) else count / (count - 0.8)
