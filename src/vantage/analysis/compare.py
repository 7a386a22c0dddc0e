"""Two sets of observations compared: how much the mean, the quantiles and the share of failures differ, and how sure
that is.

*Matched.* Observations carry a stratum, such as a route. Only strata with observations on both sides count, and both
sides are weighted to the same mix of them, so that a change of traffic is not taken for a change of speed (Simpson's
paradox; post-stratification: Cochran, "Sampling techniques", 1977, section 5A.9).

*Errors.* Every estimate is linear in its influence function, whose sums by batch give its variance (``long_run``). The
interval of a quantile inverts that of the distribution function at it (Woodruff, "Confidence intervals for medians and
other position measures", 1952). That of a relative change combines both sides' intervals on the scale of logarithms,
with their correlation (MOVER: Zou and Donner, "Construction of confidence limits about effect measures", 2008; Zou,
"Toward using confidence intervals to compare correlations", 2007).

*Ranks.* Whether a value of the candidate is lower than one of the baseline, in each stratum: the probability that Mann
and Whitney's test is about, with Brunner's and Munzel's variance ("The nonparametric Behrens-Fisher problem", 2000) by
batches instead of by observation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from vantage.analysis.interval import LEVEL, Change, as_pct, change_of
from vantage.analysis.long_run import BATCHES_MIN, Influence, batch_edges, bincount, t_quantile, t_two_sided
from vantage.analysis.observations import Observations, shared_edges
from vantage.core.arrays import F64, I64
from vantage.core.errors import InputError

QUANTILES: Final = (0.5, 0.75, 0.9, 0.95, 0.99)
FIGURES: Final = ("mean", *(f"p{round(p * 100)}" for p in QUANTILES))
IN_STRATUM_MIN: Final = 5  # observations of a stratum on either side: fewer have no spread to speak of
STRATA_SHOWN_MAX: Final = 50
SHUFFLED_MAX: Final = 200_000
BINS: Final = 48


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one side: the number of matched observations and their figures, by the names of FIGURES."""

    samples: int
    values: dict[str, float]


@dataclass(frozen=True, slots=True)
class RankTest:
    """``superiority``: the probability that an observation of the candidate is lower than one of the baseline, equal
    ones counting half; 0.5 without a difference."""

    superiority: float
    low: float
    high: float
    p_value: float
    statistic: float
    freedom: float


@dataclass(frozen=True, slots=True)
class StratumChange:
    """A stratum on both sides: numbers of observations, means, and the change of the mean."""

    name: str
    samples: tuple[int, int]
    means: tuple[float, float]
    change: Change
    weight: float


@dataclass(frozen=True, slots=True)
class Histogram:
    """Shares of both sides between edges; what lies beyond counts with the first and last."""

    edges: F64
    baseline: F64
    candidate: F64
    is_logarithmic: bool


@dataclass(frozen=True, slots=True)
class ValueComparison:
    """The result. ``unmatched``: the shares of the sides' observations in strata that the other side does not have.
    ``effective``: how many independent observations would say as much about the mean; infinite where all are equal.
    ``is_paired``: batches of the same time were compared. ``is_ordered`` is false where too many observations have the
    same time, so that they count as independent."""

    baseline: Figures
    candidate: Figures
    plain_means: tuple[float, float]
    samples: tuple[int, int]
    changes: dict[str, Change]
    ranks: RankTest
    strata: tuple[StratumChange, ...]
    strata_omitted: int
    unmatched: tuple[float, float]
    histogram: Histogram
    batches: tuple[int, int]
    effective: tuple[float, float]
    is_paired: bool
    is_ordered: bool


@dataclass(frozen=True, slots=True)
class _Side:
    """One side of matched strata. ``unit`` is the weight of one observation of each row; all weights add up to 1."""

    rows: Observations
    unit: F64
    in_stratum: I64  # observations by stratum
    batch: I64
    batches: int

    @property
    def weight(self) -> F64:
        weight: F64 = self.unit * self.rows.count
        return weight

    def mean_by_stratum(self, value: F64) -> F64:
        total = np.bincount(self.rows.stratum, value * self.rows.count, len(self.in_stratum))
        mean: F64 = total / np.maximum(self.in_stratum, 1)
        return mean

    def influence(self, value: F64) -> F64:
        """Return by batch what observations add to the weighted mean of ``value`` beyond their stratum's mean."""
        number = self.in_stratum[self.rows.stratum]
        few = np.sqrt(number / np.maximum(number - 1, 1))
        off = (value - self.mean_by_stratum(value)[self.rows.stratum]) * self.weight * few
        return bincount(self.batch, off, self.batches)


