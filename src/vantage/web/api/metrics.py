"""``/api/metrics``: the catalogue, tag values and timeseries."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.params import Parameter

from vantage.core.errors import InputError, QueryError
from vantage.core.timerange import parse_duration_ms
from vantage.query import catalogue
from vantage.query.context import QueryContext
from vantage.query.timeseries import AGGREGATIONS, timeseries
from vantage.query.timeseries_query import TimeseriesQuery
from vantage.vql.text.compile import compile_condition
from vantage.vql.tree import Expr
from vantage.web.api.params import End, Metric, Service, Start, examples, pair, problems, time_range

LIST_LENGTH_MAX = 32
WHERE_LENGTH_MAX = 4096


class MetricOut(msgspec.Struct):
    """A metric of a service."""

    name: str
    kind: str
    unit: str
    tag_keys: list[str]
    series: int
    samples: int
    last_seen: int


class MetricsOut(msgspec.Struct):
    service: str
    metrics: list[MetricOut]


class TagValueOut(msgspec.Struct):
    value: str
    series: int


class TagValuesOut(msgspec.Struct):
    """The values of one tag, the one of most series first."""

    service: str
    metric: str
    key: str
    values: list[TagValueOut]


class SeriesOut(msgspec.Struct):
    """One group. A point is ``[epoch milliseconds, value]``; the value of an empty bucket is null."""

    tags: dict[str, str]
    points: list[tuple[int, float | None]]


class TimeseriesOut(msgspec.Struct):
    """``step`` is in seconds."""

    service: str
    metric: str
    unit: str
    agg: str
    start: int
    end: int
    step: float
    series: list[SeriesOut]
    source: Literal["raw", "5m", "1h", "mixed"]
    approximate: bool
    warnings: list[str]


@get("/api/metrics", summary="Metrics of a service", responses=problems(), tags=["catalogue"])
async def list_metrics(reads: NamedDependency[QueryContext], service: Service) -> MetricsOut:
    """The metrics a service has sent: name, kind, unit, tag keys, series and samples held."""
    return MetricsOut(
        service,
        [
            MetricOut(one.name, one.kind, one.unit, list(one.tag_keys), one.series, one.samples, one.last_ms)
            for one in await catalogue.metrics(reads, service)
        ],
    )


@get("/api/metrics/tags", summary="Values of a tag", responses=problems(), tags=["catalogue"])
async def list_tag_values(
    reads: NamedDependency[QueryContext],
    service: Service,
    key: Annotated[str, Parameter(description="The tag's key.", max_length=64, examples=examples("endpoint"))],
    metric: Annotated[str, Parameter(description="The metric's name; all when absent.", max_length=255)] = "",
) -> TagValuesOut:
    """The values a tag has among a service's series."""
    found = await catalogue.tag_values(reads, service=service, metric=metric, key=key)
    return TagValuesOut(service, metric, key, [TagValueOut(value, series) for value, series in found])


@get("/api/metrics/timeseries", summary="A metric over time", responses=problems(), tags=["metrics"])
async def get_timeseries(
    reads: NamedDependency[QueryContext],
    service: Service,
    metric: Metric,
    start: Start = "now-1h",
    end: End = "now",
    step: Annotated[
        str,
        Parameter(
            description="Bucket length: `auto` (about 300 points), seconds, or like `30s`, `5m`, `1h`.",
            max_length=16,
            examples=examples("auto", "1m"),
        ),
    ] = "auto",
    agg: Annotated[
        str,
        Parameter(
            description=f"How a bucket's samples become one value: {', '.join(AGGREGATIONS)}.",
            examples=examples("p95"),
        ),
    ] = "avg",
    group_by: Annotated[
        list[str] | None,
        Parameter(
            description="Tag keys (or environment) to split by; repeat or separate by commas.",
            max_items=LIST_LENGTH_MAX,
            examples=examples(["endpoint"]),
        ),
    ] = None,
    tag: Annotated[
        list[str] | None,
        Parameter(
            description="Only series with this tag, as `key:value`; may repeat, all must hold.",
            max_items=LIST_LENGTH_MAX,
            examples=examples(["method:GET"]),
        ),
    ] = None,
    where: Annotated[
        str,
        Parameter(
            description="A VQL condition on the samples, such as `tags['method'] != 'GET' AND value > 5`.",
            max_length=WHERE_LENGTH_MAX,
            examples=examples("tags['method'] LIKE 'P%'"),
        ),
    ] = "",
) -> TimeseriesOut:
    """Buckets of a step, one series a group. An empty bucket is null, never 0."""
    asked = TimeseriesQuery(
        service=service,
        metric=metric,
        time_range=time_range(start, end, now_ms=reads.clock.now_ms()),
        agg=agg,
        step_ms=_step_ms(step),
        group_by=tuple(key for part in group_by or [] for key in part.split(",") if key),
        tags=tuple(pair(text, field="tag") for text in tag or []),
        where=await _condition(where, now_ms=reads.clock.now_ms()),
    )
    found = await timeseries(reads, asked)
    return TimeseriesOut(
        service=service,
        metric=metric,
        unit=found.unit,
        agg=agg,
        start=found.time_range.start_ms,
        end=found.time_range.end_ms,
        step=found.step_ms / 1000,
        series=[
            SeriesOut(
                group.tags,
                [(found.time_range.start_ms + i * found.step_ms, value) for i, value in enumerate(group.points)],
            )
            for group in found.groups
        ],
        source=found.source,
        approximate=found.approximate,
        warnings=found.warnings,
    )


async def _condition(text: str, *, now_ms: int) -> Expr | None:
    if not text.strip():
        return None
    try:
        return await asyncio.to_thread(compile_condition, text, now_ms=now_ms)
    except QueryError as error:
        error.field = "where"
        raise


def _step_ms(step: str) -> int | None:
    if step in ("", "auto"):
        return None
    step_ms = parse_duration_ms(step, field="step")
    if step_ms <= 0:
        raise InputError("must be longer than nothing", field="step")
    return step_ms


handlers = [list_metrics, list_tag_values, get_timeseries]
