"""The maintenance thread: seals generations, merges small parts, deletes. It alone writes segment files.

It never holds up ingest or queries: files are written in short slices, a seal becomes visible in one exchange of the
snapshot, and rows that readers may still need are deleted once no reader pins them.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Final, TypeVar

import structlog

from vantage.core.clock import Clock
from vantage.core.errors import StoreUnavailable
from vantage.core.turns import Turns
from vantage.storage.embedded import malloc, thread_priority
from vantage.storage.embedded.maintain import merge
from vantage.storage.embedded.maintain.deletion import Deleter
from vantage.storage.embedded.maintain.merge import Merger, PartUnreadable
from vantage.storage.embedded.maintain.seal_queue import RETRY_S, SealQueue, StopFlag, Stopped
from vantage.storage.embedded.maintain.segment_files import SegmentFiles
from vantage.storage.embedded.thread_priority import lower_priority
from vantage.storage.embedded.write.commit import CommitThread
from vantage.storage.embedded.write.head import BLOCK_SAMPLES_MAX, Head
from vantage.storage.embedded.write.journal import Journal

IDLE_S: Final = 0.5
TRIM_EVERY_S: Final = 10.0  # between returns of the memory of queries and requests to the system
CALM_S: Final = 20.0  # the store is calm this long after it was opened, sealed or queried
T = TypeVar("T")

_log = structlog.get_logger("vantage.storage.maintenance")


class JobQueue:
    """Jobs for the maintenance thread. Any thread may put one."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def put(self, job: Callable[[], None]) -> None:
        self._jobs.put(job)

    def wake(self) -> None:
        """Let the thread look for what is due."""
        self._jobs.put(_do_nothing)

    def end(self) -> None:
        """Let the thread end."""
        self._jobs.put(None)

    def get(self, timeout_s: float) -> Callable[[], None] | None:
        """Return the next job, None at the end. After ``timeout_s`` it is a job that does nothing."""
        try:
            return self._jobs.get(timeout=timeout_s)
        except queue.Empty:
            return _do_nothing

    def run_all(self) -> None:
        """Run the jobs that wait, without waiting for more."""
        with suppress(queue.Empty):
            while True:
                if (job := self._jobs.get_nowait()) is not None:
                    job()


