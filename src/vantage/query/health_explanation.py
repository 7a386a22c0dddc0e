"""How a health score came about: inputs, baselines and steps, and queries and lines of numpy that give the same.

The queries read samples and spans, where the score reads rollups: a p95 differs by up to 1 %, and what has expired is
missing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from vantage.analysis.baseline import DAY_HOURS, SIGMA_OF_MAD, WEEK_HOURS, Baseline
from vantage.analysis.health import (
    ABOVE_WORST_MAX,
    AVAILABILITY_POINTS,
    CAPPING,
    DEVIATION_POINTS,
    ERROR_POINTS,
    P95_ERROR,
    REQUESTS_EXPECTED_MIN,
    RISE_POINTS,
    SPREAD_MS_MIN,
    SPREAD_SHARE_MIN,
    STEADY_SPREADS,
    Factor,
    FactorName,
    Health,
    Points,
    count_units,
)
from vantage.core import number_format
from vantage.core.arrays import F64, I64
from vantage.core.rollup import HOUR_MS
from vantage.core.semconv import DURATION, ERROR_TAG, MS_PER_UNIT, REQUESTS, STATUS_TAGS
from vantage.query.context import QueryContext
from vantage.query.health import TIERS, ServiceHealth

_PERIODS: Final = {"hour of week": WEEK_HOURS, "hour of day": DAY_HOURS, "all hours": 1}
_TIER_TEXTS: Final = {"1m": "rollups of minutes", "5m": "rollups of 5 minutes", "1h": "rollups of hours"}


@dataclass(frozen=True, slots=True)
class Hour:
    """An hour of a baseline, and what it measured."""

    time_ms: int
    value: float


@dataclass(frozen=True, slots=True)
class FactorExplanation:
    """A factor with its inputs as texts, the hours of its baseline, the formula and where it is from, and what
    reproduces it: queries (a title and a text) for the inputs, lines of numpy for the score, '' where there is none."""

    factor: Factor
    title: str
    inputs: tuple[tuple[str, str], ...]
    hours: tuple[Hour, ...]
    formula: str
    source: str
    tier: str
    queries: tuple[tuple[str, str], ...]
    snippet: str


@dataclass(frozen=True, slots=True)
class HealthExplanation:
    """``mean`` is the weighted mean before it was capped and rounded, None without factors; ``cap`` is the factor that
    capped it, '' where none did. ``snippet`` makes the score of those of the factors."""

    result: ServiceHealth
    factors: tuple[FactorExplanation, ...]
    mean: float | None
    cap: FactorName | None
    snippet: str

    @property
    def weights_used(self) -> float:
        """Return the sum of the weights of the factors that have a score."""
        factors = self.result.health.factors
        return round(math.fsum(factor.weight for factor in factors if factor.score is not None), 9)


async def explain_health(context: QueryContext, result: ServiceHealth) -> HealthExplanation:
    """Return the explanation of a score. Raises what the store raises."""
    units = {info.series.unit for info in await context.store.list_series(service=result.service, metric=DURATION)}
    queries = _Queries(result, frozenset(units))
    factors = (
        _request_rate(result, queries),
        _error_rate(result, queries),
        _response_time(result, queries),
        _availability(result, queries),
    )
    mean, cap = _mean_and_cap(result.health)
    return HealthExplanation(result, factors, mean, cap, _total_snippet(result.health))


def _request_rate(result: ServiceHealth, queries: _Queries) -> FactorExplanation:
    factor, window = result.health.factor("request_rate"), result.window
    hours = _hours_of(result.hours.time_ms, result.hours.rate, result.at_ms, factor.baseline)
    inputs = [
        ("Requests", number_format.count(window.requests)),
        ("Seconds", f"{window.seconds:.3f}"),
        ("Requests per second", number_format.rate(factor.value)),
    ]
    snippet = ""
    if factor.baseline is not None:
        inputs += [
            *_baseline_inputs(factor.baseline, number_format.rate),
            ("Scale", number_format.rate(factor.scale)),
            ("Deviation", _spreads(factor.deviation)),
        ]
        snippet = f"""import numpy as np

