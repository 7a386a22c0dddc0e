"""Exemplars: samples with the trace they were recorded in, so that a point of a chart leads to its evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vantage.query.context import QueryContext
from vantage.query.timeseries_query import TimeseriesQuery, series_filter
from vantage.vql.tree import And, Column, Compare, Literal, Order, Select, SelectItem

EXEMPLARS_MAX: Final = 100
_COLUMNS: Final = ("timestamp", "value", "trace_id", "span_id", "tags")


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One sample of a series with these tags, and the trace and span (perhaps '') it was recorded in."""

    time_ms: int
    value: float
    trace_id: str
    span_id: str
    tags: Mapping[str, str]


async def find_exemplars(context: QueryContext, query: TimeseriesQuery, *, limit: int) -> list[Exemplar]:
    """Return the exemplars of the largest values, whatever the query aggregates and groups by. Raises InputError, and
    what the store raises."""
    time_range = query.time_range
    where = And(
        (
            series_filter(query, time_range.start_ms, time_range.end_ms),
            Compare("!=", Column("trace_id"), Literal("")),
        )
    )
    select = Select(
        "metrics",
        tuple(SelectItem(Column(name), name) for name in _COLUMNS),
        where=where,
        order_by=(Order(Column("value"), descending=True), Order(Column("timestamp"), descending=True)),
        limit=min(limit, EXEMPLARS_MAX),
    )
    table = await context.select("exemplars", select)
    return [Exemplar(*row) for row in table.rows()]
