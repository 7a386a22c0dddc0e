"""The conventions of ``core.semconv`` as query trees, and parsers of their results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from vantage.core.red import MINUTE_MS
from vantage.core.red_table import RedRows
from vantage.core.semconv import DURATION, ERROR_TAG, REQUESTS, STATUS_TAGS
from vantage.core.timerange import TimeRange, auto_step_ms
from vantage.vql.table import Table
from vantage.vql.tree import (
    And,
    Arithmetic,
    Call,
    Case,
    Column,
    Compare,
    Expr,
    Like,
    Or,
    Select,
    SelectItem,
    TagValue,
    equals,
)
from vantage.vql.tree import Literal as Constant

# Each quantile sorts every duration of the range, so the overview computes only one.
QUANTILES_OVERVIEW: Final = (0.95,)
QUANTILES_ALL: Final = (0.5, 0.95, 0.99)


ROLLUP_RANGE_MS: Final = 1_800_000


@dataclass(frozen=True, slots=True)
class Buckets:
    """A range cut into steps. It starts on a multiple of the step; ``end_ms`` may cut the last bucket short."""

    start_ms: int
    end_ms: int
    step_ms: int

    @property
    def count(self) -> int:
        return -(-(self.end_ms - self.start_ms) // self.step_ms)

    def starts_ms(self) -> tuple[int, ...]:
        return tuple(range(self.start_ms, self.end_ms, self.step_ms))

    def seconds(self, position: int) -> float:
        """Return how many seconds of a bucket have passed."""
        start_ms = self.start_ms + position * self.step_ms
        return (min(start_ms + self.step_ms, self.end_ms) - start_ms) / 1000


def split_buckets(time_range: TimeRange, *, points: int, now_ms: int) -> Buckets:
    """Return up to ``points`` complete buckets of a round step, and the last one, which ends with the present at most.

    Of ROLLUP_RANGE_MS and more they last whole minutes, for which rollups are kept.
    """
    step_ms = auto_step_ms(time_range, points=points)
    if time_range.length_ms >= ROLLUP_RANGE_MS:
        step_ms = max(step_ms, MINUTE_MS)
    end_ms = -(-time_range.end_ms // step_ms) * step_ms
    return Buckets(time_range.start_ms // step_ms * step_ms, max(time_range.end_ms, min(end_ms, now_ms + 1)), step_ms)


@dataclass(frozen=True, slots=True)
class RequestStats:
    """The figures of one group of a query. ``tagged``: how many of its rows have a tag for errors; ``sum_ms``: the sum
    of their durations, where they have any."""

    requests: float
    errors: float
    tagged: int
    first_ms: int = 0
    quantiles_ms: Mapping[float, float | None] = field(default_factory=dict)
    sum_ms: float = 0.0

    @property
    def error_ratio(self) -> float | None:
        return min(1.0, self.errors / self.requests) if self.requests > 0 else None

    def quantile_ms(self, p: float) -> float | None:
        return self.quantiles_ms.get(p)


_VALUE: Final = Column("value")
IS_ERROR: Final = Or(
    (*(Like(TagValue(tag), "5__") for tag in STATUS_TAGS), Compare("=", TagValue(ERROR_TAG), Constant("true")))
)
IS_TAGGED: Final = Or(tuple(Compare("!=", TagValue(tag), Constant("")) for tag in (*STATUS_TAGS, ERROR_TAG)))
VALUE_MS: Final = Case(
    (
        (equals("unit", "s"), Arithmetic("*", _VALUE, Constant(1000.0))),
        (equals("unit", "us"), Arithmetic("/", _VALUE, Constant(1000.0))),
        (equals("unit", "ns"), Arithmetic("/", _VALUE, Constant(1_000_000.0))),
    ),
    _VALUE,
)
_IS_TRAFFIC: Final = Or(
    (
        And((equals("metric_name", REQUESTS), equals("metric_type", "counter"))),
        And((equals("metric_name", DURATION), equals("metric_type", "histogram"))),
    )
)
_FIRST: Final = Call("min", (Column("timestamp"),))
SPAN_MS: Final = Arithmetic("/", Column("duration_ns"), Constant(1_000_000.0))
IS_SPAN_ERROR: Final = equals("status", "error")


def time_filter(buckets: Buckets) -> tuple[Expr, Expr]:
    """Return the conditions on time."""
    return (
        Compare(">=", Column("timestamp"), Constant(buckets.start_ms)),
        Compare("<", Column("timestamp"), Constant(buckets.end_ms)),
    )


def metrics_query(
    buckets: Buckets,
    keys: Sequence[Expr],
    *,
    where: Sequence[Expr] = (),
    quantiles: Sequence[float] = QUANTILES_OVERVIEW,
) -> Select:
    """Select the request metrics, grouped by ``keys``, the metric's name first. Parse with ``parse_stats``."""
    counts = (
        Call("sum", (_VALUE,)),
        Call("count"),
        Call("sumIf", (_VALUE, IS_ERROR)),
        Call("countIf", (IS_ERROR,)),
        Call("countIf", (IS_TAGGED,)),
        Call("sum", (VALUE_MS,)),
    )
    return Select(
        "metrics",
        select_items((*keys, *counts, _FIRST, *_quantiles(VALUE_MS, quantiles))),
        where=And((_IS_TRAFFIC, *where, *time_filter(buckets))),
        group_by=tuple(keys),
    )


