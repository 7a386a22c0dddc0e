"""Vantage's embedded store, in process, through its port."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.storage.contestant import METRIC_OF, SERVICE, TOP, Answer, Loaded, Question, Range, Stopwatch, nbytes
from benchmarks.storage.data import WINDOW_SAMPLES, Columns, Plan, all_series, windows
from vantage.app import SWITCH_INTERVAL_S
from vantage.core.batch import Batch, Links
from vantage.core.clock import SystemClock
from vantage.query.reads import Reads
from vantage.storage.metadata.store import SqlMetadataStore
from vantage.storage.open import open_metadata, open_store
from vantage.telemetry import Telemetry
from vantage.vql.tree import (
    And,
    Arithmetic,
    Call,
    Column,
    Compare,
    Expr,
    Item,
    Literal,
    Order,
    Select,
    TagValue,
    equals,
)

SEAL_SAMPLES: Final = 2_000_000  # at the end as well
_TIME: Final = Column("timestamp")
_VALUE: Final = Column("value")
_SERVICE: Final = Column("service_name")
_ROUTE: Final = TagValue("route")
_P95: Final = Call("quantile", (_VALUE,), 0.95)
_AVG: Final = Call("avg", (_VALUE,))
_ROLLUP_AVG: Final = Arithmetic("/", Call("sum", (Column("sum"),)), Call("sum", (Column("count"),)))


class Embedded:
    """``synchronous=FULL``, as it comes. ``day`` is asked of the rollups, ``day raw`` of the samples."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._clock = SystemClock()
        self._telemetry = Telemetry()
        self._store = open_store(
            "",
            data=folder,
            clock=self._clock,
            telemetry=self._telemetry,
            synchronous="FULL",
            queue_nbytes_max=64 << 20,
            head_nbytes_max=1 << 30,
            series_max=200_000,
        )
        self._series = all_series()
        sys.setswitchinterval(SWITCH_INTERVAL_S)  # as the server does: threads hand over within half a millisecond
        self._runner = asyncio.Runner()

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
        note = f"merging, which waits for calm moments, took {merging.wall_s:.1f} s more ({merging.cpu_s:.1f} s of CPU)"
        return Loaded(insert.wall_s, insert.cpu_s, finish.wall_s, finish.cpu_s, sizes(self._folder), note)

    def _batch(self, columns: Columns) -> Batch:
        present, index = np.unique(columns.index, return_inverse=True)
        return Batch(
            series=tuple(self._series[i] for i in present.tolist()),
            index=index.astype(np.uint32),
            time_ms=columns.time_ms,
            value=columns.value,
            links=Links(columns.linked.astype(np.uint32), tuple(columns.trace_id), tuple(columns.span_id)),
        )

    def open(self, plan: Plan) -> None:
        self._range = Range(plan.end_ms)
        self._runner.run(self._store.__aenter__())
        metadata: SqlMetadataStore = open_metadata("", data=self._folder, clock=self._clock)
        self._reads = Reads(self._store, metadata, self._clock, self._telemetry)

    def ask(self, question: Question) -> Any:
        if question.name == "trace":
            return self._runner.run(self._store.trace(question.trace_id))
        return self._runner.run(self._reads.select(question.name, self._query(question.name), rows_max=200_000))

    def _query(self, name: str) -> Select:
        if name == "hour":
            bucket = Call("toStartOfInterval", (_TIME, Literal(60_000)))
            items = (Item(bucket, "minute"), Item(_AVG, "avg"), Item(_P95, "p95"))
            where = self._where("hour", equals("service_name", SERVICE))
            return Select("metrics", items, where=where, group_by=(bucket,), order_by=(Order(bucket),))
        if name == "top":
            items = (Item(_SERVICE, "service"), Item(_ROUTE, "route"), Item(_P95, "p95"))
            return Select(
                "metrics",
                items,
                where=self._where("top"),
                group_by=(_SERVICE, _ROUTE),
                order_by=(Order(_P95, descending=True),),
                limit=TOP,
            )
        if name == "day raw":
            return self._day("metrics", Call("toStartOfInterval", (_TIME, Literal(300_000))), _AVG)
        return self._day("rollups_5m", _TIME, _ROLLUP_AVG)

    def _day(self, table: Any, bucket: Expr, average: Expr) -> Select:
        items = (Item(_SERVICE, "service"), Item(bucket, "bucket"), Item(average, "avg"))
        return Select(table, items, where=self._where("day"), group_by=(_SERVICE, bucket))

    def _where(self, name: str, *others: Expr) -> Expr:
        start_ms = self._range.day_ms if "day" in name else self._range.hour_ms
        times = (Compare(">=", _TIME, Literal(start_ms)), Compare("<", _TIME, Literal(self._range.end_ms)))
        return And((equals("metric_name", METRIC_OF[name]), *times, *others))

    def answer(self, question: Question, raw: Any) -> Answer:
        if question.name == "trace":
            return [(one.series.metric, one.time_ms, one.value, one.span_id) for one in raw.samples]
        return list(raw.rows())

    def close(self) -> None:
        self._runner.run(self._store.__aexit__(None, None, None))
        self._runner.close()


def sizes(folder: Path) -> dict[str, int]:
    """Bytes on disk by what they are for; the index of trace ids belongs to the links, as there are no spans."""
    found = {
        "total": nbytes(folder),
        "rollups": nbytes(folder, "segments/*.rollups.db*"),
        "journal": nbytes(folder, "journal.db*"),
        "trace links": 0,
    }
    for path in (folder / "segments").glob("*.samples.db"):
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            for (size,) in db.execute(
                "SELECT pgsize FROM dbstat('main', 1) JOIN sqlite_master USING (name)"
                " WHERE tbl_name IN ('trace_link', 'id_index')"
            ):
                found["trace links"] += size
    found["samples"] = nbytes(folder, "segments/*.samples.db*") - found["trace links"]
    return found
