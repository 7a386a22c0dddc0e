"""Reading a data folder without changing anything in it, whether a server runs on it or not."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from vantage.storage.embedded.format.chunk import ChunkCodec
from vantage.storage.embedded.format.part_stats import read_part_stats
from vantage.storage.embedded.format.segment import (
    DAMAGED,
    SEGMENTS,
    Segment,
    SegmentDamaged,
    check_header,
    missing_files,
    named_segments,
    read_parts,
)
from vantage.storage.embedded.read.connection_pool import ConnectionPool
from vantage.storage.embedded.read.snapshot import Snapshot
from vantage.storage.embedded.read.usage import file_nbytes, usage_rows
from vantage.storage.embedded.write.catalogue import Catalogue
from vantage.storage.lock import FileLock
from vantage.storage.ports import UsageRow
from vantage.storage.series_overflow import SeriesLimit
from vantage.storage.sqlite_reading import connect_beside, connect_frozen, has_log
from vantage.storage.write_access import why_read_only


@dataclass(frozen=True, slots=True)
class FolderContents:
    """The contents of a folder.

    ``damaged`` maps unreadable segments to the reason; ``quarantined`` names the files a server moved out of the way.
    """

    segments: tuple[Segment, ...]
    damaged: tuple[str, ...]
    quarantined: tuple[str, ...]

    @property
    def snapshot(self) -> Snapshot:
        """Return the snapshot that queries would see, without unsealed data."""
        return Snapshot().with_segments(*self.segments)


class ReadOnlyFolder:
    """Reads a folder once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._served = is_served(folder)

    def connect(self, path: Path) -> sqlite3.Connection:
        """Open a read-only connection. Raises sqlite3.Error.

        SQLite creates two files beside a database in WAL mode even to read it. Where no server runs and the log is
        empty, or where they cannot be created, the file is opened so that SQLite creates none.
        """
        still = not self._served and (not has_log(path) or why_read_only((self._folder, path.parent)))
        return connect_frozen(path) if still else connect_beside(path)

    def segments(self) -> FolderContents:
        """Return the headers and the directory of each part. Raises FormatTooNew."""
        sealed = self._sealed_generation()
        segments, damaged = [], []
        codec = ChunkCodec()
        for path, week, tier in named_segments(self._folder / SEGMENTS):
            try:
                check_header(path)
                with closing(self.connect(path)) as db:
                    db.execute("BEGIN")  # one state of the file while others write
                    parts = [part for part in read_parts(db) if part.generation <= sealed]
                    for part in parts:
                        read_part_stats(db, codec, part)
            except (SegmentDamaged, sqlite3.Error, ValueError, FileNotFoundError) as error:
                if path.exists():  # else it has just left
                    damaged.append(f"{path.name}: {error}")
                continue
            segments.append(Segment(path, week, tier, tuple(parts)))
        damaged += [f"{name}: it is gone" for name in missing_files(self._folder / SEGMENTS)]
        aside = sorted(path.name for path in (self._folder / SEGMENTS / DAMAGED).glob("*.db"))
        return FolderContents(tuple(segments), tuple(damaged), tuple(aside))

    def _sealed_generation(self) -> int:
        """Return the last generation that is in segments.

        Parts of later ones are being written, or were when a process ended. Without a journal that records it, all
        parts count.
        """
        try:
            with closing(self.connect(self._folder / "journal.db")) as db:
                row = db.execute("SELECT value FROM progress WHERE name='sealed_generation'").fetchone()
                return int(row[0])
        except (sqlite3.Error, TypeError):
            return 1 << 62

    def usage(self, contents: FolderContents) -> tuple[list[UsageRow], dict[str, int]]:
        """Return the space by service, metric and tier, largest first, and by kind of file.

        Series are read from the journal. Raises sqlite3.Error.
        """
        catalogue = Catalogue(SeriesLimit(series_max=0, nbytes_max=0))
        with closing(self.connect(self._folder / "journal.db")) as db:
            for slot, identity in db.execute("SELECT slot, identity FROM series ORDER BY slot"):
                try:
                    catalogue.load(slot, identity)
                except ValueError:
                    continue  # reported by the journal's own check
        pool = ConnectionPool(self.connect)
        try:
            return usage_rows(contents.snapshot, catalogue.columns, pool), file_nbytes(self._folder, contents.snapshot)
        finally:
            pool.close()


def is_served(folder: Path) -> bool:
    """Return whether a server runs on the folder."""
    if not (folder / "lock").exists():
        return False
    lock = FileLock(folder, "lock")
    try:
        free = lock.take_or_share(wait=False)
    except OSError:
        return True  # unknown: be as careful as beside a server
    lock.release()
    return not free