{_baseline_lines(factor.baseline, hours, "requests per second")}
requests, seconds = {window.requests!r}, {window.seconds!r}
rate = requests / seconds
chance = max(expected * seconds, 1) ** 0.5 / seconds
scale = max(spread, {SPREAD_SHARE_MIN} * expected, chance)
deviation = (rate - expected) / scale
if requests == 0 and expected * seconds >= {REQUESTS_EXPECTED_MIN:g} and expected >= {STEADY_SPREADS:g} * spread:
    score = 0
elif deviation > 0:
    score = {_interp("deviation", RISE_POINTS)}
else:
    score = {_interp("-deviation", DEVIATION_POINTS)}
print(int(round(score, 9) + 0.5))"""
    return FactorExplanation(
        factor,
        "Request rate",
        tuple(inputs),
        hours,
        "deviation = (rate − expected) / scale; scale = max(spread, 10 % of expected, √requests expected / seconds)",
        "Robust score as of Iglewicz and Hoaglin (1993); chance as of a Poisson process; silence beyond chance is 0",
        _tier(result),
        (("Requests", queries.requests()), ("The hours before", queries.hourly_rate())),
        snippet,
    )


def _error_rate(result: ServiceHealth, queries: _Queries) -> FactorExplanation:
    factor = result.health.factor("error_rate")
    inputs = [("Requests", number_format.count(result.window.requests)),
              ("Failed", number_format.percent(factor.value))]  # fmt: skip
    snippet = ""
    if factor.value is not None:
        snippet = f"""import numpy as np

percent = {factor.value!r}
score = {_interp("percent", ERROR_POINTS)}
print(int(round(score, 9) + 0.5))"""
    return FactorExplanation(
        factor,
        "Error rate",
        tuple(inputs),
        (),
        "percent = 100 × failed / requests",
        "The points are the thresholds of the pages: 1 % is a warning, 5 % is bad",
        _tier(result),
        (("Requests and errors", queries.errors()),),
        snippet,
    )


def _response_time(result: ServiceHealth, queries: _Queries) -> FactorExplanation:
    factor, window = result.health.factor("response_time"), result.window
    hours = _hours_of(result.hours.p95_time_ms, result.hours.p95_ms, result.at_ms, factor.baseline)
    inputs = [("Durations", number_format.count(window.durations)), ("p95", number_format.duration_ms(factor.value))]
    snippet = ""
    if factor.baseline is not None and factor.value is not None:
        inputs += [
            *_baseline_inputs(factor.baseline, number_format.duration_ms),
            ("Scale", number_format.duration_ms(factor.scale)),
            ("Deviation", _spreads(factor.deviation)),
        ]
        snippet = f"""import numpy as np

{_baseline_lines(factor.baseline, hours, "p95 in ms")}
p95, durations = {factor.value!r}, {window.durations!r}
scale = max(spread, max({SPREAD_SHARE_MIN}, {P95_ERROR} / durations**0.5) * expected, {SPREAD_MS_MIN})
deviation = (p95 - expected) / scale
score = {_interp("deviation", DEVIATION_POINTS)}
print(int(round(score, 9) + 0.5))"""
    return FactorExplanation(
        factor,
        "Response time",
        tuple(inputs),
        hours,
        "deviation = (p95 − expected) / scale; scale = max(spread, 10 % or 2 / √durations of expected, 1 ms)",
        "Robust score as of Iglewicz and Hoaglin (1993); error of a quantile as of Mosteller (1946)",
        f"{_tier(result)}; DDSketch, within 1 %",
        (("p95", queries.p95()), ("The hours before", queries.hourly_p95())),
        snippet,
    )


def _availability(result: ServiceHealth, queries: _Queries) -> FactorExplanation:
    factor, units = result.health.factor("availability"), result.window.units
    rate = result.health.factor("request_rate").baseline
    counts = count_units(units, rate)
    inputs = [
        ("Length of a unit", number_format.duration_s(units.seconds)),
        ("Units that count", str(counts.counted)),
        ("Without requests", str(counts.silent)),
        ("Most failed", str(counts.failing)),
    ]
    if rate is not None:
        inputs.append(("Requests expected in a unit", number_format.count(rate.expected * units.seconds)))
    snippet = ""
    if factor.value is not None:
        snippet = f"""import numpy as np