class MaintenanceWorker:
    """One thread. ``submit`` may be called from any other; a job runs between two other pieces of work."""

    def __init__(
        self,
        files: SegmentFiles,
        journal: Journal,
        commits: CommitThread,
        head: Head,
        clock: Clock,
        *,
        jobs: JobQueue,
        stop: StopFlag,
        seal_queue: SealQueue,
        merger: Merger,
        deleter: Deleter,
        fill_next: Callable[[], bool],
        turns: Turns,
        age_ms: Callable[[], int],
        refusal: Callable[[], str] = str,
    ) -> None:
        """``fill_next`` fills in a part that an earlier version wrote, and returns False when there is none; ``age_ms``
        returns the time that ages are counted from; ``refusal`` why the folder cannot be written, '' when
        it can."""
        self._fill_next = fill_next
        self._turns = turns
        self._age_ms = age_ms
        self._files = files
        self._journal = journal
        self._commits = commits
        self._head = head
        self._clock = clock
        self._jobs = jobs
        self._stop = stop
        self._seal_queue = seal_queue
        self._merger = merger
        self._deleter = deleter
        self._refusal = refusal
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._queried_s = clock.monotonic_s()  # when the last query began or ended
        self._trimmed_s = clock.monotonic_s()  # when memory was last given back
        self._shrunk_s: float | None = None  # the seal after which the journal gave back what it did not need
        self.failing = ""  # why the last round of maintenance failed; empty when it did not

    # --- from other threads ---

    def note_query(self) -> None:
        """Note that a query begins: merging then waits."""
        self._queried_s = self._clock.monotonic_s()

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="vantage-maintenance", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Run a job on the thread. Its future raises StoreUnavailable when the store closes or the disk fails."""
        done: Future[T] = Future()

        def work() -> None:
            try:
                if self._stop.is_set():
                    raise StoreUnavailable("the store is closed")
                done.set_result(job())
            except sqlite3.Error as error:
                done.set_exception(StoreUnavailable(f"segments cannot be written: {error}"))
            except BaseException as error:  # noqa: BLE001 - handed to the caller
                done.set_exception(error)

        self._jobs.put(work)
        if self._ended.is_set():  # no thread takes it any more
            self._jobs.run_all()
        return done

    def stop(self) -> None:
        """End the thread, dropping what it works on. Blocks until it has ended."""
        self._stop.set()
        self._jobs.end()
        if self._thread is not None:
            self._thread.join()

    # --- the thread ---

    def _run(self) -> None:
        lower_priority(thread_priority.WORK)
        try:
            self._work()
        finally:
            self._stop.set()
            self._ended.set()
            self._jobs.run_all()  # each of them fails: the store is closed

    def _work(self) -> None:
        while not self._stop.is_set():
            has_rows = self._seal_queue.has_sealed_rows and not self._refusal()
            job = self._jobs.get(0.0 if has_rows else IDLE_S)
            if job is None:
                break
            try:
                with self._turns.turn():
                    job()
                    self._run_due()
                self.failing = ""
            except Stopped:
                break
            except PartUnreadable:
                pass  # logged where it was read
            except (sqlite3.Error, OSError) as error:
                self.failing = f"segments cannot be merged or cleaned up: {error}"
                _log.error("maintenance failed, trying again", reason=str(error))
                self._stop.wait(RETRY_S)
            except Exception as error:  # noqa: BLE001 - whatever it is, sealing must go on
                self.failing = f"segments cannot be merged or cleaned up: {error}"
                _log.exception("maintenance failed, trying again")
                self._stop.wait(RETRY_S)

    def _run_due(self) -> None:
        """Do one step of everything that is due; in a folder that cannot be written only what changes no file."""
        now_s = self._clock.monotonic_s()
        used_s = max(self._queried_s, self._seal_queue.committed_s)
        if used_s > self._trimmed_s and now_s - self._trimmed_s >= TRIM_EVERY_S:
            self._trimmed_s = now_s
            malloc.trim()
        if self._refusal():
            self._roll_up_blocks()
            return
        self._seal_queue.close_old()
        self._seal_queue.seal_due()
        if self._seal_queue.has_sealed_rows:
            self._seal_queue.has_sealed_rows = self._commits.call(self._journal.delete_sealed)
            return
        self._roll_up_blocks()
        self._shrink_journal()
        with self._files.try_lock() as locked:
            if locked:
                self._deleter.finish_deletions()
                self._files.delete_unreferenced(self._seal_queue.yield_to_seal)
                self._files.expire_narrow(self._age_ms())
                if self._fill_next() or self._merge(self._parts_min()):
                    self._jobs.wake()  # there may be more

    def _merge(self, parts_min: int) -> bool:
        due = self._merger.due(parts_min)
        if due is None:
            return False
        with suppress(PartUnreadable):  # logged where it was read, and not tried again
            self._merger.merge(*due)
        malloc.trim()
        return True

    def _shrink_journal(self) -> None:
        """Give back a little of the space that sealed rows left, once seals are rare: until then the next commits will
        soon need it."""
        sealed_s = self._seal_queue.sealed_s
        if sealed_s == self._shrunk_s or self._clock.monotonic_s() - sealed_s < CALM_S:
            return
        if not self._commits.give_back():
            self._shrunk_s = sealed_s

    def merge_waiting(self) -> None:
        """Merge what a calm moment would merge. Does nothing while a backup copies the segments."""
        with self._files.try_lock() as locked:
            while locked and self._merge(merge.PARTS_MIN):
                self._files.delete_unreferenced(self._seal_queue.yield_to_seal)

    def _parts_min(self) -> int:
        """Return how many parts are worth merging now."""
        busy_s = max(self._queried_s, self._seal_queue.sealed_s)
        calm = self._clock.monotonic_s() - busy_s >= CALM_S
        return merge.PARTS_MIN if calm else merge.PARTS_MIN_BUSY

    def _roll_up_blocks(self) -> None:
        """Roll up full blocks of the head before a query has to wait for it."""
        for block in self._head.samples:
            if len(block) > BLOCK_SAMPLES_MAX // 2 and not block.is_rolled_up:
                _ = block.rollup_5m
                self._stop.check()


def _do_nothing() -> None:
    """Do nothing: the thread then looks for what is due."""
