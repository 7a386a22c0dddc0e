"""Anomalies in streams: detectors whose state is a few arrays over many series, so that all advance with a few calls.

``SeasonalDetector`` is the default. It remembers the states a series has been in and raises an alarm when one is far
from all of them, measured by how far states of this series usually are. Window detectors compare with seven days
before: mean and standard deviation, or median and MAD. All have the same interface and a bounded size.

Pure numpy. Values that are not finite are gaps: the state of their series does not advance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from vantage.analysis.baseline import SIGMA_OF_MAD
from vantage.analysis.profile import Profile
from vantage.core.arrays import F64, I64, Array, Mask

Mode = Literal["seasonal", "robust", "sigma"]
WARM_POINTS: Final = 288  # a day of 5-minute points: until then there is no score
SILENT_POINTS: Final = 70  # after an alarm, six hours of 5-minute points: one incident is one alarm
STATES: Final = 128  # remembered, a pair of features
PAIRS: Final = 4
LEARN_LATER: Final = 24  # points until a state is remembered: an anomaly is not its own precedent
STATE_APART: Final = 0.04  # of the range: nearer states are the same
DISTANCE_MIN: Final = 0.15  # of the range: nearer than this is never unusual
USUAL_FACTOR: Final = 2.0
BLOCK_POINTS: Final = 144  # half a day, whose largest distance is remembered
BLOCKS: Final = 28
SHARES: Final = 3.0  # what four pairs add up to, divided by this, is the score
WINDOW_POINTS: Final = 2016  # seven days of 5-minute points
WINDOW_EVERY: Final = 12  # points between two looks at a whole window
GAP_MS: Final = 7_200_000  # after a longer one the means begin again
_FAST, _SLOW = 2 / 13, 2 / 17  # weights of the newest value in means of 12 and of 16 points
_VALUE_MAX: Final = 1e30  # larger values count as this, so that squares and 32-bit floats stay finite
_RANGE_MIN: Final = 1e-6  # of the largest value: a smaller range is that of rounding
_UNIT_MAX: Final = 1e30
_FAR: Final = np.float32(1e37)
F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Step:
    """What a detector says about a point of each series: arrays by series.

    ``score`` is 0 for gaps and while the detector warms up; above 1 it is unusual. ``alarm`` marks the first point of
    an incident. ``expected``, ``low`` and ``high`` are in the unit of the values, NaN while nothing is known.
    """

    score: F64
    alarm: Mask
    expected: F64
    low: F64
    high: F64


class Detector(Protocol):
    """Judges the newest points of many series."""

    def step(self, time_ms: I64, value: F64) -> Step:
        """Judge a point of each series, then learn it. Both arrays are by series; times of a series ascend."""
        ...

    def grow(self, series: int) -> None:
        """Add series at the end, which know nothing, until there are so many."""
        ...

    def set_range_min(self, series: int, range_min: float) -> None:
        """Let a smaller range of the values of a series count as this, so that little within it is unusual."""
        ...

    @property
    def nbytes(self) -> int: ...


def new_detector(mode: Mode, series: int) -> Detector:
    """Return a detector for a number of series."""
    return SeasonalDetector(series) if mode == "seasonal" else WindowDetector(series, mode)


@dataclass(frozen=True, slots=True)
class PairEvidence:
    """Why a state is unusual: the state, the nearest remembered one, the range of each of the two features, and the
    distance that is usual for the series. ``distance`` is in units of the range, ``share`` is a part of the score."""

    name: str
    state: tuple[float, float]
    nearest: tuple[float, float]
    range: tuple[float, float]
    usual: float
    distance: float
    share: float


PAIR_NAMES: Final = (
    "value and its mean of 16 points",
    "mean of 12 points and its usual error",
    "value against the same hour, and its mean of 16 points",
    "mean of 12 points against the same hour, and its usual error",
)


class SeasonalDetector:
    """Novelty of the state, of the series and of what remains without its hour of the day.

    A state is a pair of features: the value and an exponential mean of it; a mean and the root of the mean squared
    error of one step. The distance of a state is that to the nearest of STATES remembered ones, in units of the range
    of each feature so far. It is divided by twice the usual distance, by DISTANCE_MIN at least; usual is the median,
    over two weeks, of the largest distance of each half day. So what a noisy series does every day is usual for it. The
    score is the sum of the four shares, divided by three.
    """

    def __init__(self, series: int) -> None:
        self.profile = Profile(0)
        # Fields are by series first, so that they grow alike.
        self._a: dict[str, Array] = {}
        self._state: F64 = np.empty((0, PAIRS, 2))
        self._range: F64 = np.empty((0, PAIRS, 2))
        self._distance: F64 = np.empty((0, PAIRS))
        self._evidence: dict[int, tuple[PairEvidence, ...]] = {}
        self.grow(series)

    @property
    def nbytes(self) -> int:
        """Return the size of the state in bytes, about 9 kB a series."""
        return sum(array.nbytes for array in self._a.values()) + self.profile.nbytes

    @property
    def series(self) -> int:
        return len(self._a["points"])

    def grow(self, series: int) -> None:
        new = {
            "anchor": np.full(series, np.nan),  # the first value: others are differences from it
            "range_min": np.zeros(series),
            "newest_ms": np.zeros(series, np.int64),
            "points": np.zeros(series, np.int64),
            "alarm_point": np.full(series, -SILENT_POINTS - 1, np.int64),
            "memory": np.full((series, PAIRS, STATES, 2), _FAR, np.float32),
            "position": np.zeros((series, PAIRS), np.int64),
            "recent": np.full((series, LEARN_LATER, PAIRS, 2), np.nan, np.float32),
            "low": np.full((series, PAIRS, 2), np.inf),
            "high": np.full((series, PAIRS, 2), -np.inf),
            "fast": np.full((series, 2), np.nan),
            "slow": np.full((series, 2), np.nan),
            "error": np.zeros((series, 2)),
            "largest": np.zeros((series, PAIRS)),
            "blocks": np.full((series, PAIRS, BLOCKS), np.nan, np.float32),
            "usual": np.zeros((series, PAIRS)),
        }
        for name, array in new.items():
            if name in self._a:
                array[: len(self._a[name])] = self._a[name]
        self._a = new
        self.profile.grow(series)
        self._state = np.zeros((series, PAIRS, 2))
        self._range = np.ones((series, PAIRS, 2))
        self._distance = np.zeros((series, PAIRS))

    def set_range_min(self, series: int, range_min: float) -> None:
        self._a["range_min"][series] = range_min

    def step(self, time_ms: I64, value: F64) -> Step:
        a = self._a
        present = np.isfinite(value)
        x = np.where(present, np.clip(np.nan_to_num(value), -_VALUE_MAX, _VALUE_MAX), 0.0)
        a["anchor"] = np.where(present & np.isnan(a["anchor"]), x, a["anchor"])
        after_gap = np.flatnonzero(present & (time_ms - a["newest_ms"] > GAP_MS))
        for name, empty in (("fast", np.nan), ("slow", np.nan), ("error", 0.0)):
            a[name][after_gap] = empty
        a["newest_ms"] = np.where(present, time_ms, a["newest_ms"])
        x = np.where(present, x - np.nan_to_num(a["anchor"]), 0.0)
        band = self.profile.step(time_ms, x, present)
        of_hour = band.same_hour
        base = np.where(np.isnan(of_hour), np.where(np.isnan(a["slow"][:, 0]), x, a["slow"][:, 0]), of_hour)
        state = self._features(np.stack([x, x - base], axis=1), present)
        distance = self._measure(state, present)
        score = (distance / np.maximum(DISTANCE_MIN, USUAL_FACTOR * a["usual"])).sum(axis=1) / SHARES
        score[~present | (a["points"] < WARM_POINTS)] = 0.0
        alarm = (score > 1.0) & (a["points"] - a["alarm_point"] > SILENT_POINTS)
        a["alarm_point"] = np.where(alarm, a["points"], a["alarm_point"])
        self._evidence = {series: self._explain(series) for series in np.flatnonzero(alarm).tolist()}
        self._learn(state, distance, present)
        anchor = a["anchor"]
        return Step(score, alarm, band.expected + anchor, band.low + anchor, band.high + anchor)

    def evidence(self, series: int) -> tuple[PairEvidence, ...]:
        """Return what the score of the latest step consists of, for a series that it raised an alarm for; else nothing.
        Features are differences from the first value of the series, which ``anchor`` returns."""
        return self._evidence.get(series, ())

    def _explain(self, series: int) -> tuple[PairEvidence, ...]:
        pairs = []
        for pair in range(PAIRS):
            memory = self._a["memory"][series, pair].astype(np.float64)
            state, unit = self._state[series, pair], self._range[series, pair]
            near = int(np.argmin((((memory - state) / unit) ** 2).sum(axis=1)))
            usual, distance = float(self._a["usual"][series, pair]), float(self._distance[series, pair])
            pairs.append(
                PairEvidence(
                    PAIR_NAMES[pair],
                    (float(state[0]), float(state[1])),
                    (float(memory[near, 0]), float(memory[near, 1])),
                    (float(unit[0]), float(unit[1])),
                    usual,
                    distance,
                    distance / max(DISTANCE_MIN, USUAL_FACTOR * usual) / SHARES,
                )
            )
        return tuple(pairs)

    def anchor(self, series: int) -> float:
        """Return the first value of a series, NaN without one."""
        return float(self._a["anchor"][series])

    def _features(self, values: F64, present: Mask) -> F64:
        """Advance the means, and return the state: by series, pair and feature."""
        a = self._a
        is_first = np.isnan(a["fast"])
        advances = present[:, None]
        with np.errstate(invalid="ignore"):
            error = np.where(is_first, 0.0, values - a["fast"])
            for name, weight in (("fast", _FAST), ("slow", _SLOW)):
                a[name] = np.where(advances, np.where(is_first, values, a[name] + (values - a[name]) * weight), a[name])
            a["error"] = np.where(advances, a["error"] + (error * error - a["error"]) * _FAST, a["error"])
        state = np.empty((len(values), PAIRS, 2))
        state[:, 0::2, 0], state[:, 0::2, 1] = values, a["slow"]
        state[:, 1::2, 0], state[:, 1::2, 1] = a["fast"], np.sqrt(a["error"])
        return state

    def _measure(self, state: F64, present: Mask) -> F64:
        """Return the distance of each pair to the nearest remembered state, 0 where nothing is remembered."""
        a = self._a
        advances = present[:, None, None]
        a["low"] = np.where(advances, np.minimum(a["low"], state), a["low"])
        a["high"] = np.where(advances, np.maximum(a["high"], state), a["high"])
        with np.errstate(invalid="ignore"):
            extent = a["high"] - a["low"]
        largest = np.maximum(np.abs(a["high"]), np.abs(a["low"])) + np.abs(np.nan_to_num(a["anchor"]))[:, None, None]
        least = np.maximum(a["range_min"][:, None, None], _RANGE_MIN * largest)
        extent = np.where(np.isfinite(extent), np.maximum(extent, least), 1.0)
        extent[extent <= 0] = 1.0
        self._state, self._range = state, extent
        distance = self._nearest(state.astype(np.float32))
        distance[~present] = 0.0
        distance[a["position"] == 0] = 0.0
        self._distance = distance
        return distance

    def _nearest(self, state: F32) -> F64:
        # What is too far away is infinitely far: nothing is at _FAR.
        with np.errstate(over="ignore"):
            apart = self._a["memory"] - state[:, :, None, :]
            apart *= np.minimum(1.0 / self._range, _UNIT_MAX).astype(np.float32)[:, :, None, :]
            apart *= apart
            nearest = (apart[..., 0] + apart[..., 1]).min(axis=2)
        distance: F64 = np.sqrt(np.minimum(nearest, np.float32(1e12))).astype(np.float64)
        return distance

    def _learn(self, state: F64, distance: F64, present: Mask) -> None:
        a = self._a
        a["largest"] = np.maximum(a["largest"], distance)
        a["points"] = a["points"] + present
        ended = np.flatnonzero(present & (a["points"] % BLOCK_POINTS == 0))
        if ended.size:
            block = (a["points"][ended] // BLOCK_POINTS - 1) % BLOCKS
            a["blocks"][ended, :, block] = a["largest"][ended]
            a["largest"][ended] = 0.0
            a["usual"][ended] = np.nanmedian(a["blocks"][ended], axis=2)
        rows, slot = np.flatnonzero(present), a["points"] % LEARN_LATER
        earlier = a["recent"][np.arange(len(slot)), slot]
        is_new = self._nearest(np.nan_to_num(earlier)) > STATE_APART
        is_new &= present[:, None] & ~np.isnan(earlier[:, :, 0])
        series, pair = np.nonzero(is_new)
        a["memory"][series, pair, a["position"][series, pair] % STATES] = earlier[series, pair]
        a["position"][series, pair] += 1
        a["recent"][rows, slot[rows]] = state[rows]


class WindowDetector:
    """The plain rule: how far a value is from the middle of seven days before, in units of their spread.

    ``sigma``: mean and standard deviation. ``robust``: median and 1.4826 times the MAD. The band is two spreads wide on
    each side, and beyond three is an alarm. Middle and spread are computed from all points once an hour.
    """

    def __init__(self, series: int, mode: Mode) -> None:
        self._mode = mode
        self._a: dict[str, Array] = {}
        self.grow(series)

    @property
    def nbytes(self) -> int:
        """Return the size of the state in bytes, about 16 kB a series."""
        return sum(array.nbytes for array in self._a.values())

    def grow(self, series: int) -> None:
        new: dict[str, Array] = {
            "range_min": np.zeros(series),
            "window": np.full((series, WINDOW_POINTS), np.nan),
            "points": np.zeros(series, np.int64),
            "alarm_point": np.full(series, -SILENT_POINTS - 1, np.int64),
            "middle": np.full(series, np.nan),
            "spread": np.full(series, np.nan),
        }
        for name, array in new.items():
            if name in self._a:
                array[: len(self._a[name])] = self._a[name]
        self._a = new

    def set_range_min(self, series: int, range_min: float) -> None:
        self._a["range_min"][series] = range_min

    def step(self, time_ms: I64, value: F64) -> Step:
        del time_ms
        a = self._a
        present = np.isfinite(value)
        x = np.where(present, np.clip(np.nan_to_num(value), -_VALUE_MAX, _VALUE_MAX), np.nan)
        stale = np.flatnonzero(present & (a["points"] >= WARM_POINTS) & (a["points"] % WINDOW_EVERY == 0))
        if stale.size:
            middle, spread = self._look(a["window"][stale])
            a["middle"][stale] = middle
            # The range is three spreads on each side.
            least = np.maximum(a["range_min"][stale] / 6.0, _RANGE_MIN * np.abs(middle))
            a["spread"][stale] = np.maximum(spread, least)
        with np.errstate(invalid="ignore", divide="ignore"):
            distance = np.abs(x - a["middle"])
            score = np.where(distance > 0, distance / (3.0 * a["spread"]), 0.0)
        score = np.where(present & np.isfinite(a["middle"]), np.minimum(np.nan_to_num(score), 1e12), 0.0)
        alarm = (score > 1.0) & (a["points"] - a["alarm_point"] > SILENT_POINTS)
        a["alarm_point"] = np.where(alarm, a["points"], a["alarm_point"])
        rows = np.flatnonzero(present)
        a["window"][rows, a["points"][rows] % WINDOW_POINTS] = x[rows]
        a["points"] = a["points"] + present
        half = 2.0 * a["spread"]
        return Step(score, alarm, a["middle"].copy(), a["middle"] - half, a["middle"] + half)

    def _look(self, window: F64) -> tuple[F64, F64]:
        if self._mode == "sigma":
            return np.nanmean(window, axis=1), np.nanstd(window, axis=1)
        middle = np.nanmedian(window, axis=1)
        return middle, SIGMA_OF_MAD * np.nanmedian(np.abs(window - middle[:, None]), axis=1)


def as_dict(evidence: PairEvidence) -> dict[str, Any]:
    """Return the fields, for JSON."""
    return {name: getattr(evidence, name) for name in PairEvidence.__slots__}
