"""``/api/anomalies``: what was noticed, the expected band of a series, and its forecast."""

from __future__ import annotations

import math
from typing import Annotated, Any, Final

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.params import Parameter

from vantage.core.anomaly import Anomaly
from vantage.core.arrays import F64
from vantage.core.errors import InputError
from vantage.query.anomalies import (
    LIST_MAX,
    anomalies_if_known,
    find_anomaly,
    list_anomalies,
    read_band,
    read_forecast,
    series_key,
)
from vantage.query.context import QueryContext
from vantage.web.api.params import End, Metric, Service, Start, examples, problems, time_range

Figure = Annotated[
    str,
    Parameter(
        description="`rate`: requests a second; `errors`: the share of failed requests; `p95`: in ms; `metric`: the "
        "mean of a metric's samples, or the growth a second of a counter.",
        max_length=16,
        examples=examples("p95"),
    ),
]
Limit = Annotated[int, Parameter(description="The most to return.", ge=1, le=LIST_MAX)]
AnomalyId = Annotated[int, Parameter(description="Its id, as listed.", examples=examples(1))]
BAND_POINTS_MAX: Final = 1000


class AnomalyOut(msgspec.Struct):
    """Values that are unusual for their series, from `start` to `end` (epoch milliseconds). `score` is above 1; `value`
    raised the alarm where `expected`, `low` to `high`, was expected, null where nothing was known. Errors are shares
    from 0 to 1."""

    id: int
    service: str
    figure: str
    metric: str
    start: int
    end: int
    score: float
    value: float
    expected: float | None
    low: float | None
    high: float | None
    mode: str
    unit: str
    text: str


class AnomaliesOut(msgspec.Struct):
    anomalies: list[AnomalyOut]


class AnomalyDetailOut(AnomalyOut):
    """With `evidence`: what the score and the band were computed from, as `docs/analysis.md` describes."""

    evidence: dict[str, Any]


class BandOut(msgspec.Struct):
    """Columns of equal length: where each point begins (epoch milliseconds), its value, and what was expected of it.
    `period` is what the newest expectation rests on. `anomalies` are those of the series in the range."""

    step: int
    unit: str
    period: str
    times: list[int]
    values: list[float | None]
    expected: list[float | None]
    low: list[float | None]
    high: list[float | None]
    anomalies: list[AnomalyOut]


class ForecastOut(msgspec.Struct):
    """Hours ahead, each with an interval of 95 %. `crossing` is when the expected value reaches the limit, `earliest`
    and `latest` when the interval begins and ends to; null for not within the hours."""

    limit: float
    unit: str
    crossing: int | None
    earliest: int | None
    latest: int | None
    slope_per_hour: float
    hours_of_data: int
    times: list[int]
    expected: list[float | None]
    low: list[float | None]
    high: list[float | None]


@get("/api/anomalies", summary="Anomalies", responses=problems(), tags=["anomalies"])
async def list_all(
    context: NamedDependency[QueryContext],
    service: Service = "",
    start: Start = "now-24h",
    end: End = "now",
    limit: Limit = 100,
) -> AnomaliesOut:
    """List anomalies that touch a range, the latest start first; '' means of any service."""
    within = time_range(start, end, now_ms=context.present().now_ms)
    rows = await list_anomalies(context, service=service, time_range=within, limit=limit)
    return AnomaliesOut([AnomalyOut(**_fields(row)) for row in rows])


@get("/api/anomalies/{anomaly_id:int}", summary="An anomaly", responses=problems(404), tags=["anomalies"])
async def show(context: NamedDependency[QueryContext], anomaly_id: AnomalyId) -> AnomalyDetailOut:
    """Return an anomaly with what it was computed from."""
    row = await find_anomaly(context, anomaly_id)
    return AnomalyDetailOut(**_fields(row), evidence=dict(row.evidence))


@get("/api/anomalies/band", summary="The expected band", responses=problems(404), tags=["anomalies"])
async def band(
    context: NamedDependency[QueryContext],
    service: Service,
    figure: Figure,
    metric: Metric = "",
    start: Start = "now-24h",
    end: End = "now",
    points: Annotated[int, Parameter(description="The most points.", ge=1, le=BAND_POINTS_MAX)] = 600,
) -> BandOut:
    """Return what was expected of a series, from rollups of 5 minutes, over at most 14 days."""
    key = series_key(service, figure, metric)
    within = time_range(start, end, now_ms=context.present().now_ms)
    result = await read_band(context, key, within, points=points)
    rows = await anomalies_if_known(context, service=service, time_range=within)
    return BandOut(
        result.step_ms,
        result.unit,
        result.period,
        result.time_ms.tolist(),
        _finite(result.value),
        _finite(result.expected),
        _finite(result.low),
        _finite(result.high),
        [AnomalyOut(**_fields(row)) for row in rows if (row.figure, row.metric) == (key.figure, key.metric)],
    )


@get("/api/anomalies/forecast", summary="A forecast", responses=problems(404), tags=["anomalies"])
async def forecast(
    context: NamedDependency[QueryContext],
    service: Service,
    figure: Figure,
    limit: Annotated[float, Parameter(description="The limit, in the unit of the series.", examples=examples(500))],
    metric: Metric = "",
    hours: Annotated[int, Parameter(description="Hours ahead, 168 at most.")] = 24,
) -> ForecastOut:
    """Return when a series will cross a limit, with an interval, from its hours of the last 14 days."""
    if not math.isfinite(limit):
        raise InputError("is not a number", field="limit")
    result, unit = await read_forecast(context, series_key(service, figure, metric), limit=limit, hours=hours)
    return ForecastOut(
        limit,
        unit,
        result.crossing_ms,
        result.earliest_ms,
        result.latest_ms,
        result.slope_per_hour,
        result.hours,
        result.time_ms.tolist(),
        _finite(result.expected),
        _finite(result.low),
        _finite(result.high),
    )


def _fields(row: Anomaly) -> dict[str, Any]:
    return {
        "id": row.id,
        "service": row.service,
        "figure": row.figure,
        "metric": row.metric,
        "start": row.start_ms,
        "end": row.end_ms,
        "score": row.score,
        "value": row.value,
        "expected": row.expected,
        "low": row.low,
        "high": row.high,
        "mode": row.mode,
        "unit": row.unit,
        "text": row.text,
    }


def _finite(values: F64) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]


handlers = [list_all, show, band, forecast]
