"""The table of the common design in SQLite: one row per sample, tags as JSON."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.storage.data import Columns, Plan, all_series, windows
from benchmarks.storage.subject import METRIC_OF, SERVICE, TOP, Loaded, Query, Range, ResultRows, Stopwatch, nbytes

_TABLE = (
    "CREATE TABLE metrics (timestamp INTEGER, service_name TEXT, environment TEXT, metric_name TEXT,"
    " metric_type TEXT, value REAL, tags TEXT, trace_id TEXT, span_id TEXT)"
)
_HOUR = (
    "SELECT timestamp / 60000 * 60000, value FROM metrics"
    " WHERE service_name = ? AND timestamp >= ? AND timestamp < ? AND metric_name = ?"
)
# SQLite would scan the index for GROUP BY, with a look-up for every row: three times as slow.
_DAY = (
    "SELECT service_name, timestamp / 300000 * 300000, avg(value) FROM metrics NOT INDEXED"
    " WHERE timestamp >= ? AND timestamp < ? AND metric_name = ? GROUP BY 1, 2"
)
_TOP = (
    "SELECT service_name || ' ' || json_extract(tags, '$.route'), value FROM metrics"
    " WHERE timestamp >= ? AND timestamp < ? AND metric_name = ?"
)
_TRACE = "SELECT metric_name, timestamp, value, span_id FROM metrics WHERE trace_id = ? ORDER BY timestamp"


class RowTable:
    """One transaction per batch, WAL and ``synchronous=FULL``. Only traced rows are in the index on trace ids."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "rows.db"
        self._names = [
            (series.service, series.environment, series.metric, series.kind.value, json.dumps(dict(series.tags)))
            for series in all_series()
        ]

    def load(self, plan: Plan) -> Loaded:
        self._path.parent.mkdir(parents=True)
        db = self._connect()
        db.execute(_TABLE)
        db.execute("CREATE INDEX by_service ON metrics (service_name, timestamp)")
        db.execute("CREATE INDEX by_trace ON metrics (trace_id) WHERE trace_id IS NOT NULL")
        insert, finish = Stopwatch(), Stopwatch()
        for window in windows(plan):
            batches = [self._rows(batch) for batch in window.batches()]
            with insert:
                for rows in batches:
                    db.execute("BEGIN IMMEDIATE")
                    db.executemany("INSERT INTO metrics VALUES (?,?,?,?,?,?,?,?,?)", rows)
                    db.execute("COMMIT")
        with finish:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            db.execute("PRAGMA analysis_limit = 1000")
            db.execute("ANALYZE")  # so that the planner uses the index of each service for a time range
        db.close()
        sizes = {"total": nbytes(self._path.parent)}
        return Loaded(insert.wall_s, insert.cpu_s, finish.wall_s, finish.cpu_s, sizes)

    def _rows(self, batch: Columns) -> list[tuple[Any, ...]]:
        names = self._names
        columns = zip(batch.index.tolist(), batch.time_ms.tolist(), batch.value.tolist(), batch.links(), strict=True)
        return [
            (at_ms, *names[which][:4], value, names[which][4], trace_id or None, span_id or None)
            for which, at_ms, value, (trace_id, span_id) in columns
        ]

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        return db

    def open(self, plan: Plan) -> None:
        self._db = self._connect()
        self._range = Range(plan.end_ms)

    def run_query(self, query: Query) -> Any:
        within, name = self._range, query.name
        if name == "hour":
            params = (SERVICE, within.hour_ms, within.end_ms, METRIC_OF[name])
            minutes = _grouped(self._db.execute(_HOUR, params))
            return [(minute, np.mean(values), np.quantile(values, 0.95)) for minute, values in minutes]
        if name == "day":
            return self._db.execute(_DAY, (within.day_ms, within.end_ms, METRIC_OF[name])).fetchall()
        if name == "top":
            groups = _grouped(self._db.execute(_TOP, (within.hour_ms, within.end_ms, METRIC_OF[name])))
            slowest = sorted(((np.quantile(values, 0.95), key) for key, values in groups), reverse=True)
            return [(*key.split(" "), p95) for p95, key in slowest[:TOP]]
        return self._db.execute(_TRACE, (query.trace_id,)).fetchall()

    def result_rows(self, query: Query, raw: Any) -> ResultRows:
        return [tuple(row) for row in raw]

    def close(self) -> None:
        self._db.close()


def _grouped(rows: sqlite3.Cursor) -> list[tuple[Any, list[float]]]:
    """Return values by key: SQLite has no quantile."""
    groups: dict[Any, list[float]] = {}
    for key, value in rows:
        groups.setdefault(key, []).append(value)
    return sorted(groups.items())
