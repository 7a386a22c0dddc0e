"""The series that are watched for anomalies, as 5-minute points from rollups."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np

from vantage.core.anomaly import Figure
from vantage.core.arrays import F64
from vantage.core.rollup import FIVE_MINUTES_MS
from vantage.core.sample import OVERFLOW, Kind
from vantage.core.semconv import DURATION, REQUESTS
from vantage.core.timerange import TimeRange
from vantage.query.catalogue import SELF
from vantage.query.context import QueryContext
from vantage.query.http_semconv import Buckets
from vantage.query.red import read_red
from vantage.vql.table import Table
from vantage.vql.tree import And, Call, Column, Compare, Expr, Literal, Select, SelectItem, equals

ROWS_MAX: Final = 200_000  # of one read: half a day of 1000 metrics is 144 000
REQUESTS_MIN: Final = 20  # in 5 minutes: the errors and the p95 of fewer are chance
FIGURES: Final[tuple[Figure, ...]] = ("rate", "errors", "p95", "metric")
UNITS: Final[Mapping[str, str]] = {"rate": "/s", "errors": "%", "p95": "ms"}
# In the unit of the points: a smaller range of values counts as this.
RANGES_MIN: Final[Mapping[Figure, float]] = {"rate": 0.1, "errors": 0.3, "p95": 5.0, "metric": 0.0}
_IN_REQUESTS: Final = frozenset({REQUESTS, DURATION})  # metrics that the figures of requests are made of


class SeriesKey(NamedTuple):
    """A figure of a service, or one of its metrics."""

    service: str
    figure: Figure
    metric: str = ""


class MetricUnit(NamedTuple):
    """The unit of a metric's points, and the kind of its samples."""

    unit: str = ""
    kind: str = ""


async def read_points(
    context: QueryContext, time_range: TimeRange, *, services: Mapping[str, int], key: SeriesKey | None = None
) -> tuple[dict[SeriesKey, F64], dict[str, MetricUnit]]:
    """Return the points of a range, which begins and ends on multiples of 5 minutes: for each series an array of one
    value a bucket, NaN without data; and the unit of each metric.

    Rates are requests a second; errors are shares from 0 to 1; p95 is in ms; a metric is the mean of its samples, or
    the growth a second of a counter. Running totals are left out, Vantage itself, and errors and p95 of less than
    REQUESTS_MIN requests. ``services`` are names with the time of their first data; ``key`` restricts it to one series.
    """
    buckets = Buckets(time_range.start_ms, time_range.end_ms, FIVE_MINUTES_MS)
    points: dict[SeriesKey, F64] = {}
    seconds = FIVE_MINUTES_MS // 1000
    units: dict[str, MetricUnit] = {}
    if key is None or key.figure != "metric":
        wanted = {name: at for name, at in services.items() if name not in (SELF, OVERFLOW)}
        if key is not None:
            wanted = {name: at for name, at in wanted.items() if name == key.service}
        red = await read_red(context, buckets, services=wanted) if wanted else {}
        for service, stats in red.items():
            if stats.source == "samples":
                continue
            few = np.array([(v or 0.0) * seconds < REQUESTS_MIN for v in stats.rates_per_s])
            for figure, values in (
                ("rate", stats.rates_per_s), ("errors", stats.error_ratios), ("p95", stats.p95s_ms)
            ):  # fmt: skip
                of_figure = SeriesKey(service, figure)  # type: ignore[arg-type]
                if key in (None, of_figure):
                    points[of_figure] = np.array([np.nan if v is None else v for v in values], np.float64)
                    if figure != "rate":
                        points[of_figure][few] = np.nan
    if key is None or key.figure == "metric":
        await _read_metrics(context, buckets, points, units, key)
    return points, units


async def _read_metrics(
    context: QueryContext,
    buckets: Buckets,
    points: dict[SeriesKey, F64],
    units: dict[str, MetricUnit],
    key: SeriesKey | None,
) -> None:
    await _read_part(context, buckets, buckets, points, units, key)


async def _read_part(
    context: QueryContext,
    buckets: Buckets,
    part: Buckets,
    points: dict[SeriesKey, F64],
    units: dict[str, MetricUnit],
    key: SeriesKey | None,
) -> None:
    """Read some of the buckets: in halves where they are too many rows."""
    columns = ("service_name", "metric_name", "metric_type", "unit")
    time = Column("timestamp")
    exprs: tuple[Expr, ...] = (*map(Column, columns), time)
    sums = (Call("sum", (Column("count"),)), Call("sum", (Column("sum"),)))
    where: list[Expr] = [
        Compare(">=", time, Literal(part.start_ms)),
        Compare("<", time, Literal(part.end_ms)),
        Compare("!=", Column("metric_type"), Literal(Kind.CUMULATIVE.value)),
    ]
    if key is None:
        where.append(Compare("!=", Column("service_name"), Literal(SELF)))
    else:
        where += [equals("service_name", key.service), equals("metric_name", key.metric)]
    items = tuple(SelectItem(expr, f"c{i}") for i, expr in enumerate((*exprs, *sums)))
    select = Select("rollups_5m", items, where=And(tuple(where)), group_by=exprs)
    table = await context.select("anomalies", select, rows_max=ROWS_MAX)
    if table.truncated and part.count > 1:
        middle_ms = part.start_ms + part.count // 2 * part.step_ms
        for half in (Buckets(part.start_ms, middle_ms, part.step_ms), Buckets(middle_ms, part.end_ms, part.step_ms)):
            await _read_part(context, buckets, half, points, units, key)
        return
    await asyncio.to_thread(_add_rows, table, buckets, points, units)


def _add_rows(table: Table, buckets: Buckets, points: dict[SeriesKey, F64], units: dict[str, MetricUnit]) -> None:
    for service, metric, kind, unit, at_ms, count, total in table.rows():
        if metric in _IN_REQUESTS or OVERFLOW in (service, metric) or total is None or not count:
            continue
        of_metric = SeriesKey(service, "metric", metric)
        values = points.get(of_metric)
        if values is None:
            values = points[of_metric] = np.full(buckets.count, np.nan)
            units[metric] = MetricUnit(f"{unit}/s" if kind == Kind.COUNTER else unit, kind)
        position = (at_ms - buckets.start_ms) // buckets.step_ms
        values[position] = total / (buckets.step_ms / 1000) if kind == Kind.COUNTER else total / count
