"""Conditions on series that are watched: anomalies, and forecasts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from vantage.alerting.observation import Observation
from vantage.alerting.reading import Reading
from vantage.alerting.summary import value_text
from vantage.alerting.values import FIGURE_UNITS, figure_of, read_requests
from vantage.core.alert_rule import AnomalyCondition, ForecastCondition
from vantage.core.anomaly import Anomaly
from vantage.core.errors import InputError, NotFoundError
from vantage.core.number_format import duration_ms
from vantage.core.rollup import FIVE_MINUTES_MS, HOUR_MS
from vantage.core.timerange import TimeRange
from vantage.query.anomalies import LIST_MAX, read_forecast, series_key

GOES_ON_MS: Final = 3 * FIVE_MINUTES_MS  # after the end of its newest bucket, an anomaly may still be extended
FORECAST_TTL_MS: Final = 900_000
SERVICES_TTL_MS: Final = 300_000
SILENT_MS: Final = 86_400_000  # a service without requests has a rate of 0 for so long, and then none


class MemoryAnomalies:
    """Where a watch of a rule's own mode stores what it notices: in memory, and learnt again after a start."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str, str, int], Anomaly] = {}

    async def record_anomalies(self, anomalies: Sequence[Anomaly], *, since_ms: int) -> int:
        """Store anomalies, or replace those of the same series and start."""
        self._rows |= {anomaly.key: anomaly for anomaly in anomalies}
        newest = sorted(self._rows.values(), key=lambda anomaly: -anomaly.end_ms)[:LIST_MAX]
        self._rows = {anomaly.key: anomaly for anomaly in newest if anomaly.end_ms >= since_ms}
        return 0

    async def anomalies(
        self, *, service: str = "", time_range: TimeRange | None = None, limit: int = 100
    ) -> Sequence[Anomaly]:
        """Return those of a service (any, if '') that touch a range."""
        rows = [
            row
            for row in self._rows.values()
            if service in ("", row.service)
            and (time_range is None or (row.end_ms > time_range.start_ms and row.start_ms < time_range.end_ms))
        ]
        return rows[:limit]


async def _going_on(reading: Reading, mode: str) -> Mapping[tuple[str, str, str], Anomaly]:
    """Return the anomalies that go on, by service, figure and metric."""
    source = reading.context.metadata if not mode else reading.lasting.anomalies.get(mode)
    if source is None:
        raise InputError("cannot be evaluated here: nothing watches in this mode", field="condition.mode")

    async def load() -> Mapping[tuple[str, str, str], Anomaly]:
        recent = TimeRange(max(0, reading.at_ms - GOES_ON_MS), reading.at_ms + 1)
        rows = await source.anomalies(time_range=recent, limit=LIST_MAX)
        return {(row.service, row.figure, row.metric): row for row in sorted(rows, key=lambda row: row.score)}

    return await reading.once(("anomalies", mode), load)


async def observe_anomalies(reading: Reading, condition: AnomalyCondition) -> list[Observation]:
    """Return whether each series that a condition is about is unusual."""
    going_on = await _going_on(reading, condition.mode)
    if condition.figure == "metric":
        return await _of_metric(reading, going_on, condition)
    current = await read_requests(reading, FIVE_MINUTES_MS)
    observations = []
    for service, last_ms in sorted((await reading.last_requests_ms()).items()):
        if condition.service not in ("", service) or reading.at_ms - last_ms > SILENT_MS:
            continue
        stats = current.get(service)
        value = figure_of(stats, condition.figure) if stats is not None else None
        if value is None and condition.figure == "rate":
            value = 0.0
        if value is None:
            continue
        anomaly = going_on.get((service, condition.figure, ""))
        holds = anomaly is not None and is_meant(condition, anomaly, value)
        samples = int(stats.requests) if stats is not None else 0
        unit = FIGURE_UNITS[condition.figure]
        text = f"{service}: {anomaly_sentence(condition, anomaly, value, unit)}"
        observations.append(Observation({"service": service}, service, value, holds, not holds, samples, unit, text))
    return observations