requests = np.array({_numbers(units.requests)})
failed = np.array({_numbers(np.nan_to_num(units.error_ratio))})  # share of each unit
is_over = np.array({units.is_over.astype(int).tolist()}, bool)
expected, spread, seconds = {rate.expected if rate else 0.0!r}, {rate.spread if rate else 0.0!r}, {units.seconds!r}
is_steady = expected * seconds >= {REQUESTS_EXPECTED_MIN:g} and expected >= {STEADY_SPREADS:g} * spread
silent = (requests == 0) & is_over & is_steady
counts = (requests > 0) | silent
percent = 100 * np.mean((requests > 0)[counts] & (failed <= 0.5)[counts])
score = {_interp("percent", AVAILABILITY_POINTS)}
print(int(round(score, 9) + 0.5))"""
    return FactorExplanation(
        factor,
        "Availability",
        tuple(inputs),
        (),
        "percent = 100 × (units − units without requests − units in which most failed) / units",
        "Units rather than requests, as Hauer and others, Meaningful Availability (NSDI 2020)",
        _tier(result),
        (("Requests and errors by unit", queries.by_unit()),),
        snippet,
    )


def _mean_and_cap(health: Health) -> tuple[float | None, FactorName | None]:
    counting = [(factor, factor.score) for factor in health.factors if factor.score is not None and factor.weight > 0]
    total = math.fsum(factor.weight for factor, _ in counting)
    if not total:
        return None, None
    mean = math.fsum(factor.weight / total * score for factor, score in counting)
    capping = [(factor.name, score) for factor, score in counting if factor.name in CAPPING]
    name, worst = min(capping, key=lambda pair: pair[1], default=(None, 100))
    return mean, name if worst + ABOVE_WORST_MAX < mean else None


def _total_snippet(health: Health) -> str:
    scores = {factor.name: factor.score for factor in health.factors if factor.score is not None and factor.weight > 0}
    if not scores:
        return ""
    weights = [factor.weight for factor in health.factors if factor.name in scores]
    capping = [score for name, score in scores.items() if name in CAPPING]
    return f"""import numpy as np

scores = {list(scores.values())}  # {", ".join(scores)}
weights = {weights}
worst = min({[*capping, 100]})  # of request rate, error rate and availability
score = min(np.average(scores, weights=weights), worst + {ABOVE_WORST_MAX})
print(int(round(score, 9) + 0.5))"""


def _hours_of(time_ms: I64, value: F64, at_ms: int, baseline: Baseline | None) -> tuple[Hour, ...]:
    """Return the hours that a baseline rests on."""
    if baseline is None:
        return ()
    ago = at_ms // HOUR_MS - time_ms // HOUR_MS
    rows = np.flatnonzero((ago > 0) & (ago % _PERIODS[baseline.level] == 0) & np.isfinite(value))
    return tuple(Hour(int(time_ms[row]), float(value[row])) for row in rows)


def _baseline_inputs(baseline: Baseline, form: object) -> list[tuple[str, str]]:
    assert callable(form)
    return [("Expected", form(baseline.expected)), ("Spread", form(baseline.spread)),
            ("Baseline", f"{baseline.samples} hours: {_LEVELS[baseline.level]}")]  # fmt: skip


_LEVELS: Final = {
    "hour of week": "the same hour of the week, over four weeks",
    "hour of day": "the same hour of the day, over four weeks",
    "all hours": "all hours before, as there are few",
}


def _baseline_lines(baseline: Baseline, hours: Sequence[Hour], unit: str) -> str:
    values = np.array([hour.value for hour in hours])
    mad = float(np.median(np.abs(values - np.median(values))))
    correction = round(baseline.spread / (SIGMA_OF_MAD * mad), 6) if mad else 1.0
    return f"""hours = np.array({_numbers(values)})  # {unit}, {baseline.level}
