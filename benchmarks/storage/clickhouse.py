"""ClickHouse in process (chdb): the common table, and tables that are as lean as possible."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.storage.data import Columns, Plan, all_series, windows
from benchmarks.storage.subject import METRIC_OF, SERVICE, TOP, Loaded, Query, Range, ResultRows, Stopwatch

# Queries must not reuse filter results of earlier ones.
_SETTINGS: Final = "SETTINGS use_query_condition_cache = 0"
_COMMON: Final = """
CREATE TABLE bench.metrics (
    timestamp DateTime64(3, 'UTC'), service_name String, environment String, metric_name String, metric_type String,
    value Float64, tags Map(String, String), trace_id String, span_id String
) ENGINE = MergeTree PARTITION BY toYYYYMM(timestamp) ORDER BY (service_name, timestamp)
"""
_LEAN: Final = """
CREATE TABLE bench.metrics (
    service_name LowCardinality(String), metric_name LowCardinality(String), series_id UInt64,
    timestamp DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)), value Float64 CODEC(ZSTD(1))
) ENGINE = MergeTree PARTITION BY toYYYYMM(timestamp) ORDER BY (service_name, metric_name, series_id, timestamp)
"""
_LEAN_SERIES: Final = """
CREATE TABLE bench.series (series_id UInt64, tags Map(String, String)) ENGINE = MergeTree ORDER BY series_id
"""
_LEAN_TRACES: Final = """
CREATE TABLE bench.traces (
    trace_id FixedString(16), span_id FixedString(8), series_id UInt64, metric_name LowCardinality(String),
    timestamp DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)), value Float64 CODEC(ZSTD(1))
) ENGINE = MergeTree PARTITION BY toYYYYMM(timestamp) ORDER BY (trace_id, timestamp)
"""
_HOUR: Final = """
SELECT toUnixTimestamp(toStartOfMinute(timestamp)) * 1000 AS minute, avg(value), quantileExactInclusive(0.95)(value)
FROM bench.metrics WHERE {hour} AND service_name = '{service}' GROUP BY minute ORDER BY minute
"""
_DAY: Final = """
SELECT service_name, toUnixTimestamp(toStartOfFiveMinutes(timestamp)) * 1000 AS bucket, avg(value)
FROM bench.metrics WHERE {day} GROUP BY service_name, bucket
"""
_TOP: Final = """
SELECT service_name, {route} AS route, quantileExactInclusive(0.95)(value) AS p95
FROM bench.metrics WHERE {hour} GROUP BY service_name, route ORDER BY p95 DESC LIMIT {top}
"""


class CommonTable:
    """The most common table: names as String, tags as a Map, ids as String in every row."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._series = all_series()

    def load(self, plan: Plan) -> Loaded:
        self._folder.mkdir(parents=True)
        self._connect()
        self._run("CREATE DATABASE bench ENGINE = Atomic")
        self._create()
        insert, finish = Stopwatch(), Stopwatch()
        for window in windows(plan):
            inserts = self._prepare(window)
            with insert:
                for statement in inserts:
                    self._run(statement)
        with finish:
            for (table,) in self._rows("SHOW TABLES FROM bench"):
                self._run(f"OPTIMIZE TABLE bench.{table} FINAL")
        parts = self._rows(
            "SELECT table, sum(bytes_on_disk) FROM system.parts WHERE active AND database = 'bench' GROUP BY table"
        )
        sizes = {table: int(size) for table, size in parts}
        self._session.close()
        return Loaded(
            insert.wall_s, insert.cpu_s, finish.wall_s, finish.cpu_s, self._sizes(sizes), "100 000 rows per insert"
        )

    def _sizes(self, sizes: dict[str, int]) -> dict[str, int]:
        return {"total": sum(sizes.values())}

    def _create(self) -> None:
        self._run(_COMMON)

    def _prepare(self, window: Columns) -> list[str]:
        """Write what a client would send, as files in ClickHouse's columnar format. Not measured."""
        series_of_row = [self._series[i] for i in window.index.tolist()]
        pairs = [series.tags for series in series_of_row]
        traces, spans = zip(*window.links(), strict=True)
        columns = [
            ("timestamp", "DateTime64(3, 'UTC')", window.time_ms.tobytes()),
            ("service_name", "String", _strings(series.service for series in series_of_row)),
            ("environment", "String", _strings(series.environment for series in series_of_row)),
            ("metric_name", "String", _strings(series.metric for series in series_of_row)),
            ("metric_type", "String", _strings(series.kind.value for series in series_of_row)),
            ("value", "Float64", window.value.tobytes()),
            ("tags", "Map(String, String)", _maps(pairs)),
            ("trace_id", "String", _strings(traces)),
            ("span_id", "String", _strings(spans)),
        ]
        return [self._insert("metrics", columns, len(window))]

    def _insert(self, table: str, columns: Sequence[tuple[str, str, bytes]], rows: int) -> str:
        path = self._folder.parent / f"{self._folder.name}.{table}.native"
        path.write_bytes(_native(columns, rows))
        return f"INSERT INTO bench.{table} SELECT * FROM file('{path}', Native)"

    def _connect(self) -> None:
        from chdb.session import Session

        self._session: Any = Session(str(self._folder))  # chdb has no types

    def _run(self, statement: str) -> bytes:
        rows: bytes = self._session.query(statement, "JSONCompactEachRow").bytes()
        return rows

    def _rows(self, statement: str) -> list[tuple[Any, ...]]:
        return [tuple(json.loads(line)) for line in self._run(statement).splitlines()]

    def open(self, plan: Plan) -> None:
        within = Range(plan.end_ms)
        self._connect()

        def where(name: str, start_ms: int) -> str:
            start, end = (f"fromUnixTimestamp64Milli({at_ms})" for at_ms in (start_ms, within.end_ms))
            return f"metric_name = '{METRIC_OF[name]}' AND timestamp >= {start} AND timestamp < {end}"

        parts = {
            "hour": where("hour", within.hour_ms),
            "day": where("day", within.day_ms),
            "service": SERVICE,
            "route": self._route(),
            "top": TOP,
        }
        self._queries = {
            name: f"{text.format(**parts)} {_SETTINGS}"
            for name, text in (("hour", _HOUR), ("day", _DAY), ("top", _TOP))
        }

    def _route(self) -> str:
        return "tags['route']"

    def _trace(self, trace_id: str) -> str:
        return (
            "SELECT metric_name, toUnixTimestamp64Milli(timestamp), value, span_id"
            f" FROM bench.metrics WHERE trace_id = '{trace_id}' ORDER BY timestamp {_SETTINGS}"
        )

    def run_query(self, query: Query) -> Any:
        if query.name == "trace":
            return self._run(self._trace(query.trace_id))
        return self._run(self._queries[query.name])

    def result_rows(self, query: Query, raw: Any) -> ResultRows:
        rows = [json.loads(line) for line in raw.splitlines()]
        if query.name == "trace":
            return [(metric, int(at_ms), value, span_id) for metric, at_ms, value, span_id in rows]
        return [tuple(row) for row in rows]

    def close(self) -> None:
        self._session.close()