async def _of_metric(
    reading: Reading, going_on: Mapping[tuple[str, str, str], Anomaly], condition: AnomalyCondition
) -> list[Observation]:
    """Return the series of a metric, one a service: those that are not unusual have recovered."""

    async def load() -> set[str]:
        infos = await reading.context.store.list_series(service=condition.service, metric=condition.metric)
        return {info.series.service for info in infos}

    key = ("services with", condition.service, condition.metric)
    services = await reading.lasting.cached(key, load, now_ms=reading.at_ms, ttl_ms=SERVICES_TTL_MS)
    observations = []
    for service in sorted(services):
        row = going_on.get((service, "metric", condition.metric))
        entity = {"service": service, "metric": condition.metric}
        if row is None:
            text = f"{service}: {condition.metric} is as expected"
            observations.append(Observation(entity, service, None, False, True, 1, "", text))
        else:
            holds = is_meant(condition, row, row.value)
            text = f"{service}: {row.text}"
            observations.append(Observation(entity, service, row.value, holds, not holds, 1, row.unit, text))
    return observations


def is_meant(condition: AnomalyCondition, anomaly: Anomaly, value: float) -> bool:
    """Return whether an anomaly, whose series has a value now, is strong enough, goes in the direction that the
    condition wants, and matters."""
    if anomaly.score < condition.score:
        return False
    if condition.errors and value < condition.errors:
        return False
    if anomaly.expected is None:
        return not condition.change
    is_up = value > anomaly.expected
    if (condition.direction == "up" and not is_up) or (condition.direction == "down" and is_up):
        return False
    return abs(value - anomaly.expected) >= condition.change * abs(anomaly.expected)


_NAMES: Final = {"rate": "requests", "errors": "failed requests", "p95": "p95"}


def anomaly_sentence(condition: AnomalyCondition, anomaly: Anomaly | None, value: float, unit: str) -> str:
    """Return what a value of a watched series is like, for people."""
    name = condition.metric or _NAMES[condition.figure]
    if anomaly is None:
        return f"{name} {value_text(value, unit)}, as expected"
    if anomaly.expected is None:
        return f"{name} {value_text(value, unit)}, unlike anything before"
    return f"{name} {value_text(value, unit)}, where {value_text(anomaly.expected, unit)} was expected"


async def observe_forecast(reading: Reading, condition: ForecastCondition) -> list[Observation]:
    """Return whether a series is expected to cross its limit; nothing where there is too little data."""
    key = series_key(condition.service, condition.figure, condition.metric)

    async def load() -> Observation | None:
        try:
            result, unit = await read_forecast(reading.context, key, limit=condition.limit, hours=condition.hours)
        except (InputError, NotFoundError) as error:
            if error.field in ("service", "") or isinstance(error, NotFoundError):
                return None
            raise
        crossing_ms = result.latest_ms if condition.sure else result.crossing_ms
        entity = {"service": condition.service} | ({"metric": condition.metric} if condition.metric else {})
        of = condition.metric or _NAMES[condition.figure]
        limit = value_text(condition.limit, unit)
        text = f"{condition.service}: {of} is not expected to reach {limit} within {condition.hours} h"
        value = float(condition.hours)
        if crossing_ms is not None:
            value = max(0.0, (crossing_ms - reading.at_ms) / HOUR_MS)
            at = result.crossing_ms if result.crossing_ms is not None else crossing_ms
            text = (
                f"{condition.service}: {of} is expected to reach {limit} in {duration_ms(max(0, at - reading.at_ms))}"
            )
        holds = crossing_ms is not None and math.isfinite(value)
        return Observation(entity, condition.service, value, holds, not holds, result.hours, "h", text)

    observation = await reading.lasting.cached(
        ("forecast", condition), load, now_ms=reading.at_ms, ttl_ms=FORECAST_TTL_MS
    )
    return [] if observation is None else [observation]
