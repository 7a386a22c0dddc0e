"""The upkeep thread: seals generations, merges small parts, lets data go. It alone writes segment files.

Nothing here is in the way of ingest or of queries: files are written in short slices, a seal becomes visible by one
exchange of the view, and what readers may still look at is deleted when they have gone.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from typing import Final, TypeVar

import structlog

from vantage.core.clock import Clock
from vantage.core.errors import StoreUnavailable
from vantage.storage.embedded import malloc, thread_priority
from vantage.storage.embedded.format.segment import Part, Segment
from vantage.storage.embedded.maintain import merge
from vantage.storage.embedded.maintain.merge import Merger, PartUnreadable
from vantage.storage.embedded.maintain.retention import Retention
from vantage.storage.embedded.maintain.seal import Sealer
from vantage.storage.embedded.maintain.segment_files import SegmentFiles
from vantage.storage.embedded.read.snapshot import Generation, Snapshot
from vantage.storage.embedded.thread_priority import lower_priority
from vantage.storage.embedded.write.catalogue import Catalogue
from vantage.storage.embedded.write.commit import CommitThread
from vantage.storage.embedded.write.head import BLOCK_SAMPLES_MAX, Head
from vantage.storage.embedded.write.journal import Journal

RETRY_S: Final = 5.0
IDLE_S: Final = 0.5
CALM_S: Final = 20.0  # so long after it was opened, sealed or asked the store is not busy
GENERATION_SAMPLES_MAX: Final = 1_000_000
GENERATION_NBYTES_MAX: Final = 128 << 20
GENERATION_AGE_MS_MAX: Final = 2 * 3_600_000
T = TypeVar("T")

_log = structlog.get_logger("vantage.storage.upkeep")


class _Stopped(Exception):
    """The store is closing: leave what is half done, the journal still has it."""


class MaintenanceWorker:
    """One thread. ``run`` may be called from any other; what it is given runs between two other things."""

    def __init__(
        self,
        files: SegmentFiles,
        journal: Journal,
        commits: CommitThread,
        catalogue: Catalogue,
        head: Head,
        clock: Clock,
        expired: Callable[[int, int], None],
        *,
        generation_samples_max: int = GENERATION_SAMPLES_MAX,
        generation_nbytes_max: int = GENERATION_NBYTES_MAX,
    ) -> None:
        self._files = files
        self._journal = journal
        self._commits = commits
        self._catalogue = catalogue
        self._head = head
        self._clock = clock
        self._expired = expired
        self._samples_max = generation_samples_max
        self._nbytes_max = generation_nbytes_max
        self._opened_ms: int | None = None  # when the head took its first commit
        self._last_seq = 0
        self._numbers = 0
        self.finish_forgetting: Callable[[], None] = _wake  # what a backup put off
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._sealing = False
        self._trimming = False
        self._retry_at_s = 0.0
        self._busy_s = clock.monotonic_s()  # when it was opened, sealed or asked last
        self.failing = ""  # why the last seal failed; empty when it did not
        self.sealer = Sealer(files, catalogue, self._check_stopped)
        self.merger = Merger(files, catalogue, identities=self.sealer.identities, on_slice=self._yield_to_seal)
        self.retention = Retention(files, catalogue, self.merger)

    # --- on the writer thread ---

    def start_after_replay(self, *, generation: int, last_seq: int) -> None:
        """Where replay ended."""
        self._numbers, self._last_seq = generation, last_seq

    def on_commit(self, seq: int) -> None:
        """A commit is in the head. Closes the generation when it is large enough."""
        self._last_seq = seq
        if self._opened_ms is None:
            self._opened_ms = self._clock.now_ms()
        if self._head.sample_count >= self._samples_max or self._head.nbytes >= self._nbytes_max:
            self.close_generation()

    def close_generation(self) -> None:
        """What the head holds waits to be sealed from now on, and the head is empty."""
        head = self._head
        self._opened_ms = None
        if not head.samples and not head.spans:
            return
        self._numbers += 1
        generation = Generation(
            self._numbers, self._last_seq, head.samples, head.spans, head.nbytes, head.sample_count, head.span_count
        )

        def move(view: Snapshot) -> Snapshot:
            head.replace((), ())
            return replace(view, sealing_generations=(*view.sealing_generations, generation))

        self._files.views.publish(move)
        self._jobs.put(_wake)

    # --- from outside ---

    def note_query(self) -> None:
        """A query begins: what can wait shall not be in its way."""
        self._busy_s = self._clock.monotonic_s()

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="vantage-upkeep", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Have something done by the thread."""
        done: Future[T] = Future()

        def work() -> None:
            try:
                if self._stopping.is_set():
                    raise StoreUnavailable("the store is closed")
                done.set_result(job())
            except sqlite3.Error as error:
                done.set_exception(StoreUnavailable(f"segments cannot be written: {error}"))
            except BaseException as error:  # noqa: BLE001 - handed to whoever waits
                done.set_exception(error)

        self._jobs.put(work)
        if self._ended.is_set():  # nobody takes it any more
            self._refuse_waiting()
        return done

    def stop(self) -> None:
        """End the thread; what it is at is given up. Blocks until it has ended."""
        self._stopping.set()
        self._jobs.put(None)
        if self._thread is not None:
            self._thread.join()

    # --- the thread ---

    def _refuse_waiting(self) -> None:
        """Tell those whose jobs were not begun."""
        with suppress(queue.Empty):
            while True:
                if (job := self._jobs.get_nowait()) is not None:
                    job()

    def _run(self) -> None:
        lower_priority(thread_priority.MAINTENANCE)
        try:
            self._work()
        finally:
            self._stopping.set()
            self._ended.set()
            self._refuse_waiting()

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                job = self._jobs.get(timeout=0.0 if self._trimming else IDLE_S)
            except queue.Empty:
                job = _wake
            if job is None:
                break
            try:
                job()
                self._run_due()
            except _Stopped:
                break
            except PartUnreadable:
                pass  # told already
            except (sqlite3.Error, OSError) as error:
                _log.error("upkeep failed, trying again", reason=str(error))
                self._stopping.wait(RETRY_S)
            except Exception:  # noqa: BLE001 - whatever it is, sealing must go on
                _log.exception("upkeep failed, trying again")
                self._stopping.wait(RETRY_S)

    def _run_due(self) -> None:
        """One step of everything that is due."""
        self._close_old()
        if self._clock.monotonic_s() >= self._retry_at_s:
            self.seal_waiting()
        if self._trimming:
            self._trimming = self._commits.call(self._journal.delete_sealed)
            return
        self._roll_blocks()
        with self._files.try_lock() as held:
            if held:
                self.finish_forgetting()
                self._files.delete_unreferenced(self._yield_to_seal)
                if self._merge(self._merge_from()):
                    self._jobs.put(_wake)  # there may be more

    def _merge(self, parts_min: int) -> bool:
        due = self.merger.due(parts_min)
        if due is None:
            return False
        with suppress(PartUnreadable):  # told already, and not tried again
            self.merger.merge(*due)
        malloc.trim()
        return True

    def merge_waiting(self) -> None:
        """Merge whatever a calm moment would merge. Nothing while segments are copied."""
        with self._files.try_lock() as held:
            while held and self._merge(merge.PARTS_MIN):
                self._files.delete_unreferenced(self._yield_to_seal)

    def _merge_from(self) -> int:
        """How many parts are worth merging just now."""
        calm = self._clock.monotonic_s() - self._busy_s >= CALM_S
        return merge.PARTS_MIN if calm else merge.PARTS_MIN_BUSY

    def _close_old(self) -> None:
        opened_ms = self._opened_ms
        if opened_ms is not None and self._clock.now_ms() - opened_ms >= GENERATION_AGE_MS_MAX:
            self._commits.call(self.close_generation)

    def seal_waiting(self) -> None:
        """Seal every generation that waits, the oldest first."""
        while self._files.views.now.sealing_generations and not self._sealing:
            with self._files.try_lock() as held:
                if not held:
                    return
                self._sealing = True
                try:
                    self._seal(self._files.views.now.sealing_generations[0])
                    self.failing = ""
                except _Stopped:
                    raise
                except Exception as error:  # noqa: BLE001 - whatever it is, ingest and queries go on
                    # The journal keeps everything; what was written in part is swept with the next attempt.
                    self.failing = f"generations cannot be sealed: {error}"
                    self._retry_at_s = self._clock.monotonic_s() + RETRY_S
                    _log.error("sealing failed, trying again", reason=str(error), exc_info=_is_bug(error))
                    return
                finally:
                    self._sealing = False

    def _seal(self, generation: Generation) -> None:
        written = self.sealer.write(generation)
        self._commits.call(lambda: self._journal.seal(seq_max=generation.seq_max, generation=generation.number))

        def swap(view: Snapshot) -> Snapshot:
            changed: list[Segment] = []
            for segment, part in written:
                known = view.of_tier(segment.tier).get(segment.week)
                parts: tuple[Part, ...] = known.parts if known else ()
                changed.append(replace(segment, parts=(*parts, part)))
            left = tuple(one for one in view.sealing_generations if one.number != generation.number)
            return replace(view.with_segments(*changed), sealing_generations=left)

        self._files.views.publish(swap)
        self._trimming = True
        self._busy_s = self._clock.monotonic_s()
        samples, spans = (sum(getattr(part, name) for _, part in written) for name in ("samples", "spans"))
        self._expired(generation.sample_count - samples, generation.span_count - spans)
        malloc.trim()

    def _roll_blocks(self) -> None:
        """Sum up full blocks of the head before a query has to wait for it."""
        for block in self._head.samples:
            if len(block) > BLOCK_SAMPLES_MAX // 2 and not block.is_rolled_up:
                _ = block.rollup_5m
                self._check_stopped()

    def _check_stopped(self) -> None:
        if self._stopping.is_set():
            raise _Stopped

    def _yield_to_seal(self) -> None:
        """Between two slices of something long: sealing comes first."""
        self._check_stopped()
        self.seal_waiting()


def _is_bug(error: Exception) -> bool:
    """A fault of the code, of which the log should tell the place; not one of the disk."""
    return not isinstance(error, sqlite3.Error | OSError)


def _wake() -> None:
    """A job that only wakes the thread."""
