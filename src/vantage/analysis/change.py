"""How much values moved between two windows: an effect from 0 to 1 that is hard to fool, and how likely chance is.

Pure numpy, and scipy's distribution of t. An item is a row of a matrix, its columns are the buckets of a window, NaN
where there is nothing. docs/analysis.md has the formulas and where they come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np

from vantage.core.arrays import F64, I64, Mask

VALUES_MIN: Final = 3  # on either side: of fewer the spread is unknown
FALSE_SHARE_MAX: Final = 0.05  # of the items that are listed, those that moved by chance
EFFECT_MIN: Final = 0.02  # about 4 %, and always: what moved less is not listed
UNSURE_EFFECT_MIN: Final = 0.1  # what may be chance is listed from here on
SPREAD_SHARE_MIN: Final = 0.01  # of the level: constants have a spread, too
CORRELATION_MAX: Final = 0.95
_SIZE_MIN: Final = 8
_CELLS_MAX: Final = 1 << 20  # of comparisons at once


@dataclass(frozen=True, slots=True)
class Shifts:
    """Arrays by item. ``before`` and ``after`` are means, NaN without values; ``delta`` is Cliff's, from -1 (all values
    after are smaller) to 1; ``relative`` from 0 to 1 is how far apart the means are; ``effect`` is the product of both,
    without sign: a single bucket moves a mean, but not the delta. ``p`` is the probability of such a difference by
    chance, ``q`` the same after correction for the number of items; NaN where there are too few values.
    """

    before: F64
    after: F64
    delta: F64
    relative: F64
    effect: F64
    p: F64
    q: F64

    @property
    def is_beyond_chance(self) -> Mask:
        """Return which items moved more than chance explains, and enough to matter."""
        return (self.q <= FALSE_SHARE_MAX) & (self.effect >= EFFECT_MIN)

    def ranked(self) -> I64:
        """Return the items that moved: those beyond chance, then those with a large effect that may be chance; in each
        the largest effect first."""
        beyond = self.is_beyond_chance
        rows = np.flatnonzero(beyond | (~np.isnan(self.p) & (self.effect >= UNSURE_EFFECT_MIN)))
        return rows[np.lexsort((self.p[rows], -self.effect[rows], ~beyond[rows]))]


def measure(before: F64, after: F64) -> Shifts:
    """Compare two matrices with the same items as rows."""
    enough_before, enough_after = ((~np.isnan(side)).sum(axis=1) for side in (before, after))
    both = (enough_before >= VALUES_MIN) & (enough_after >= VALUES_MIN)
    # What has many values on one side and none on the other came or went: that is no matter of chance.
    before_only = (enough_after == 0) & (enough_before >= VALUES_MIN)
    one_sided = before_only | ((enough_before == 0) & (enough_after >= VALUES_MIN))
    means = _means(before), _means(after)
    delta = np.where(one_sided, np.where(before_only, -1.0, 1.0), cliffs_delta(before, after))
    # Halves, as the sum of two enormous values is infinite.
    size = np.abs(means[0]) / 2 + np.abs(means[1]) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = np.where(size > 0, np.abs(means[1] / 2 - means[0] / 2) / size, 0.0)
    relative = np.where(one_sided, 1.0, relative)
    known = both | one_sided
    p = np.where(one_sided, 0.0, chance_p(before, after))
    p[~known] = np.nan
    effect = np.where(known, np.abs(delta) * relative, 0.0)
    return Shifts(*means, delta, relative, effect, p, adjusted(p))


def joined(parts: Sequence[Shifts]) -> Shifts:
    """Return the shifts of several matrices, one after the other, corrected for the number of all items."""
    columns = {field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Shifts)}
    return Shifts(**{**columns, "q": adjusted(columns["p"])})


def cliffs_delta(before: F64, after: F64) -> F64:
    """Return how often values after are larger than values before, less how often they are smaller, of all pairs (N.
    Cliff, 1993); 0 without pairs."""
    items = len(before)
    delta = np.zeros(items)
    step = max(1, _CELLS_MAX // max(1, before.shape[1] * after.shape[1]))
    for first in range(0, items, step):
        rows = slice(first, first + step)
        pairs = np.sign(after[rows, :, None] - before[rows, None, :])
        count = (~np.isnan(pairs)).sum(axis=(1, 2))
        delta[rows] = np.nansum(pairs, axis=(1, 2)) / np.maximum(count, 1)
    return delta


def chance_p(before: F64, after: F64) -> F64:
    """Return the larger of two p-values of each item: that of ``t_test_p``, and the same without the bucket after that
    lies farthest from the mean before: no single bucket makes a change. 1 where there are too few values."""
    means = _means(before)
    distance = np.abs(after - means[:, None])
    rest = after.copy()
    known = np.flatnonzero(~np.isnan(distance).all(axis=1)) if after.size else np.empty(0, np.int64)
    rest[known, np.nanargmax(distance[known], axis=1)] = np.nan
    p = t_test_p(before, after)
    return np.where(p < 1, np.maximum(p, t_test_p(before, rest, after_min=VALUES_MIN - 1)), p)


def t_test_p(before: F64, after: F64, *, after_min: int = VALUES_MIN) -> F64:
    """Return the two-sided p-value of Student's t-test (1908) of each item, 1 where it has too few values. Both windows
    have one variance where nothing has changed; a window of three buckets could not say its own.

    Buckets that follow each other resemble each other, so that n of them say as much as n (1 - r) / (1 + r) that do not
    (Bayley and Hammersley, 1946), where r is their correlation with the next before, if it is positive: that after is
    part of what may have changed.
    """
    from scipy.special import stdtr  # it takes time and memory, when it is first used

    counts = [(~np.isnan(side)).sum(axis=1) for side in (before, after)]
    known = (counts[0] >= VALUES_MIN) & (counts[1] >= after_min)
    p = np.ones(len(before))
    if not known.any():
        return p
    sides = [side[known] for side in (before, after)]
    sizes = [count[known].astype(np.float64) for count in counts]
    means = [np.nanmean(side, axis=1) for side in sides]
    rests = [side - mean[:, None] for side, mean in zip(sides, means, strict=True)]
    correlation = _correlation(rests[0])
    share = (1 - correlation) / (1 + correlation)
    freedom = np.maximum((sizes[0] + sizes[1]) * share - 2, 1.0)
    floor = SPREAD_SHARE_MIN * np.maximum(*(np.abs(mean) for mean in means))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        squares = np.nansum(rests[0] ** 2, axis=1) + np.nansum(rests[1] ** 2, axis=1)
        variance = np.maximum(squares / (sizes[0] + sizes[1] - 2), floor**2)
        error = np.sqrt(variance * (1 / sizes[0] + 1 / sizes[1]) / share)
        t = np.abs(means[1] - means[0]) / error
    t[~(error > 0)] = 0.0
    p[known] = np.nan_to_num(2 * stdtr(freedom, -t), nan=1.0)
    return p


def adjusted(p: F64) -> F64:
    """Return p-values adjusted for their number: of the items up to a value, at most that share moved by chance
    (Benjamini and Hochberg, 1995). NaN stays NaN and does not count."""
    q = np.full(len(p), np.nan)
    rows = np.flatnonzero(~np.isnan(p))
    order = rows[np.argsort(p[rows], kind="stable")]
    scaled = p[order] * len(order) / np.arange(1, len(order) + 1)
    q[order] = np.minimum(1.0, np.minimum.accumulate(scaled[::-1])[::-1])
    return q


def _correlation(rest: F64) -> F64:
    """Return the correlation of buckets with the next, from 0 to CORRELATION_MAX, of differences from a mean.

    That of n values comes out too small by (1 + 4 r) / n (Marriott and Pope, 1954), which is put right.
    """
    products, squares = np.nansum(rest[:, 1:] * rest[:, :-1], axis=1), np.nansum(rest**2, axis=1)
    size = max(_SIZE_MIN, rest.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        seen = np.nan_to_num(products / squares)
    correlation: F64 = np.clip((seen + 1 / size) / (1 - 4 / size), 0.0, CORRELATION_MAX)
    return correlation


def _means(side: F64) -> F64:
    """Return the mean of each row, NaN without values; of enormous values too."""
    count = (~np.isnan(side)).sum(axis=1)
    means: F64 = np.where(count > 0, np.nansum(side / np.maximum(count, 1)[:, None], axis=1), np.nan)
    return means
