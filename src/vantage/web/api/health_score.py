"""``/health/score/{service}`` and its history: how well services are, as a number with reasons.

Not to be confused with ``health``, whose paths are about Vantage itself and take no key.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.params import Parameter

from vantage.analysis.baseline import Baseline
from vantage.analysis.health import FACTORS, Factor, Health, Status, parse_weights
from vantage.core.errors import InputError
from vantage.core.timerange import TimeRange, auto_step_ms, parse_duration_ms, parse_time
from vantage.query import catalogue
from vantage.query.context import QueryContext
from vantage.query.health import (
    HISTORY_POINTS,
    WINDOW_MS_MIN,
    ServiceHealth,
    read_health,
    read_healths,
    read_history,
    unit_of,
)
from vantage.web.api.params import TIME_TEXT, End, Service, Start, examples, problems, time_range

WEIGHTS_LENGTH_MAX: Final = 200
SERVICES_MAX: Final = 500
WINDOW_DEFAULT: Final = "15m"
Weights = Annotated[
    str,
    Parameter(
        description=f"Weights of the factors ({', '.join(FACTORS)}), 0 for those not named; equal when absent.",
        max_length=WEIGHTS_LENGTH_MAX,
        examples=examples("error_rate:3,availability:1"),
    ),
]
Window = Annotated[
    str, Parameter(description="How long before the end: 5m to 7d.", max_length=16, examples=examples("15m"))
]
WindowEnd = Annotated[str, Parameter(description=f"End of the window, exclusive. {TIME_TEXT}", max_length=64)]
Environment = Annotated[str, Parameter(description="Only this environment; all when absent.", max_length=255)]


class BaselineOut(msgspec.Struct):
    """What is usual, in the unit of the factor's value: the median of ``samples`` hours and their spread, which stands
    for a standard deviation. ``level`` says which hours: those of the same hour of the week, of the day, or all."""

    expected: float
    spread: float
    samples: int
    level: Literal["hour of week", "hour of day", "all hours"]


class FactorOut(msgspec.Struct):
    """``score`` is from 0 to 100, null where nothing can be said; ``value`` is requests per second, the percentage of
    requests that failed, the p95 in milliseconds, or the percentage of time; ``weight`` is a share of 1."""

    score: int | None
    value: float | None
    weight: float
    detail: str
    baseline: BaselineOut | None


class FactorsOut(msgspec.Struct):
    request_rate: FactorOut
    error_rate: FactorOut
    response_time: FactorOut
    availability: FactorOut


class HealthScoreOut(msgspec.Struct):
    """``health_score`` is from 0 to 100, null where ``status`` is UNKNOWN. ``reason`` is the detail of the worst
    factor."""

    service_name: str
    environment: str | None
    health_score: int | None
    status: Status
    reason: str
    factors: FactorsOut
    start: int
    end: int


class HealthScoresOut(msgspec.Struct):
    """Those with the lowest score first, the unknown ones last; ``omitted`` counts further services, by name."""

    services: list[HealthScoreOut]
    omitted: int


class HealthPointOut(msgspec.Struct):
    """The score of the step that begins at ``timestamp``, in epoch milliseconds."""

    timestamp: int
    health_score: int | None
    status: Status
    reason: str


class HealthHistoryOut(msgspec.Struct):
    """``step`` is in seconds."""

    service_name: str
    environment: str | None
    start: int
    end: int
    step: float
    points: list[HealthPointOut]


@get("/health/score", summary="Health of all services", responses=problems(), tags=["analysis"])
async def list_health_scores(
    context: NamedDependency[QueryContext],
    window: Window = WINDOW_DEFAULT,
    end: WindowEnd = "now",
    weights: Weights = "",
) -> HealthScoresOut:
    """Return the health of every service, the worst first."""
    services = await catalogue.services(context)
    now_ms = context.present().now_ms + 1
    results = await read_healths(
        context,
        {service.name: service.first_ms for service in services[:SERVICES_MAX]},
        end_ms=parse_time(end, now_ms=now_ms, field="end"),
        window_ms=parse_duration_ms(window, field="window"),
        weights=parse_weights(weights),
    )
    scores = [_score(result) for result in results.values()]
    scores.sort(key=lambda score: (score.health_score is None, score.health_score or 0, score.service_name))
    return HealthScoresOut(scores, max(0, len(services) - SERVICES_MAX))


@get("/health/score/{service:str}", summary="Health of a service", responses=problems(404), tags=["analysis"])
async def get_health_score(
    context: NamedDependency[QueryContext],
    service: Service,
    window: Window = WINDOW_DEFAULT,
    end: WindowEnd = "now",
    environment: Environment = "",
    weights: Weights = "",
) -> HealthScoreOut:
    """Return a service's health from 0 to 100: request rate, error rate, response time and availability, each with a
    score, what was measured, what is usual, and a sentence. UNKNOWN where there is nothing to judge."""
    # "now" includes a request of the current millisecond, so the end lies after it.
    now_ms = context.present().now_ms + 1
    result = await read_health(
        context,
        service,
        environment=environment,
        end_ms=parse_time(end, now_ms=now_ms, field="end"),
        window_ms=parse_duration_ms(window, field="window"),
        weights=parse_weights(weights),
    )
    return _score(result)


@get("/health/history/{service:str}", summary="Health over time", responses=problems(404), tags=["analysis"])
async def get_health_history(
    context: NamedDependency[QueryContext],
    service: Service,
    start: Start = "now-24h",
    end: End = "now",
    step: Annotated[
        str,
        Parameter(
            description="Length of a step, in multiples of 5 minutes: `auto` (about 100 steps), or a duration.",
            max_length=16,
            examples=examples("15m"),
        ),
    ] = "auto",
    environment: Environment = "",
    weights: Weights = "",
) -> HealthHistoryOut:
    """Return the health of each step of a range, judged by what was known before it."""
    in_range = time_range(start, end, now_ms=context.present().now_ms)
    now_ms = context.present().now_ms
    step_ms = (
        history_step_ms(in_range, now_ms=now_ms) if step in ("", "auto") else parse_duration_ms(step, field="step")
    )
    points = await read_history(
        context, service, in_range, step_ms, environment=environment, weights=parse_weights(weights)
    )
    return HealthHistoryOut(
        service,
        environment or None,
        points[0].start_ms if points else in_range.start_ms,
        in_range.end_ms,
        step_ms / 1000,
        [
            HealthPointOut(point.start_ms, point.health.score, point.health.status, point.health.reason)
            for point in points
        ],
    )


def history_step_ms(in_range: TimeRange, *, now_ms: int) -> int:
    """Return a step that makes about HISTORY_POINTS points. Raises InputError where none does."""
    step_ms = max(WINDOW_MS_MIN, auto_step_ms(in_range, points=HISTORY_POINTS))
    step_ms = max(step_ms, unit_of(in_range.start_ms, step_ms, now_ms=now_ms))
    if step_ms > 7 * 86_400_000:
        raise InputError("lies too far before end for a history", field="start")
    return step_ms


def _score(result: ServiceHealth) -> HealthScoreOut:
    health: Health = result.health
    return HealthScoreOut(
        result.service,
        result.environment or None,
        health.score,
        health.status,
        health.reason,
        FactorsOut(**{factor.name: _factor(factor) for factor in health.factors}),
        result.time_range.start_ms,
        result.time_range.end_ms,
    )


def _factor(factor: Factor) -> FactorOut:
    return FactorOut(factor.score, factor.value, factor.weight, factor.sentence, _baseline(factor.baseline))


def _baseline(baseline: Baseline | None) -> BaselineOut | None:
    if baseline is None:
        return None
    return BaselineOut(baseline.expected, baseline.spread, baseline.samples, baseline.level)


handlers = [list_health_scores, get_health_score, get_health_history]