expected = np.median(hours)
spread = {SIGMA_OF_MAD} * {correction} * np.median(np.abs(hours - expected))"""


def _interp(value: str, points: Points) -> str:
    values, scores = zip(*points, strict=True)
    return f"np.interp({value}, {values}, {scores})"


def _numbers(values: F64) -> str:
    return "[" + ", ".join(f"{value:.12g}" for value in values.tolist()) + "]"


def _spreads(deviation: float | None) -> str:
    if deviation is None:
        return number_format.NONE
    return f"{number_format.plain(deviation)} spreads".replace("-", "−")


def _tier(result: ServiceHealth) -> str:
    return _TIER_TEXTS[TIERS[result.unit_ms]]


class _Queries:
    """The inputs of a score as VQL over samples or spans; '' for what has no source."""

    def __init__(self, result: ServiceHealth, units: frozenset[str]) -> None:
        self._result = result
        self._value_ms = _value_ms(units)

    def requests(self) -> str:
        source = self._result.sources.requests
        return self._query([f"{count_of(source)} AS requests"], source)

    def errors(self) -> str:
        source = self._result.sources.errors
        return self._query([f"{count_of(source)} AS requests", f"{failed_of(source)} AS failed"], source)

    def by_unit(self) -> str:
        source = self._result.sources.errors
        minutes = self._result.unit_ms // 60_000
        unit = f"toStartOfInterval(timestamp, INTERVAL {minutes} MINUTE) AS unit"
        return self._query(
            [unit, f"{count_of(source)} AS requests", f"{failed_of(source)} AS failed"], source, by="unit"
        )

    def p95(self) -> str:
        source = self._result.sources.durations
        return self._query([f"quantile(0.95)({self._duration(source)}) AS p95_ms", "count() AS durations"], source)

    def hourly_rate(self) -> str:
        source = self._result.sources.requests
        items = ["toStartOfHour(timestamp) AS hour", f"{count_of(source)} / 3600 AS rate"]
        return self._query(items, source, by="hour", times=self._hours_before(self._result.hours.time_ms))

    def hourly_p95(self) -> str:
        source = self._result.sources.durations
        return self._query(
            ["toStartOfHour(timestamp) AS hour", f"quantile(0.95)({self._duration(source)}) AS p95_ms"],
            source,
            by="hour",
            times=self._hours_before(self._result.hours.p95_time_ms),
        )

    def _hours_before(self, time_ms: I64) -> tuple[int, int]:
        before_ms = self._result.at_ms // HOUR_MS * HOUR_MS
        return (int(time_ms[0]) if len(time_ms) else before_ms - HOUR_MS), before_ms

    def _duration(self, source: str) -> str:
        return "duration_ns / 1000000" if source == "spans" else self._value_ms

    def _query(self, items: Sequence[str], source: str, *, by: str = "", times: tuple[int, int] | None = None) -> str:
        if not source:
            return ""
        result = self._result
        start_ms, end_ms = times or (result.time_range.start_ms, result.time_range.end_ms)
        conditions = [f"service_name = {quoted(result.service)}"]
        conditions += [f"environment = {quoted(result.environment)}"] if result.environment else []
        conditions += [
            *({"spans": ["kind = 'server'"], REQUESTS: [f"metric_name = '{REQUESTS}'", "metric_type = 'counter'"]}.get(
                source, [f"metric_name = '{DURATION}'", "metric_type = 'histogram'"])),
            f"timestamp >= {start_ms}",
            f"timestamp < {end_ms}",
        ]  # fmt: skip
        table = "spans" if source == "spans" else "metrics"
        all_of = "\n    AND ".join(conditions)
        text = "SELECT\n    " + ",\n    ".join(items) + f"\nFROM {table}\nWHERE\n    {all_of}"
        return f"{text}\nGROUP BY {by}\nORDER BY {by}" if by else text


def count_of(source: str) -> str:
    """Return the number of requests of a source, in VQL."""
    return "sum(value)" if source == REQUESTS else "count()"


def failed_of(source: str) -> str:
    """Return the number of failed requests of a source, in VQL."""
    if source == "spans":
        return "countIf(status = 'error')"
    is_error = " OR ".join([*(f"tags['{tag}'] LIKE '5__'" for tag in STATUS_TAGS), f"tags['{ERROR_TAG}'] = 'true'"])
    return f"sumIf(value, {is_error})" if source == REQUESTS else f"countIf({is_error})"


def _value_ms(units: frozenset[str]) -> str:
    """Return the duration of a sample in ms; most services use one unit."""
    if not units & MS_PER_UNIT.keys():
        return "value"
    cases = " ".join(
        f"WHEN unit = '{unit}' THEN value * {factor:g}" if factor >= 1 else
        f"WHEN unit = '{unit}' THEN value / {1 / factor:.0f}"
        for unit, factor in MS_PER_UNIT.items()
        if unit in units
    )  # fmt: skip
    return f"CASE {cases} ELSE value END"


def quoted(text: str) -> str:
    """Return a text as a literal of VQL."""
    backslash = "\\"
    return "'" + text.replace(backslash, backslash * 2).replace("'", "''") + "'"