class _Quantiles:
    """The weighted distribution of one side, as if every observation stood there alone. Between observations it is
    interpolated linearly, so equal weights give Hyndman's and Fan's type 7."""

    def __init__(self, side: _Side) -> None:
        order = np.argsort(side.rows.value, kind="stable")
        unit, weight = side.unit[order], side.weight[order]
        reached = np.cumsum(weight)
        first, last = reached - weight, reached - unit
        scale = max(float(last[-1]), 1e-12)
        self._at = np.column_stack([first, last]).ravel() / scale
        self._value = np.repeat(side.rows.value[order], 2)

    def at(self, p: float) -> float:
        return float(np.interp(p, self._at, self._value))

    def bounds(self, p: float, margin: float) -> tuple[float, float]:
        """Return the quantiles at ``p`` -+ ``margin``, infinite beyond the observations."""
        low = self.at(p - margin) if p - margin > 0 else -math.inf
        return low, self.at(p + margin) if p + margin < 1 else math.inf


def compare_values(
    baseline: Observations, candidate: Observations, strata: Sequence[str], *, paired: bool
) -> ValueComparison:
    """Compare two sets of observations whose strata are numbers of names. ``paired``: both are of the same time.

    Raises InputError when no stratum has IN_STRATUM_MIN observations on both sides.
    """
    matched = _matched((baseline, candidate), len(strata))
    if matched is None:
        raise InputError(
            f"baseline and candidate share no group with at least {IN_STRATUM_MIN} samples on both sides", field="match"
        )
    sides, weights, unmatched, is_ordered = _sides((baseline, candidate), matched, paired=paired)
    paired = paired and is_ordered
    quantiles = [_Quantiles(side) for side in sides]
    values = [_figures(side, of_side) for side, of_side in zip(sides, quantiles, strict=True)]
    influence = Influence(_influences(sides[0], values[0]), _influences(sides[1], values[1]), paired=paired)
    shown = np.argsort(-weights, kind="stable")[:STRATA_SHOWN_MAX]
    shown = shown[weights[shown] > 0]
    return ValueComparison(
        baseline=Figures(len(sides[0].rows), dict(zip(FIGURES, values[0], strict=True))),
        candidate=Figures(len(sides[1].rows), dict(zip(FIGURES, values[1], strict=True))),
        plain_means=(_plain_mean(baseline), _plain_mean(candidate)),
        samples=(len(baseline), len(candidate)),
        changes=_changes(values, quantiles, influence),
        ranks=_ranks(sides, weights, paired=paired),
        strata=_strata(sides, weights, strata, shown, paired=paired),
        strata_omitted=int((weights > 0).sum()) - len(shown),
        unmatched=unmatched,
        histogram=_histogram(sides, quantiles),
        batches=(sides[0].batches, sides[1].batches),
        effective=(_effective(sides[0], influence, 0), _effective(sides[1], influence, 1)),
        is_paired=paired,
        is_ordered=is_ordered,
    )


def _matched(sides: Sequence[Observations], strata: int) -> F64 | None:
    """Return by stratum its share of all observations in strata that both sides have; None where there is none."""
    numbers = [np.bincount(side.stratum, side.count, strata) for side in sides]
    both = np.minimum(*numbers) >= IN_STRATUM_MIN
    total = np.where(both, numbers[0] + numbers[1], 0.0)
    return total / total.sum() if both.any() else None


def _sides(
    sides: Sequence[Observations], weights: F64, *, paired: bool
) -> tuple[list[_Side], F64, tuple[float, float], bool]:
    """Return both sides, the weights of strata, the shares that are not matched, and whether the order in time could be
    used."""
    matched = [side.take(np.flatnonzero(weights[side.stratum] > 0)) for side in sides]
    unmatched = tuple(1 - len(part) / len(side) for part, side in zip(matched, sides, strict=True))
    edges = _edges(matched, paired=paired)
    is_ordered = all(len(own) + 1 >= BATCHES_MIN for own in edges)
    if not is_ordered:
        matched = [_shuffled(side) for side in matched]
        edges = _edges(matched, paired=False)
    built = []
    for side, own in zip(matched, edges, strict=True):
        number = np.bincount(side.stratum, side.count, len(weights)).astype(np.int64)
        unit = weights[side.stratum] / number[side.stratum]
        built.append(_Side(side, unit, number, np.searchsorted(own, side.time_ms, side="right"), len(own) + 1))
    return built, weights, (unmatched[0], unmatched[1]), is_ordered


def _edges(sides: Sequence[Observations], *, paired: bool) -> list[I64]:
    if paired:
        shared = shared_edges(sides[0].time_ms, sides[1].time_ms, sides[0].count, sides[1].count)
        return [shared, shared]
    return [batch_edges(side.time_ms, side.count) for side in sides]


