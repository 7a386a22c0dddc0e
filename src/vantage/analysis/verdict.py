"""From comparisons to a recommendation: what changed for the better or the worse, by how much, and how sure that is.

Each metric is judged by its typical values (the rank test), its mean and its 95th percentile, and requests by their
errors. All probabilities together are corrected for their number (Holm, "A simple sequentially rejective multiple test
procedure", 1979), so that the chance of any false alarm is ALPHA.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from vantage.analysis.compare import RankTest, ValueComparison
from vantage.analysis.compare_shares import ErrorComparison
from vantage.analysis.interval import LEVEL, Change, as_pct
from vantage.analysis.long_run import t_quantile
from vantage.analysis.sequential import sequential_critical, sequential_p

ALPHA: Final = 1 - LEVEL
SAMPLES_MIN: Final = 30
EFFECTIVE_MIN: Final = 12
EFFECT_PCT: Final = 5.0
ERROR_POINTS: Final = 0.5
Direction = Literal["lower", "higher"]
Word = Literal["DEPLOY", "HOLD", "ROLLBACK", "INSUFFICIENT DATA"]
Outcome = Literal["better", "worse", "no worse", "no difference", "unclear", "different"]


@dataclass(frozen=True, slots=True)
class Stakes:
    """Changes that matter: ``effect_pct`` of a metric in percent, ``error_points`` of the error rate in percentage
    points. ``share``: which part of the planned data is there, of a comparison that is looked at while it runs; None of
    one that is over."""

    effect_pct: float = EFFECT_PCT
    error_points: float = ERROR_POINTS
    share: float | None = None


@dataclass(frozen=True, slots=True)
class MetricResult:
    """A metric's comparison, and what is better of it; None where nobody knows."""

    metric: str
    unit: str
    direction: Direction | None
    comparison: ValueComparison


@dataclass(frozen=True, slots=True)
class Criterion:
    """A figure that is judged. ``growth``, ``low`` and ``high`` are its change and the interval, in ``unit``: percent,
    or percentage points; None where it has none. ``p_value`` is of no change, ``p_adjusted`` the same after Holm."""

    metric: str
    name: str
    unit: str
    growth: float | None
    low: float | None
    high: float | None
    matters: float
    p_value: float
    outcome: Outcome = "unclear"
    p_adjusted: float = 1.0

    @property
    def label(self) -> str:
        return self.name if not self.metric else f"{self.name} of {self.metric}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """``p_value``: the smallest adjusted one; ``is_significant``: it is below ALPHA. None without enough data."""

    word: Word
    reason: str
    p_value: float | None
    is_significant: bool
    criteria: tuple[Criterion, ...]

    @property
    def recommendation(self) -> str:
        return f"{self.word} - {self.reason}"


_LOWER_IS_BETTER: Final = ("duration", "latency", "error", "failure", "failed", "timeout", "wait", "retries", "lag")
_TIME_UNITS: Final = frozenset({"ns", "us", "ms", "s", "min", "h"})


def known_direction(metric: str, unit: str) -> Direction | None:
    """Return what is better of a metric by its unit and name: less of durations and errors; None for others."""
    name = metric.lower()
    return "lower" if unit in _TIME_UNITS or any(word in name for word in _LOWER_IS_BETTER) else None


def judge(
    results: Sequence[MetricResult],
    errors: ErrorComparison | None,
    *,
    stakes: Stakes,
    share_p: float | None = None,
    missing: str = "",
) -> Verdict:
    """Return the verdict. ``missing`` says why there is nothing to compare. ``share_p``: the probability of the
    candidate's share of the traffic, if one was expected."""
    if missing:
        return Verdict("INSUFFICIENT DATA", missing, None, False, ())
    criteria = [criterion for result in results for criterion in _of_metric(result, stakes)]
    if errors is not None:
        criteria.append(_of_errors(errors, stakes))
    directions: dict[str, Direction | None] = {result.metric: result.direction for result in results}
    judged = tuple(_judged(item, directions.get(item.metric, "lower")) for item in _holm(criteria))
    if reason := _too_little(results):
        return Verdict("INSUFFICIENT DATA", reason, None, False, judged)
    smallest = min(item.p_adjusted for item in judged)
    word, reason = _recommend(judged, share_p)
    return Verdict(word, reason, smallest, smallest < ALPHA, judged)


