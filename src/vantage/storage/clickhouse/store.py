"""The telemetry store on ClickHouse: inside this process or on a server."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import structlog

from vantage.core.batch import Batch
from vantage.core.clock import Clock
from vantage.core.errors import (
    InputError,
    StartupError,
    StoreTimeout,
    StoreUnavailable,
    VantageError,
)
from vantage.core.red_table import RedQuery, RedTable
from vantage.core.span import Span
from vantage.core.timerange import TimeRange
from vantage.core.turns import wait_in_thread
from vantage.storage.clickhouse.batch_id_table import BatchIdTable
from vantage.storage.clickhouse.deletion import Deleter
from vantage.storage.clickhouse.edges import EdgeTable
from vantage.storage.clickhouse.engine import LOOKUP_NBYTES_MAX, ROWS_MAX, Engine, QueryResult, Statement, query_limits
from vantage.storage.clickhouse.exports import EXPORTS_MAX, Exports
from vantage.storage.clickhouse.filling import Filler
from vantage.storage.clickhouse.intent_log import IntentLog
from vantage.storage.clickhouse.lookups import Lookups
from vantage.storage.clickhouse.range_writer import RangeWriter
from vantage.storage.clickhouse.rows import read_table
from vantage.storage.clickhouse.schema import migrate, migrations
from vantage.storage.clickhouse.series_registry import SeriesRegistry
from vantage.storage.clickhouse.series_table import REFRESH_S, SeriesTable
from vantage.storage.clickhouse.sql import print_estimate, print_select
from vantage.storage.clickhouse.table_settings import apply_settings, apply_ttl
from vantage.storage.clickhouse.upkeep import Upkeep
from vantage.storage.clickhouse.usage import read_usage
from vantage.storage.clickhouse.writer import Writer
from vantage.storage.closing import to_its_end
from vantage.storage.lock import FolderLock
from vantage.storage.ports import (
    DeletionResult,
    RetentionPolicy,
    Selector,
    SeriesInfo,
    ServiceEdges,
    ServiceInfo,
    ServiceSpanStats,
    SpanFilter,
    SpanList,
    StreamBatch,
    Trace,
    TraceFilter,
    TraceSummary,
    Usage,
)
from vantage.storage.query_pool import QueryPool
from vantage.storage.recent_batch_ids import RecentBatchIds
from vantage.storage.series_overflow import SeriesLimit
from vantage.storage.service_infos import sum_up_services
from vantage.storage.steady_time import JUMP_MS_MIN, SteadyTime
from vantage.telemetry import Telemetry
from vantage.vql.check import CheckedSelect
from vantage.vql.exec.budget import QUERY_NBYTES_MAX
from vantage.vql.exec.execute import EXPLAIN_COLUMNS, QUERY_SAMPLES_MAX, SPAN_COSTS
from vantage.vql.table import Table

QUERY_THREADS: Final = 4
OTHER_CONNECTIONS: Final = EXPORTS_MAX * 2 + 1  # of a store on a server: two for each export, and that of inserts
SEARCH_TIMEOUT_S: Final = 30.0
T = TypeVar("T")

_log = structlog.get_logger("vantage.storage.clickhouse")


class ClickHouseStore:
    """Stores telemetry with ``engine``; ``query_threads`` of its queries run at once.

    ``write`` returns once the rows are inserted; with ``synchronous`` FULL they are on disk, with NORMAL the operating
    system has them. The rows of a commit are inserted into several tables one after the other, so that for a few
    milliseconds a query may see its spans but not its samples. If the process is killed in between, the commit is
    finished when ``folder`` is opened again: see ``intent_log``. The folder is locked, for one process; one that only
    reads and writes ranges needs none. ``queue_nbytes_max`` limits the batches that wait for a commit: beyond it
    ``write`` is busy. ``series_max`` and ``series_nbytes_max`` limit the distinct series that this process writes,
    ``query_samples_max`` the samples a query may read (a span counts as ten), ``query_nbytes_max`` its memory. On a
    server the tables also expire by themselves after ``ttl_days``, by the server's clock.
    """

    def __init__(
        self,
        engine: Engine,
        folder: Path | None,
        *,
        clock: Clock,
        telemetry: Telemetry,
        synchronous: str = "FULL",
        queue_nbytes_max: int = 64 << 20,
        series_max: int = 200_000,
        series_nbytes_max: int = 512 << 20,
        query_samples_max: int = QUERY_SAMPLES_MAX,
        query_nbytes_max: int = QUERY_NBYTES_MAX,
        query_threads: int = QUERY_THREADS,
        ttl_days: int | None = None,
        steady: SteadyTime | None = None,
    ) -> None:
        self.folder = folder
        self.engine = engine
        self._telemetry = telemetry
        self._fsync = synchronous == "FULL"
        self._query_samples_max = query_samples_max
        self._query_nbytes_max = query_nbytes_max
        self._ttl_days = ttl_days
        self._clock = clock
        self._series = SeriesRegistry(SeriesLimit(series_max=series_max, nbytes_max=series_nbytes_max))
        self._series_table = SeriesTable(engine, self._series)
        self._ids = RecentBatchIds(clock)
        self._id_table = BatchIdTable(engine)
        self._steady = steady or SteadyTime(clock)
        self._intent = IntentLog(folder, fsync=self._fsync) if folder is not None else None
        self._writer = Writer(
            engine,
            self._intent,
            self._series,
            self._series_table,
            self._ids,
            self._id_table,
            telemetry=telemetry,
            queue_nbytes_max=queue_nbytes_max,
        )
        self._ranges = RangeWriter(
            engine, self._series, self._series_table, self._writer.recent_spans, telemetry=telemetry
        )
        self._deleter = Deleter(engine, self._series)
        self._lookups = Lookups(engine, self._series_table)
        self._exports = Exports(engine, self._lookups, self._series_table)
        self._edges = EdgeTable(engine)
        self._upkeep = Upkeep(
            self._edges,
            Filler(engine, self._series_table),
            clock=clock,
            now_ms=self._steady.now_ms,
            in_thread=self._in_thread,
            between_commits=self._writer.run,
            deletions=lambda: self._deleter.deletions,
        )
        self._lock = FolderLock(folder) if folder is not None else None
        self._threads = QueryPool(query_threads)
        self._running: set[threading.Event] = set()  # each ends a query
        self._refresh: asyncio.Task[None] | None = None
        self._deleting = asyncio.Lock()
        self._raw_since_ms = 0
        self._newest_ms = 0
        self._open = False

    # --- opening and closing ---

    async def __aenter__(self) -> Self:
        """Lock the folder, start the engine, migrate the tables, and finish the commit of a killed process. Raises
        ConfigError when the engine is not installed, DataFolderInUse, FormatTooNew, StartupError."""
        if self._lock is not None:
            self._lock.take()
        self._threads.start()
        self._exports.start()
        try:
            await self._threads.run(self._start)
        except BaseException:
            await to_its_end(self._close())
            raise
        self._writer.start()
        self._open = True
        if self.engine.shared:
            self._refresh = asyncio.create_task(self._refresh_shared(), name="vantage refresh")
        self._register_gauges()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await to_its_end(self._stop())

    async def _stop(self) -> None:
        self._open = False
        if self._refresh is not None:
            self._refresh.cancel()
            await asyncio.wait([self._refresh])
        await self._writer.stop()
        await self._close()

    async def _close(self) -> None:
        for cancelled in list(self._running):
            cancelled.set()
        await self._threads.stop()
        await self._exports.stop()
        await wait_in_thread(self.engine.close)
        if self._lock is not None:
            self._lock.release()

    def _start(self) -> None:
        """Prepare the tables. An engine that fails meanwhile fails the start."""
        try:
            self._prepare()
        except (InputError, StoreTimeout, StoreUnavailable) as error:
            raise StartupError(str(error)) from error

    def _prepare(self) -> None:
        started = time.perf_counter()
        self.engine.open()
        applied = migrate(self.engine, migrations())
        apply_settings(self.engine, fsync=self._fsync)
        if self.engine.shared:
            apply_ttl(self.engine, days=self._ttl_days)
        unfinished = self._intent.read() if self._intent is not None else []
        for insert in unfinished:
            self.engine.insert(insert)
        if self._intent is not None:
            self._intent.remove()
        self._series_table.load()
        self._id_table.load(self._ids, now_ms=self._clock.now_ms())
        self._raw_since_ms = self._deleter.raw_since_ms()
        self._upkeep.load()
        self._newest_ms = self._deleter.newest_ms()
        if self._newest_ms:
            self._steady.start_from(self._newest_ms)
        _log.info(
            "store opened",
            engine=self.engine.name,
            series=len(self._series),
            migrations=len(applied),
            finished=len(unfinished),
            took_s=round(time.perf_counter() - started, 3),
        )

    # --- writing ---

    async def write(self, batch: Batch) -> bool:
        if not self._open:
            raise StoreUnavailable("the store is closed")
        is_new = await self._writer.write(batch)
        if is_new:
            self._newest_ms = max(self._newest_ms, batch.newest_ms)
        return is_new

    async def write_range(self, batches: Sequence[StreamBatch], *, token: str, until_s: float) -> None:
        """Write as the port says, as long as no table had DEDUPLICATION_WINDOW other inserts in between. Batches are
        not compared with earlier ones: see ``batch_ids_before``."""
        if not self._open:
            raise StoreUnavailable("the store is closed")
        await self._writer.run(lambda: self._ranges.write(batches, token=token, until_s=until_s))
        self._telemetry.message_processed(len(batches))

    async def batch_ids_before(self, ids: Sequence[str], *, partition: int, offset: int, since_ms: int) -> set[str]:
        """Return those of ``ids`` that are stored, of messages since ``since_ms``, except those of ``partition`` from
        ``offset`` on: the result is the same before a range that begins there was written, and after. Raises
        StoreUnavailable."""
        return await self._in_thread(
            lambda: self._id_table.before(ids, partition=partition, offset=offset, since_ms=since_ms)
        )

    async def _refresh_shared(self) -> None:
        """Learn what other processes wrote and deleted, again and again."""

        def refresh() -> None:
            self._series_table.refresh()
            self._raw_since_ms = self._deleter.raw_since_ms()
            self._upkeep.load()

        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                await self._writer.run(refresh)
            except VantageError as error:
                _log.warning("what other processes wrote could not be read", error=str(error))

    @property
    def queued_nbytes(self) -> int:
        """Bytes of batches waiting to be inserted."""
        return self._writer.queued_nbytes

    # --- reading ---

    async def select(self, query: CheckedSelect, *, deadline_s: float) -> Table:
        statement = print_select(query)
        rows_max = self._query_samples_max
        if query.select.table == "spans":
            rows_max = max(1, rows_max // SPAN_COSTS)
        limits = {"rows_max": rows_max, "nbytes_max": self._query_nbytes_max}
        return read_table(query, await self._query(statement, deadline_s=deadline_s, **limits))

    async def explain(self, query: CheckedSelect, *, deadline_s: float) -> Table:
        statement, table = print_estimate(query)
        result = await self._query(statement, deadline_s=deadline_s)
        estimates = [
            (marks, rows)
            for name, marks, rows in zip(
                result.to_list("table"), result.to_list("marks"), result.to_list("rows"), strict=True
            )
            if name == table
        ]
        marks, rows = (sum(column) for column in zip(*estimates, strict=True)) if estimates else (0, 0)
        return Table(EXPLAIN_COLUMNS, ([table], [int(marks)], [int(rows)]))

    async def red(self, query: RedQuery, *, deadline_s: float) -> RedTable | None:
        limits = query_limits(deadline_s, nbytes_max=self._query_nbytes_max)
        now_ms, since_ms = self._steady.now_ms(), self._upkeep.since_ms.get("red", 0)
        return await self._in_thread(lambda: self._lookups.red(query, now_ms=now_ms, since_ms=since_ms, limits=limits))

    async def list_series(self, *, service: str = "", metric: str = "") -> Sequence[SeriesInfo]:
        return await self._in_thread(lambda: self._lookups.list_series(service, metric, since_ms=self._raw_since_ms))

    async def services(self, *, service: str = "") -> Sequence[ServiceInfo]:
        series, spans = await asyncio.gather(self.list_series(service=service), self.services_with_spans())
        return sum_up_services(series, [stats for stats in spans if service in ("", stats.service)])

    async def services_with_spans(self) -> Sequence[ServiceSpanStats]:
        are_counted = not self._upkeep.since_ms.get("edges", 0)
        return await self._in_thread(lambda: self._lookups.services_with_spans(are_counted=are_counted))

    async def trace(self, trace_id: str) -> Trace:
        # Concurrently: each statement takes a few milliseconds, even without a result.
        samples, (spans, left_out) = await asyncio.gather(
            self._in_thread(lambda: self._lookups.exemplars(trace_id)),
            self._in_thread(lambda: self._lookups.spans(trace_id)),
        )
        return Trace(trace_id, tuple(spans), tuple(samples), left_out)

    async def spans_of(self, trace_ids: Sequence[str], *, spans_max: int) -> Sequence[Span]:
        return await self._in_thread(lambda: self._lookups.spans_of(trace_ids, spans_max=spans_max))

    async def traces(self, wanted: TraceFilter) -> Sequence[TraceSummary]:
        return await self._in_thread(lambda: self._lookups.traces(wanted))

    async def list_spans(self, wanted: SpanFilter) -> SpanList:
        return await self._in_thread(lambda: self._lookups.list_spans(wanted))

    async def edges(self, time_range: TimeRange) -> ServiceEdges:
        since_ms = self._upkeep.since_ms.get("edges", 0)
        return await self._in_thread(
            lambda: self._edges.read(
                time_range, now_ms=self._steady.now_ms(), since_ms=since_ms, raw_since_ms=self._raw_since_ms
            )
        )

    async def keep_up(self) -> bool:
        """Do one piece of work in the background: count edges, or fill in what an earlier version did not write.
        Returns whether there may be more. Raises StoreUnavailable, StoreTimeout, BusyError."""
        return await self._upkeep.step(raw_since_ms=self._raw_since_ms)

    async def export(self, selector: Selector, time_range: TimeRange) -> AsyncGenerator[Batch, None]:
        if not self._open:
            raise StoreUnavailable("the store is closed")
        async with aclosing(self._exports.export(selector, time_range)) as batches:
            async for batch in batches:
                yield batch

    async def usage(self) -> Usage:
        return await self._in_thread(lambda: read_usage(self.engine, raw_since_ms=self._raw_since_ms))

    def newest_ms(self) -> int:
        return self._newest_ms

    async def raw_since_ms(self) -> int:
        return self._raw_since_ms

    async def _query(
        self,
        statement: Statement,
        *,
        deadline_s: float,
        rows_max: int = ROWS_MAX,
        nbytes_max: int = LOOKUP_NBYTES_MAX,
    ) -> QueryResult:
        ends_s = time.monotonic() + deadline_s
        cancelled = threading.Event()

        def run() -> QueryResult:
            limits = query_limits(ends_s - time.monotonic(), rows_max=rows_max, nbytes_max=nbytes_max)
            return self.engine.run(statement, limits, cancelled=cancelled)

        self._running.add(cancelled)
        try:
            return await self._in_thread(run)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        finally:
            self._running.discard(cancelled)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if not self._open:
            raise StoreUnavailable("the store is closed")
        return await self._threads.run(work)

    # --- deletion ---

    async def expire(self, policy: RetentionPolicy) -> DeletionResult:
        try:
            result = await self._run_deletion(
                lambda: self._deleter.expire(policy, self._steady.now_ms(), batch_now_ms=self._ids.now_ms())
            )
        finally:
            for table, parts in self._deleter.parts.items():
                self._telemetry.clickhouse_parts.labels(table).set(parts)
        self._telemetry.store_expired.inc(result.samples)
        self._telemetry.store_expired_spans.inc(result.spans)
        return result

    async def delete(self, selector: Selector) -> DeletionResult:
        if not selector.service and not selector.environment:
            raise ValueError("refusing to delete everything: name a service or an environment")

        def delete() -> DeletionResult:
            self._writer.recent_spans.clear()
            result = self._deleter.delete(selector)
            self._newest_ms = self._deleter.newest_ms()
            return result

        return await self._run_deletion(delete)

    async def delete_range(self, time_range: TimeRange) -> None:
        """Delete whole hours, with their rollups. May be repeated. Raises StoreUnavailable."""

        def delete() -> DeletionResult:
            self._writer.recent_spans.clear()
            self._deleter.delete_range(time_range)
            return DeletionResult()

        await self._run_deletion(delete)

    async def rolled_up(self, time_range: TimeRange) -> tuple[int, int]:
        """Return how many samples of whole hours are in rollups of 5 minutes and of hours."""
        return await self._in_thread(lambda: self._lookups.rolled_up(time_range))

    async def _run_deletion(self, job: Callable[[], DeletionResult]) -> DeletionResult:
        """Run a deletion between two commits; on a server beside them, since it may take minutes and other processes
        commit in any case."""
        if not self._open:
            raise StoreUnavailable("the store is closed")

        def run() -> DeletionResult:
            try:
                return job()
            except (InputError, StoreTimeout) as error:  # the caller cannot narrow a deletion
                raise StoreUnavailable(f"data could not be deleted: {error}") from error
            finally:
                self._raw_since_ms = self._deleter.raw_since_ms()

        if not self.engine.shared:
            return await self._writer.run(run)
        async with self._deleting:
            return await self._in_thread(run)

    # --- health ---

    async def ping(self) -> None:
        if self._writer.failing:
            raise StoreUnavailable(self._writer.failing)
        await self._query(Statement("SELECT 1 AS alive"), deadline_s=SEARCH_TIMEOUT_S)

    def read_only(self) -> str:
        """Return '': the engine does not start in a folder that it cannot write."""
        return ""

    def warnings(self) -> list[str]:
        """Return what is wrong although data is stored and read: a clock that jumped."""
        if self._steady.offset_s() * 1000 > JUMP_MS_MIN:
            return ["the clock is far ahead of the data: nothing expires by age until it is believed"]
        return []

    def _register_gauges(self) -> None:
        for name, text, read in (
            ("series", "Series in the catalogue.", lambda: len(self._series)),
            (
                "series_overflowed",
                "Series beyond series_max or series_bytes_max, stored as __overflow__ (counted up to 20000).",
                lambda: len(self._series.limit.overflowed),
            ),
            ("series_bytes", "Memory of the catalogue, estimated.", lambda: self._series.limit.nbytes),
            (
                "clock_offset_seconds",
                "By how much the clock is ahead of the time that ages are counted from.",
                self._steady.offset_s,
            ),
            ("queued_bytes", "Batches waiting to be committed.", lambda: self.queued_nbytes),
        ):
            self._telemetry.add_gauge(f"vantage_store_{name}", text, read)