def spans_query(
    buckets: Buckets,
    keys: Sequence[Expr],
    *,
    where: Sequence[Expr] = (),
    quantiles: Sequence[float] = QUANTILES_OVERVIEW,
) -> Select:
    """Select the server spans, grouped by ``keys``. Parse with ``parse_stats``."""
    counts = (Call("count"), Call("countIf", (IS_SPAN_ERROR,)), Call("sum", (SPAN_MS,)))
    return Select(
        "spans",
        select_items((*keys, *counts, _FIRST, *_quantiles(SPAN_MS, quantiles))),
        where=And((equals("kind", "server"), *where, *time_filter(buckets))),
        group_by=tuple(keys),
    )


def _quantiles(value_ms: Expr, quantiles: Sequence[float]) -> tuple[Expr, ...]:
    return tuple(Call("quantile", (value_ms,), p) for p in quantiles)


def select_items(exprs: Sequence[Expr]) -> tuple[SelectItem, ...]:
    return tuple(SelectItem(expr, f"c{position}") for position, expr in enumerate(exprs))


def parse_stats(query: Select, table: Table) -> dict[tuple[Any, ...], RequestStats]:
    """Return the groups by their keys."""
    keys = len(query.group_by)
    quantiles = [call.parameter for item in query.items if isinstance(call := item.expr, Call) and call.parameter]
    parse = _parse_spans_row if query.table == "spans" else _parse_metrics_row
    return {row[:keys]: parse(row[0], row[keys:], quantiles) for row in table.rows()}


def _parse_metrics_row(metric: str, row: Sequence[Any], quantiles: Sequence[float]) -> RequestStats:
    total, count, error_total, error_count, tagged, sum_ms, first_ms, *values_ms = row
    if metric == REQUESTS:
        return RequestStats(total or 0.0, error_total or 0.0, tagged, first_ms)
    return RequestStats(
        count, error_count, tagged, first_ms, dict(zip(quantiles, values_ms, strict=True)), sum_ms or 0.0
    )


def _parse_spans_row(_: object, row: Sequence[Any], quantiles: Sequence[float]) -> RequestStats:
    count, errors, sum_ms, first_ms, *values_ms = row
    return RequestStats(count, errors, count, first_ms, dict(zip(quantiles, values_ms, strict=True)), sum_ms or 0.0)


def stats_of_rows(rows: RedRows, row: int, quantiles: Sequence[float], *, first_seen_ms: int = 0) -> RequestStats:
    """Return a row of rollups; ``first_seen_ms`` is the time of its service's first data: rollups know only the bucket
    of the first request."""
    values = (float(column[row]) for column in rows.quantiles_ms)
    return RequestStats(
        float(rows.requests[row]),
        float(rows.errors[row]),
        int(rows.tagged[row]),
        max(int(rows.first_ms[row]), first_seen_ms),
        {p: None if math.isnan(value) else value for p, value in zip(quantiles, values, strict=True)},
        float(rows.sum_ms[row]),
    )


def pick_metrics(by_metric: dict[str, RequestStats]) -> tuple[str, str]:
    """Return the metric to count requests with, and the metric for the error ratio."""
    requests = REQUESTS if REQUESTS in by_metric else DURATION
    tagged = next(
        (metric for metric in (requests, DURATION) if metric in by_metric and by_metric[metric].tagged), requests
    )
    return requests, tagged


def rate_per_s(stats: RequestStats, buckets: Buckets) -> float:
    """Return requests per second since the first request, over one step at least."""
    return stats.requests * 1000 / max(buckets.end_ms - stats.first_ms, buckets.step_ms)