def _shuffled(side: Observations) -> Observations:
    """Return single observations in an order that says nothing: a fixed one, so that a result can be had again."""
    if len(side) > SHUFFLED_MAX:
        return side
    rows = np.repeat(np.arange(len(side.count)), side.count)
    order = np.random.default_rng(0).permutation(len(rows))
    single = side.take(rows)
    return replace(single, time_ms=order.astype(np.int64), count=np.ones(len(rows), np.int64))


def _plain_mean(side: Observations) -> float:
    return float((side.value * side.count).sum() / side.count.sum())


def _effective(side: _Side, influence: Influence, number: int) -> float:
    variance = float(influence.variances(number)[0][0])
    off = side.rows.value - side.mean_by_stratum(side.rows.value)[side.rows.stratum]
    return float((side.weight * off**2).sum()) / variance if variance > 0 else math.inf


def _figures(side: _Side, quantiles: _Quantiles) -> list[float]:
    return [float((side.rows.value * side.weight).sum()), *(quantiles.at(p) for p in QUANTILES)]


def _influences(side: _Side, values: Sequence[float]) -> F64:
    """Return a row for each figure: that of the mean in its own unit, those of quantiles in shares of observations."""
    rows = [side.influence(side.rows.value)]
    rows += [side.influence((side.rows.value <= value).astype(np.float64)) for value in values[1:]]
    return np.array(rows)


def _changes(
    values: Sequence[Sequence[float]], quantiles: Sequence[_Quantiles], influence: Influence
) -> dict[str, Change]:
    changes = {}
    correlation = influence.correlation()
    variances = [influence.variances(side)[0] for side in (0, 1)]
    _, freedom = influence.difference()
    for row, name in enumerate(FIGURES):
        pair = (values[0][row], values[1][row])
        if name == "mean":
            changes[name] = _mean_change(name, pair, influence)
            continue
        p = QUANTILES[row - 1]
        critical = t_quantile((1 + LEVEL) / 2, float(freedom[row]))
        bounds = [
            of_side.bounds(p, critical * math.sqrt(float(variance[row])))
            for of_side, variance in zip(quantiles, variances, strict=True)
        ]
        changes[name] = _quantile_change(name, pair, bounds, float(correlation[row]), float(freedom[row]))
    return changes


def _mean_change(name: str, pair: tuple[float, float], influence: Influence) -> Change:
    """Return the change of a mean: of its logarithm, by the delta method, where both are positive."""
    baseline, candidate = pair
    plain, freedom = influence.difference()
    change = change_of(name, baseline, candidate, float(plain[0]), float(freedom[0]))
    if min(pair) <= 0:
        return change
    relative, freedom = influence.difference(1 / baseline, 1 / candidate)
    ratio = change_of(name, math.log(baseline), math.log(candidate), float(relative[0]), float(freedom[0]))
    return replace(
        change,
        pct=as_pct(ratio.absolute),
        low_pct=as_pct(ratio.low),
        high_pct=as_pct(ratio.high),
        p_value=ratio.p_value,
        statistic=ratio.statistic,
        freedom=ratio.freedom,
    )


def _quantile_change(
    name: str, pair: tuple[float, float], bounds: Sequence[tuple[float, float]], correlation: float, freedom: float
) -> Change:
    baseline, candidate = pair
    low, high = _mover(pair, bounds, correlation)
    absolute = candidate - baseline
    statistic = _statistic(absolute, low, high, t_quantile((1 + LEVEL) / 2, freedom))
    change = Change(
        name, absolute, low, high, None, None, None, float(t_two_sided(statistic, freedom)), statistic, freedom
    )
    if min(pair) <= 0:
        return change
    logs = (math.log(baseline), math.log(candidate))
    low, high = _mover(logs, [(_log(below), _log(above)) for below, above in bounds], correlation)
    statistic = _statistic(logs[1] - logs[0], low, high, t_quantile((1 + LEVEL) / 2, freedom))
    return replace(
        change,
        pct=as_pct(logs[1] - logs[0]),
        low_pct=as_pct(low),
        high_pct=as_pct(high),
        p_value=float(t_two_sided(statistic, freedom)),
        statistic=statistic,
    )


def _mover(pair: tuple[float, float], bounds: Sequence[tuple[float, float]], correlation: float) -> tuple[float, float]:
    """Return the interval of candidate minus baseline from those of both."""
    (baseline, candidate), (of_baseline, of_candidate) = pair, bounds
    difference = candidate - baseline
    down = (candidate - of_candidate[0], of_baseline[1] - baseline)
    up = (of_candidate[1] - candidate, baseline - of_baseline[0])
    return difference - _joined(*down, correlation), difference + _joined(*up, correlation)


