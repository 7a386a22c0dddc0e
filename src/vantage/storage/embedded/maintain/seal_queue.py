"""The generations of the head: when one closes, and how those that wait are sealed, the oldest first."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import structlog

from vantage.core.clock import Clock
from vantage.core.turns import Turns
from vantage.storage.embedded import malloc
from vantage.storage.embedded.format.segment import Part, Segment
from vantage.storage.embedded.maintain.seal import Sealer
from vantage.storage.embedded.maintain.segment_files import SegmentFiles
from vantage.storage.embedded.read.snapshot import Generation, Snapshot
from vantage.storage.embedded.write.commit import CommitThread
from vantage.storage.embedded.write.head import Head
from vantage.storage.embedded.write.journal import Journal

RETRY_S: Final = 5.0
GENERATION_SAMPLES_MAX: Final = 1_000_000
GENERATION_NBYTES_MAX: Final = 128 << 20
GENERATION_AGE_S_MAX: Final = 2 * 3600.0
REPLAY_NBYTES_MAX: Final = 32 << 20  # of generations that wait while the journal is replayed

_log = structlog.get_logger("vantage.storage.seal")


class Stopped(Exception):
    """The store is closing: what is half done is dropped, the journal still has it."""


class StopFlag:
    """Set when the store closes; long work calls ``check`` between its pieces."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float) -> None:
        """Wait until the flag is set, ``seconds`` at most."""
        self._event.wait(seconds)

    def check(self) -> None:
        """Raise Stopped once the flag is set."""
        if self._event.is_set():
            raise Stopped


