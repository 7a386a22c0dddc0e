"""The questions of the port beside ``select``: series, traces, who calls whom, and what is exported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from vantage.core.errors import InputError
from vantage.core.span import Span
from vantage.core.span_table import SpanTable, build_span_table
from vantage.core.timerange import TimeRange
from vantage.storage.clickhouse.engine import Engine, QueryResult, Statement, query_limits
from vantage.storage.clickhouse.expressions import Params
from vantage.storage.clickhouse.rows import SAMPLES_SELECTED, SPANS_SELECTED, read_spans
from vantage.storage.clickhouse.series_registry import SeriesRegistry
from vantage.storage.clickhouse.sql import bounds
from vantage.storage.ports import (
    ExemplarSample,
    Selector,
    SeriesInfo,
    ServiceEdge,
    ServiceSpanStats,
    TraceFilter,
    TraceSummary,
)
from vantage.storage.service_edges import PARENT_REACH_MS, SPANS_MAX, service_edges
from vantage.storage.trace_summary import latest_summaries

TIMEOUT_S: Final = 30.0


class Lookups:
    """Its methods block; each thread may ask."""

    def __init__(self, engine: Engine, known: SeriesRegistry) -> None:
        self._engine = engine
        self._known = known

    def _query(self, text: str, params: Params | None = None) -> QueryResult:
        return self._engine.run(Statement(text, params.values if params else {}), **query_limits(TIMEOUT_S))

    def list_series(self, service: str, metric: str, *, since_ms: int) -> list[SeriesInfo]:
        """By the hourly rollups, which know the first and the last sample: a thousandth of the rows."""
        params = Params()
        held = params.bind(since_ms, "Int64")
        where = [
            f"{name} = {params.bind(text, 'String')}"
            for name, text in (("service_name", service), ("metric_name", metric))
            if text
        ]
        found = self._query(
            "SELECT series_id, "
            f"toInt64(sumIf(count, toUnixTimestamp64Milli(timestamp) >= {held})) AS samples, "
            "toUnixTimestamp64Milli(min(first_time)) AS first_ms, toUnixTimestamp64Milli(max(last_time)) AS last_ms "
            f"FROM rollups_1h {'WHERE ' + ' AND '.join(where) if where else ''} GROUP BY series_id",
            params,
        )
        columns = (found.to_list(name) for name in ("series_id", "samples", "first_ms", "last_ms"))
        return [
            SeriesInfo(one, samples, first_ms, last_ms)
            for series_id, samples, first_ms, last_ms in zip(*columns, strict=True)
            if (one := self._known.by_id.get(series_id)) is not None
        ]

    def services_with_spans(self) -> list[ServiceSpanStats]:
        names = ("service_name", "environment", "service_version", "instance")
        found = self._query(
            f"SELECT {', '.join(names)}, toInt64(count()) AS held, "
            "intDiv(min(start_ns), 1000000) AS first_ms, intDiv(max(start_ns), 1000000) AS last_ms "
            f"FROM spans GROUP BY {', '.join(names)}"
        )
        columns = (found.to_list(name) for name in (*names, "held", "first_ms", "last_ms"))
        return [ServiceSpanStats(*row) for row in zip(*columns, strict=True)]

    def exemplars(self, trace_id: str) -> list[ExemplarSample]:
        """The samples of a trace, by time."""
        params = Params()
        wanted = params.bind(trace_id, "String")
        linked = self._query(
            "SELECT series_id, toUnixTimestamp64Milli(timestamp) AS time_ms, value, span_id FROM exemplars "
            f"WHERE trace_id = {wanted}",
            params,
        )
        columns = (linked.to_list(name) for name in ("time_ms", "series_id", "value", "span_id"))
        return [
            ExemplarSample(one, time_ms, value, trace_id, span_id)
            for time_ms, series_id, value, span_id in sorted(zip(*columns, strict=True))
            if (one := self._known.by_id.get(series_id)) is not None
        ]

    def spans(self, trace_id: str) -> list[Span]:
        """The spans of a trace, by start."""
        table = self._spans_of([trace_id])
        return table.spans(np.lexsort((table.span_id, table.start_ns)))

    def _spans_of(self, trace_ids: Sequence[str]) -> SpanTable:
        """All spans of some traces: the small table tells when they were, the index of ids the rest. Two statements,
        since one with the first inside takes as long, and many traces have samples alone."""
        params = Params()
        ids = ", ".join(params.bind(one, "String") for one in trace_ids)
        times = self._query(
            "SELECT min(start_ns) AS first_ns, max(last_ns) AS last_ns, toInt64(count()) AS found "
            f"FROM span_times WHERE trace_id IN ({ids})",
            params,
        )
        if not times.to_list("found")[0]:
            return build_span_table(())
        first, last = (params.bind(times.to_list(name)[0], "Int64") for name in ("first_ns", "last_ns"))
        return read_spans(
            self._query(
                f"SELECT {SPANS_SELECTED} FROM spans WHERE trace_id IN ({ids}) "
                f"AND start_ns >= {first} AND start_ns <= {last}",
                params,
            )
        )

    def traces(self, wanted: TraceFilter) -> list[TraceSummary]:
        """First the ids of the latest traces that have a matching span, then all spans of those."""
        params = Params()
        having = ""
        if wanted.before is not None:
            before_ns, before_id = wanted.before
            having = (
                f"HAVING (first_ns, trace_id) < ({params.bind(before_ns, 'Int64')}, {params.bind(before_id, 'String')})"
            )
        found = self._query(
            "SELECT trace_id, min(start_ns) AS first_ns FROM span_times WHERE trace_id IN "
            f"(SELECT trace_id FROM spans WHERE {' AND '.join(_conditions(wanted, params))}) "
            f"GROUP BY trace_id {having} ORDER BY first_ns DESC, trace_id DESC "
            f"LIMIT {params.bind(wanted.limit, 'UInt64')}",
            params,
        )
        ids = found.to_list("trace_id")
        return latest_summaries(self._spans_of(ids), wanted) if ids else []

    def edges(self, time_range: TimeRange) -> list[ServiceEdge]:
        wider = TimeRange(time_range.start_ms - PARENT_REACH_MS, time_range.end_ms)
        params = Params()
        where = " AND ".join(bounds(wider, params, spans=True))
        count = int(self._query(f"SELECT toInt64(count()) AS held FROM spans WHERE {where}", params).to_list("held")[0])
        if count > SPANS_MAX:
            raise InputError(f"the range holds more than {SPANS_MAX} spans: narrow it")
        found = self._query(f"SELECT {SPANS_SELECTED} FROM spans WHERE {where}", params)
        return service_edges([read_spans(found)], time_range)

    def exported_samples(self, selector: Selector, time_range: TimeRange) -> Statement:
        params = Params()
        where = [*bounds(time_range, params, spans=False), *_named(selector, params)]
        return Statement(f"SELECT {SAMPLES_SELECTED} FROM samples WHERE {' AND '.join(where)}", params.values)

    def exported_spans(self, selector: Selector, time_range: TimeRange) -> Statement:
        params = Params()
        where = [*bounds(time_range, params, spans=True), *_named(selector, params)]
        return Statement(f"SELECT {SPANS_SELECTED} FROM spans WHERE {' AND '.join(where)}", params.values)


def _named(selector: Selector, params: Params) -> list[str]:
    return [
        f"{name} = {params.bind(text, 'String')}"
        for name, text in (("service_name", selector.service), ("environment", selector.environment))
        if text
    ]


def _conditions(wanted: TraceFilter, params: Params) -> list[str]:
    """What a span must meet, as ``storage.tracing`` says it."""
    found = bounds(wanted.time_range, params, spans=True)
    for name, text in (("service_name", wanted.service), ("name", wanted.operation), ("status", wanted.status)):
        if text:
            found.append(f"{name} = {params.bind(text, 'String')}")
    if wanted.min_duration_ns:
        found.append(f"duration_ns >= {params.bind(wanted.min_duration_ns, 'Int64')}")
    if wanted.max_duration_ns is not None:
        found.append(f"duration_ns <= {params.bind(wanted.max_duration_ns, 'Int64')}")
    for key, value in wanted.attributes:
        name = params.bind(key, "String")
        found.append(f"mapContains(attributes, {name}) AND attributes[{name}] = {params.bind(value, 'String')}")
    if wanted.text:
        text = params.bind(wanted.text.lower(), "String")
        found.append(
            f"(position(lowerUTF8(name), {text}) > 0 OR position(lower(trace_id), {text}) > 0 "
            f"OR arrayExists(value -> position(lowerUTF8(value), {text}) > 0, mapValues(attributes)))"
        )
    return found
