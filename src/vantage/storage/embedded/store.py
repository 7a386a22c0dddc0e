"""The embedded TelemetryStore: journal, head and segments behind the port."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import numpy as np
import structlog

from vantage.core.batch import BATCH_ID_MEMORY_MS, Batch
from vantage.core.clock import Clock
from vantage.core.errors import BusyError, StoreUnavailable
from vantage.core.timerange import TimeRange
from vantage.storage.embedded import malloc, thread_priority
from vantage.storage.embedded.format.chunk import ChunkCodec
from vantage.storage.embedded.format.segment import Segment
from vantage.storage.embedded.format.week import week_range
from vantage.storage.embedded.maintain.deletion import Deleter
from vantage.storage.embedded.maintain.seal import histograms
from vantage.storage.embedded.maintain.segment_files import SegmentFiles
from vantage.storage.embedded.maintain.series_stats import load_part_stats, rebuild_series_stats
from vantage.storage.embedded.maintain.worker import GENERATION_NBYTES_MAX, GENERATION_SAMPLES_MAX, MaintenanceWorker
from vantage.storage.embedded.offline.restore import refuse_unfinished
from vantage.storage.embedded.read.chunk_index import ChunkIndexCache
from vantage.storage.embedded.read.connection_pool import ConnectionPool
from vantage.storage.embedded.read.export import export_batches, iterate_in_pool
from vantage.storage.embedded.read.reader import DamageLog, SnapshotReader
from vantage.storage.embedded.read.snapshot import Snapshot, Snapshots
from vantage.storage.embedded.read.trace_search import latest_traces
from vantage.storage.embedded.read.usage import file_nbytes, usage_rows
from vantage.storage.embedded.thread_priority import lower_priority
from vantage.storage.embedded.write.catalogue import Catalogue
from vantage.storage.embedded.write.commit import CommitThread
from vantage.storage.embedded.write.head import Head
from vantage.storage.embedded.write.journal import Journal
from vantage.storage.lock import FolderLock
from vantage.storage.ports import (
    DeletionResult,
    ExemplarSample,
    RetentionPolicy,
    Selector,
    SeriesInfo,
    ServiceEdge,
    ServiceSpanStats,
    Trace,
    TraceFilter,
    TraceSummary,
    Usage,
)
from vantage.storage.query_pool import QueryPool
from vantage.storage.recent_batch_ids import RecentBatchIds
from vantage.storage.service_edges import PARENT_REACH_MS, service_edges
from vantage.telemetry import Telemetry
from vantage.vql.check import CheckedSelect
from vantage.vql.exec.execute import QUERY_SAMPLES_MAX, Deadline, execute, explain
from vantage.vql.table import Table

QUERY_THREADS: Final = 2
EXPORTS_MAX: Final = 2
SEARCH_TIMEOUT_S: Final = 30.0
T = TypeVar("T")

_log = structlog.get_logger("vantage.storage.embedded")


class EmbeddedStore:
    """Keeps telemetry in ``folder``, which it locks: one process a folder.

    ``queue_nbytes_max`` bounds what waits for a commit, ``head_nbytes_max`` what is committed and not sealed yet:
    beyond either ``write`` is busy. ``series_max`` bounds the catalogue (further series are kept as one,
    ``__other__``). ``page_count_max`` is SQLite's limit on the journal, for tests of a full disk.
    """

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock,
        telemetry: Telemetry,
        synchronous: str = "FULL",
        queue_nbytes_max: int = 64 << 20,
        head_nbytes_max: int = 1 << 30,
        series_max: int = 200_000,
        query_samples_max: int = QUERY_SAMPLES_MAX,
        generation_samples_max: int = GENERATION_SAMPLES_MAX,
        page_count_max: int | None = None,
    ) -> None:
        self.folder = folder
        self._clock = clock
        self._telemetry = telemetry
        self._queue_nbytes_max = queue_nbytes_max
        self._head_nbytes_max = head_nbytes_max
        self._query_samples_max = query_samples_max
        self._catalogue = Catalogue(series_max=series_max)
        self._head = Head()
        self._snapshots = Snapshots(self._head)
        self._pool = ConnectionPool()
        self._indexes = ChunkIndexCache()
        self._ids = RecentBatchIds()
        self._codecs: list[ChunkCodec] = []  # those that no query has just now
        self._damage = DamageLog(self._quarantine)
        self._journal = Journal(folder / "journal.db", synchronous=synchronous, page_count_max=page_count_max)
        self._files = SegmentFiles(folder, self._snapshots, self._pool, self._indexes)
        self._commits = CommitThread(self._journal, self._catalogue, self._head, telemetry, clock, self._committed)
        self._maintenance = MaintenanceWorker(
            self._files,
            self._journal,
            self._commits,
            self._catalogue,
            self._head,
            clock,
            self._expired,
            generation_samples_max=generation_samples_max,
            generation_nbytes_max=min(GENERATION_NBYTES_MAX, max(1, head_nbytes_max // 4)),
        )
        self._deleter = Deleter(
            self._files, self._journal, self._commits, self._catalogue, self._head, self._maintenance.retention
        )
        self._maintenance.finish_forgetting = self._deleter.finish_deletions
        self._has_pending_deletions = False
        self._queued_nbytes = 0
        self._open = False
        self._lock = FolderLock(folder)
        self._threads = QueryPool(QUERY_THREADS, initializer=lambda: lower_priority(thread_priority.QUERIES))
        self._exports = 0

    # --- opening and closing ---

    async def __aenter__(self) -> Self:
        """Lock the folder, look at the segments, replay the journal. Raises DataFolderInUse, FormatTooNew,
        StartupError."""
        self._lock.take()
        malloc.map_large_arrays()
        try:
            refuse_unfinished(self.folder)
            await self._commits.start(self._replay)
        except BaseException:
            self._pool.close()
            self._lock.release()
            raise
        self._threads.start()
        self._maintenance.start()
        self._open = True
        self._register_gauges()
        if self._has_pending_deletions:
            await self._run_maintenance(self._deleter.finish_deletions)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        await asyncio.to_thread(self._maintenance.stop)
        await self._commits.stop()
        await self._threads.stop()
        self._pool.close()
        self._lock.release()

    def _replay(self) -> None:
        """Runs on the writer thread, before anything else can touch catalogue and head."""
        started = time.perf_counter()
        journal = self._journal
        highest = self._load_segments()
        for slot, identity in journal.series():
            try:
                self._catalogue.load(slot, identity)
            except ValueError as error:
                _log.error("series unreadable, passed over", slot=slot, reason=str(error))
        # A slot without a series was forgotten, and so were its samples.
        self._catalogue.reserve(journal.slots)
        self._maintenance.start_after_replay(
            generation=max(journal.sealed_generation, highest), last_seq=journal.sealed_seq
        )
        for entry in journal.entries():
            if entry.deletes is not None:
                self._deleter.delete_unsealed(*entry.deletes, [])
            elif entry.record is not None:
                self._head.append(entry.record)
            self._maintenance.on_commit(entry.seq)
        gone = ~self._catalogue.present()
        if gone.any():
            self._deleter.delete_unsealed("", "", np.flatnonzero(gone).tolist())
        with self._snapshots.pinned() as seen:
            rebuild_series_stats(self._catalogue, load_part_stats(self._files), seen)
        for at_ms, ids in journal.batch_ids(self._clock.now_ms() - BATCH_ID_MEMORY_MS):
            for batch_id in ids:
                self._ids.add(batch_id, at_ms)
        self._has_pending_deletions = self._deleter.hide_deleted()
        _log.info(
            "store opened",
            samples=self._head.sample_count,
            spans=self._head.span_count,
            segments=len(self._snapshots.now.samples) + len(self._snapshots.now.rollups),
            series=len(self._catalogue),
            damaged_rows=len(journal.damaged),
            took_s=round(time.perf_counter() - started, 3),
        )

    def _load_segments(self) -> int:
        """The highest generation in segments. A journal made anew beside segments takes them over: whoever lost the
        one shall not lose the others."""
        journal = self._journal
        segments = self._files.load(generation_max=None if journal.new else journal.sealed_generation)
        self._files.publish(*segments)
        highest = max((part.generation for segment in segments for part in segment.parts), default=0)
        if journal.new and segments:
            found = {slot: one for segment in segments for slot, one in self._files.identities(segment)}
            journal.add_series(sorted(found.items()))
            journal.seal(seq_max=journal.sealed_seq, generation=highest)
        return highest

    # --- writing ---

    async def write(self, batch: Batch) -> bool:
        if not self._open:
            raise StoreUnavailable("the store is closed")
        batch_id = batch.batch_id
        if batch_id and await self._ids.is_duplicate(batch_id, self._clock):
            return False
        if not batch.samples and not batch.spans:
            return True
        nbytes = batch.nbytes
        if self._queued_nbytes + nbytes > self._queue_nbytes_max:
            raise BusyError("the queue of batches waiting to be committed is full")
        if self.unsealed_nbytes > self._head_nbytes_max:
            raise BusyError(
                self._maintenance.failing or "sealing has not caught up with what was sent", retry_after_s=5.0
            )
        self._queued_nbytes += nbytes
        done = self._commits.write(batch)
        if batch_id:
            self._ids.mark_in_flight(batch_id, done)
        done.add_done_callback(lambda done: self._on_settled(batch_id, nbytes, done))
        await asyncio.shield(done)  # a caller that goes away does not take the batch's outcome with it
        return True

    def _on_settled(self, batch_id: str, nbytes: int, done: asyncio.Future[None]) -> None:
        self._queued_nbytes -= nbytes
        failed = done.cancelled() or done.exception() is not None
        if batch_id and not failed:
            before = self._ids.evicted
            self._ids.add(batch_id, self._clock.now_ms())
            self._telemetry.batch_ids_evicted.inc(self._ids.evicted - before)

    def _committed(self, seq: int) -> None:
        self._maintenance.on_commit(seq)

    async def seal(self) -> None:
        """Seal everything committed so far, without waiting for the generation to fill. Raises StoreUnavailable."""
        await self._commits.run(self._maintenance.close_generation)
        await self._run_maintenance(self._maintenance.seal_waiting)
        if self._snapshots.now.sealing_generations:
            raise StoreUnavailable(self._maintenance.failing or "segments are being copied: try again later")

    async def merge(self) -> None:
        """Merge small parts without waiting for a calm moment. Raises StoreUnavailable."""
        await self._run_maintenance(self._maintenance.merge_waiting)

    # --- reading ---

    async def select(self, query: CheckedSelect, *, deadline_s: float) -> Table:
        deadline = Deadline(deadline_s)

        def run() -> Table:
            with self._source(deadline) as source:
                return execute(query, source, deadline, samples_max=self._query_samples_max)

        return await self._in_thread(run)

    async def explain(self, query: CheckedSelect, *, deadline_s: float) -> Table:
        def run() -> Table:
            with self._source(Deadline(deadline_s)) as source:
                return explain(query, source)

        return await self._in_thread(run)

    async def list_series(self, *, service: str = "", metric: str = "") -> Sequence[SeriesInfo]:
        known = self._catalogue

        def run() -> list[SeriesInfo]:
            return [
                SeriesInfo(one, int(known.samples[slot]), int(known.first_ms[slot]), int(known.last_ms[slot]))
                for slot in known.find(service_name=service, metric_name=metric)
                if (one := known.series[slot]) is not None and known.has_data(slot)
            ]

        return await self._in_thread(run)

    async def services_with_spans(self) -> Sequence[ServiceSpanStats]:
        return await self._in_thread(self._services_with_spans)

    def _services_with_spans(self) -> list[ServiceSpanStats]:
        found: dict[tuple[str, str, str, str], tuple[int, int, int]] = {}
        with self._source(Deadline(SEARCH_TIMEOUT_S)) as source:
            for counted in source.service_counts():
                for key, (count, first_ms, last_ms) in counted.items():
                    held = found.get(key, (0, first_ms, last_ms))
                    found[key] = (held[0] + count, min(held[1], first_ms), max(held[2], last_ms))
        return [ServiceSpanStats(*key, *held) for key, held in found.items()]

    async def trace(self, trace_id: str) -> Trace:
        def run() -> Trace:
            with self._source(Deadline(SEARCH_TIMEOUT_S)) as source:
                table = source.spans_of([trace_id])
                spans = table.spans(np.lexsort((table.span_id, table.start_ns)))
                samples = [
                    ExemplarSample(one, time_ms, value, trace_id, span_id)
                    for one, time_ms, value, span_id in source.exemplars_of(trace_id)
                ]
            return Trace(trace_id, tuple(spans), tuple(sorted(samples, key=lambda sample: sample.time_ms)))

        return await self._in_thread(run)

    async def traces(self, wanted: TraceFilter) -> Sequence[TraceSummary]:
        def run() -> list[TraceSummary]:
            with self._source(Deadline(SEARCH_TIMEOUT_S)) as source:
                return latest_traces(source, wanted)

        return await self._in_thread(run)

    async def edges(self, time_range: TimeRange) -> Sequence[ServiceEdge]:
        def run() -> Sequence[ServiceEdge]:
            wider = TimeRange(time_range.start_ms - PARENT_REACH_MS, time_range.end_ms)
            with self._source(Deadline(SEARCH_TIMEOUT_S)) as source:
                return service_edges(source.spans(wider), time_range)

        return await self._in_thread(run)

    async def export(self, selector: Selector, time_range: TimeRange) -> AsyncGenerator[Batch, None]:
        if not self._open:
            raise StoreUnavailable("the store is closed")
        if self._exports >= EXPORTS_MAX:
            raise BusyError("other exports are under way", retry_after_s=60.0)
        self._exports += 1
        try:
            # Pinned until the end: meanwhile parts may be merged, and are deleted later.
            with self._source(Deadline(float("inf"))) as source:
                async with aclosing(
                    iterate_in_pool(export_batches(source, selector, time_range), self._threads.pool)
                ) as batches:
                    async for batch in batches:
                        yield batch
        finally:
            self._exports -= 1

    async def usage(self) -> Usage:
        def run() -> Usage:
            with self._snapshots.pinned() as seen:
                return Usage(
                    tuple(usage_rows(seen.snapshot, self._catalogue.columns, self._pool)),
                    file_nbytes(self.folder, seen.snapshot),
                    self.unsealed_nbytes,
                    _raw_since_ms(seen.snapshot),
                    tuple(self._files.quarantined),
                )

        return await self._in_thread(run)

    async def raw_since_ms(self) -> int:
        return _raw_since_ms(self._snapshots.now)

    @contextmanager
    def _source(self, deadline: Deadline) -> Iterator[SnapshotReader]:
        """Everything as it is now, for one query in one thread."""
        codec = _rows_taken(self._codecs)
        try:
            with self._snapshots.pinned() as seen:
                yield SnapshotReader(
                    seen,
                    self._catalogue.columns,
                    histograms=histograms(self._catalogue),
                    codec=codec,
                    pool=self._pool,
                    indexes=self._indexes,
                    damage=self._damage,
                    tick=deadline.check,
                )
        finally:
            self._codecs.append(codec)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if not self._open:
            raise StoreUnavailable("the store is closed")
        self._maintenance.note_query()
        return await self._threads.run(work)

    # --- letting go ---

    async def expire(self, policy: RetentionPolicy) -> DeletionResult:
        result = await self._run_maintenance(lambda: self._deleter.expire(policy, self._clock.now_ms()))
        self._expired(result.samples, result.spans)
        return result

    def _expired(self, samples: int, spans: int) -> None:
        self._telemetry.store_expired.inc(samples)
        self._telemetry.store_expired_spans.inc(spans)

    async def delete(self, selector: Selector) -> DeletionResult:
        if not selector.service and not selector.environment:
            raise ValueError("forgetting everything is not offered: name a service or an environment")
        service, environment = selector.service, selector.environment
        return await self._run_maintenance(lambda: self._deleter.delete(service, environment, self._clock.now_ms()))

    def _quarantine(self, segment: Segment, reason: str) -> None:
        """A query met a file that is damaged: nobody reads it from now on. Any thread."""
        self._snapshots.publish(lambda view: view.with_segments(replace(segment, parts=())))
        self._maintenance.submit(
            lambda: self._files.quarantine(segment.path, reason) if segment.path.exists() else None
        )

    async def _run_maintenance(self, job: Callable[[], T]) -> T:
        if not self._open:
            raise StoreUnavailable("the store is closed")
        return await asyncio.wrap_future(self._maintenance.submit(job))

    # --- how it is ---

    async def ping(self) -> None:
        if not self._open:
            raise StoreUnavailable("the store is closed")
        if self._commits.failing:
            raise StoreUnavailable(self._commits.failing)

    @property
    def damaged_rows(self) -> int:
        """Rows of journal and segments that could not be read."""
        return len(self._journal.damaged) + self._damage.rows

    @property
    def queued_nbytes(self) -> int:
        """Bytes of batches waiting to be committed."""
        return self._queued_nbytes

    @property
    def unsealed_nbytes(self) -> int:
        """Memory of what is committed and not sealed, by estimate."""
        return self._head.nbytes + sum(generation.nbytes for generation in self._snapshots.now.sealing_generations)

    def _register_gauges(self) -> None:
        watch = self._telemetry.add_gauge
        views, head = self._snapshots, self._head
        for name, text, read in (
            ("series", "Series in the catalogue.", lambda: len(self._catalogue)),
            (
                "series_folded",
                "Series beyond series_max, kept as __other__ (counted up to 100000).",
                lambda: len(self._catalogue.folded),
            ),
            ("head_samples", "Samples in the head.", lambda: head.sample_count),
            ("head_spans", "Spans in the head.", lambda: head.span_count),
            ("head_bytes", "Memory of what is not sealed, estimated.", lambda: self.unsealed_nbytes),
            ("generations_waiting", "Generations waiting to be sealed.", lambda: len(views.now.sealing_generations)),
            ("queued_bytes", "Batches waiting to be committed.", lambda: self._queued_nbytes),
            ("damaged_rows", "Rows that could not be read.", lambda: self.damaged_rows),
            (
                "damaged_segments",
                "Segment files that could not be read and were put aside.",
                lambda: len(self._files.quarantined),
            ),
            ("journal_bytes", "Size of the journal and its log.", lambda: self._file_nbytes("journal")),
            ("samples_bytes", "Size of the segments of samples and spans.", lambda: self._file_nbytes("samples")),
            ("rollups_bytes", "Size of the segments of rollups.", lambda: self._file_nbytes("rollups")),
        ):
            watch(f"vantage_store_{name}", text, read)

    def _file_nbytes(self, kind: str) -> int:
        return file_nbytes(self.folder, self._snapshots.now)[kind]


def _rows_taken(codecs: list[ChunkCodec]) -> ChunkCodec:
    try:
        return codecs.pop()
    except IndexError:
        return ChunkCodec()


def _raw_since_ms(view: Snapshot) -> int:
    """Rollups of a week without samples: those have left."""
    lost = [week for week, segment in view.rollups.items() if week not in view.samples and segment.parts]
    return week_range(max(lost)).end_ms if lost else 0
