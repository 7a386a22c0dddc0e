"""The methods of the port beside ``select``: series, traces, calls between services, and exports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from vantage.core.red import MINUTE_MS, RedKeys
from vantage.core.red_table import RedQuery, RedTable, summarize
from vantage.core.rollup import FIVE_MINUTES_MS, HOUR_MS
from vantage.core.span import Span
from vantage.core.span_table import SpanTable, build_span_table
from vantage.core.timerange import TimeRange
from vantage.storage.clickhouse.engine import Engine, QueryResult, Statement, query_limits
from vantage.storage.clickhouse.expressions import Params
from vantage.storage.clickhouse.rows import (
    RED_NAMES,
    RED_SELECTED,
    SAMPLES_SELECTED,
    SPANS_SELECTED,
    read_red,
    read_spans,
)
from vantage.storage.clickhouse.series_table import SeriesTable
from vantage.storage.clickhouse.sql import bounds
from vantage.storage.clickhouse.table_settings import DAY_MS, RED_MINUTES_DAYS
from vantage.storage.ports import (
    TRACE_SPANS_MAX,
    ExemplarSample,
    Selector,
    SeriesInfo,
    ServiceSpanStats,
    SpanFilter,
    SpanList,
    TraceFilter,
    TraceSummary,
    possible_pairs,
)
from vantage.storage.span_list import SpanLister
from vantage.storage.trace_summary import latest_summaries

TIMEOUT_S: Final = 30.0
SPANS_OF_TRACE_MAX: Final = 16  # of the slowest spans: of a service in one trace
COPIES_MAX: Final = 2  # of a span that was sent again
_SERVICE_NAMES: Final = ("service_name", "environment", "service_version", "instance")


class Lookups:
    """Looks up series, spans and traces. Its methods block; any thread may call them."""

    def __init__(self, engine: Engine, series: SeriesTable) -> None:
        self._engine = engine
        self._series = series

    def _query(self, text: str, params: Params | None = None) -> QueryResult:
        return self._engine.run(Statement(text, params.values if params else {}), query_limits(TIMEOUT_S))

    def red(self, query: RedQuery, *, now_ms: int, since_ms: int, limits: Mapping[str, float]) -> RedTable | None:
        """Read rollups of requests. None where they do not suffice: for a step that is none of their widths, a time
        whose minutes have expired, or one up to ``since_ms``, when an earlier version wrote."""
        widths_ms = {"red_1h": HOUR_MS, "red_5m": FIVE_MINUTES_MS}
        if query.level == "service" and query.time_range.start_ms >= now_ms - RED_MINUTES_DAYS * DAY_MS + HOUR_MS:
            widths_ms["red_1m"] = MINUTE_MS
        table = next((name for name, width_ms in widths_ms.items() if query.step_ms % width_ms == 0), None)
        if table is None or query.time_range.start_ms <= since_ms:
            return None
        params = Params()
        start, end, step, level = (
            params.bind(value, kind)
            for value, kind in (
                (query.time_range.start_ms, "Int64"),
                (query.time_range.end_ms, "Int64"),
                (query.step_ms, "Int64"),
                (query.level, "String"),
            )
        )
        where = [
            f"level = {level}",
            f"timestamp >= fromUnixTimestamp64Milli({start}, 'UTC')",
            f"timestamp < fromUnixTimestamp64Milli({end}, 'UTC')",
        ]
        if query.services is not None:
            services = ", ".join(params.bind(name, "String") for name in sorted(query.services))
            where.append(f"service_name IN ({services})")
        names = ", ".join(RED_NAMES)
        result = self._engine.run(
            Statement(
                f"SELECT {names}, intDiv(toUnixTimestamp64Milli(timestamp), {step}) * {step} AS time_ms, "
                f"{RED_SELECTED} FROM {table} WHERE {' AND '.join(where)} GROUP BY {names}, time_ms",
                params.values,
            ),
            limits,
        )
        keys = RedKeys()
        return summarize([read_red(result, keys)], keys.keys, query)

    def list_series(self, service: str, metric: str, *, since_ms: int) -> list[SeriesInfo]:
        """Read series from the hourly rollups, which have the first and the last sample: a thousandth of the rows."""
        params = Params()
        since = params.bind(since_ms, "Int64")
        where = [
            f"{name} = {params.bind(text, 'String')}"
            for name, text in (("service_name", service), ("metric_name", metric))
            if text
        ]
        result = self._query(
            "SELECT series_id, "
            f"toInt64(sumIf(count, toUnixTimestamp64Milli(timestamp) >= {since})) AS samples, "
            "toUnixTimestamp64Milli(min(first_time)) AS first_ms, toUnixTimestamp64Milli(max(last_time)) AS last_ms "
            f"FROM rollups_1h {'WHERE ' + ' AND '.join(where) if where else ''} GROUP BY series_id",
            params,
        )
        columns = [result.to_list(name) for name in ("series_id", "samples", "first_ms", "last_ms")]
        by_id = self._series.known(columns[0])
        return [
            SeriesInfo(series, samples, first_ms, last_ms)
            for series_id, samples, first_ms, last_ms in zip(*columns, strict=True)
            if (series := by_id.get(series_id)) is not None
        ]

    def rolled_up(self, time_range: TimeRange) -> tuple[int, int]:
        """Return how many samples of a range are in rollups of 5 minutes and of hours."""
        where = "timestamp >= fromUnixTimestamp64Milli({start:Int64}, 'UTC') AND "
        where += "timestamp < fromUnixTimestamp64Milli({end:Int64}, 'UTC')"
        result = self._engine.run(
            Statement(
                f"SELECT (SELECT toInt64(sum(count)) FROM rollups_5m WHERE {where}) AS five_minutes, "
                f"(SELECT toInt64(sum(count)) FROM rollups_1h WHERE {where}) AS hours",
                {"start": time_range.start_ms, "end": time_range.end_ms},
            )
        )
        return int(result.to_list("five_minutes")[0]), int(result.to_list("hours")[0])

    def services_with_spans(self, *, are_counted: bool) -> list[ServiceSpanStats]:
        """Read the counts of spans by hour, or count the spans themselves where ``are_counted`` is false."""
        names = ", ".join(_SERVICE_NAMES)
        figures = (
            "sum(spans) AS spans_in, intDiv(min(first_ns), 1000000) AS first_ms, "
            "intDiv(max(last_ns), 1000000) AS last_ms FROM span_services"
            if are_counted
            else "toInt64(count()) AS spans_in, intDiv(min(start_ns), 1000000) AS first_ms, "
            "intDiv(max(start_ns), 1000000) AS last_ms FROM spans"
        )
        result = self._query(f"SELECT {names}, {figures} GROUP BY {names}")
        columns = (result.to_list(name) for name in (*_SERVICE_NAMES, "spans_in", "first_ms", "last_ms"))
        return [ServiceSpanStats(*row) for row in zip(*columns, strict=True)]

    def exemplars(self, trace_id: str) -> list[ExemplarSample]:
        """Return the samples of a trace, by time."""
        params = Params()
        result = self._query(
            "SELECT series_id, toUnixTimestamp64Milli(timestamp) AS time_ms, value, span_id FROM exemplars "
            f"WHERE trace_id = {params.bind(trace_id, 'String')}",
            params,
        )
        columns = [result.to_list(name) for name in ("time_ms", "series_id", "value", "span_id")]
        by_id = self._series.known(columns[1])
        return [
            ExemplarSample(series, time_ms, value, trace_id, span_id)
            for time_ms, series_id, value, span_id in sorted(zip(*columns, strict=True))
            if (series := by_id.get(series_id)) is not None
        ]

    def spans(self, trace_id: str) -> tuple[list[Span], int]:
        """Return the first TRACE_SPANS_MAX spans of a trace, by start, and how many are left out."""
        table = self._spans_of([trace_id])
        order = np.lexsort((table.span_id, table.start_ns))[:TRACE_SPANS_MAX]
        return table.spans(order), len(table) - len(order)

    def spans_of(self, trace_ids: Sequence[str], *, spans_max: int) -> list[Span]:
        """Return up to ``spans_max`` spans of the traces."""
        return self._spans_of(trace_ids, spans_max=spans_max).spans() if trace_ids else []

    def _spans_of(self, trace_ids: Sequence[str], *, spans_max: int | None = None) -> SpanTable:
        """Return all spans of the traces, or up to ``spans_max``: the small table has their times, the index of ids
        finds the rest. Two statements, since one with a subquery takes as long, and many traces have only samples."""
        params = Params()
        ids = ", ".join(params.bind(trace_id, "String") for trace_id in trace_ids)
        times = self._query(
            "SELECT min(start_ns) AS first_ns, max(last_ns) AS last_ns, toInt64(count()) AS traces "
            f"FROM span_times WHERE trace_id IN ({ids})",
            params,
        )
        if not times.to_list("traces")[0]:
            return build_span_table(())
        first, last = (params.bind(times.to_list(name)[0], "Int64") for name in ("first_ns", "last_ns"))
        limit = "" if spans_max is None else f" LIMIT {params.bind(spans_max, 'UInt64')}"
        return read_spans(
            self._query(
                f"SELECT {SPANS_SELECTED} FROM spans WHERE trace_id IN ({ids}) "
                f"AND start_ns >= {first} AND start_ns <= {last}{limit}",
                params,
            )
        )

    def traces(self, trace_filter: TraceFilter) -> list[TraceSummary]:
        """Find the ids of the latest traces that have a matching span, then read all their spans."""
        params = Params()
        having = ""
        if trace_filter.before is not None:
            before_ns, before_id = trace_filter.before
            having = (
                f"HAVING (first_ns, trace_id) < ({params.bind(before_ns, 'Int64')}, {params.bind(before_id, 'String')})"
            )
        result = self._query(
            "SELECT trace_id, min(start_ns) AS first_ns FROM span_times WHERE trace_id IN "
            f"(SELECT trace_id FROM spans WHERE {' AND '.join(_conditions(trace_filter, params))}) "
            f"GROUP BY trace_id {having} ORDER BY first_ns DESC, trace_id DESC "
            f"LIMIT {params.bind(trace_filter.limit, 'UInt64')}",
            params,
        )
        ids = result.to_list("trace_id")
        return latest_summaries(self._spans_of(ids), trace_filter) if ids else []

    def list_spans(self, wanted: SpanFilter) -> SpanList:
        """List spans of a service. A first statement reads two narrow columns for the rank of the last one, a second
        the complete spans from that rank on: of the slowest, SPANS_OF_TRACE_MAX of a trace count."""
        params = Params()
        rank = "duration_ns" if wanted.order == "slowest" else "start_ns"
        where = [f"service_name = {params.bind(wanted.service, 'String')}"]
        where += bounds(wanted.time_range, params, spans=True)
        if wanted.failed:
            where.append("status = 'error'")
        rows = wanted.limit * (SPANS_OF_TRACE_MAX if wanted.order == "slowest" else COPIES_MAX)
        ranks = self._query(
            f"SELECT {rank} AS rank FROM spans WHERE {' AND '.join(where)} "
            f"ORDER BY rank DESC LIMIT {params.bind(rows, 'UInt64')}",
            params,
        ).to_list("rank")
        lister = SpanLister(wanted)
        if not ranks:
            return SpanList(())
        where.append(f"{rank} >= {params.bind(ranks[-1], 'Int64')}")
        result = self._query(
            f"SELECT {SPANS_SELECTED} FROM spans WHERE {' AND '.join(where)} "
            f"ORDER BY {rank} DESC LIMIT {params.bind(2 * rows, 'UInt64')}",
            params,
        )
        lister.add(read_spans(result))
        return SpanList(tuple(lister.spans), is_complete=len(lister.spans) == wanted.limit or len(ranks) < rows)

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


def _conditions(trace_filter: TraceFilter, params: Params) -> list[str]:
    """Return the conditions on a span, as ``storage.trace_summary`` defines them."""
    conditions = bounds(trace_filter.time_range, params, spans=True)
    for name, text in (
        ("service_name", trace_filter.service),
        ("name", trace_filter.operation),
        ("status", trace_filter.status),
    ):
        if text:
            conditions.append(f"{name} = {params.bind(text, 'String')}")
    if trace_filter.min_duration_ns:
        conditions.append(f"duration_ns >= {params.bind(trace_filter.min_duration_ns, 'Int64')}")
    if trace_filter.max_duration_ns is not None:
        conditions.append(f"duration_ns <= {params.bind(trace_filter.max_duration_ns, 'Int64')}")
    for key, value in trace_filter.attributes:
        readings = []
        for possible_key, possible_value in possible_pairs(key, value):
            name, wanted = params.bind(possible_key, "String"), params.bind(possible_value, "String")
            readings.append(f"mapContains(attributes, {name}) AND attributes[{name}] = {wanted}")
        conditions.append(f"({' OR '.join(readings)})")
    if trace_filter.text:
        text = params.bind(trace_filter.text.lower(), "String")
        conditions.append(
            f"(position(lowerUTF8(name), {text}) > 0 OR position(lower(trace_id), {text}) > 0 "
            f"OR arrayExists(value -> position(lowerUTF8(value), {text}) > 0, mapValues(attributes)))"
        )
    return conditions