def _too_little(results: Sequence[MetricResult]) -> str:
    for result in results:
        for side, samples, effective in zip(
            ("baseline", "candidate"), result.comparison.samples, result.comparison.effective, strict=True
        ):
            if samples < SAMPLES_MIN:
                return f"{side} has {samples} samples of {result.metric}, {SAMPLES_MIN} are needed"
            if effective < EFFECTIVE_MIN:
                return (
                    f"{side}'s {samples} samples of {result.metric} depend on each other so much that they say no more"
                    f" than {effective:.0f} independent samples: a longer time is needed"
                )
    return ""


def _of_metric(result: MetricResult, stakes: Stakes) -> list[Criterion]:
    comparison = result.comparison
    typical, mean, tail = (comparison.changes[name] for name in ("p50", "mean", "p95"))
    return [
        replace(_criterion(result.metric, "median", typical, stakes), p_value=_p(comparison.ranks, stakes)),
        _criterion(result.metric, "mean", mean, stakes),
        _criterion(result.metric, "p95", tail, stakes),
    ]


def _criterion(metric: str, name: str, change: Change, stakes: Stakes) -> Criterion:
    widened = widen(change, stakes.share)
    if widened.pct is None:
        return Criterion(metric, name, "", change.absolute, widened.low, widened.high, 0.0, _p(change, stakes))
    return Criterion(
        metric, name, "%", widened.pct, widened.low_pct, widened.high_pct, stakes.effect_pct, _p(change, stakes)
    )


def _of_errors(errors: ErrorComparison, stakes: Stakes) -> Criterion:
    change = widen(errors.change, stakes.share)
    growth, low, high = (100 * value for value in (change.absolute, change.low, change.high))
    return Criterion("", "error rate", "points", growth, low, high, stakes.error_points, _p(errors.change, stakes))


def _p(test: Change | RankTest, stakes: Stakes) -> float:
    if stakes.share is None:
        return test.p_value
    if math.isinf(test.statistic):
        return test.p_value
    return sequential_p(test.statistic, test.freedom, stakes.share, alpha=ALPHA)


def widen(change: Change, share: float | None) -> Change:
    """Return a change with the interval that stays right however often it is looked at; the same for a share of
    None."""
    if share is None:
        return change
    factor = sequential_critical(share, change.freedom, alpha=ALPHA) / t_quantile((1 + LEVEL) / 2, change.freedom)
    low, high = _stretched(change.absolute, change.low, change.high, factor)
    widened = replace(change, low=low, high=high)
    if change.pct is None or change.low_pct is None or change.high_pct is None:
        return widened
    logs = [_log_of_pct(value) for value in (change.pct, change.low_pct, change.high_pct)]
    low, high = _stretched(logs[0], logs[1], logs[2], factor)
    return replace(widened, low_pct=as_pct(low), high_pct=as_pct(high))


def _stretched(middle: float, low: float, high: float, factor: float) -> tuple[float, float]:
    return middle - (middle - low) * factor, middle + (high - middle) * factor


def _log_of_pct(pct: float) -> float:
    return pct if math.isinf(pct) else math.log1p(pct / 100) if pct > -100 else -math.inf


def _holm(criteria: Sequence[Criterion]) -> list[Criterion]:
    """Return the criteria with adjusted probabilities, in their order."""
    order = sorted(range(len(criteria)), key=lambda number: criteria[number].p_value)
    adjusted: dict[int, float] = {}
    largest = 0.0
    for rank, number in enumerate(order):
        largest = max(largest, min(1.0, (len(criteria) - rank) * criteria[number].p_value))
        adjusted[number] = largest
    return [replace(item, p_adjusted=adjusted[number]) for number, item in enumerate(criteria)]


def _judged(item: Criterion, direction: Direction | None) -> Criterion:
    growth, low, high = item.growth or 0.0, item.low, item.high
    if item.p_adjusted < ALPHA and growth:
        if direction is None:
            return replace(item, outcome="different")
        return replace(item, outcome="better" if (growth < 0) == (direction == "lower") else "worse")
    worst = None if low is None or high is None else -low if direction == "higher" else high
    if direction is None and low is not None and high is not None:
        worst = max(-low, high)
    if low == high == 0:
        return replace(item, outcome="no difference")
    if worst is not None and item.matters and worst < item.matters:
        return replace(item, outcome="no worse" if direction is not None else "no difference")
    return item


