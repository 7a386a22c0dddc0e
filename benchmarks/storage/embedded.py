"""Vantage's stores, in process, through their port: the embedded one, and ClickHouse's engine.

Queries of people run as text (VQL), including parsing and checking. ``day`` is the query of a chart, on rollups, which
have no name in VQL.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.storage.data import WINDOW_SAMPLES, Columns, Plan, all_series, windows
from benchmarks.storage.subject import METRIC_OF, SERVICE, TOP, Loaded, Query, Range, ResultRows, Stopwatch, nbytes
from vantage.app import SWITCH_INTERVAL_S
from vantage.core.batch import Batch
from vantage.core.clock import SystemClock
from vantage.core.exemplars import encode_exemplars
from vantage.query.context import QueryContext
from vantage.storage.clickhouse.engine import Statement
from vantage.storage.metadata.store import SqlMetadataStore
from vantage.storage.open import open_metadata, open_store
from vantage.telemetry import Telemetry
from vantage.vql.text.compile import compile_query
from vantage.vql.text.params import ParamValue
from vantage.vql.tree import And, Arithmetic, Call, Column, Compare, Literal, Select, SelectItem, equals

SEAL_SAMPLES: Final = 2_000_000  # at the end as well
ROWS_MAX: Final = 200_000
ENGINE_TABLES: Final = ("samples", "exemplars", "rollups_5m", "rollups_1h", "series")
SERVER_URL: Final = "BENCHMARK_CLICKHOUSE_URL"
_TIME: Final = Column("timestamp")
_SERVICE: Final = Column("service_name")
_TEXTS: Final = {
    "hour": """
        SELECT toStartOfMinute(timestamp) AS minute, avg(value), quantile(0.95)(value) FROM metrics
        WHERE metric_name = :metric AND service_name = :service AND timestamp >= :start AND timestamp < :end
        GROUP BY minute ORDER BY minute""",
    "day raw": """
        SELECT service_name, toStartOfFiveMinutes(timestamp) AS bucket, avg(value) FROM metrics
        WHERE metric_name = :metric AND timestamp >= :start AND timestamp < :end GROUP BY service_name, bucket""",
    "top": f"""
        SELECT service_name, tags['route'] AS route, quantile(0.95)(value) AS p95 FROM metrics
        WHERE metric_name = :metric AND timestamp >= :start AND timestamp < :end
        GROUP BY service_name, route ORDER BY p95 DESC LIMIT {TOP}""",
}
_ROLLUP_AVG: Final = Arithmetic("/", Call("sum", (Column("sum"),)), Call("sum", (Column("count"),)))


class Embedded:
    """Default settings, with ``synchronous=FULL``. ``day`` reads rollups, ``day raw`` samples."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._clock = SystemClock()
        self._telemetry = Telemetry()
        self._store: Any = open_store(
            self.url_of(folder),
            data=folder,
            clock=self._clock,
            telemetry=self._telemetry,
            synchronous="FULL",
            queue_nbytes_max=64 << 20,
            head_nbytes_max=1 << 30,
            series_max=200_000,
            series_nbytes_max=512 << 20,
            query_samples_max=200_000_000,  # for ``day raw`` of a hundred million samples
            query_nbytes_max=16 << 30,
            server_connections=10,
            server_cluster="",
            retention_days=None,
        )
        self._series = all_series()
        sys.setswitchinterval(SWITCH_INTERVAL_S)  # as the server: threads switch within half a millisecond
        self._runner = asyncio.Runner()

    @staticmethod
    def url_of(folder: Path) -> str:
        return ""

    def load(self, plan: Plan) -> Loaded:
        self._folder.mkdir(parents=True)
        return self._runner.run(self._load(plan))

    async def _load(self, plan: Plan) -> Loaded:
        insert, finish = Stopwatch(), Stopwatch()
        unsealed = 0
        async with self._store as store:
            for window in windows(plan):
                batches = [self._batch(columns) for columns in window.batches()]
                with insert:
                    for batch in batches:
                        await store.write(batch)
                unsealed += WINDOW_SAMPLES
                if unsealed >= SEAL_SAMPLES:
                    with finish:
                        await store.seal()
                    unsealed = 0
            with finish:
                await store.seal()
            merging = Stopwatch()
            with merging:
                await store.merge()
        note = (
            f"merging, which waits for idle times, took another {merging.wall_s:.1f} s ({merging.cpu_s:.1f} s of CPU)"
        )
        return Loaded(insert.wall_s, insert.cpu_s, finish.wall_s, finish.cpu_s, sizes(self._folder), note)

    def _batch(self, columns: Columns) -> Batch:
        present, index = np.unique(columns.index, return_inverse=True)
        return Batch(
            series=tuple(self._series[i] for i in present.tolist()),
            index=index.astype(np.uint32),
            time_ms=columns.time_ms,
            value=columns.value,
            exemplars=encode_exemplars(columns.linked, columns.trace_id, columns.span_id),
        )

    def open(self, plan: Plan) -> None:
        self._range = Range(plan.end_ms)
        self._runner.run(self._store.__aenter__())
        metadata: SqlMetadataStore = open_metadata("", data=self._folder, clock=self._clock)
        self._context = QueryContext(self._store, metadata, self._clock, self._telemetry)

    def run_query(self, query: Query) -> Any:
        if query.name == "trace":
            return self._runner.run(self._store.trace(query.trace_id))
        if query.name == "day":
            return self._runner.run(self._context.select("day", self._day(), rows_max=ROWS_MAX))
        return self._runner.run(self._text(query.name))

    async def _text(self, name: str) -> Any:
        start_ms = self._range.day_ms if name == "day raw" else self._range.hour_ms
        params: dict[str, ParamValue] = {
            "metric": METRIC_OF[name.partition(" ")[0]],
            "start": start_ms,
            "end": self._range.end_ms,
        }
        if name == "hour":
            params["service"] = SERVICE
        compiled = compile_query(_TEXTS[name], now_ms=self._clock.now_ms(), params=params, rows_max=ROWS_MAX)
        return await self._store.select(compiled.query, deadline_s=60.0)

    def _day(self) -> Select:
        times = (Compare(">=", _TIME, Literal(self._range.day_ms)), Compare("<", _TIME, Literal(self._range.end_ms)))
        return Select(
            "rollups_5m",
            (SelectItem(_SERVICE, "service"), SelectItem(_TIME, "bucket"), SelectItem(_ROLLUP_AVG, "avg")),
            where=And((equals("metric_name", METRIC_OF["day"]), *times)),
            group_by=(_SERVICE, _TIME),
        )

    def result_rows(self, query: Query, raw: Any) -> ResultRows:
        if query.name == "trace":
            return [(sample.series.metric, sample.time_ms, sample.value, sample.span_id) for sample in raw.samples]
        return list(raw.rows())

    def close(self) -> None:
        self._runner.run(self._store.__aexit__(None, None, None))
        self._runner.close()


