"""Group commit: all waiting batches are inserted together, since an insert takes milliseconds whatever its size.

One thread inserts. Inserts begin at least ``PACE_S`` apart, since each creates parts that the engine must merge. A
single request after a pause does not wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog

from vantage.core.batch import BATCH_ID_MEMORY_MS, Batch
from vantage.core.errors import BusyError, InputError, StoreUnavailable, VantageError
from vantage.core.series import Series
from vantage.core.turns import wait_in_thread
from vantage.storage.clickhouse.batch_id_table import BatchId, BatchIdTable
from vantage.storage.clickhouse.commit import Commit, build_commit
from vantage.storage.clickhouse.engine import Engine
from vantage.storage.clickhouse.intent_log import IntentLog
from vantage.storage.clickhouse.series_registry import SeriesRegistry
from vantage.storage.clickhouse.series_table import SeriesTable
from vantage.storage.recent_batch_ids import RecentBatchIds
from vantage.storage.recent_spans import RecentSpans
from vantage.telemetry import Telemetry

PACE_S: Final = 0.05
COMMIT_BATCHES_MAX: Final = 512
COMMIT_ROWS_MAX: Final = 250_000
T = TypeVar("T")
Outcome = bool | VantageError

_log = structlog.get_logger("vantage.storage.clickhouse")


@dataclass(slots=True)
class _Write:
    batch: Batch
    done: asyncio.Future[bool]


class Writer:
    """Commits batches. Call ``write`` and ``run`` on the event loop."""

    def __init__(
        self,
        engine: Engine,
        intent: IntentLog | None,
        registry: SeriesRegistry,
        series: SeriesTable,
        ids: RecentBatchIds,
        id_table: BatchIdTable,
        *,
        telemetry: Telemetry,
        queue_nbytes_max: int,
    ) -> None:
        self._engine = engine
        self._intent = intent
        self._registry = registry
        self._series = series
        self._ids = ids
        self._id_table = id_table
        self._telemetry = telemetry
        self._queue_nbytes_max = queue_nbytes_max
        self._queue: asyncio.Queue[_Write] = asyncio.Queue()
        self._thread: ThreadPoolExecutor | None = None
        self._task: asyncio.Task[None] | None = None
        self._unfinished: Commit | None = None
        self.queued_nbytes = 0
        self.recent_spans = RecentSpans()
        self.failing = ""  # why the last commit failed; empty when it did not

    def start(self) -> None:
        """Start to commit."""
        self._thread = ThreadPoolExecutor(1, "vantage-insert")
        self._task = asyncio.create_task(self._commits(), name="vantage inserts")

    async def stop(self) -> None:
        """Commit the waiting batches, and stop. Nothing may be written meanwhile."""
        if self._task is None or self._thread is None:
            return
        await self._queue.join()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await wait_in_thread(self._thread.shutdown, wait=True)
        self._task = self._thread = None

    async def write(self, batch: Batch) -> bool:
        """Write as the port says; without an intent log nothing can be written. When the engine fails half-way the
        outcome is unknown: StoreUnavailable is raised, and the commit is finished before the next one, or when the
        store is opened again. A repeat with the same batch id then counts as a repeat."""
        if self._intent is None:
            raise StoreUnavailable("this process writes what comes from the broker, and nothing else")
        batch_id = batch.batch_id
        if batch_id and await self._ids.is_duplicate(batch_id):
            return False
        if not batch.samples and not batch.spans:
            return True
        nbytes = batch.nbytes
        if self.queued_nbytes + nbytes > self._queue_nbytes_max:
            raise BusyError("the queue of batches waiting to be inserted is full")
        self.queued_nbytes += nbytes
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if batch_id:
            self._ids.mark_in_flight(batch_id, done)
        done.add_done_callback(lambda done: self._on_settled(nbytes, done))
        self._queue.put_nowait(_Write(batch, done))
        return await asyncio.shield(done)  # a cancelled caller does not cancel the commit

    def _on_settled(self, nbytes: int, done: asyncio.Future[bool]) -> None:
        self.queued_nbytes -= nbytes
        if not done.cancelled():
            done.exception()  # retrieved, even if nobody waits any more

    async def run(self, job: Callable[[], T]) -> T:
        """Run ``job`` between two commits."""
        if self._thread is None:
            raise StoreUnavailable("the store is closed")

        def alone() -> T:
            self._finish()
            return job()

        return await asyncio.get_running_loop().run_in_executor(self._thread, alone)

    async def _commits(self) -> None:
        loop = asyncio.get_running_loop()
        began_s = 0.0
        while True:
            group = [await self._queue.get()]
            await asyncio.sleep(max(0.0, began_s + PACE_S - time.monotonic()))
            began_s = time.monotonic()
            rows = _rows(group[0])
            while len(group) < COMMIT_BATCHES_MAX and rows < COMMIT_ROWS_MAX and not self._queue.empty():
                group.append(self._queue.get_nowait())
                rows += _rows(group[-1])
            outcomes = await loop.run_in_executor(self._thread, self._outcomes, [write.batch for write in group])
            for write, outcome in zip(group, outcomes, strict=True):
                if isinstance(outcome, VantageError):
                    write.done.set_exception(outcome)
                else:
                    write.done.set_result(outcome)
                self._queue.task_done()

    def _outcomes(self, batches: Sequence[Batch]) -> list[Outcome]:
        started = time.perf_counter()
        try:
            outcomes = self._commit(batches)
            self.failing = ""
        except VantageError as error:
            self.failing = str(error)
            return [error] * len(batches)
        except Exception as error:  # noqa: BLE001 - the callers must get any error
            _log.exception("a commit failed")
            self.failing = str(error)
            return [StoreUnavailable(f"the batch could not be stored: {error}")] * len(batches)
        self._telemetry.write_duration.observe(time.perf_counter() - started)
        self._telemetry.commit_batches.observe(len(batches))
        self._telemetry.message_processed(len(batches))
        return outcomes

    def _commit(self, batches: Sequence[Batch]) -> list[Outcome]:
        self._finish()
        now_ms = self._ids.now_ms()
        self._series.known(series.id for batch in batches for series in batch.series)
        stored = self._stored_elsewhere([batch.batch_id for batch in batches if batch.batch_id], now_ms)
        fresh: dict[int, Series] = {}
        accepted: list[tuple[Batch, Sequence[Series]]] = []
        outcomes: list[Outcome] = []
        for batch in batches:
            # An unfinished commit may have contained it.
            if batch.batch_id and (batch.batch_id in stored or self._ids.seen(batch.batch_id)):
                outcomes.append(False)
                continue
            try:
                accepted.append((batch, self._registry.resolve(batch.series, fresh)))
            except ValueError as error:
                outcomes.append(InputError(str(error)))
                continue
            outcomes.append(True)
        if accepted:
            commit = self._encode(accepted, list(fresh.values()), now_ms)
            if self._intent is not None:
                self._intent.write(commit.inserts)
            self._unfinished = commit
            self._finish()
        return outcomes

    def _stored_elsewhere(self, ids: Sequence[str], now_ms: int) -> set[str]:
        """Return the ids that another process has stored."""
        unknown = [batch_id for batch_id in ids if not self._ids.seen(batch_id)] if self._engine.shared else []
        return self._id_table.stored(unknown, since_ms=now_ms - BATCH_ID_MEMORY_MS) if unknown else set()

    def _encode(
        self, accepted: Sequence[tuple[Batch, Sequence[Series]]], fresh: Sequence[Series], now_ms: int
    ) -> Commit:
        sent = [span for batch, _ in accepted for span in batch.spans]
        spans = self.recent_spans.unseen(sent)
        self._telemetry.spans_repeated.inc(len(sent) - len(spans))
        return build_commit(
            self._engine,
            accepted,
            fresh=fresh,
            spans=spans,
            ids=[BatchId(batch.batch_id, now_ms) for batch, _ in accepted if batch.batch_id],
            at_ms=now_ms,
            token=secrets.token_hex(12),
        )

    def _finish(self) -> None:
        """Insert the unfinished commit, if there is one. Raises StoreUnavailable, and then it stays unfinished."""
        commit = self._unfinished
        if commit is None:
            return
        for insert in commit.inserts:
            self._engine.insert(insert)
        self._unfinished = None
        if self._intent is not None:
            self._intent.remove()
        self._registry.add(commit.series)
        before = self._ids.evicted
        for item in commit.ids:
            self._ids.add(item.batch_id, item.at_ms)
        self.recent_spans.remember(commit.spans)
        self._telemetry.batch_ids_evicted.inc(self._ids.evicted - before)


def _rows(write: _Write) -> int:
    return write.batch.samples + len(write.batch.spans)