def _recommend(criteria: Sequence[Criterion], share_p: float | None) -> tuple[Word, str]:
    worse = [item for item in criteria if item.outcome == "worse"]
    better = [item for item in criteria if item.outcome == "better"]
    serious = [item for item in worse if abs(item.growth or 0.0) >= item.matters]
    errors = [item for item in serious if not item.metric]
    if errors or (serious and not better):
        return "ROLLBACK", f"candidate is significantly worse: {describe(errors[0] if errors else _largest(serious))}"
    if serious:
        return "HOLD", (
            f"candidate is better and worse: {describe(_largest(better))}, but {describe(_largest(serious))};"
            " weigh them against each other"
        )
    if share_p is not None and share_p < 0.001:
        return "HOLD", (
            "the candidate's share of the traffic is not the expected one (sample-ratio check):"
            " the sides may differ in more than the version"
        )
    different = [item for item in criteria if item.outcome == "different"]
    if different:
        return "HOLD", (
            f"candidate differs: {describe(_largest(different))}; whether that is better is not known:"
            " give the metric a direction"
        )
    unclear = [item for item in criteria if item.outcome == "unclear"]
    if better:
        also = f"; {describe(_largest(worse))}, less than matters" if worse else ""
        also += f"; not clear yet: {', '.join(item.label for item in unclear)}" if unclear else ""
        return "DEPLOY", f"candidate shows significant improvement: {describe(_largest(better))}{also}"
    if not unclear:
        reason = f"{describe(_closest(criteria))}, where {_matters(criteria)} would matter"
        return "DEPLOY", f"candidate is no worse: {reason}"
    reason = f"no clear difference, and a relevant one cannot be excluded: {describe(_widest(unclear))}"
    return "HOLD", reason + _needed(unclear)


def _largest(criteria: Sequence[Criterion]) -> Criterion:
    """Return the criterion to name: the mean if it is there, else the one with the largest change."""
    return next((item for item in criteria if item.name == "mean"), None) or max(
        criteria, key=lambda item: abs(item.growth or 0.0)
    )


def _closest(criteria: Sequence[Criterion]) -> Criterion:
    return next((item for item in criteria if item.name == "mean"), criteria[0])


def _matters(criteria: Sequence[Criterion]) -> str:
    item = _closest(criteria)
    return f"{item.matters:g} {'%' if item.unit == '%' else 'percentage points'}"


def _widest(criteria: Sequence[Criterion]) -> Criterion:
    return max(criteria, key=_excess)


def _excess(item: Criterion) -> float:
    if item.low is None or item.high is None or not item.matters:
        return 0.0
    width = (item.high - item.low) / 2
    return width / item.matters if math.isfinite(width) else math.inf


def _needed(criteria: Sequence[Criterion]) -> str:
    excess = _excess(_widest(criteria))
    return f"; about {excess**2:.0f} times as many samples would show it" if 1.25 <= excess < 1000 else ""


def describe(item: Criterion) -> str:
    """Return a change in words, such as 'mean of http.request.duration 22.7 % lower (95 % interval 18.1 to 27 %)'."""
    growth = item.growth
    if growth is None:
        return f"{item.label} changed"
    unit = {"%": " %", "points": " percentage points", "": ""}[item.unit]
    words = f"{_short(abs(growth))}{unit} {'lower' if growth < 0 else 'higher'}" if growth else "the same"
    low, high = item.low, item.high
    if low is None or high is None:
        return f"{item.label} {words}"
    return f"{item.label} {words} (95 % interval {_signed(low)} to {_signed(high)}{unit})"


def _short(value: float) -> str:
    return _digits(value) if math.isfinite(value) else "unknown"


def _signed(value: float) -> str:
    return f"{'-' if value < 0 else '+'}{_digits(abs(value))}" if math.isfinite(value) else "unknown"


def _digits(value: float) -> str:
    """Return a positive number with one decimal, and of small ones two digits."""
    return f"{value:.1f}" if 1 <= value < 1e6 else f"{value:.2g}"
