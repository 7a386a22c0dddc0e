"""Anomalies that were noticed, the expected band of a series, and its forecast."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from vantage.analysis.forecast import HOURS_AHEAD_MAX, Forecast, forecast
from vantage.analysis.profile import Profile
from vantage.core.anomaly import Anomaly
from vantage.core.arrays import F64, I64
from vantage.core.errors import InputError, NotFoundError, StoreUnavailable
from vantage.core.rollup import FIVE_MINUTES_MS, HOUR_MS
from vantage.core.timerange import TimeRange
from vantage.query.anomaly_points import FIGURES, UNITS, MetricUnit, SeriesKey, read_points
from vantage.query.context import QueryContext

BAND_HISTORY_MS: Final = 14 * 86_400_000
BAND_MS_MAX: Final = 14 * 86_400_000  # a longer range has no band
BAND_TTL_S: Final = 60.0
LIST_MAX: Final = 1000
FORECAST_HISTORY_MS: Final = 14 * 86_400_000


@dataclass(frozen=True, slots=True)
class BandPoints:
    """The values of a series and what was expected of them, NaN while unknown: one a bucket of 5 minutes, or of
    ``step_ms``. ``period`` says what the newest expectation rests on."""

    time_ms: I64
    step_ms: int
    value: F64
    expected: F64
    low: F64
    high: F64
    period: str
    unit: str


def series_key(service: str, figure: str, metric: str) -> SeriesKey:
    """Return the series that parameters name. Raises InputError naming the wrong one."""
    if not service:
        raise InputError("is missing", field="service")
    if figure not in FIGURES:
        raise InputError(f"is not one of {', '.join(FIGURES)}", field="figure")
    if (figure == "metric") != bool(metric):
        raise InputError("is needed for the figure metric, and for no other", field="metric")
    return SeriesKey(service, figure, metric)


async def list_anomalies(
    context: QueryContext, *, service: str = "", time_range: TimeRange | None = None, limit: int = 100
) -> Sequence[Anomaly]:
    """Return up to ``limit`` anomalies that touch a range, the latest start first. Raises StoreUnavailable."""
    return await context.metadata.anomalies(service=service, time_range=time_range, limit=min(limit, LIST_MAX))


async def anomalies_if_known(
    context: QueryContext, *, service: str, time_range: TimeRange, limit: int = 100
) -> Sequence[Anomaly]:
    """Return anomalies, none where the metadata database does not answer: what is shown beside them still is."""
    try:
        return await list_anomalies(context, service=service, time_range=time_range, limit=limit)
    except StoreUnavailable:
        return ()


async def find_anomaly(context: QueryContext, anomaly_id: int) -> Anomaly:
    """Return an anomaly. Raises NotFoundError, StoreUnavailable."""
    anomaly = await context.metadata.anomaly(anomaly_id) if 0 < anomaly_id < 1 << 62 else None
    if anomaly is None:
        raise NotFoundError("no anomaly has this id, or it is older than 90 days", field="id")
    return anomaly


async def read_band(context: QueryContext, key: SeriesKey, time_range: TimeRange, *, points: int = 600) -> BandPoints:
    """Return the expected band of a series over a range of at most 14 days, learnt from the 14 days before it: what the
    detectors compute from the same rollups. Raises InputError, and what the store raises."""
    if time_range.length_ms > BAND_MS_MAX:
        raise InputError("lies more than 14 days before end", field="start")
    start_ms = time_range.start_ms // FIVE_MINUTES_MS * FIVE_MINUTES_MS
    end_ms = min(time_range.end_ms, context.present().now_ms) // FIVE_MINUTES_MS * FIVE_MINUTES_MS
    end_ms = max(end_ms, start_ms + FIVE_MINUTES_MS)
    step = FIVE_MINUTES_MS * -(-(end_ms - start_ms) // FIVE_MINUTES_MS // max(1, points))

    async def load() -> BandPoints:
        history = TimeRange(start_ms - BAND_HISTORY_MS, end_ms)
        value, unit, first_ms = await _read_series(context, key, history)
        return await asyncio.to_thread(_band, value, first_ms, start_ms, step, unit)

    return await context.cache.cached(("band", key, start_ms, end_ms, step), load, ttl_s=BAND_TTL_S)


async def read_forecast(context: QueryContext, key: SeriesKey, *, limit: float, hours: int) -> tuple[Forecast, str]:
    """Return when a series will cross a limit, from the hours of the last 14 days, and its unit. Raises InputError
    when there are too few hours, and what the store raises."""
    if not 1 <= hours <= HOURS_AHEAD_MAX:
        raise InputError(f"is not from 1 to {HOURS_AHEAD_MAX}", field="hours")
    end_ms = context.present().now_ms // HOUR_MS * HOUR_MS
    value, unit, first_ms = await _read_series(context, key, TimeRange(end_ms - FORECAST_HISTORY_MS, end_ms))

    def compute() -> Forecast | None:
        time_ms = first_ms + FIVE_MINUTES_MS * np.arange(len(value))
        hour = time_ms // HOUR_MS
        number, means = np.unique(hour), []
        for each in number.tolist():
            of_hour = value[(hour == each) & np.isfinite(value)]
            means.append(float(of_hour.mean()) if of_hour.size else np.nan)
        return forecast(number * HOUR_MS, np.array(means), limit=limit, hours=hours)

    result = await asyncio.to_thread(compute)
    if result is None:
        raise InputError("has fewer than 12 hours of data, too few for a forecast", field="service")
    return result, unit


async def _read_series(context: QueryContext, key: SeriesKey, time_range: TimeRange) -> tuple[F64, str, int]:
    """Return the 5-minute points of a series since its first data, its unit, and when the first begins."""
    infos = await context.store.services(service=key.service)
    if not infos:
        raise NotFoundError(f"no service {key.service[:80]!r} has sent anything", field="service")
    first_ms = min(info.first_ms for info in infos)
    start_ms = max(time_range.start_ms, first_ms // FIVE_MINUTES_MS * FIVE_MINUTES_MS)
    part = TimeRange(min(start_ms, time_range.end_ms - FIVE_MINUTES_MS), time_range.end_ms)
    points, units = await read_points(context, part, services={key.service: first_ms}, key=key)
    value = points.get(key, np.full(part.length_ms // FIVE_MINUTES_MS, np.nan))
    return value, UNITS.get(key.figure, units.get(key.metric, MetricUnit()).unit), part.start_ms


def _band(value: F64, first_ms: int, start_ms: int, step_ms: int, unit: str) -> BandPoints:
    profile = Profile(1)
    present = np.isfinite(value)
    columns = np.full((3, len(value)), np.nan)
    anchor = float(value[present][0]) if present.any() else 0.0
    for i in range(len(value)):
        band = profile.step(np.array([first_ms + i * FIVE_MINUTES_MS]), value[i : i + 1] - anchor, present[i : i + 1])
        columns[:, i] = band.expected[0], band.low[0], band.high[0]
    columns += anchor
    skip = max(0, (start_ms - first_ms) // FIVE_MINUTES_MS)
    time_ms = first_ms + FIVE_MINUTES_MS * np.arange(skip, len(value))
    value, columns = value[skip:], columns[:, skip:]
    if step_ms > FIVE_MINUTES_MS and len(time_ms):
        bucket = time_ms // step_ms
        first = np.flatnonzero(np.append(True, bucket[1:] != bucket[:-1]))
        time_ms, value = bucket[first] * step_ms, _means(value, first)
        columns = np.stack([_means(column, first) for column in columns])
    period = profile.basis(0)[0] if present.any() else ""
    return BandPoints(time_ms, step_ms, value, columns[0], columns[1], columns[2], period, unit)


def _means(values: F64, first: I64) -> F64:
    """Return the mean of each run of values that begins at ``first``, without NaN; NaN for a run of nothing else."""
    known = np.isfinite(values)
    total, count = np.add.reduceat(np.where(known, values, 0.0), first), np.add.reduceat(known.astype(np.int64), first)
    means: F64 = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return means
