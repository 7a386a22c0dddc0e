"""Quantiles of many values from few counts: DDSketch with a fixed relative error.

Masson, Rim and Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees", VLDB 2019. A
value falls into the bucket ``(gamma**(k-1), gamma**k]``; every value of a bucket is read as its middle, at most
``RELATIVE_ERROR`` away. Here buckets are sparse (key, count) pairs in flat arrays, so that thousands of sketches are
built, merged and read at once.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vantage.core.arrays import F64, I64

RELATIVE_ERROR: Final = 0.01
_GAMMA: Final = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GAMMA: Final = math.log(_GAMMA)
_LOG_MIDDLE: Final = math.log(2 / (1 + _GAMMA))
# Logarithms of float64 lie between -745 and 710, which is 37 300 buckets either way: with the offset keys are
# positive for positive values, negative for negative ones, and 0 is zero itself.
_OFFSET: Final = 40_000
_TINIEST: Final = float(np.finfo(np.float64).tiny)
_LARGEST: Final = float(np.finfo(np.float64).max)

I32 = NDArray[np.int32]


def sketch_keys(values: F64) -> I32:
    """Return the bucket of each finite value."""
    size = np.abs(values)
    with np.errstate(divide="ignore"):
        key = np.where(size > 0, np.ceil(np.log(size) / _LOG_GAMMA) + _OFFSET, 0)
    return np.copysign(key, values).astype(np.int32)


def key_values(keys: I32) -> F64:
    """Return the value that stands for each bucket: within RELATIVE_ERROR of every value in it, except values closer to
    zero than the smallest normal float."""
    size = np.abs(keys.astype(np.float64)) - _OFFSET
    with np.errstate(over="ignore", under="ignore"):
        values = np.clip(np.exp(size * _LOG_GAMMA + _LOG_MIDDLE), _TINIEST, _LARGEST)
    return np.where(keys == 0, 0.0, np.copysign(values, keys))


def bucket_ends(keys: I64) -> F64:
    """Return the largest value of each bucket, whose keys are positive: the one of ``key - 1`` is its lower bound."""
    ends: F64 = np.exp((keys - _OFFSET) * _LOG_GAMMA)
    return ends


def sketch_quantile(group: I64, key: I32, count: I64, *, groups: int, p: float) -> F64:
    """Return the p-quantile of each group, NaN for groups without counts.

    ``group[i]``, ``key[i]`` and ``count[i]`` describe one bucket of one sketch; the sketches of a group are merged.
    Between closest ranks the result is interpolated linearly, as the exact quantile is (Hyndman and Fan 1996, type 7):
    where all values have one sign it is within RELATIVE_ERROR of the exact one.
    """
    quantiles = np.full(groups, np.nan)
    if not len(key):
        return quantiles
    total = np.bincount(group, weights=count, minlength=groups).astype(np.int64)
    order = np.lexsort((key, group))
    value, reached = key_values(key[order]), np.cumsum(count[order])
    present = np.flatnonzero(total)
    rank = p * (total[present] - 1)
    low = np.floor(rank).astype(np.int64)
    before = (np.cumsum(total) - total)[present]  # how many values lie in the groups before
    below = value[np.searchsorted(reached, before + low, side="right")]
    high = np.minimum(low + 1, total[present] - 1)
    above = value[np.searchsorted(reached, before + high, side="right")]
    quantiles[present] = below + (above - below) * (rank - low)
    return quantiles