class SealQueue:
    """Generations are closed on the commit thread and sealed on the maintenance thread.

    ``on_closed`` is called when a generation begins to wait, ``on_expired`` with the samples and spans that a seal left
    out because they had expired.
    """

    def __init__(
        self,
        files: SegmentFiles,
        journal: Journal,
        commits: CommitThread,
        head: Head,
        clock: Clock,
        sealer: Sealer,
        stop: StopFlag,
        *,
        on_closed: Callable[[], None],
        on_expired: Callable[[int, int], None],
        turns: Turns,
        samples_max: int = GENERATION_SAMPLES_MAX,
        nbytes_max: int = GENERATION_NBYTES_MAX,
    ) -> None:
        self._files = files
        self._journal = journal
        self._commits = commits
        self._head = head
        self._clock = clock
        self._sealer = sealer
        self._stop = stop
        self._on_closed = on_closed
        self._on_expired = on_expired
        self._turns = turns
        self._samples_max = samples_max
        self._nbytes_max = nbytes_max
        self._opened_s: float | None = None  # when the head got its first commit
        self._last_seq = 0
        self._last_number = 0
        self._sealing = False
        self._retry_at_s = 0.0
        self.committed_s = clock.monotonic_s()  # when the last commit was
        self.sealed_s = clock.monotonic_s()  # when the last seal ended
        self.has_sealed_rows = False  # the journal has rows that segments hold too
        self.failing = ""  # why the last seal failed; empty when it did not

    # --- on the commit thread ---

    def start_after_replay(self, *, generation: int, last_seq: int) -> None:
        """Continue numbering where the journal and the segments end."""
        self._last_number, self._last_seq = generation, last_seq

    def on_commit(self, seq: int) -> None:
        """Note a commit that is in the head, and close the generation when it is large enough."""
        self._last_seq = seq
        self.committed_s = self._clock.monotonic_s()
        if self._opened_s is None:
            self._opened_s = self.committed_s
        if self._head.sample_count >= self._samples_max or self._head.nbytes >= self._nbytes_max:
            self.close_generation()

    def close_generation(self) -> None:
        """Move what the head holds into a generation that waits to be sealed."""
        head = self._head
        self._opened_s = None
        if not head.samples and not head.spans:
            return
        self._last_number += 1
        generation = Generation(
            self._last_number, self._last_seq, head.samples, head.spans, head.nbytes, head.sample_count, head.span_count
        )

        def move(snapshot: Snapshot) -> Snapshot:
            head.replace((), ())
            return replace(snapshot, sealing_generations=(*snapshot.sealing_generations, generation))

        self._files.snapshots.publish(move)
        self._on_closed()

    def seal_in_replay(self) -> None:
        """Seal what waits, if that takes much memory: a restart needs no more of it than a process that keeps up.
        Before other threads run."""
        waiting = self._files.snapshots.now.sealing_generations
        if sum(generation.nbytes for generation in waiting) < REPLAY_NBYTES_MAX:
            return
        with self._files.try_lock() as locked:
            if not locked or self._clock.monotonic_s() < self._retry_at_s:
                return
            while self._files.snapshots.now.sealing_generations and self._seal_next(lambda job: job()):
                pass

    # --- on the maintenance thread ---

    def close_old(self) -> None:
        """Close the generation when it is two hours old."""
        opened_s = self._opened_s
        if opened_s is not None and self._clock.monotonic_s() - opened_s >= GENERATION_AGE_S_MAX:
            self._commits.call(self.close_generation)

    def seal_due(self) -> None:
        """Seal what waits, unless a failed attempt is too recent."""
        if self._clock.monotonic_s() >= self._retry_at_s:
            self.seal_waiting()

    def seal_waiting(self) -> None:
        """Seal every generation that waits. Raises Stopped; other failures are logged and kept in ``failing``."""
        while self._files.snapshots.now.sealing_generations and not self._sealing:
            with self._files.try_lock() as locked:
                if not locked or not self._seal_next(self._commits.call):
                    return

    def _seal_next(self, on_commit_thread: Callable[[Callable[[], None]], None]) -> bool:
        """Seal the oldest generation that waits; returns whether that worked. Raises Stopped."""
        self._sealing = True
        try:
            self._seal(self._files.snapshots.now.sealing_generations[0], on_commit_thread)
            self.failing = ""
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, ingest and queries go on
            # The journal still has everything; rows written so far are swept by the next attempt.
            before, self.failing = self.failing, f"generations cannot be sealed: {error}"
            self._retry_at_s = self._clock.monotonic_s() + RETRY_S
            if self.failing != before:  # the same every few seconds says nothing new
                _log.error("sealing failed, trying again", reason=str(error), exc_info=_is_bug(error))
            return False
        finally:
            self._sealing = False
        return True

    def _seal(self, generation: Generation, on_commit_thread: Callable[[Callable[[], None]], None]) -> None:
        written = self._sealer.write(generation)
        on_commit_thread(lambda: self._journal.seal(seq_max=generation.seq_max, generation=generation.number))

        def swap(snapshot: Snapshot) -> Snapshot:
            changed: list[Segment] = []
            for segment, part in written:
                known = snapshot.of_tier(segment.tier).get(segment.week)
                parts: tuple[Part, ...] = known.parts if known else ()
                changed.append(replace(segment, parts=(*parts, part)))
            waiting = tuple(other for other in snapshot.sealing_generations if other.number != generation.number)
            return replace(snapshot.with_segments(*changed), sealing_generations=waiting)

        self._files.snapshots.publish(swap)
        self.has_sealed_rows = True
        self.sealed_s = self._clock.monotonic_s()
        samples, spans = sum(part.samples for _, part in written), sum(part.spans for _, part in written)
        self._on_expired(generation.sample_count - samples, generation.span_count - spans)
        malloc.trim()

    def yield_to_seal(self) -> None:
        """Between two slices of other work: seal first what waits. Raises Stopped."""
        self._stop.check()
        self._turns.pass_on()
        self.seal_waiting()


def _is_bug(error: Exception) -> bool:
    """Return whether the code is at fault, not the disk: the log then shows where."""
    return not isinstance(error, sqlite3.Error | OSError)