class OnClickHouse(Embedded):
    """The same on ClickHouse's engine. It commits in groups: a window's batches are sent concurrently."""

    @staticmethod
    def url_of(folder: Path) -> str:
        return f"chdb:///{folder.absolute()}"

    async def _load(self, plan: Plan) -> Loaded:
        insert = Stopwatch()
        async with self._store as store:
            for window in windows(plan):
                batches = [self._batch(columns) for columns in window.batches()]
                with insert:
                    await asyncio.gather(*map(store.write, batches))
            finish = Stopwatch()
            with finish:
                await store._writer.run(self._merge)
            by_purpose = await store._writer.run(self._sizes)
        return Loaded(
            insert.wall_s, insert.cpu_s, finish.wall_s, finish.cpu_s, by_purpose, "merged completely before the queries"
        )

    def _merge(self) -> None:
        for table in ENGINE_TABLES:
            self._store.engine.run(Statement(f"OPTIMIZE TABLE {table} FINAL"))

    def _sizes(self) -> dict[str, int]:
        """Return bytes by purpose. Ids are columns of samples, and again in the table that is sorted by them."""
        rows = self._store.engine.run(
            Statement(
                "SELECT table, column, toInt64(sum(column_bytes_on_disk)) AS size FROM system.parts_columns "
                "WHERE active AND database = currentDatabase() GROUP BY table, column"
            )
        )
        by_purpose = dict.fromkeys(("total", "samples", "exemplars", "rollups", "journal"), 0)
        for table, column, size in zip(*(rows.to_list(name) for name in ("table", "column", "size")), strict=True):
            part = "rollups" if table.startswith("rollups") else "samples"
            part = "exemplars" if table == "exemplars" or column in ("trace_id", "span_id") else part
            by_purpose["total"] += size
            by_purpose[part] += size
        return by_purpose


class OnServer(OnClickHouse):
    """The same on a ClickHouse server, whose URL is in the environment."""

    @staticmethod
    def url_of(folder: Path) -> str:
        return os.environ[SERVER_URL]


def sizes(folder: Path) -> dict[str, int]:
    """Return bytes on disk by purpose; the index of trace ids counts as exemplars, as there are no spans."""
    by_purpose = {
        "total": nbytes(folder),
        "rollups": nbytes(folder, "segments/*.rollups.db*"),
        "journal": nbytes(folder, "journal.db*"),
        "exemplars": 0,
    }
    for path in (folder / "segments").glob("*.samples.db"):
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            for (size,) in db.execute(
                "SELECT pgsize FROM dbstat('main', 1) JOIN sqlite_master USING (name)"
                " WHERE tbl_name IN ('exemplar', 'id_index')"
            ):
                by_purpose["exemplars"] += size
    by_purpose["samples"] = nbytes(folder, "segments/*.samples.db*") - by_purpose["exemplars"]
    return by_purpose
