"""The segment files of a data folder: they are created, changed and deleted here and nowhere else."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog

from vantage.core.errors import StartupError
from vantage.core.red import KEPT_MS
from vantage.core.rollup import HOUR_MS
from vantage.storage.embedded.format.chunk import ChunkCodec, checksum
from vantage.storage.embedded.format.part_stats import PartStats, read_part_stats
from vantage.storage.embedded.format.part_writer import read_identities
from vantage.storage.embedded.format.segment import (
    DAMAGED,
    FORMAT,
    ROLLUPS,
    SAMPLES,
    SEGMENTS,
    TIERS,
    UNNAMED,
    Part,
    Segment,
    SegmentDamaged,
    SegmentWriter,
    check_header,
    is_damage,
    missing_files,
    named_segments,
    note_files,
    read_parts,
    segment_path,
    segment_paths,
)
from vantage.storage.embedded.format.upgrade import upgrade
from vantage.storage.embedded.maintain.rewrite import delete_parts
from vantage.storage.embedded.read.chunk_index import ChunkIndexCache
from vantage.storage.embedded.read.connection_pool import ConnectionPool
from vantage.storage.embedded.read.snapshot import Snapshot, Snapshots
from vantage.storage.lock import MAINTENANCE, FileLock
from vantage.storage.service_edges import EDGE_WIDTHS_MS, NARROW_KEPT_MS
from vantage.storage.sqlite_reading import is_write_failure

BACKUP_WAIT_S: Final = 600.0  # a server that starts beside a backup waits so long
UNPINNED_WAIT_S: Final = 60.0  # longer than any query may run

# Rows of rollups that are deleted before their week is, by table and condition: how long they are kept, in ms.
_NARROW: Final[dict[tuple[str, str], int]] = {
    **{("red", f"level='{level}' AND width_ms={width_ms}"): age_ms for (level, width_ms), age_ms in KEPT_MS.items()},
    ("edge", f"width_ms={EDGE_WIDTHS_MS[0]}"): NARROW_KEPT_MS,
}
_log = structlog.get_logger("vantage.storage.segments")


class SegmentFiles:
    """Owns the segment files. Methods belong to the maintenance thread unless they say otherwise."""

    def __init__(
        self,
        data: Path,
        snapshots: Snapshots,
        pool: ConnectionPool,
        indexes: ChunkIndexCache,
        refusal: Callable[[], str] = str,
    ) -> None:
        """``refusal`` returns why the folder cannot be written, '' when it can."""
        self._data = data
        self.folder = data / SEGMENTS
        self.snapshots = snapshots
        self.pool = pool
        self.indexes = indexes
        self._refusal = refusal
        self.codec = ChunkCodec()
        self.quarantined: list[str] = []  # names of files quarantined since start
        self._lock = FileLock(data, MAINTENANCE)
        self._part_ids: dict[Path, int] = {}
        self._unfinished: dict[Path, set[int]] = {}
        self._deletable: list[tuple[Segment, list[int], int]] = []  # parts to delete once nobody reads them
        self._locked = False
        self.parts_without_red: dict[int, set[int]] = {}  # ids of parts of samples, by week
        self._narrow_since: dict[tuple[Path, str, str], int] = {}  # before which narrow buckets are deleted

    # --- opening ---

    def load(self, *, generation_max: int | None) -> list[Segment]:
        """Load every sound file, without parts of generations beyond ``generation_max`` (None: keep all parts).

        Parts of later generations were being written when the process ended, and are still in the journal. Waits for a
        backup that is copying the files. In a folder that cannot be written nothing is changed: what would be deleted
        is left out, and a file of an earlier format is reported as one that cannot be read. Raises FormatTooNew,
        StartupError.
        """
        if self._refusal():
            return self._loaded_unchanged(generation_max)
        self._wait_for_backup()
        (self._data / "upkeep.lock").unlink(missing_ok=True)  # the lock's name in earlier versions
        try:
            return self._loaded(generation_max)
        finally:
            self._lock.release()

    def _wait_for_backup(self) -> None:
        end_s = time.monotonic() + BACKUP_WAIT_S
        logged = False
        while not self._lock.take(wait=False):
            if time.monotonic() > end_s:
                raise StartupError(f"a backup has held {self._lock.path} for {BACKUP_WAIT_S:.0f} s: end it first")
            if not logged:
                logged = True
                _log.info("a backup copies the segments, waiting for its end")
            time.sleep(0.1)

    def _loaded(self, generation_max: int | None) -> list[Segment]:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        for unfinished in self.folder.glob(f"*{UNNAMED}*"):
            unfinished.unlink()

        def prepared(path: Path, week: int, tier: str) -> Segment:
            if check_header(path) < FORMAT:
                upgrade(path, tier)
            return self._swept(path, week, tier, generation_max)

        segments = self._sound(prepared)
        for segment in segments:
            if not segment.parts:
                self._remove(segment.path)
        self._note_files()
        return [segment for segment in segments if segment.parts]

    def _loaded_unchanged(self, generation_max: int | None) -> list[Segment]:
        def as_it_is(path: Path, week: int, tier: str) -> Segment:
            if check_header(path) < FORMAT:
                raise SegmentDamaged("its format is an earlier one, and it cannot be upgraded here")
            return self._without_later_parts(path, week, tier, generation_max)

        return [segment for segment in self._sound(as_it_is) if segment.parts]

    def _sound(self, prepare: Callable[[Path, int, str], Segment]) -> list[Segment]:
        """Return the segments that can be read; the others are quarantined."""
        segments = []
        for path, week, tier in named_segments(self.folder):
            try:
                segment = prepare(path, week, tier)
                for part in segment.parts:
                    self.part_stats(segment, part)
            except (SegmentDamaged, sqlite3.DatabaseError, ValueError) as error:
                if isinstance(error, sqlite3.Error) and not is_damage(error):
                    raise StartupError(f"{path} cannot be opened: {error}") from error
                self.quarantine(path, str(error))
                continue
            segments.append(segment)
        for name in missing_files(self.folder):
            self.quarantined.append(name)
            _log.error("segment is gone; everything else is served", file=name)
        return segments

    def _note_files(self) -> None:
        """Note which files there are, so that one that disappears is missed."""
        try:
            note_files(self.folder)
        except OSError as error:
            _log.warning("the list of segments cannot be written", reason=error.strerror)

    def _swept(self, path: Path, week: int, tier: str, generation_max: int | None) -> Segment:
        """Return a segment without the parts and rows of later generations.

        They are deleted; where the disk is full or may not be written they are only left out, and deleted when the file
        is next written. Raises sqlite3.Error.
        """
        try:
            with self._opened(path, tier) as writer:
                deleted = writer.sweep(generation_max=generation_max)
                segment = Segment(path, week, tier, tuple(writer.parts()))
        except sqlite3.Error as error:
            if not is_write_failure(error):
                raise
            _log.warning("segment cannot be written, read only", file=path.name, reason=str(error))
            return self._without_later_parts(path, week, tier, generation_max)
        if deleted:
            _log.info("unfinished rows removed", file=path.name, rows=deleted)
            self._deletable.append((segment, [], 0))  # their space goes back to the disk when there is time
        return segment

    def _without_later_parts(self, path: Path, week: int, tier: str, generation_max: int | None) -> Segment:
        """Return a segment without the parts of later generations, which stay in the file. Raises sqlite3.Error."""
        with self.pool.reading(path) as db:
            parts = read_parts(db)
        sealed = (part for part in parts if generation_max is None or part.generation <= generation_max)
        return Segment(path, week, tier, tuple(sealed))

    def find_parts_without_red(self, segments: Sequence[Segment]) -> frozenset[int]:
        """Return the weeks with parts of samples that lack their rollups of requests, since an earlier version wrote
        them. Raises sqlite3.Error."""
        self.parts_without_red = {week: set(parts) for week, parts in self._parts_without("red", segments).items()}
        return frozenset(self.parts_without_red)

    def find_parts_without_edges(self, segments: Sequence[Segment]) -> dict[int, frozenset[int]]:
        """Return by week the parts of samples that lack their edges, since an earlier version wrote them. Raises
        sqlite3.Error."""
        return self._parts_without("edge", segments)

    def _parts_without(self, table: str, segments: Sequence[Segment]) -> dict[int, frozenset[int]]:
        parts: dict[int, frozenset[int]] = {}
        for segment in segments:
            if segment.tier == SAMPLES:
                with self.pool.reading(segment.path) as db:
                    since = db.execute(f"SELECT max(part_id) FROM {table}_since").fetchone()[0] or 0  # noqa: S608
                lacking = frozenset(part.id for part in segment.parts if part.id < since)
                lacking -= self._filled(table, segment.week, segments) if lacking else frozenset()
                if lacking:
                    parts[segment.week] = lacking
        return parts

    def _filled(self, table: str, week: int, segments: Sequence[Segment]) -> set[int]:
        for segment in segments:
            if segment.tier == ROLLUPS and segment.week == week:
                with self.pool.reading(segment.path) as db:
                    return {row[0] for row in db.execute(f"SELECT samples_part FROM {table}_filled")}  # noqa: S608
        return set()

    def note_edges(self, week: int, parts: frozenset[int]) -> None:
        """Note that parts of samples have their edges, durably written."""

        def change(snapshot: Snapshot) -> Snapshot:
            without = dict(snapshot.without_edges)
            without[week] = without.get(week, frozenset()) - parts
            return replace(snapshot, without_edges={week: left for week, left in without.items() if left})

        self.publish(change=change)

    def note_red(self, week: int, parts: set[int]) -> None:
        """Note that parts of samples have their rollups of requests, durably written."""
        self.parts_without_red[week] = self.parts_without_red.get(week, set()) - parts
        if not self.parts_without_red[week]:
            del self.parts_without_red[week]
            self.publish(change=lambda snapshot: replace(snapshot, without_red=snapshot.without_red - {week}))

    def identities(self, segment: Segment) -> Iterator[tuple[int, bytes]]:
        """Return slots and identities as the file records them."""
        with self.pool.reading(segment.path) as db:
            for crc, body in db.execute("SELECT crc, body FROM series").fetchall():
                if checksum(body) == crc:
                    yield from read_identities(body)

    def part_stats(self, segment: Segment, part: Part) -> PartStats:
        """Return the statistics of a part. Raises sqlite3.Error and ValueError."""
        with self.pool.reading(segment.path) as db:
            stats = read_part_stats(db, self.codec, part)
        if stats is None:
            raise ValueError(f"part {part.id} is gone")
        return stats

    # --- changing ---

    @contextmanager
    def try_lock(self) -> Iterator[bool]:
        """Try to lock the segments for changes; False while a backup copies them."""
        if self._locked:
            yield True
            return
        locked = self._lock.take(wait=False)
        self._locked = locked
        try:
            yield locked
        finally:
            self._locked = False
            self._lock.release()

    @contextmanager
    def open_writer(self, week: int, tier: str) -> Iterator[SegmentWriter]:
        """Open a week's file for writing; leaving without an error makes everything durable.

        It can be entered again while it is open. Rows that an error leaves behind are deleted when the file is next
        written.
        """
        path = segment_path(self.folder, week, tier)
        with self._opened(path, tier) as writer:
            yield writer
            writer.checkpoint()

    @contextmanager
    def _opened(self, path: Path, tier: str) -> Iterator[SegmentWriter]:
        self.pool.readmit(path)
        is_new = not path.exists()
        writer = SegmentWriter(path, tier)
        if is_new:
            self._note_files()
        try:
            yield writer
        finally:
            writer.close()

    @contextmanager
    def allocate_part(self, writer: SegmentWriter, *, generation: int | None = None) -> Iterator[int]:
        """Return a number for a new part, unique while the process runs.

        Deletes the rows that earlier attempts left, also those of the ``generation`` that is being sealed: it may have
        been written whole before the journal turned out to be full.
        """
        unfinished = self._unfinished.setdefault(writer.path, set())
        waiting = {part for segment, parts, _ in self._deletable if segment.path == writer.path for part in parts}
        writer.sweep(
            generation_max=None if generation is None else generation - 1, unfinished=frozenset(unfinished | waiting)
        )
        part_id = max(writer.next_part_id(), self._part_ids.get(writer.path, 0) + 1)
        self._part_ids[writer.path] = part_id
        unfinished.add(part_id)
        try:
            yield part_id
        finally:
            unfinished.discard(part_id)

    def publish(
        self, *changed: Segment, change: Callable[[Snapshot], Snapshot] = lambda snapshot: snapshot
    ) -> Snapshot:
        """Publish changed segments to queries, together with whatever else ``change`` does to the snapshot."""
        return self.snapshots.publish(lambda snapshot: change(snapshot.with_segments(*changed)))

    def replace_parts(self, segment: Segment, old: Sequence[Part], new: Sequence[Part]) -> Segment:
        """Publish the current segment with some parts replaced by others; returns it."""
        result: list[Segment] = []

        def change(snapshot: Snapshot) -> Snapshot:
            current = snapshot.of_tier(segment.tier).get(segment.week)
            old_ids = {part.id for part in old}
            remaining = [part for part in (current.parts if current else ()) if part.id not in old_ids]
            result.append(replace(segment, parts=tuple(sorted([*remaining, *new], key=lambda part: part.id))))
            return snapshot.with_segments(result[0])

        self.snapshots.publish(change)
        return result[0]

    def schedule_delete(self, segment: Segment, parts: Sequence[Part]) -> None:
        """Schedule the rows of unpublished parts for deletion."""
        self._deletable.append((segment, [part.id for part in parts], self.snapshots.now.version))

    def delete_unreferenced(self, on_slice: Callable[[], None], *, wait_s: float = 0.0) -> None:
        """Delete scheduled rows that no reader uses any more, and return their space to the disk."""
        for entry in list(self._deletable):
            segment, parts, version = entry
            if not self.snapshots.wait_unpinned(version, wait_s):
                continue
            if segment.path.exists():
                with self._opened(segment.path, segment.tier) as writer:
                    delete_parts(writer, parts, on_slice)
                    writer.shrink()
            self._deletable.remove(entry)

    def expire_narrow(self, now_ms: int) -> None:
        """Delete rollups of requests and edges in narrow buckets that are older than they are kept, at most once an
        hour for each file. Raises sqlite3.Error."""
        for segment in list(self.snapshots.now.rollups.values()):
            first_ms = min((part.first_ms for part in segment.parts), default=0)
            last_ms = max((part.last_ms for part in segment.parts), default=-1)
            for (table, where), kept_ms in _NARROW.items():
                oldest_ms = (now_ms - kept_ms) // HOUR_MS * HOUR_MS
                done_ms = self._narrow_since.get((segment.path, table, where), 0)
                if not max(first_ms, done_ms) < oldest_ms or done_ms > last_ms:
                    continue
                with self._opened(segment.path, segment.tier) as writer:
                    if writer.delete_narrow(table, where, oldest_ms):
                        writer.shrink()
                self._narrow_since[segment.path, table, where] = oldest_ms

    def unlink(self, segment: Segment) -> int:
        """Remove a file from the snapshot and the disk; returns its size in bytes."""
        nbytes = self.nbytes(segment.path)
        self.publish(replace(segment, parts=()))
        self._remove(segment.path)
        return nbytes

    def _remove(self, path: Path) -> None:
        self.pool.evict(path)
        self.indexes.evict(path)
        for file in segment_paths(path):
            file.unlink(missing_ok=True)
        self._note_files()

    def quarantine(self, path: Path, reason: str) -> None:
        """Move an unreadable file out of the way; nothing of it is deleted. One that is gone is only reported, as is
        one in a folder that cannot be written."""
        self.quarantined.append(path.name)
        if not os.path.lexists(path):
            self.pool.evict(path)
            self.indexes.evict(path)
            _log.error("segment is gone; everything else is served", file=path.name)
            return
        if self._refusal():
            _log.error("segment unreadable; everything else is served", file=path.name, reason=reason)
            return
        aside = self.folder / DAMAGED
        aside.mkdir(mode=0o700, exist_ok=True)
        self.pool.evict(path)
        self.indexes.evict(path)
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        for file in segment_paths(path):
            with suppress(FileNotFoundError):
                file.rename(aside / f"{stamp}-{file.name}")
        self._note_files()
        _log.error(
            "segment unreadable, quarantined; everything else is served",
            file=path.name, moved_to=str(aside / f"{stamp}-{path.name}"), reason=reason,
        )  # fmt: skip

    # --- sizes ---

    def nbytes(self, path: Path) -> int:
        """Return the bytes of a file and its write-ahead log."""
        return sum(_nbytes_of(file) for file in segment_paths(path)[:2])

    def total_nbytes(self) -> int:
        """Return the bytes of all segment files; any thread."""
        snapshot = self.snapshots.now
        return sum(self.nbytes(segment.path) for tier in TIERS for segment in snapshot.of_tier(tier).values())


def _nbytes_of(path: Path) -> int:
    """Return the size of a file, 0 for none: another thread may delete a log that it has closed."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