class LeanTables(CommonTable):
    """Names of low cardinality, tags once per series, ids in a table of their own, sorted by trace id."""

    def _sizes(self, sizes: dict[str, int]) -> dict[str, int]:
        return {"total": sum(sizes.values()), "samples": sizes["metrics"], "exemplars": sizes["traces"]}

    def _create(self) -> None:
        for statement in (_LEAN, _LEAN_SERIES, _LEAN_TRACES):
            self._run(statement)
        self._ids = np.array([series.id for series in self._series], np.uint64)
        columns = [
            ("series_id", "UInt64", self._ids.tobytes()),
            ("tags", "Map(String, String)", _maps([series.tags for series in self._series])),
        ]
        self._run(self._insert("series", columns, len(self._series)))

    def _prepare(self, window: Columns) -> list[str]:
        series_of_row = [self._series[i] for i in window.index.tolist()]
        columns = [
            ("service_name", "String", _strings(series.service for series in series_of_row)),
            ("metric_name", "String", _strings(series.metric for series in series_of_row)),
            ("series_id", "UInt64", self._ids[window.index].tobytes()),
            ("timestamp", "DateTime64(3, 'UTC')", window.time_ms.tobytes()),
            ("value", "Float64", window.value.tobytes()),
        ]
        statements = [self._insert("metrics", columns, len(window))]
        rows = window.linked
        if len(rows):
            links = [
                ("trace_id", "FixedString(16)", bytes.fromhex("".join(window.trace_id))),
                ("span_id", "FixedString(8)", bytes.fromhex("".join(window.span_id))),
                ("series_id", "UInt64", self._ids[window.index[rows]].tobytes()),
                ("metric_name", "String", _strings(series_of_row[row].metric for row in rows.tolist())),
                ("timestamp", "DateTime64(3, 'UTC')", window.time_ms[rows].tobytes()),
                ("value", "Float64", window.value[rows].tobytes()),
            ]
            statements.append(self._insert("traces", links, len(rows)))
        return statements

    def open(self, plan: Plan) -> None:
        super().open(plan)
        self._run(
            "CREATE DICTIONARY IF NOT EXISTS bench.routes (series_id UInt64, route String) PRIMARY KEY series_id"
            " SOURCE(CLICKHOUSE(QUERY 'SELECT series_id, tags[''route''] AS route FROM bench.series'))"
            " LAYOUT(HASHED()) LIFETIME(0)"
        )

    def _route(self) -> str:
        return "dictGet('bench.routes', 'route', series_id)"

    def _trace(self, trace_id: str) -> str:
        return (
            "SELECT metric_name, toUnixTimestamp64Milli(timestamp), value, lower(hex(span_id))"
            f" FROM bench.traces WHERE trace_id = unhex('{trace_id}') ORDER BY timestamp {_SETTINGS}"
        )


# The Native format: a block of columns, each with its name and type. https://clickhouse.com/docs/interfaces/formats/Native


def _native(columns: Sequence[tuple[str, str, bytes]], rows: int) -> bytes:
    parts = [_length(len(columns)), _length(rows)]
    for name, kind, data in columns:
        parts += [_strings((name, kind)), data]
    return b"".join(parts)


def _length(number: int) -> bytes:
    """LEB128."""
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


_cache: dict[str, bytes] = {}


def _strings(texts: Iterable[str]) -> bytes:
    """Encode texts, each after its length."""
    return b"".join([_string(text) for text in texts])


def _string(text: str) -> bytes:
    encoded = _cache.get(text)
    if encoded is None:
        raw = text.encode()
        encoded = _length(len(raw)) + raw
        if len(_cache) < 10_000:
            _cache[text] = encoded
    return encoded


def _maps(maps: Sequence[tuple[tuple[str, str], ...]]) -> bytes:
    """Encode maps: the end of each, all keys, all values."""
    ends = np.cumsum([len(pairs) for pairs in maps], dtype=np.uint64)
    keys = _strings(key for pairs in maps for key, _ in pairs)
    return ends.tobytes() + keys + _strings(value for pairs in maps for _, value in pairs)
