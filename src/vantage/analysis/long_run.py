"""The variance of a sum of correlated values: what requests of one moment share, such as a busy disk, must not count as
independent evidence.

Values are cut into batches in the order of time. The long-run variance of their sum is estimated from the B lowest
cosine frequencies of the batches ("equal-weighted cosine" estimator), and tests compare with Student's t of B degrees
of freedom: Müller, "A theory of robust long-run variance estimation", 2007; B = 0.4 T^(2/3) of T batches as recommended
by Lazarus, Lewis, Stock and Watson, "HAR inference: recommendations for practice", 2018.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from vantage.core.arrays import F64, I64

BATCHES_MAX: Final = 480
BATCHES_MIN: Final = 8
IN_BATCH_MIN: Final = 2
FREQUENCIES_MIN: Final = 4
FLATNESS: Final = 0.85
_TINY: Final = 1e-300


def batch_edges(time_ms: I64, count: I64, *, batches_max: int = BATCHES_MAX) -> I64:
    """Return the times at which batches of about equal count begin, the first one's left out. There are up to
    ``batches_max`` batches of IN_BATCH_MIN observations, fewer where many have the same time."""
    order = np.argsort(time_ms, kind="stable")
    before = np.cumsum(count[order]) - count[order]
    total = int(count.sum())
    batches = min(batches_max, total // IN_BATCH_MIN)
    wanted = np.arange(1, batches) * total / batches
    at = np.minimum(np.searchsorted(before, wanted, side="left"), len(order) - 1)
    edges: I64 = np.unique(time_ms[order][at])
    later: I64 = edges[edges > time_ms[order[0]]]
    return later


def frequencies(batches: int) -> int:
    """Return how many cosines are used for a number of batches, which is also the degrees of freedom."""
    wanted = round(0.4 * math.pow(batches, 2 / 3))
    return min(max(FREQUENCIES_MIN, wanted), batches - 1)


def cosines(batches: int) -> F64:
    """Return the lowest cosines over a number of batches: a row for each batch, a column for each frequency. The
    variance of the sum of a series of batches is the mean of the squares of its products with the columns."""
    middle = (np.arange(batches) + 0.5) / batches
    basis: F64 = math.sqrt(2.0) * np.cos(np.pi * np.outer(middle, np.arange(1, frequencies(batches) + 1)))
    return basis


def t_quantile(probability: float, freedom: float) -> float:
    """Return the quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, probability))


def t_two_sided(statistic: F64 | float, freedom: F64 | float) -> F64:
    """Return the probability of a value of Student's t at least as far from zero."""
    from scipy.special import stdtr

    p: F64 = np.asarray(2 * stdtr(freedom, -np.abs(np.asarray(statistic, np.float64))), np.float64)
    return p


def equivalent_normal(statistic: float, freedom: float) -> float:
    """Return the normal value that is as improbable as this value of Student's t."""
    from scipy.special import ndtri, stdtr

    tail = max(float(stdtr(freedom, -abs(statistic))), _TINY)
    return float(-ndtri(tail))


def equivalent_t(value: float, freedom: float) -> float:
    """Return the value of Student's t that is as improbable as this normal value."""
    from scipy.special import ndtr, stdtrit

    return float(-stdtrit(freedom, max(float(ndtr(-abs(value))), _TINY)))


class Influence:
    """What each batch adds to two estimates, of a baseline and of a candidate; their errors are sums over the batches.

    ``baseline`` and ``candidate`` are matrices with a row for each estimate and a column for each batch. ``paired``:
    batch ``i`` is of the same time on both sides, so what both sides share cancels out in differences.
    """

    def __init__(self, baseline: F64, candidate: F64, *, paired: bool) -> None:
        self.paired = paired
        self._parts = [side @ cosines(side.shape[1]) for side in (baseline, candidate)]

    def variances(self, side: int) -> tuple[F64, F64]:
        """Return the variances of the estimates of a side, 0 or 1, and their degrees of freedom."""
        return _variance(self._parts[side])

    def correlation(self) -> F64:
        """Return the correlation of both sides' errors; 0 where they are not paired."""
        first, second = self._parts
        if not self.paired:
            return np.zeros(len(first))
        covariance = np.sum(first * second, axis=1)
        scale = np.sqrt(np.sum(first**2, axis=1) * np.sum(second**2, axis=1))
        correlation: F64 = np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 0)
        return np.clip(correlation, -1.0, 1.0)

    def difference(self, baseline_factor: float = 1.0, candidate_factor: float = 1.0) -> tuple[F64, F64]:
        """Return variance and degrees of freedom of candidate minus baseline, each times its factor. Without pairs the
        degrees are Welch's and Satterthwaite's."""
        baseline, candidate = self._parts[0] * baseline_factor, self._parts[1] * candidate_factor
        if self.paired:
            return _variance(candidate - baseline)
        (first, first_freedom), (second, second_freedom) = _variance(baseline), _variance(candidate)
        total = first + second
        spread = first**2 / first_freedom + second**2 / second_freedom
        freedom = np.divide(total**2, spread, out=first_freedom + second_freedom, where=spread > 0)
        return total, freedom


def _variance(parts: F64) -> tuple[F64, F64]:
    """Return the variance of each row's sum, and its degrees of freedom, which are the number of frequencies used.

    Where the lowest frequencies have clearly more power than the next, values are correlated over longer than the band
    is wide: it is halved until they no longer have (an F test at FLATNESS), down to FREQUENCIES_MIN.
    """
    from scipy.special import fdtri

    power = parts**2
    size = parts.shape[1]
    used = np.full(len(parts), size)
    lowest = power[:, :FREQUENCIES_MIN].mean(axis=1)
    while size > FREQUENCIES_MIN:
        rest = power[:, FREQUENCIES_MIN:size].mean(axis=1)
        is_steep = lowest > float(fdtri(FREQUENCIES_MIN, size - FREQUENCIES_MIN, FLATNESS)) * rest
        narrower = max(FREQUENCIES_MIN, size // 2)
        used[(used == size) & is_steep] = narrower
        size = narrower
    reached = np.cumsum(power, axis=1)
    variance: F64 = reached[np.arange(len(parts)), used - 1] / used
    return variance, used.astype(np.float64)


def bincount(number: I64, values: F64, size: int) -> F64:
    """Return the sum of the values of each number."""
    sums: F64 = np.bincount(number, values, size).astype(np.float64, copy=False)
    return sums
