"""The embedded TelemetryStore: journal and head behind the port."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import numpy as np
import structlog

from vantage.core.batch import BATCH_ID_MEMORY_MS, Batch
from vantage.core.clock import Clock
from vantage.core.errors import BusyError, StoreUnavailable
from vantage.storage.embedded.batch_ids import BatchIds
from vantage.storage.embedded.blocks import SpanBlock
from vantage.storage.embedded.catalogue import Catalogue
from vantage.storage.embedded.expire import expired_up_to
from vantage.storage.embedded.head import Head, HeadSource
from vantage.storage.embedded.journal import Journal
from vantage.storage.embedded.lock import FolderLock
from vantage.storage.embedded.writer import Writer
from vantage.storage.ports import (
    LinkedSample,
    Reclaimed,
    RetentionPolicy,
    Selector,
    SeriesInfo,
    ServiceSpans,
    Trace,
    TraceFilter,
    TraceSummary,
)
from vantage.storage.tracing import latest_traces, span_matches
from vantage.telemetry import Telemetry
from vantage.vql.check import CheckedSelect
from vantage.vql.execute import Deadline, execute
from vantage.vql.table import Table

QUERY_THREADS: Final = 2
QUERIES_WAITING_MAX: Final = 32
T = TypeVar("T")

_log = structlog.get_logger("vantage.storage.embedded")


class EmbeddedStore:
    """Keeps telemetry in ``folder``, which it locks: one process a folder.

    ``queue_nbytes_max`` bounds what waits for a commit, ``head_nbytes_max`` what is held in memory (``expire`` drops
    the oldest commits beyond it), ``series_max`` the catalogue (further series are kept as one, ``__other__``).
    ``page_count_max`` is SQLite's limit on the file, for tests of a full disk.
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
        page_count_max: int | None = None,
    ) -> None:
        self.folder = folder
        self._clock = clock
        self._telemetry = telemetry
        self._queue_nbytes_max = queue_nbytes_max
        self._head_nbytes_max = head_nbytes_max
        self._catalogue = Catalogue(series_max=series_max)
        self._head = Head()
        self._ids = BatchIds()
        self._journal = Journal(folder / "journal.db", synchronous=synchronous, page_count_max=page_count_max)
        self._writer = Writer(self._journal, self._catalogue, self._head, telemetry, clock)
        self._in_flight: dict[str, asyncio.Future[None]] = {}
        self._queued_nbytes = 0
        self._open = False
        self._lock = FolderLock(folder)
        self._threads: ThreadPoolExecutor | None = None
        self._queries = 0

    async def __aenter__(self) -> Self:
        """Lock the folder, replay the journal. Raises DataFolderInUse, FormatTooNew, StartupError."""
        self._lock.take()
        try:
            await self._writer.start(self._replay)
        except BaseException:
            self._lock.release()
            raise
        self._threads = ThreadPoolExecutor(QUERY_THREADS, thread_name_prefix="vantage-query")
        self._open = True
        self._watch()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        await self._writer.stop()
        if self._threads is not None:
            await asyncio.to_thread(self._threads.shutdown, wait=True, cancel_futures=True)
        self._lock.release()

    async def write(self, batch: Batch) -> bool:
        if not self._open:
            raise StoreUnavailable("the store is closed")
        batch_id = batch.batch_id
        if batch_id:
            while (under_way := self._in_flight.get(batch_id)) is not None:
                await asyncio.wait([under_way])
                if not under_way.cancelled() and under_way.exception() is None:
                    return False
            if self._ids.seen(batch_id, self._clock.now_ms()):
                return False
        if not batch.samples and not batch.spans:
            return True
        nbytes = batch.nbytes
        if self._queued_nbytes + nbytes > self._queue_nbytes_max:
            raise BusyError("the queue of batches waiting to be committed is full")
        self._queued_nbytes += nbytes
        done = self._writer.write(batch)
        if batch_id:
            self._in_flight[batch_id] = done
        done.add_done_callback(lambda done: self._settled(batch_id, nbytes, done))
        await asyncio.shield(done)  # a caller that goes away does not take the batch's outcome with it
        return True

    def _settled(self, batch_id: str, nbytes: int, done: asyncio.Future[None]) -> None:
        self._queued_nbytes -= nbytes
        failed = done.cancelled() or done.exception() is not None
        if batch_id:
            self._in_flight.pop(batch_id, None)
            if not failed:
                before = self._ids.evicted
                self._ids.add(batch_id, self._clock.now_ms())
                self._telemetry.batch_ids_evicted.inc(self._ids.evicted - before)

    async def select(self, query: CheckedSelect, *, deadline_s: float) -> Table:
        deadline = Deadline(deadline_s)
        return await self._in_thread(lambda: execute(query, self._source(), deadline))

    async def catalogue(self, *, service: str = "", metric: str = "") -> Sequence[SeriesInfo]:
        known = self._catalogue
        return [
            SeriesInfo(one, int(known.samples[slot]), int(known.first_ms[slot]), int(known.last_ms[slot]))
            for slot, one in enumerate(list(known.series))
            if one is not None
            and slot < len(known.samples)
            and known.samples[slot]
            and (not service or one.service == service)
            and (not metric or one.metric == metric)
        ]

    async def services_with_spans(self) -> Sequence[ServiceSpans]:
        return await self._in_thread(lambda: _services_with_spans(self._head.spans))

    async def trace(self, trace_id: str) -> Trace:
        spans = self._head.traces({trace_id}).get(trace_id, [])
        spans.sort(key=lambda span: (span.start_ns, span.span_id))
        series = self._catalogue.series
        samples = [
            LinkedSample(one, time_ms, value, trace_id, span_id)
            for slot, time_ms, value, span_id in self._head.trace_links(trace_id)
            if (one := series[slot]) is not None
        ]
        return Trace(trace_id, tuple(spans), tuple(sorted(samples, key=lambda sample: sample.time_ms)))

    async def traces(self, wanted: TraceFilter) -> Sequence[TraceSummary]:
        return await self._in_thread(lambda: self._traces(wanted))

    def _traces(self, wanted: TraceFilter) -> list[TraceSummary]:
        matches = span_matches(wanted)
        found = {
            span.trace_id: None for spans in self._head.span_lists(wanted.time_range) for span in spans if matches(span)
        }
        return latest_traces(self._head.traces(found.keys()), wanted)

    async def expire(self, policy: RetentionPolicy) -> Reclaimed:
        result: Reclaimed = await self._writer.run(lambda: self._expire(policy))
        self._telemetry.store_expired.inc(result.samples)
        self._telemetry.store_expired_spans.inc(result.spans)
        return result

    def _expire(self, policy: RetentionPolicy) -> Reclaimed:
        now_ms = self._clock.now_ms()
        cut = expired_up_to(
            self._head.ledger(),
            oldest_ms=None if policy.days is None else now_ms - policy.days * 86_400_000,
            head_excess=self._head.nbytes - self._head_nbytes_max,
            disk_share=0.0 if policy.budget_bytes is None else self._journal.share_beyond(policy.budget_bytes),
        )
        before = (self._head.sample_count, self._head.span_count)
        nbytes = self._journal.trim(seq_max=cut, ids_before_ms=now_ms - BATCH_ID_MEMORY_MS)
        if not cut:
            return Reclaimed()
        self._head.drop_commits(cut)
        self._recount()
        empty = [slot for slot, one in enumerate(self._catalogue.series) if one and not self._catalogue.samples[slot]]
        self._journal.drop_series(empty)
        self._catalogue.drop(empty)
        gone = before[0] - self._head.sample_count, before[1] - self._head.span_count
        return Reclaimed(*gone, len(empty), nbytes)

    async def forget(self, selector: Selector) -> Reclaimed:
        if not selector.service and not selector.environment:
            raise ValueError("forgetting everything is not offered: name a service or an environment")
        result: Reclaimed = await self._writer.run(lambda: self._forget(selector))
        return result

    def _forget(self, selector: Selector) -> Reclaimed:
        slots = self._catalogue.matching(service=selector.service, environment=selector.environment)
        self._journal.forget(
            service=selector.service, environment=selector.environment, slots=slots, at_ms=self._clock.now_ms()
        )
        before = (self._head.sample_count, self._head.span_count, self._head.nbytes)
        self._apply_forget(selector.service, selector.environment, slots)
        after = (self._head.sample_count, self._head.span_count, self._head.nbytes)
        return Reclaimed(before[0] - after[0], before[1] - after[1], len(slots), before[2] - after[2])

    def _apply_forget(self, service: str, environment: str, slots: list[int]) -> None:
        dropped = np.zeros(len(self._catalogue.series), np.bool_)
        dropped[slots] = True
        self._head.drop(
            dropped,
            lambda span: service in ("", span.service_name) and environment in ("", span.environment),
        )
        self._catalogue.drop(slots)

    async def ping(self) -> None:
        if not self._open:
            raise StoreUnavailable("the store is closed")
        if self._writer.failing:
            raise StoreUnavailable(self._writer.failing)

    @property
    def damaged_rows(self) -> int:
        """Journal rows that could not be read at start."""
        return len(self._journal.damaged)

    @property
    def queued_nbytes(self) -> int:
        """Bytes of batches waiting to be committed."""
        return self._queued_nbytes

    def _source(self) -> HeadSource:
        blocks = self._head.samples, self._head.spans  # before the series: every slot of a block is then known
        return HeadSource(list(self._catalogue.series), *blocks)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if not self._open or self._threads is None:
            raise StoreUnavailable("the store is closed")
        if self._queries >= QUERY_THREADS + QUERIES_WAITING_MAX:
            raise BusyError("too many queries are waiting")
        self._queries += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._queries -= 1

    def _replay(self) -> None:
        """Runs on the writer thread, before anything else can touch catalogue and head."""
        started = time.perf_counter()
        for slot, identity in self._journal.series():
            try:
                self._catalogue.load(slot, identity)
            except ValueError as error:
                _log.error("series unreadable, passed over", slot=slot, reason=str(error))
        # A slot without a series was forgotten, and so were its samples.
        size = (max((row for row in self._slots_used()), default=-1)) + 1
        self._catalogue.series.extend([None] * (size - len(self._catalogue.series)))
        self._catalogue.add([])
        for entry in self._journal.entries():
            if entry.forgets is not None:
                service, environment = entry.forgets
                self._apply_forget(service, environment, [])
            elif entry.record is not None:
                self._head.append(entry.seq, entry.record)
        gone = np.fromiter((one is None for one in self._catalogue.series), np.bool_, len(self._catalogue.series))
        if gone.any():
            self._head.drop(gone, lambda _: False)
        self._recount()
        for at_ms, ids in self._journal.batch_ids(self._clock.now_ms() - BATCH_ID_MEMORY_MS):
            for batch_id in ids:
                self._ids.add(batch_id, at_ms)
        _log.info(
            "journal replayed",
            samples=self._head.sample_count,
            spans=self._head.span_count,
            series=len(self._catalogue),
            damaged_rows=len(self._journal.damaged),
            took_s=round(time.perf_counter() - started, 3),
        )

    def _slots_used(self) -> Iterator[int]:
        for (highest,) in self._journal.db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'series'"):
            yield int(highest)

    def _recount(self) -> None:
        self._catalogue.reset_counts()
        for block in self._head.samples:
            self._catalogue.count(block.slot, block.time_ms)

    def _watch(self) -> None:
        watch = self._telemetry.watch
        watch("vantage_store_series", "Series in the catalogue.", lambda: len(self._catalogue))
        watch(
            "vantage_store_series_folded",
            "Series beyond series_max, kept as __other__ (counted up to 100000).",
            lambda: len(self._catalogue.folded),
        )
        watch("vantage_store_head_samples", "Samples in the head.", lambda: self._head.sample_count)
        watch("vantage_store_head_spans", "Spans in the head.", lambda: self._head.span_count)
        watch("vantage_store_head_bytes", "Memory of the head, estimated.", lambda: self._head.nbytes)
        watch("vantage_store_queued_bytes", "Batches waiting to be committed.", lambda: self._queued_nbytes)
        watch("vantage_store_damaged_rows", "Journal rows that could not be read.", lambda: self.damaged_rows)
        watch("vantage_store_journal_bytes", "Size of the journal and its log.", self._journal_nbytes)

    def _journal_nbytes(self) -> float:
        return float(sum(path.stat().st_size for path in self.folder.glob("journal.db*")))


def _services_with_spans(blocks: tuple[SpanBlock, ...]) -> list[ServiceSpans]:
    found: dict[tuple[str, str, str, str], tuple[int, int, int]] = {}
    for block in blocks:
        for key, (count, first_ms, last_ms) in block.services.items():
            held = found.get(key, (0, first_ms, last_ms))
            found[key] = (held[0] + count, min(held[1], first_ms), max(held[2], last_ms))
    return [ServiceSpans(*key, *held) for key, held in found.items()]