def _joined(first: float, second: float, correlation: float) -> float:
    if math.isinf(first) or math.isinf(second):
        return math.inf
    return math.sqrt(max(0.0, first**2 + second**2 - 2 * correlation * first * second))


def _statistic(difference: float, low: float, high: float, critical: float) -> float:
    """Return Student's t of an interval that need not be symmetric: the side towards 0 counts."""
    if not difference:
        return 0.0
    margin = difference - low if difference > 0 else high - difference
    return difference * critical / margin if margin > 0 else math.copysign(math.inf, difference)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _ranks(sides: Sequence[_Side], weights: F64, *, paired: bool) -> RankTest:
    baseline, candidate = sides
    value = np.concatenate([side.rows.value for side in sides])
    stratum = np.concatenate([side.rows.stratum for side in sides])
    cut = len(baseline.rows.value)
    order = np.lexsort((value, stratum))
    is_first = np.append(True, (np.diff(value[order]) != 0) | (np.diff(stratum[order]) != 0))
    group = np.empty(len(order), np.int64)
    group[order] = np.cumsum(is_first) - 1
    groups = int(is_first.sum())
    stratum_of = stratum[order][is_first]
    middle = []  # by side and group: the share of the side's observations in the stratum that are lower, ties half
    for side, rows in ((baseline, slice(0, cut)), (candidate, slice(cut, None))):
        number = np.bincount(group[rows], side.rows.count, groups)
        below = np.cumsum(number) - number
        of_stratum = np.cumsum(np.append(0.0, side.in_stratum[:-1]))  # observations in the strata before
        middle.append((below - of_stratum[stratum_of] + number / 2) / np.maximum(side.in_stratum[stratum_of], 1))
    lower = middle[1][group[:cut]]  # how likely the candidate is lower than this observation of the baseline
    higher = 1 - middle[0][group[cut:]]
    superiority = float((weights * candidate.mean_by_stratum(higher)).sum())
    influence = Influence(-baseline.influence(lower)[None], candidate.influence(higher)[None], paired=paired)
    variance, freedom = influence.difference()
    change = change_of("ranks", 0.5, superiority, float(variance[0]), float(freedom[0]))
    p_value = change.p_value
    if not variance[0] and superiority != 0.5:
        # All of the candidate lies on one side: as likely as that of every batch by chance (sign test).
        p_value = 2.0 ** (1 - min(side.batches for side in sides))
    low, high = (min(1.0, max(0.0, 0.5 + bound)) for bound in (change.low, change.high))
    return RankTest(superiority, low, high, p_value, change.statistic, change.freedom)


def _strata(
    sides: Sequence[_Side], weights: F64, names: Sequence[str], shown: I64, *, paired: bool
) -> tuple[StratumChange, ...]:
    """Return the changes of the heaviest strata's means, each on its own."""
    row_of = np.full(len(weights), -1)
    row_of[shown] = np.arange(len(shown))
    means, parts = [], []
    for side in sides:
        mean = side.mean_by_stratum(side.rows.value)
        means.append(mean[shown])
        rows = np.flatnonzero(row_of[side.rows.stratum] >= 0)
        stratum = side.rows.stratum[rows]
        off = (side.rows.value[rows] - mean[stratum]) * side.rows.count[rows] / side.in_stratum[stratum]
        few = np.sqrt(side.in_stratum[stratum] / np.maximum(side.in_stratum[stratum] - 1, 1))
        cell = row_of[stratum] * side.batches + side.batch[rows]
        parts.append(bincount(cell, off * few, len(shown) * side.batches).reshape(len(shown), side.batches))
    changes = []
    for row, stratum in enumerate(shown.tolist()):
        pair = (float(means[0][row]), float(means[1][row]))
        own = Influence(parts[0][row : row + 1], parts[1][row : row + 1], paired=paired)
        number = (int(sides[0].in_stratum[stratum]), int(sides[1].in_stratum[stratum]))
        change = _mean_change("mean", pair, own)
        changes.append(StratumChange(names[stratum], number, pair, change, float(weights[stratum])))
    return tuple(changes)


def _histogram(sides: Sequence[_Side], quantiles: Sequence[_Quantiles]) -> Histogram:
    low = min(quantile.at(0.001) for quantile in quantiles)
    high = max(quantile.at(0.999) for quantile in quantiles)
    is_logarithmic = low > 0 and high > 4 * low
    if high <= low:
        low, high = low - 0.5, high + 0.5
    edges = np.geomspace(low, high, BINS + 1) if is_logarithmic else np.linspace(low, high, BINS + 1)
    shares = [
        bincount(np.clip(np.searchsorted(edges, side.rows.value, side="right") - 1, 0, BINS - 1), side.weight, BINS)
        for side in sides
    ]
    return Histogram(edges, shares[0], shares[1], is_logarithmic)
