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
from vantage.query.exemplars import EXEMPLARS_MAX, find_exemplars
from vantage.query.timeseries import AGGREGATIONS, timeseries
from vantage.query.timeseries_query import TimeseriesQuery
from vantage.vql.text.compile import compile_condition
from vantage.vql.tree import Expr
from vantage.web.api.params import End, Metric, Service, Start, examples, pair, problems, time_range

LIST_LENGTH_MAX = 32
WHERE_LENGTH_MAX = 4096
Tags = Annotated[
    list[str] | None,
    Parameter(
        description="Only series with this tag, as `key:value`; may repeat, all must match.",
        max_items=LIST_LENGTH_MAX,
        examples=examples(["method:GET"]),
    ),
]
Where = Annotated[
    str,
    Parameter(
        description="A VQL condition on the samples, such as `tags['method'] != 'GET' AND value > 5`.",
        max_length=WHERE_LENGTH_MAX,
        examples=examples("tags['method'] LIKE 'P%'"),
    ),
]


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
    """The values of one tag, those of most series first."""

    service: str
    metric: str
    key: str
    values: list[TagValueOut]


class SeriesOut(msgspec.Struct):
    """One group. A point is ``[epoch milliseconds, value]``; the value of an empty bucket is null."""

    tags: dict[str, str]
    points: list[tuple[int, float | None]]


class MetricExemplarOut(msgspec.Struct):
    """A sample and its trace. ``timestamp`` is in epoch milliseconds, the value in the metric's unit."""

    timestamp: int
    value: float
    trace_id: str
    span_id: str
    tags: dict[str, str]


class ExemplarsOut(msgspec.Struct):
    service: str
    metric: str
    exemplars: list[MetricExemplarOut]


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
async def list_metrics(context: NamedDependency[QueryContext], service: Service) -> MetricsOut:
    """List the metrics of a service: name, kind, unit, tag keys, and numbers of series and samples."""
    return MetricsOut(
        service,
        [
            MetricOut(
                metric.name,
                metric.kind,
                metric.unit,
                list(metric.tag_keys),
                metric.series,
                metric.samples,
                metric.last_ms,
            )
            for metric in await catalogue.metrics(context, service)
        ],
    )


@get("/api/metrics/tags", summary="Values of a tag", responses=problems(), tags=["catalogue"])
async def list_tag_values(
    context: NamedDependency[QueryContext],
    service: Service,
    key: Annotated[str, Parameter(description="The tag's key.", max_length=64, examples=examples("endpoint"))],
    metric: Annotated[str, Parameter(description="The metric's name; all when absent.", max_length=255)] = "",
) -> TagValuesOut:
    """List the values of a tag in a service's series."""
    counts = await catalogue.tag_values(context, service=service, metric=metric, key=key)
    return TagValuesOut(service, metric, key, [TagValueOut(value, series) for value, series in counts])


@get("/api/metrics/exemplars", summary="Traces behind a metric", responses=problems(), tags=["metrics"])
async def list_exemplars(
    context: NamedDependency[QueryContext],
    service: Service,
    metric: Metric,
    start: Start = "now-1h",
    end: End = "now",
    tag: Tags = None,
    where: Where = "",
    limit: Annotated[int, Parameter(description="How many.", ge=1, le=EXEMPLARS_MAX)] = 10,
) -> ExemplarsOut:
    """List samples that name their trace, those of the largest values first."""
    query = TimeseriesQuery(
        service=service,
        metric=metric,
        time_range=time_range(start, end, now_ms=context.present().now_ms),
        tags=tuple(pair(text, field="tag") for text in tag or []),
        where=await _condition(where, now_ms=context.clock.now_ms()),
    )
    return ExemplarsOut(
        service,
        metric,
        [
            MetricExemplarOut(
                exemplar.time_ms, exemplar.value, exemplar.trace_id, exemplar.span_id, dict(exemplar.tags)
            )
            for exemplar in await find_exemplars(context, query, limit=limit)
        ],
    )


@get("/api/metrics/timeseries", summary="A metric over time", responses=problems(), tags=["metrics"])
async def get_timeseries(
    context: NamedDependency[QueryContext],
    service: Service,
    metric: Metric,
    start: Start = "now-1h",
    end: End = "now",
    step: Annotated[
        str,
        Parameter(
            description="Bucket length: `auto` (about 300 points), seconds, or a duration such as `30s`, `5m`, `1h`.",
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
    tag: Tags = None,
    where: Where = "",
) -> TimeseriesOut:
    """Return buckets of a step, one series per group. An empty bucket is null, never 0."""
    query = TimeseriesQuery(
        service=service,
        metric=metric,
        time_range=time_range(start, end, now_ms=context.present().now_ms),
        agg=agg,
        step_ms=_step_ms(step),
        group_by=tuple(key for part in group_by or [] for key in part.split(",") if key),
        tags=tuple(pair(text, field="tag") for text in tag or []),
        where=await _condition(where, now_ms=context.clock.now_ms()),
    )
    result = await timeseries(context, query)
    return TimeseriesOut(
        service=service,
        metric=metric,
        unit=result.unit,
        agg=agg,
        start=result.time_range.start_ms,
        end=result.time_range.end_ms,
        step=result.step_ms / 1000,
        series=[
            SeriesOut(
                group.tags,
                [(result.time_range.start_ms + i * result.step_ms, value) for i, value in enumerate(group.points)],
            )
            for group in result.groups
        ],
        source=result.source,
        approximate=result.approximate,
        warnings=result.warnings,
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
        raise InputError("must be longer than 0", field="step")
    return step_ms


handlers = [list_metrics, list_tag_values, list_exemplars, get_timeseries]
