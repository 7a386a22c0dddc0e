"""The commit thread: group commit, and whatever else changes the journal and the head.

There is no timer. The thread takes everything queued since its last commit, writes it as one journal row in one
transaction, publishes it to readers, and wakes every waiting request with one call into the event loop. A lone request
waits for one commit; a flood shares one.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
import structlog

from vantage.core.batch import Batch
from vantage.core.errors import StartupError, StoreUnavailable, VantageError
from vantage.core.record import Record
from vantage.core.sample_columns import SampleColumns
from vantage.core.series import Series
from vantage.core.span import spans_nbytes
from vantage.core.turns import wait_in_thread
from vantage.storage.embedded.write.catalogue import Catalogue
from vantage.storage.embedded.write.head import Head
from vantage.storage.embedded.write.journal import Journal, connect
from vantage.storage.embedded.write.touched import TouchedMinutes
from vantage.storage.recent_spans import RecentSpans
from vantage.telemetry import Telemetry

# From the first size on the other thread copies the log into the file: a little and often, for commits wait while the
# disk takes it. From the second on the writer itself finishes the copying, between two commits.
WAL_NBYTES_CHECKPOINT: Final = 1 << 20
WAL_NBYTES_MAX: Final = 256 << 20
CHECKPOINT_EVERY_S: Final = 0.1
CHECKPOINT_RETRY_S: Final = 5.0
COMMIT_BATCHES_MAX: Final = 512

T = TypeVar("T")

_log = structlog.get_logger("vantage.storage.writer")


@dataclass(slots=True)
class _Write:
    batch: Batch
    done: asyncio.Future[None]


@dataclass(slots=True)
class _Job:
    run: Callable[[], Any]
    done: asyncio.Future[Any] | None  # None: no caller waits


class CommitThread:
    """Owns the journal; changes catalogue and head.

    ``batch_time_ms`` returns the time that batch ids are aged by.

    ``write`` and ``run`` are called on the event loop. ``committed`` is called on the commit thread after each commit
    that is visible, with its number. ``refusal`` returns why the folder cannot be written, '' when it can.
    """

    def __init__(
        self,
        journal: Journal,
        catalogue: Catalogue,
        head: Head,
        telemetry: Telemetry,
        batch_time_ms: Callable[[], int],
        committed: Callable[[int], None],
        refusal: Callable[[], str] = str,
    ) -> None:
        self._committed = committed
        self._refusal = refusal
        self._journal = journal
        self._catalogue = catalogue
        self._head = head
        self._telemetry = telemetry
        self._batch_time_ms = batch_time_ms
        self._queue: queue.SimpleQueue[_Write | _Job | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self.recent_spans = RecentSpans()
        self.touched = TouchedMinutes()
        self._checkpoint_wanted = False
        self.failing = ""  # why the last commit failed; empty when it did not, and while the folder is read-only
        self._logged = ""  # the failure that the log has

    def start(self, prepare: Callable[[], None]) -> asyncio.Future[None]:
        """Start the threads and return once ``prepare`` (open, replay) has run on the commit thread."""
        self._loop = asyncio.get_running_loop()
        prepared: asyncio.Future[None] = self._loop.create_future()
        self._threads = [
            threading.Thread(target=self._run, args=(prepare, prepared), name="vantage-writer", daemon=True),
            threading.Thread(target=self._checkpoint, name="vantage-checkpoint", daemon=True),
        ]
        self._threads[0].start()
        return prepared

    def write(self, batch: Batch) -> asyncio.Future[None]:
        """Queue a batch; the future is done when it is durable and visible."""
        assert self._loop is not None
        done: asyncio.Future[None] = self._loop.create_future()
        self._queue.put(_Write(batch, done))
        return done

    def run(self, job: Callable[[], Any]) -> asyncio.Future[Any]:
        """Run a function between two commits, on the commit thread."""
        assert self._loop is not None
        done: asyncio.Future[Any] = self._loop.create_future()
        self._queue.put(_Job(job, done))
        return done

    def call(self, job: Callable[[], T]) -> T:
        """Run a function between two commits and wait for it; from any thread but the commit thread and the event loop.

        Raises what it raises.
        """
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(job())
            except BaseException as error:  # noqa: BLE001 - re-raised in the caller
                done.set_exception(error)

        self._queue.put(_Job(run, None))
        return done.result()

    def give_back(self) -> bool:
        """Return a piece of the journal's free space to the disk; returns whether there is more. For the maintenance
        thread. Raises sqlite3.Error."""
        more = self.call(self._journal.give_back)
        self._checkpoint_wanted = self._checkpoint_wanted or not more
        return more

    async def stop(self) -> None:
        """Commit what is queued, checkpoint the log, end the threads."""
        self._queue.put(None)
        self._stop.set()
        for thread in self._threads:
            if thread.ident is not None:
                await wait_in_thread(thread.join)

    def _run(self, prepare: Callable[[], None], prepared: asyncio.Future[None]) -> None:
        try:
            self._journal.open()
            prepare()
        except BaseException as error:  # noqa: BLE001 - re-raised in the caller
            self._journal.close()
            if isinstance(error, sqlite3.Error):
                error = StartupError(
                    f"{self._journal.path} is damaged ({error}): move it aside, or restore a copy of the folder"
                )
            self._wake([(prepared, None, error)])
            return
        if self._journal.unwritable:
            self._logged = self._reason(self._journal.unwritable)
            self.failing = "" if self._refusal() else self._logged
        self._threads[1].start()
        self._wake([(prepared, None, None)])
        try:
            while self._drain_queue():
                pass
            if not self._refusal() and not self._journal.unwritable:
                self._passive_checkpoint(self._journal.db)
        finally:
            self._journal.close()

    def _drain_queue(self) -> bool:
        """Process everything queued so far; False when the end was requested."""
        first = self._queue.get()
        writes: list[_Write] = []
        entry: _Write | _Job | None = first
        while True:
            if isinstance(entry, _Write):
                writes.append(entry)
            else:
                self._commit(writes)
                writes = []
                if entry is None:
                    return False
                self._run_job(entry)
            if len(writes) >= COMMIT_BATCHES_MAX:
                break
            try:
                entry = self._queue.get_nowait()
            except queue.Empty:
                break
        self._commit(writes)
        return True

    def _run_job(self, job: _Job) -> None:
        try:
            self._wake([(job.done, job.run(), None)])
        except sqlite3.Error as error:
            self._wake([(job.done, None, StoreUnavailable(self._reason(error)))])
        except BaseException as error:  # noqa: BLE001 - re-raised in the caller
            self._wake([(job.done, None, error)])

    def _commit(self, writes: list[_Write]) -> None:
        if not writes:
            return
        started = time.perf_counter()
        fresh: dict[int, tuple[int, Series]] = {}
        try:
            record = self._record([entry.batch for entry in writes], fresh)
            at_ms = self._batch_time_ms()
            seq = self._journal.commit(
                record,
                at_ms=at_ms,
                new_series=[(slot, series.canonical()) for slot, series in fresh.values()],
                batch_ids=[entry.batch.batch_id for entry in writes if entry.batch.batch_id],
            )
        except BaseException as error:  # noqa: BLE001 - re-raised in the caller
            self._failed(writes, error)
            return
        self._catalogue.add(list(fresh.values()))
        self._catalogue.count(record.samples.slot, record.samples.time_ms)
        self._head.append(record)
        self.touched.add(record)
        self.recent_spans.remember(record.spans)
        self._committed(seq)
        self.failing = self._logged = ""
        self._wake([(entry.done, None, None) for entry in writes])
        self._telemetry.write_duration.observe(time.perf_counter() - started)
        self._telemetry.commit_batches.observe(len(writes))
        self._telemetry.message_processed(len(writes))

    def _record(self, batches: list[Batch], fresh: dict[int, tuple[int, Series]]) -> Record:
        parts = []
        for batch in batches:
            slots = self._catalogue.slots_of(batch.series, fresh)
            slot = slots[batch.index] if len(slots) else np.empty(0, np.uint32)
            parts.append(SampleColumns(slot, batch.time_ms, batch.value, batch.exemplars))
        sent = [span for batch in batches for span in batch.spans]
        spans = self.recent_spans.unseen(sent) if sent else ()
        self._telemetry.spans_repeated.inc(len(sent) - len(spans))
        nbytes = sum(batch.spans_nbytes for batch in batches)
        return Record(self._head.stage(parts), spans, nbytes if len(spans) == len(sent) else spans_nbytes(spans))

    def _failed(self, writes: list[_Write], error: BaseException) -> None:
        """Report a failed commit, of which nothing is stored.

        One batch at a time is tried again when the fault may lie in a single one of them.
        """
        if isinstance(error, sqlite3.Error):
            reason = self._reason(error)
            if reason != self._logged:
                _log.error("commit failed", reason=reason, batches=len(writes))
            self._logged = reason
            self.failing = "" if self._refusal() else reason
            self._wake([(entry.done, None, StoreUnavailable(reason)) for entry in writes])
        elif len(writes) > 1:
            for entry in writes:
                self._commit([entry])
        else:
            _log.error("batch could not be kept", exc_info=error)
            wrapped = (
                error if isinstance(error, VantageError) else StoreUnavailable(f"the batch cannot be kept: {error}")
            )
            self._wake([(writes[0].done, None, wrapped)])

    def _reason(self, error: object) -> str:
        return self._refusal() or f"the journal cannot be written: {error}"

    def _wake(self, results: list[tuple[asyncio.Future[Any] | None, Any, BaseException | None]]) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(_settle, results)

    def _wal_nbytes(self) -> int:
        try:
            return self._journal.path.with_name(self._journal.path.name + "-wal").stat().st_size
        except OSError:
            return 0

    def _checkpoint(self) -> None:
        """Copy the write-ahead log into the file, in its own thread and on its own connection."""
        db: sqlite3.Connection | None = None
        failed = False
        while not self._stop.wait(CHECKPOINT_RETRY_S if failed else CHECKPOINT_EVERY_S):
            size = self._wal_nbytes()
            if (size < WAL_NBYTES_CHECKPOINT and not self._checkpoint_wanted) or self._refusal():
                continue
            self._checkpoint_wanted = False
            try:
                db = db or connect(self._journal.path, synchronous="NORMAL")
                db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                failed = False
                if size > WAL_NBYTES_MAX:
                    # Commits kept coming while this thread copied. The writer copies the little that is left, and the
                    # next commit begins the log from its start.
                    self._queue.put(_Job(lambda: self._passive_checkpoint(self._journal.db), None))
            except sqlite3.Error as error:
                if not failed:  # on a full disk each of many attempts fails alike
                    _log.warning("checkpoint failed, trying again", reason=str(error))
                failed = True
        if db is not None:
            db.close()

    @staticmethod
    def _passive_checkpoint(db: sqlite3.Connection) -> None:
        try:
            db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as error:
            _log.warning("checkpoint failed", reason=str(error))


def _settle(results: list[tuple[asyncio.Future[Any] | None, Any, BaseException | None]]) -> None:
    for future, result, error in results:
        if future is None or future.cancelled():
            continue
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)
