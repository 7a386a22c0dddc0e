"""The health of a service, from 0 to 100: request rate, error rate, response time and availability of a window.

Pure: what is measured comes in, judgement goes out. docs/analysis.md has the formulas and where they come from. Each
factor is a whole number, and the score is their weighted mean, so that an answer can be recomputed from what it shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np

from vantage.analysis.baseline import SAMPLES_MIN, Baseline, BaselineLevel
from vantage.core import number_format
from vantage.core.arrays import F64, Mask
from vantage.core.errors import InputError

FactorName = Literal["request_rate", "error_rate", "response_time", "availability"]
Status = Literal["HEALTHY", "DEGRADED", "UNHEALTHY", "UNKNOWN"]
Points = tuple[tuple[float, float], ...]
FACTORS: Final[tuple[FactorName, ...]] = get_args(FactorName)
EQUAL_WEIGHTS: Final[Mapping[FactorName, float]] = dict.fromkeys(FACTORS, 0.25)
WEIGHT_MAX: Final = 1_000_000.0
HEALTHY_MIN: Final = 80
DEGRADED_MIN: Final = 50
ABOVE_WORST_MAX: Final = 40  # so far may the score lie above the worst of CAPPING: good factors hide no outage
CAPPING: Final[frozenset[FactorName]] = frozenset({"request_rate", "error_rate", "availability"})
# Scores at some values; between two they lie on the straight line, beyond the last they stay.
ERROR_POINTS: Final[Points] = ((0, 100), (1, 75), (5, 25), (25, 0))  # by percent of requests that failed
DEVIATION_POINTS: Final[Points] = ((1, 100), (3.5, 75), (7, 25), (10, 0))  # by spreads slower, or fewer requests
RISE_POINTS: Final[Points] = ((3.5, 100), (35, 50))  # by spreads more requests
AVAILABILITY_POINTS: Final[Points] = ((50, 0), (90, 50), (99, 90), (100, 100))  # by percent of units
SPREAD_SHARE_MIN: Final = 0.1  # of what is expected: less is no news
SPREAD_MS_MIN: Final = 1.0  # nor is a millisecond
P95_ERROR: Final = 2.0  # of n requests a p95 is known to 2 / sqrt(n) of itself, as of a log-normal distribution
REQUESTS_EXPECTED_MIN: Final = 7.0  # none of so many has a probability below 0.001, if they are independent
STEADY_SPREADS: Final = 2.0  # with so many spreads of traffic expected, none is an outage
AS_USUAL: Final = 1.0  # spreads
_USUAL: Final[Mapping[BaselineLevel, str]] = {
    "hour of week": "at this hour of the week",
    "hour of day": "at this hour of the day",
    "all hours": "in the hours before",
}


@dataclass(frozen=True, slots=True)
class Units:
    """The equal parts of a window that a service was there for, in order: minutes, or longer. ``is_over`` says which
    ended so long ago that late data is unlikely: without requests, only those may count."""

    seconds: float
    requests: F64
    error_ratio: F64  # from 0 to 1, NaN where there are no requests
    is_over: Mask


@dataclass(frozen=True, slots=True)
class Window:
    """What was measured: ``requests`` in ``seconds``, the share of failed ones from 0 to 1 (None without any), the p95
    of ``durations`` durations in ms (None without any)."""

    seconds: float
    requests: float
    error_ratio: float | None
    p95_ms: float | None
    durations: float
    units: Units


@dataclass(frozen=True, slots=True)
class Factor:
    """``score`` is from 0 to 100, None where nothing can be said; then the factor counts for nothing. ``value`` is per
    second, percent, ms or percent. ``scale`` is what one spread is taken for, and ``deviation`` how many of them the
    value lies above what is expected."""

    name: FactorName
    score: int | None
    value: float | None
    weight: float
    sentence: str
    baseline: Baseline | None = None
    scale: float | None = None
    deviation: float | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """``score`` is None where no factor has one. ``reason`` is the sentence that says most."""

    score: int | None
    status: Status
    reason: str
    factors: tuple[Factor, ...]

    def factor(self, name: FactorName) -> Factor:
        return self.factors[FACTORS.index(name)]


@dataclass(frozen=True, slots=True)
class Availability:
    """Numbers of units: those that count, and of these those without requests and those most of whose requests
    failed."""

    counted: int
    silent: int
    failing: int

    @property
    def percent(self) -> float | None:
        return (self.counted - self.silent - self.failing) * 100 / self.counted if self.counted else None


def judge(
    window: Window, rate: Baseline | None, p95: Baseline | None, weights: Mapping[FactorName, float] = EQUAL_WEIGHTS
) -> Health:
    """Return the health of a window; ``rate`` is what is expected per second, ``p95`` in ms. None: there is no
    baseline, as for a service that is new."""
    return combine(
        (
            request_rate(window, rate, weights["request_rate"]),
            error_rate(window, weights["error_rate"]),
            response_time(window, p95, weights["response_time"]),
            availability(window.units, rate, weights["availability"]),
        )
    )


def combine(factors: Sequence[Factor]) -> Health:
    """Return the weighted mean of the factors that have a score and a weight, at most ABOVE_WORST_MAX above the worst
    of CAPPING. ``factors`` are in the order of FACTORS."""
    counting = [(factor, factor.score) for factor in factors if factor.score is not None and factor.weight > 0]
    if not counting:
        return Health(None, "UNKNOWN", "There is nothing to judge: no requests, and none that were expected.",
                      tuple(factors))  # fmt: skip
    total = math.fsum(factor.weight for factor, _ in counting)
    mean = math.fsum(factor.weight / total * score for factor, score in counting)
    worst = min((score for factor, score in counting if factor.name in CAPPING), default=100)
    score = rounded(min(mean, worst + ABOVE_WORST_MAX))
    reason = min(counting, key=lambda pair: pair[1])[0].sentence
    return Health(score, status_of(score), reason, tuple(factors))


def status_of(score: int | None) -> Status:
    """Return the status of a score."""
    if score is None:
        return "UNKNOWN"
    return "HEALTHY" if score >= HEALTHY_MIN else "DEGRADED" if score >= DEGRADED_MIN else "UNHEALTHY"


def parse_weights(text: str, *, field: str = "weights") -> Mapping[FactorName, float]:
    """Return the weights in ``error_rate:3,availability:1`` as shares of 1; a factor that is not named has none. '' is
    equal weights. Raises InputError naming ``field``."""
    if not text.strip():
        return EQUAL_WEIGHTS
    weights = dict.fromkeys(FACTORS, 0.0)
    for part in text.split(","):
        name, _, number = (piece.strip() for piece in part.partition(":"))
        if name not in weights:
            raise InputError(f"has no factor {name[:40]!r}: there are {', '.join(FACTORS)}", field=field)
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not 0 <= weight <= WEIGHT_MAX:
            raise InputError(f"{number[:40]!r} is not a weight from 0 to {WEIGHT_MAX:.0f}, as in error_rate:3",
                             field=field)  # fmt: skip
        weights[name] = weight
    if not any(weights.values()):
        raise InputError("must name a factor that counts, as in error_rate:3", field=field)
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def request_rate(window: Window, baseline: Baseline | None, weight: float) -> Factor:
    """Judge how many requests there are: a drop is worse than a rise, and none where some are expected is an outage."""
    value = window.requests / window.seconds
    now = number_format.rate(value) if window.requests else "No requests"
    if baseline is None:
        return Factor("request_rate", None, value, weight, f"{now}; {_no_baseline('requests')}.")
    # The number of requests in a window varies by its own square root, if they are independent.
    chance = math.sqrt(max(baseline.expected * window.seconds, 1)) / window.seconds
    scale = max(baseline.spread, SPREAD_SHARE_MIN * baseline.expected, chance)
    deviation = (value - baseline.expected) / scale
    expected = number_format.rate(baseline.expected)
    if not window.requests and is_steady(baseline, window.seconds):
        score, sentence = 0, f"No requests at all, where {expected} is usual {_USUAL[baseline.level]}."
    else:
        points, size = (RISE_POINTS, deviation) if deviation > 0 else (DEVIATION_POINTS, -deviation)
        score = rounded(interpolated(size, points))
        sentence = f"{now}, {_compared(value, baseline, deviation, ('more', 'fewer'))} ({expected})."
    return Factor("request_rate", score, value, weight, sentence, baseline, scale, deviation)


def error_rate(window: Window, weight: float) -> Factor:
    """Judge the share of requests that failed, in percent."""
    if window.error_ratio is None:
        return Factor("error_rate", None, None, weight, "No requests whose errors could be counted.")
    value = window.error_ratio * 100
    requests = number_format.count(window.requests)
    if not value:
        sentence = f"No errors in {requests} requests." if window.requests != 1 else "The only request was answered."
    elif window.requests == 1:
        sentence = "The only request failed."
    else:
        sentence = f"{number_format.percent(value)} of {requests} requests failed."
    return Factor("error_rate", rounded(interpolated(value, ERROR_POINTS)), value, weight, sentence)


def response_time(window: Window, baseline: Baseline | None, weight: float) -> Factor:
    """Judge the p95 against what is expected; faster is as good as usual."""
    value = window.p95_ms
    if value is None:
        return Factor("response_time", None, None, weight, "No durations.", baseline)
    now = f"p95 {number_format.duration_ms(value)}"
    if baseline is None:
        return Factor("response_time", None, value, weight, f"{now}; {_no_baseline('durations')}.")
    unsure = P95_ERROR / math.sqrt(max(window.durations, 1))
    scale = max(baseline.spread, max(SPREAD_SHARE_MIN, unsure) * baseline.expected, SPREAD_MS_MIN)
    deviation = (value - baseline.expected) / scale
    score = rounded(interpolated(deviation, DEVIATION_POINTS))
    compared = _compared(value, baseline, deviation, ("slower", "faster"))
    sentence = f"{now}, {compared} ({number_format.duration_ms(baseline.expected)})."
    return Factor("response_time", score, value, weight, sentence, baseline, scale, deviation)


def availability(units: Units, rate: Baseline | None, weight: float) -> Factor:
    """Judge the share of the units in which requests were served, in percent: a unit is unavailable where most of its
    requests failed, and where it has none although they were expected."""
    counts = count_units(units, rate)
    value = counts.percent
    if value is None:
        return Factor("availability", None, None, weight, "No time in which requests were expected.", rate)
    unit = _unit_word(units.seconds)
    if value == 100:
        sentence = f"Available in all {counts.counted} {unit}s." if counts.counted != 1 else f"Available in the {unit}."
    else:
        causes = [
            text
            for count, text in (
                (counts.silent, f"{counts.silent} without requests"),
                (counts.failing, f"{counts.failing} in which most failed"),
            )
            if count
        ]
        up = counts.counted - counts.silent - counts.failing
        sentence = f"Available in {up} of {counts.counted} {unit}s: {' and '.join(causes)}."
    return Factor("availability", rounded(interpolated(value, AVAILABILITY_POINTS)), value, weight, sentence, rate)


def count_units(units: Units, rate: Baseline | None) -> Availability:
    """Count the units with requests, and those that should have had some."""
    has_requests = units.requests > 0
    silent = ~has_requests & units.is_over
    if not is_steady(rate, units.seconds):
        silent = np.zeros_like(silent)
    failing = has_requests & (units.error_ratio > 0.5)
    return Availability(int((has_requests | silent).sum()), int(silent.sum()), int(failing.sum()))


def is_steady(rate: Baseline | None, seconds: float) -> bool:
    """Return whether a time without requests is an outage: enough are expected, of a rate that varies little."""
    return (
        rate is not None
        and rate.expected * seconds >= REQUESTS_EXPECTED_MIN
        and rate.expected >= STEADY_SPREADS * rate.spread
    )


def interpolated(value: float, points: Points) -> float:
    """Return the score of a value on the line through points."""
    values, scores = zip(*points, strict=True)
    return float(np.interp(value, values, scores))


def rounded(score: float) -> int:
    """Return the nearest whole number, of two the larger. What arithmetic adds to a half does not count."""
    return math.floor(round(score, 9) + 0.5)


def _compared(value: float, baseline: Baseline, deviation: float, words: tuple[str, str]) -> str:
    when = _USUAL[baseline.level]
    if abs(deviation) <= AS_USUAL:
        return f"as is usual {when}"
    growth = value / baseline.expected - 1 if baseline.expected else math.inf
    if growth >= 1:
        much = f"×{number_format.plain(growth + 1)} what is" if math.isfinite(growth) else f"{words[0]} than"
        return f"{much} usual {when}"
    return f"{abs(growth) * 100:.0f} % {words[growth < 0]} than usual {when}"


def _no_baseline(what: str) -> str:
    return f"no baseline yet, which takes {SAMPLES_MIN} full hours with {what}"


def _unit_word(seconds: float) -> str:
    return {60.0: "minute", 3600.0: "hour"}.get(seconds, number_format.duration_s(seconds) + " part")
