"""Values that rules compare with a limit: of a metric, of requests, or of a VQL query, over a window."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from vantage.alerting.reading import Reading, shape_of
from vantage.core.alert_rule import MetricValue, RequestFigure, RequestValue, Value, VqlValue
from vantage.core.errors import InputError, QueryError
from vantage.core.red import MINUTE_MS
from vantage.core.sample import OVERFLOW, Kind
from vantage.core.timerange import TimeRange
from vantage.query.catalogue import SELF
from vantage.query.endpoints import read_endpoints
from vantage.query.http_semconv import QUANTILES_ALL, Buckets
from vantage.query.red import RedStats, read_red
from vantage.query.timeseries import aggregate
from vantage.query.timeseries_query import TimeseriesQuery, group_by_exprs, series_filter
from vantage.storage.ports import SeriesInfo
from vantage.vql.table import Table
from vantage.vql.text.compile import compile_condition, compile_query
from vantage.vql.tree import And, Call, Column, Compare, Expr, Select, SelectItem
from vantage.vql.tree import Literal as Constant

ENTITIES_MAX: Final = 1000  # of one rule
ROWS_MAX: Final = 20_000  # of one query that several rules share
DAY_MS: Final = 86_400_000
FIVE_MINUTES_MS: Final = 300_000
_KIND_TTL_MS: Final = 300_000
_TREE_TTL_MS: Final = 3_600_000
_QUANTILES: Final[Mapping[RequestFigure, float]] = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
FIGURE_UNITS: Final[Mapping[RequestFigure, str]] = {"rate": "/s", "errors": "%", "p50": "ms", "p95": "ms", "p99": "ms"}


@dataclass(frozen=True, slots=True)
class Measured:
    """The value of one entity, from ``samples`` samples or requests."""

    entity: Mapping[str, str]
    service: str
    value: float
    samples: int
    unit: str


async def read_values(reading: Reading, value: Value, window_ms: int) -> list[Measured]:
    """Return the value of each entity that has data in the window. Raises InputError for more than ENTITIES_MAX, for
    what a query has wrong, and what the store raises."""
    if isinstance(value, MetricValue):
        measured = await _of_metric(reading, value, window_ms)
    elif isinstance(value, RequestValue):
        measured = await _of_requests(reading, value, window_ms)
    else:
        measured = await _of_vql(reading, value, window_ms)
    if len(measured) > ENTITIES_MAX:
        raise InputError(
            f"yields {len(measured)} entities, at most {ENTITIES_MAX} are allowed: group by fewer tags",
            field="condition",
        )
    return measured


async def _of_metric(reading: Reading, value: MetricValue, window_ms: int) -> list[Measured]:
    infos = await series_of(reading, value)
    unit = infos[0].series.unit if infos else ""
    if value.agg in ("count", "rate"):
        unit = "" if value.agg == "count" else f"{unit}/s" if infos and infos[0].series.kind is Kind.COUNTER else "/s"
    if value.agg == "rate":  # what it is depends on the kind of each service's metric
        rows = await reading.once(("rate", value, window_ms), lambda: _select(reading, value, window_ms, infos, ()))
    else:
        services = tuple(sorted(reading.services_of(value, window_ms)))
        key = ("metric", shape_of(value, window_ms), services)
        rows = await reading.once(key, lambda: _select(reading, value, window_ms, infos, services))
    return [
        Measured(dict(zip(("service", *value.group_by), names, strict=True)), value.service, number, samples, unit)
        for names, number, samples in rows.get(value.service, ())
    ]


Rows = dict[str, list[tuple[tuple[str, ...], float, int]]]


async def _select(
    reading: Reading, value: MetricValue, window_ms: int, infos: Sequence[SeriesInfo], services: tuple[str, ...]
) -> Rows:
    window = reading.window(window_ms)
    query = _query(value, window, await _condition(reading, value.where))
    kind = infos[0].series.kind if infos else Kind.GAUGE
    try:
        expr, lookback_ms = aggregate(value.agg, kind, window_ms)
    except InputError as error:
        raise InputError(error.reason, field="condition.value.agg") from error
    keys = (Column("service_name"), *group_by_exprs(query))
    items = [SelectItem(key, f"key{i}") for i, key in enumerate(keys)]
    items += [SelectItem(expr, "value"), SelectItem(Call("count"), "samples")]
    where = series_filter(query, window.start_ms - lookback_ms, window.end_ms, services=services)
    table = await reading.context.select(
        "alert_rule", Select("metrics", tuple(items), where=where, group_by=keys), rows_max=ROWS_MAX
    )
    if table.truncated:
        raise InputError(f"yields more than {ROWS_MAX} entities: group by fewer tags", field="condition.value.group_by")
    rows: Rows = {}
    for service, *names, number, samples in table.rows():
        if number is not None and math.isfinite(number):
            rows.setdefault(service, []).append(((service, *map(str, names)), float(number), int(samples)))
    return rows


async def series_of(reading: Reading, value: MetricValue) -> Sequence[SeriesInfo]:
    """Return the series of a metric, those with most samples first."""

    async def load() -> Sequence[SeriesInfo]:
        infos = await reading.context.store.list_series(service=value.service, metric=value.metric)
        return sorted(infos, key=lambda info: -info.samples)

    key = ("series", value.service, value.metric)
    return await reading.lasting.cached(key, load, now_ms=reading.at_ms, ttl_ms=_KIND_TTL_MS)


async def _condition(reading: Reading, text: str) -> Expr | None:
    if not text.strip():
        return None

    async def load() -> Expr:
        try:
            return await asyncio.to_thread(compile_condition, text, now_ms=reading.at_ms)
        except QueryError as error:
            raise InputError(str(error), field="condition.value.where") from error

    ttl_ms = 0 if "now" in text.lower() else _TREE_TTL_MS
    return await reading.lasting.cached(("condition", text), load, now_ms=reading.at_ms, ttl_ms=ttl_ms)


def _query(value: MetricValue, window: TimeRange, where: Expr | None) -> TimeseriesQuery:
    return TimeseriesQuery(
        value.service,
        value.metric,
        window,
        value.agg,
        step_ms=window.length_ms,
        group_by=value.group_by,
        tags=tag_pairs(value),
        where=where,
    )


def tag_pairs(value: MetricValue) -> tuple[tuple[str, str], ...]:
    """Return the tags that samples must have. Raises InputError for what is not ``name:value``."""
    pairs = []
    for text in value.tags:
        name, colon, tag = text.partition(":")
        if not name or not colon:
            raise InputError(f"{text[:80]!r} is not name:value", field="condition.value.tags")
        pairs.append((name, tag))
    return tuple(pairs)


def request_buckets(at_ms: int, window_ms: int, *, now_ms: int) -> Buckets:
    """Return the minutes of a window that ends at a time, or its 5 minutes where minutes are no longer stored: the
    window begins with the nearest of them."""
    step_ms = MINUTE_MS if now_ms - at_ms < DAY_MS and window_ms < DAY_MS else FIVE_MINUTES_MS
    return Buckets((at_ms - window_ms + step_ms // 2) // step_ms * step_ms, at_ms + 1, step_ms)


async def read_requests(reading: Reading, window_ms: int) -> Mapping[str, RedStats]:
    """Return the figures of requests of every service that has any in the window."""

    async def load() -> Mapping[str, RedStats]:
        first = await reading.first_seen_ms()
        services = {name: at for name, at in first.items() if name not in (SELF, OVERFLOW)}
        if not services:
            return {}
        buckets = request_buckets(reading.at_ms, window_ms, now_ms=reading.context.present().now_ms)
        return await read_red(reading.context, buckets, services=services, quantiles=QUANTILES_ALL)

    return await reading.once(("requests", window_ms), load)


def figure_of(stats: RedStats, figure: RequestFigure) -> float | None:
    """Return one of the figures of a service; None where there is none."""
    if stats.source == "samples":
        return None
    figures = {"rate": stats.rate_per_s, "errors": stats.error_ratio, "p50": stats.p50_ms, "p95": stats.p95_ms}
    return stats.p99_ms if figure == "p99" else figures[figure]


async def _of_requests(reading: Reading, value: RequestValue, window_ms: int) -> list[Measured]:
    stats_of = await read_requests(reading, window_ms)
    services = [value.service] if value.service else sorted(stats_of)
    measured = []
    for service in services:
        stats = stats_of.get(service)
        if stats is None:
            continue
        if value.by == "endpoint":
            measured += await _of_endpoints(reading, value.figure, service, stats, window_ms)
            continue
        number = figure_of(stats, value.figure)
        if number is not None:
            entity = {"service": service}
            measured.append(Measured(entity, service, number, int(stats.requests), FIGURE_UNITS[value.figure]))
    return measured


async def _of_endpoints(
    reading: Reading, figure: RequestFigure, service: str, stats: RedStats, window_ms: int
) -> list[Measured]:
    if stats.source == "samples":
        return []
    buckets = request_buckets(reading.at_ms, window_ms, now_ms=reading.context.present().now_ms)

    async def load() -> list[Any]:
        first = (await reading.first_seen_ms()).get(service, 0)
        return await read_endpoints(reading.context, buckets, service=service, source=stats.source, first_seen_ms=first)

    endpoints = await reading.once(("endpoints", service, window_ms), load)
    measured = []
    for endpoint in endpoints:
        number = endpoint.error_ratio if figure == "errors" else getattr(endpoint, f"{figure}_ms", None)
        if figure == "rate":
            number = endpoint.requests * 1000 / (buckets.end_ms - buckets.start_ms)
        if number is not None:
            entity = {"service": service, "endpoint": f"{endpoint.method} {endpoint.route}".strip()}
            measured.append(Measured(entity, service, number, int(endpoint.requests), FIGURE_UNITS[figure]))
    return measured


async def _of_vql(reading: Reading, value: VqlValue, window_ms: int) -> list[Measured]:
    async def compiled() -> Select:
        def compile_text() -> Select:
            try:
                query = compile_query(value.query, now_ms=reading.at_ms)
            except QueryError as error:
                raise InputError(str(error), field="condition.value.query") from error
            if query.explain:
                raise InputError("a plan has no value", field="condition.value.query")
            return query.query.select

        return await asyncio.to_thread(compile_text)

    ttl_ms = 0 if "now" in value.query.lower() else _TREE_TTL_MS
    select = await reading.lasting.cached(("vql", value.query), compiled, now_ms=reading.at_ms, ttl_ms=ttl_ms)
    window = reading.window(window_ms)
    time = Column("timestamp")
    within: list[Expr] = [
        Compare(">=", time, Constant(window.start_ms)),
        Compare("<", time, Constant(window.end_ms)),
    ]
    where = And((*([] if select.where is None else [select.where]), *within))
    key = ("vql", value.query, window_ms)
    table = await reading.once(key, lambda: reading.context.select("alert_rule", replace(select, where=where)))
    return _measured_rows(table)


def _measured_rows(table: Table) -> list[Measured]:
    """Return a value for each row of a VQL table: the last column, named by those before it."""
    names = [column.name for column in table.columns]
    if table.columns[-1].type not in ("int", "float"):
        raise InputError(f"the last column, {names[-1]!r}, is no number", field="condition.value.query")
    if table.truncated:
        raise InputError(
            f"yields more than {len(table)} entities, at most {ENTITIES_MAX} are allowed", field="condition.value.query"
        )
    measured = []
    for *texts, number in table.rows():
        entity = {name: _entity_text(text) for name, text in zip(names, texts, strict=False)}
        service = entity.pop("service_name", entity.get("service", ""))
        if service:
            entity["service"] = service
        if number is not None and math.isfinite(number):
            measured.append(Measured(entity, service, float(number), 1, ""))
    return measured


def _entity_text(value: object) -> str:
    return ",".join(f"{key}={text}" for key, text in sorted(value.items())) if isinstance(value, dict) else str(value)
