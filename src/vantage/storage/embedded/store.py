"""The embedded TelemetryStore: journal, head and segments behind the port."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import structlog

from vantage.core.batch import Batch
from vantage.core.clock import Clock
from vantage.core.errors import BusyError, StoreUnavailable
from vantage.core.turns import Turns, wait_in_thread
from vantage.storage.closing import to_its_end
from vantage.storage.disk_reserve import DiskReserve
from vantage.storage.embedded import malloc
from vantage.storage.embedded.format.segment import SEGMENTS, Segment
from vantage.storage.embedded.maintain.deletion import Deleter
from vantage.storage.embedded.maintain.edge_rollups import EdgeCounter, EdgeFiller
from vantage.storage.embedded.maintain.merge import Merger
from vantage.storage.embedded.maintain.red_rollups import RedFiller
from vantage.storage.embedded.maintain.retention import Retention
from vantage.storage.embedded.maintain.seal import Sealer
from vantage.storage.embedded.maintain.seal_queue import (
    GENERATION_NBYTES_MAX,
    GENERATION_SAMPLES_MAX,
    SealQueue,
    StopFlag,
)
from vantage.storage.embedded.maintain.segment_files import SegmentFiles
from vantage.storage.embedded.maintain.worker import JobQueue, MaintenanceWorker
from vantage.storage.embedded.metrics import register_gauges
from vantage.storage.embedded.offline.restore import refuse_unfinished
from vantage.storage.embedded.queries import Queries
from vantage.storage.embedded.read.access import DamageLog
from vantage.storage.embedded.read.chunk_index import CACHE_NBYTES_MAX, ChunkIndexCache
from vantage.storage.embedded.read.connection_pool import ConnectionPool
from vantage.storage.embedded.read.snapshot import Snapshot, Snapshots
from vantage.storage.embedded.read.usage import file_nbytes
from vantage.storage.embedded.recovery import Recovery
from vantage.storage.embedded.write.catalogue import Catalogue
from vantage.storage.embedded.write.commit import CommitThread
from vantage.storage.embedded.write.head import Head
from vantage.storage.embedded.write.journal import Journal
from vantage.storage.embedded.write.touched import TouchedMinutes
from vantage.storage.ports import (
    DeletionResult,
    RetentionPolicy,
    Selector,
)
from vantage.storage.recent_batch_ids import RecentBatchIds
from vantage.storage.series_overflow import SeriesLimit
from vantage.storage.steady_time import JUMP_MS_MIN, SteadyTime
from vantage.storage.write_access import WriteAccess
from vantage.telemetry import Telemetry
from vantage.vql.exec.budget import QUERY_NBYTES_MAX
from vantage.vql.exec.execute import QUERY_SAMPLES_MAX

WARNED_FILES_MAX: Final = 10
PAUSED_RETRY_S: Final = 2.0
T = TypeVar("T")

_log = structlog.get_logger("vantage.storage.embedded")


class EmbeddedStore(Queries):
    """Stores telemetry in ``folder``, which it locks: one process per folder.

    ``queue_nbytes_max`` bounds what waits for a commit, ``head_nbytes_max`` what is committed and not sealed yet:
    beyond either ``write`` is busy. ``series_max`` and ``series_nbytes_max`` bound the catalogue (samples of further
    series go to overflow series). ``page_count_max`` is SQLite's limit on the journal, for tests of a full disk.
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
        series_nbytes_max: int = 512 << 20,
        query_samples_max: int = QUERY_SAMPLES_MAX,
        query_nbytes_max: int = QUERY_NBYTES_MAX,
        generation_samples_max: int = GENERATION_SAMPLES_MAX,
        page_count_max: int | None = None,
        steady: SteadyTime | None = None,
        turns: Turns | None = None,
    ) -> None:
        head, pool, turns = Head(), ConnectionPool(), turns or Turns()
        indexes = ChunkIndexCache(nbytes_max=min(CACHE_NBYTES_MAX, query_nbytes_max // 8))
        super().__init__(
            Snapshots(head, retained_nbytes_max=head_nbytes_max // 2),
            Catalogue(SeriesLimit(series_max=series_max, nbytes_max=series_nbytes_max)),
            pool,
            indexes,
            DamageLog(self._quarantine),
            query_samples_max=query_samples_max,
            query_nbytes_max=query_nbytes_max,
            turns=turns,
        )
        self.folder = folder
        self._clock = clock
        self._telemetry = telemetry
        self._queue_nbytes_max = queue_nbytes_max
        self._head_nbytes_max = head_nbytes_max
        self._head = head
        self._batch_ids = RecentBatchIds(clock)
        self._steady = steady or SteadyTime(clock)
        self._access = WriteAccess(folder, names=("journal.db", "journal.db-wal", SEGMENTS))
        refusal = self._access.refusal
        self._journal = Journal(
            folder / "journal.db", synchronous=synchronous, page_count_max=page_count_max, refusal=refusal
        )
        self._files = SegmentFiles(folder, self._snapshots, pool, indexes, refusal)
        self._commits = CommitThread(
            self._journal, self._catalogue, self._head, telemetry, self._batch_ids.now_ms, self._on_commit, refusal
        )
        stop, jobs = StopFlag(), JobQueue()

        def between_slices() -> None:
            stop.check()
            turns.pass_on()

        edges = EdgeCounter(self._files, self._catalogue.edges, on_lost=self._count_unjoined)
        sealer = Sealer(self._files, self._catalogue, edges, between_slices)
        self._seal_queue = SealQueue(
            self._files,
            self._journal,
            self._commits,
            self._head,
            clock,
            sealer,
            stop,
            on_closed=jobs.wake,
            on_expired=self._count_expired,
            turns=turns,
            samples_max=generation_samples_max,
            nbytes_max=min(GENERATION_NBYTES_MAX, max(1, head_nbytes_max // 4)),
        )
        on_slice = self._seal_queue.yield_to_seal
        red_filler = RedFiller(self._files, self._catalogue, identities=sealer.identities, on_slice=on_slice)
        edge_filler = EdgeFiller(self._files, edges, identities=sealer.identities, on_slice=on_slice)

        def fill(week: int) -> None:
            red_filler.fill(week)
            edge_filler.fill(week)

        self._merger = Merger(self._files, self._catalogue, identities=sealer.identities, on_slice=on_slice, fill=fill)
        retention = Retention(self._files, self._catalogue, self._merger)
        self._deleter = Deleter(
            self._files, self._journal, self._commits, self._catalogue, self._head, retention, self._batch_ids
        )
        self._maintenance = MaintenanceWorker(
            self._files,
            self._journal,
            self._commits,
            self._head,
            clock,
            jobs=jobs,
            stop=stop,
            seal_queue=self._seal_queue,
            merger=self._merger,
            deleter=self._deleter,
            fill_next=lambda: red_filler.fill_next() or edge_filler.fill_next(),
            turns=turns,
            age_ms=self._steady.now_ms,
            refusal=refusal,
        )
        self._recovery = Recovery(
            self._journal,
            self._files,
            self._catalogue,
            self._head,
            self._seal_queue,
            self._deleter,
            self._batch_ids,
            self._steady,
            self._commits.recent_spans,
        )
        self._queued_nbytes = 0
        self._paused = ""  # why nothing is written for now
        self._open = False
        self._reserve = DiskReserve(folder / "reserve")

    # --- opening and closing ---

    async def __aenter__(self) -> Self:
        """Lock the folder, load the segments, replay the journal. A folder that cannot be written is only read.

        Raises DataFolderInUse, FormatTooNew, StartupError.
        """
        self._access.take()
        malloc.map_large_arrays()
        self._reserve.release()
        try:
            refuse_unfinished(self.folder)
            await self._commits.start(self._recovery.run)
        except BaseException:
            self._pool.close()
            self._access.release()
            raise
        self._threads.start()
        self._maintenance.start()
        self._open = True
        self._reserve.keep()
        self._register_gauges()
        if self._recovery.has_pending_deletions and not self._access.refusal():
            await self._run_maintenance(self._deleter.finish_deletions)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await to_its_end(self._stop())

    async def _stop(self) -> None:
        self._open = False
        self._turns.stop()
        await wait_in_thread(self._maintenance.stop)
        await self._commits.stop()
        await self._threads.stop()
        self._pool.close()
        self._access.release()

    # --- writing ---

    async def write(self, batch: Batch) -> bool:
        if not self._open:
            raise StoreUnavailable("the store is closed")
        if self._access.latest:
            self._access.check()
        batch_id = batch.batch_id
        if batch_id and await self._batch_ids.is_duplicate(batch_id):
            return False
        if not batch.samples and not batch.spans:
            return True
        nbytes = batch.nbytes
        if self._queued_nbytes + nbytes > self._queue_nbytes_max:
            raise BusyError("the queue of batches waiting to be committed is full")
        if self.unsealed_nbytes > self._head_nbytes_max:
            raise BusyError(
                self._seal_queue.failing or "sealing has not caught up with what was sent", retry_after_s=5.0
            )
        if self._paused:
            raise BusyError(self._paused, retry_after_s=PAUSED_RETRY_S)
        self._queued_nbytes += nbytes
        done = self._commits.write(batch)
        if batch_id:
            self._batch_ids.mark_in_flight(batch_id, done)
        done.add_done_callback(lambda done: self._on_settled(batch_id, nbytes, done))
        await asyncio.shield(done)  # a caller that goes away does not take the batch's outcome with it
        return True

    def _on_settled(self, batch_id: str, nbytes: int, done: asyncio.Future[None]) -> None:
        self._queued_nbytes -= nbytes
        failed = done.cancelled() or done.exception() is not None
        if batch_id and not failed:
            before = self._batch_ids.evicted
            self._batch_ids.add(batch_id)
            self._telemetry.batch_ids_evicted.inc(self._batch_ids.evicted - before)

    def _count_unjoined(self, spans: int) -> None:
        self._telemetry.lost.labels("edges_not_joined").inc(spans)

    def _on_commit(self, seq: int) -> None:
        self._seal_queue.on_commit(seq)

    @property
    def touched(self) -> TouchedMinutes:
        """The minutes that are written to."""
        return self._commits.touched

    async def pause_writes(self, reason: str) -> None:
        """Be busy with ``reason`` for writes and deletions until ``resume_writes``. On return none is running."""
        self._paused = reason
        await self._run_maintenance(lambda: None)  # a deletion that runs would be missed by who copies
        await self._commits.run(lambda: None)

    def resume_writes(self) -> None:
        """End what ``pause_writes`` began."""
        self._paused = ""

    async def seal(self) -> None:
        """Seal everything committed so far, without waiting for the generation to fill. Raises StoreUnavailable."""
        await self._commits.run(self._seal_queue.close_generation)
        await self._run_maintenance(self._seal_queue.seal_waiting)
        if self._snapshots.now.sealing_generations:
            raise StoreUnavailable(self._seal_queue.failing or "segments are being copied: try again later")

    async def merge(self) -> None:
        """Merge small parts without waiting for a calm moment. Raises StoreUnavailable."""
        await self._run_maintenance(self._maintenance.merge_waiting)

    def recent_batch_ids(self) -> list[tuple[str, int]]:
        """Return the ids of the batches of the last 60 minutes, with their ages in milliseconds."""
        return self._batch_ids.ages_ms()

    # --- expiring and deleting ---

    async def expire(self, policy: RetentionPolicy) -> DeletionResult:
        if self._paused or self._access.refusal():
            return DeletionResult()  # nothing expires in a folder that is only read
        self._reserve.keep()
        result = await self._run_maintenance(lambda: self._deleter.expire(policy, self._steady.now_ms()))
        self._count_expired(result.samples, result.spans)
        return result

    def _count_expired(self, samples: int, spans: int) -> None:
        self._telemetry.store_expired.inc(samples)
        self._telemetry.store_expired_spans.inc(spans)

    async def delete(self, selector: Selector) -> DeletionResult:
        if not selector.service and not selector.environment:
            raise ValueError("refusing to delete everything: name a service or an environment")
        if self._paused:
            raise BusyError(self._paused, retry_after_s=PAUSED_RETRY_S)
        service, environment = selector.service, selector.environment
        try:
            return await self._run_maintenance(lambda: self._deleter.delete(service, environment, self._clock.now_ms()))
        finally:
            self._commits.touched.add_any()

    def _quarantine(self, segment: Segment, reason: str) -> None:
        """Quarantine a damaged file that a query read: no later query reads it. Any thread."""
        known = self._snapshots.now.of_tier(segment.tier).get(segment.week)
        if known is None or known.path != segment.path:
            return  # removed by retention, or reported already
        self._snapshots.publish(lambda snapshot: snapshot.with_segments(replace(segment, parts=())))
        self._maintenance.submit(lambda: self._files.quarantine(segment.path, reason))

    async def _run_maintenance(self, job: Callable[[], T]) -> T:
        if not self._open:
            raise StoreUnavailable("the store is closed")
        self._access.check()
        return await asyncio.wrap_future(self._maintenance.submit(job))

    # --- state ---

    async def ping(self) -> None:
        if not self._open:
            raise StoreUnavailable("the store is closed")
        if self._commits.failing and not self._access.refusal():
            raise StoreUnavailable(self._commits.failing)

    def read_only(self) -> str:
        """Return why the data folder cannot be written although it is read, '' when it can."""
        return self._access.refusal() if self._open else ""

    def warnings(self) -> list[str]:
        """Return what is wrong although data is stored and read: failing maintenance, damage, a clock that jumped."""
        refusal = self._access.refusal()
        warnings = [refusal] if refusal else [self._seal_queue.failing, self._maintenance.failing]
        if self._files.quarantined:
            warnings.append(f"segments that cannot be read: {', '.join(self._files.quarantined[:WARNED_FILES_MAX])}")
        if self._steady.offset_s() * 1000 > JUMP_MS_MIN:
            warnings.append("the clock is far ahead of the data: nothing expires by age until it is believed")
        return [text for text in warnings if text]

    @property
    def damaged_rows(self) -> int:
        """Return how many rows of journal and segments could not be read."""
        return len(self._journal.damaged) + self._damage.rows

    @property
    def queued_nbytes(self) -> int:
        """Return the bytes of batches waiting to be committed."""
        return self._queued_nbytes

    @property
    def unsealed_nbytes(self) -> int:
        """Estimate the memory of what is committed and not sealed, in bytes."""
        return self._head.nbytes + sum(generation.nbytes for generation in self._snapshots.now.sealing_generations)

    def _register_gauges(self) -> None:
        register_gauges(
            self._telemetry,
            series=lambda: len(self._catalogue),
            series_overflowed=lambda: len(self._catalogue.limit.overflowed),
            series_nbytes=lambda: self._catalogue.limit.nbytes,
            head_samples=lambda: self._head.sample_count,
            head_spans=lambda: self._head.span_count,
            head_nbytes=lambda: self.unsealed_nbytes,
            generations_waiting=lambda: len(self._snapshots.now.sealing_generations),
            queued_nbytes=lambda: self._queued_nbytes,
            damaged_rows=lambda: self.damaged_rows,
            damaged_segments=lambda: len(self._files.quarantined),
            file_nbytes=self._file_nbytes,
            clock_offset_s=self._steady.offset_s,
        )

    def _file_nbytes(self, kind: str) -> int:
        return self._file_nbytes_of(self._snapshots.now)[kind]

    def _file_nbytes_of(self, snapshot: Snapshot) -> dict[str, int]:
        return file_nbytes(self.folder, snapshot)

    def _damaged_files(self) -> Sequence[str]:
        return self._files.quarantined

    def _now_ms(self) -> int:
        return self._steady.now_ms()

    def _note_query(self) -> None:
        self._maintenance.note_query()
