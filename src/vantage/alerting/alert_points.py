"""The values behind an alert over time, for its chart: what the rule compares, by buckets of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vantage.alerting.values import FIGURE_UNITS
from vantage.core.alert_rule import (
    AnomalyCondition,
    Condition,
    ForecastCondition,
    HealthCondition,
    MetricValue,
    NoDataCondition,
    Ratio,
    RequestValue,
    Threshold,
    Value,
)
from vantage.core.errors import BusyError, InputError, StoreTimeout, StoreUnavailable
from vantage.core.red_table import RedQuery
from vantage.core.timerange import TimeRange
from vantage.query.context import QueryContext
from vantage.query.health import read_history
from vantage.query.http_semconv import Buckets, split_buckets
from vantage.query.red import read_red
from vantage.query.timeseries import timeseries
from vantage.query.timeseries_query import TimeseriesQuery
from vantage.vql.text.compile import compile_condition

HEALTH_STEP_MS: Final = 300_000
TTL_S: Final = 15.0
Values = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class AlertPoints:
    """A value for each bucket, from ``start_ms`` on, None where there was no data, and the limits they are compared
    with."""

    start_ms: int
    step_ms: int
    values: Values
    unit: str
    limit: float | None = None
    recover: float | None = None


async def read_alert_points(
    context: QueryContext, condition: Condition, entity: Mapping[str, str], time_range: TimeRange, *, points: int
) -> tuple[AlertPoints | None, str]:
    """Return the values of an entity in a range, and why there are none: '' where a condition has no such values. They
    are cached for TTL_S seconds."""

    async def load() -> tuple[AlertPoints | None, str]:
        try:
            return await _read(context, condition, entity, time_range, points), ""
        except (BusyError, InputError, StoreTimeout, StoreUnavailable) as error:
            return None, str(error)

    key = ("alert points", repr(condition), *sorted(entity.items()), time_range.start_ms, time_range.end_ms, points)
    return await context.cache.cached(key, load, ttl_s=TTL_S)


async def _read(
    context: QueryContext, condition: Condition, entity: Mapping[str, str], time_range: TimeRange, points: int
) -> AlertPoints | None:
    buckets = split_buckets(time_range, points=points, now_ms=context.present().now_ms)
    match condition:
        case Threshold():
            values, unit = await _of_value(context, condition.value, entity, buckets)
            limit = condition.above if condition.above is not None else condition.below
            return AlertPoints(buckets.start_ms, buckets.step_ms, values, unit, limit, condition.recover)
        case Ratio():
            part, _ = await _of_value(context, condition.part, entity, buckets)
            total, _ = await _of_value(context, condition.total, entity, buckets)
            values = [a / b if a is not None and b else None for a, b in zip(part, total, strict=True)]
            limit = condition.above if condition.above is not None else condition.below
            return AlertPoints(buckets.start_ms, buckets.step_ms, values, "", limit, condition.recover)
        case AnomalyCondition() | ForecastCondition():
            service, metric = entity.get("service", condition.service), condition.metric or entity.get("metric", "")
            value: Value
            if condition.figure == "metric":
                value = MetricValue(service, metric)
            else:
                value = RequestValue(condition.figure, service)
            values, unit = await _of_value(context, value, entity, buckets)
            limit = condition.limit if isinstance(condition, ForecastCondition) else None
            return AlertPoints(buckets.start_ms, buckets.step_ms, values, unit, limit)
        case NoDataCondition():
            service = entity.get("service", condition.service)
            if not service:
                return None
            value = (
                MetricValue(service, condition.metric, "count") if condition.metric else RequestValue("rate", service)
            )
            values, unit = await _of_value(context, value, entity, buckets)
            return AlertPoints(buckets.start_ms, buckets.step_ms, values, unit)
        case HealthCondition():
            step_ms = -(-buckets.step_ms // HEALTH_STEP_MS) * HEALTH_STEP_MS
            history = await read_history(context, entity.get("service", ""), time_range, step_ms)
            if not history:
                return None
            scores = [None if point.health.score is None else float(point.health.score) for point in history]
            return AlertPoints(history[0].start_ms, step_ms, scores, "", condition.below, condition.recover)
        case _:
            return None


async def _of_value(
    context: QueryContext, value: Value, entity: Mapping[str, str], buckets: Buckets
) -> tuple[Values, str]:
    if isinstance(value, MetricValue):
        return await _of_metric(context, value, entity, buckets)
    if not isinstance(value, RequestValue):
        raise InputError("the values of a query are not drawn: the rule has the query", field="condition")
    service = entity.get("service", value.service)
    unit = FIGURE_UNITS[value.figure]
    if value.by == "endpoint" and "endpoint" in entity:
        return await _of_endpoint(context, value, service, entity["endpoint"], buckets), unit
    first_ms = min((info.first_ms for info in await context.store.services(service=service)), default=None)
    if first_ms is None:
        return [None] * buckets.count, unit
    quantiles = (0.5, 0.95, 0.99)
    red = (await read_red(context, buckets, services={service: first_ms}, quantiles=quantiles)).get(service)
    if red is None:
        return [None] * buckets.count, unit
    columns = {
        "rate": red.rates_per_s,
        "errors": red.error_ratios,
        "p50": red.p50s_ms,
        "p95": red.p95s_ms,
        "p99": red.p99s_ms,
    }
    return columns[value.figure], unit


async def _of_endpoint(
    context: QueryContext, value: RequestValue, service: str, endpoint: str, buckets: Buckets
) -> Values:
    """Return the figure of one endpoint, whose rollups have buckets of 5 minutes at least."""
    quantile = {"p50": 0.5, "p95": 0.95, "p99": 0.99}.get(value.figure)
    step_ms = -(-buckets.step_ms // HEALTH_STEP_MS) * HEALTH_STEP_MS
    time_range = TimeRange(buckets.start_ms // step_ms * step_ms, -(-buckets.end_ms // step_ms) * step_ms)
    query = RedQuery(
        time_range, step_ms, "endpoint", frozenset({service}), quantiles=() if quantile is None else (quantile,)
    )
    table = await context.red(query)
    values: list[float | None] = [None] * buckets.count
    if table is None:
        return values
    rows = table.buckets
    for row, number in enumerate(rows.group.tolist()):
        group = table.groups[number]
        if endpoint not in (group.route, f"{group.method} {group.route}".strip()):
            continue
        requests = float(rows.requests[row])
        if value.figure == "rate":
            passed_ms = min(step_ms, buckets.end_ms - int(rows.time_ms[row]))  # of the newest bucket
            figure = requests * 1000 / max(1, passed_ms)
        elif value.figure == "errors":
            figure = min(1.0, float(rows.errors[row]) / requests) if requests else 0.0
        else:
            figure = float(rows.quantiles_ms[0][row])
        if figure == figure:
            from_start_ms = int(rows.time_ms[row]) - buckets.start_ms
            first, end = (-(-at_ms // buckets.step_ms) for at_ms in (from_start_ms, from_start_ms + step_ms))
            for position in range(max(0, first), min(len(values), end)):
                values[position] = max(figure, values[position] or 0.0)
    return values


async def _of_metric(
    context: QueryContext, value: MetricValue, entity: Mapping[str, str], buckets: Buckets
) -> tuple[Values, str]:
    tags = [(name, colon_value) for name, _, colon_value in (tag.partition(":") for tag in value.tags)]
    tags += [(name, entity[name]) for name in value.group_by if entity.get(name)]
    query = TimeseriesQuery(
        entity.get("service", value.service),
        value.metric,
        TimeRange(buckets.start_ms, buckets.end_ms),
        value.agg,
        buckets.step_ms,
        tags=tuple(tags),
        where=await asyncio.to_thread(compile_condition, value.where, now_ms=buckets.end_ms) if value.where else None,
    )
    result = await timeseries(context, query)
    values = list(result.groups[0].points) if result.groups else []
    values += [None] * (buckets.count - len(values))
    return values[: buckets.count], result.unit
