"""Segment files: one SQLite file per week of data time and tier, ``samples`` (with exemplars and spans) or ``rollups``.

What one seal or merge wrote into a file is a **part**. Its rows are committed in slices of a few milliseconds, and are
ignored until the part row is committed (it is written last): a part is complete or absent, and rows without their part
are deleted when the file is opened for writing.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vantage.core.errors import FormatTooNew
from vantage.storage.embedded.format.week import parse_week, week_name

FORMAT: Final = (
    5  # 4 had no `edge`; 3 no `red`; 2 called the table of exemplars `trace_link`; 1 had them chunk by chunk
)
APPLICATION_ID: Final = 0x56545331  # "VTS1"
PAGE_NBYTES: Final = 2048  # a chunk's last page is half empty on average: small pages waste less
SYNC_NBYTES: Final = 1 << 20  # written at most before the disk takes it: a few milliseconds of its time
SEGMENTS: Final = "segments"  # the folder of segment files
DAMAGED: Final = "damaged"  # its folder of quarantined ones
SAMPLES: Final = "samples"
ROLLUPS: Final = "rollups"
TIERS: Final = (SAMPLES, ROLLUPS)
UNNAMED: Final = ".new"  # behind the name of a file that is being made
FILE_LIST: Final = "files"  # names of the segment files, one a line
_NAME: Final = re.compile(r"(\d{4}-W\d{2})\.(samples|rollups)\.db")
_MAGIC: Final = b"SQLite format 3\0"

_PART: Final = """
CREATE TABLE part (
    id INTEGER PRIMARY KEY, generation INTEGER NOT NULL, level INTEGER NOT NULL, samples INTEGER NOT NULL,
    spans INTEGER NOT NULL, first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL, nbytes INTEGER NOT NULL,
    series BLOB NOT NULL, services BLOB NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE series (id INTEGER PRIMARY KEY, crc INTEGER NOT NULL, body BLOB NOT NULL);
"""
EXEMPLAR: Final = """
CREATE TABLE exemplar (
    id INTEGER PRIMARY KEY, part_id INTEGER NOT NULL, low INTEGER NOT NULL, high INTEGER NOT NULL,
    exemplars INTEGER NOT NULL, ids_crc INTEGER NOT NULL, body_crc INTEGER NOT NULL, ids BLOB NOT NULL,
    body BLOB NOT NULL);
CREATE INDEX exemplar_hash ON exemplar (part_id, low, high);
"""
RED: Final = """
CREATE TABLE red (
    id INTEGER PRIMARY KEY, part_id INTEGER NOT NULL, level TEXT NOT NULL, width_ms INTEGER NOT NULL,
    service TEXT NOT NULL, first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL, partials INTEGER NOT NULL,
    nbytes INTEGER NOT NULL, crc INTEGER NOT NULL, keys BLOB NOT NULL, runs BLOB NOT NULL, times BLOB NOT NULL,
    counts BLOB NOT NULL, sums BLOB NOT NULL, mins BLOB NOT NULL, maxs BLOB NOT NULL, sketches BLOB);
CREATE INDEX red_place ON red (part_id, level, width_ms, first_ms);
CREATE TABLE red_filled (samples_part INTEGER PRIMARY KEY);
"""
EDGE: Final = """
CREATE TABLE edge (
    id INTEGER PRIMARY KEY, part_id INTEGER NOT NULL, width_ms INTEGER NOT NULL, first_ms INTEGER NOT NULL,
    last_ms INTEGER NOT NULL, partials INTEGER NOT NULL, nbytes INTEGER NOT NULL, crc INTEGER NOT NULL,
    keys BLOB NOT NULL, runs BLOB NOT NULL, times BLOB NOT NULL, counts BLOB NOT NULL, sums BLOB NOT NULL,
    maxs BLOB NOT NULL);
CREATE INDEX edge_place ON edge (part_id, width_ms, first_ms);
CREATE TABLE edge_filled (samples_part INTEGER PRIMARY KEY);
"""
EDGE_SINCE: Final = "CREATE TABLE edge_since (part_id INTEGER PRIMARY KEY);"
RED_SINCE: Final = "CREATE TABLE red_since (part_id INTEGER PRIMARY KEY);"
_SCHEMAS: Final = {
    SAMPLES: f"""{_PART}
CREATE TABLE chunk (
    id INTEGER PRIMARY KEY, part_id INTEGER NOT NULL, first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL,
    samples INTEGER NOT NULL, nbytes INTEGER NOT NULL, crc INTEGER NOT NULL,
    runs BLOB NOT NULL, times BLOB NOT NULL, vals BLOB NOT NULL);
CREATE INDEX chunk_part ON chunk (part_id);
{EXEMPLAR}
CREATE TABLE span_block (
    id INTEGER PRIMARY KEY, part_id INTEGER NOT NULL, first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL,
    spans INTEGER NOT NULL, duration_ns_max INTEGER NOT NULL, services TEXT NOT NULL, body BLOB NOT NULL);
CREATE INDEX span_block_part ON span_block (part_id);
CREATE TABLE id_index (
    id INTEGER PRIMARY KEY, part_id INTEGER NOT NULL, kind TEXT NOT NULL, low INTEGER NOT NULL, high INTEGER NOT NULL,
    crc INTEGER NOT NULL, body BLOB NOT NULL);
CREATE INDEX id_index_place ON id_index (part_id, kind, low, high);
{RED_SINCE}
{EDGE_SINCE}
""",
    ROLLUPS: f"""{_PART}
CREATE TABLE rollup (
    id INTEGER PRIMARY KEY, part_id INTEGER NOT NULL, width_ms INTEGER NOT NULL, first_ms INTEGER NOT NULL,
    last_ms INTEGER NOT NULL, partials INTEGER NOT NULL, nbytes INTEGER NOT NULL, crc INTEGER NOT NULL,
    runs BLOB NOT NULL, times BLOB NOT NULL, counts BLOB NOT NULL, sums BLOB NOT NULL, mins BLOB NOT NULL,
    maxs BLOB NOT NULL, sketches BLOB);
CREATE INDEX rollup_part ON rollup (part_id, width_ms);
{RED}
{EDGE}
""",
}
ROW_TABLES: Final = {SAMPLES: ("chunk", "exemplar", "span_block", "id_index"), ROLLUPS: ("rollup", "red", "edge")}


class SegmentDamaged(Exception):
    """A segment file cannot be read as one; the message says why."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one seal or merge wrote into a file. ``level`` counts the merges; times are those of its data."""

    id: int
    generation: int
    level: int
    samples: int
    spans: int
    first_ms: int
    last_ms: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Segment:
    """A file and the parts of it that count."""

    path: Path
    week: int
    tier: str
    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        return self.path.name


def segment_path(folder: Path, week: int, tier: str) -> Path:
    return folder / f"{week_name(week)}.{tier}.db"


def named_segments(folder: Path) -> Iterator[tuple[Path, int, str]]:
    """Yield every segment file with its week and tier, by name."""
    for path in sorted(folder.glob("*.db")):
        if match := _NAME.fullmatch(path.name):
            yield path, parse_week(match[1]), match[2]


def note_files(folder: Path) -> None:
    """Write down the names of the segment files. Raises OSError."""
    names = sorted(path.name for path, _, _ in named_segments(folder))
    unnamed = folder / (FILE_LIST + UNNAMED)
    unnamed.touch(mode=0o600)
    unnamed.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    unnamed.rename(folder / FILE_LIST)


def missing_files(folder: Path) -> list[str]:
    """Return the names that were written down and that no file has now."""
    try:
        names = (folder / FILE_LIST).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):  # an earlier version wrote none
        return []
    return [name for name in names if _NAME.fullmatch(name) and not (folder / name).exists()]


def check_header(path: Path) -> int:
    """Check the file's first bytes and its size without opening it as a database, which could change it. Return the
    format that it was created with.

    Raises FormatTooNew or SegmentDamaged.
    """
    if not path.is_file():
        raise SegmentDamaged("it is no file")
    with path.open("rb") as file:
        header = file.read(100)
    if len(header) < 100 or not header.startswith(_MAGIC):
        raise SegmentDamaged("it is no SQLite file")
    # sqlite.org/fileformat2.html, 1.3: user_version, application id, page size and count
    version, application = int.from_bytes(header[60:64], "big"), int.from_bytes(header[68:72], "big")
    if application != APPLICATION_ID:
        raise SegmentDamaged("it is no segment of Vantage")
    if version > FORMAT:
        raise FormatTooNew(
            f"{path} has format {version}, this version of Vantage knows up to {FORMAT}: nothing was touched; "
            "start the newer version, or give another folder with --data"
        )
    pages = int.from_bytes(header[28:32], "big")
    page_nbytes = int.from_bytes(header[16:18], "big")
    wal = path.with_name(path.name + "-wal")
    if path.stat().st_size < pages * page_nbytes and not (wal.exists() and wal.stat().st_size):
        raise SegmentDamaged(f"it is cut off: {path.stat().st_size} of {pages * page_nbytes} bytes")
    return version


def is_damage(error: sqlite3.Error) -> bool:
    """Return whether an error means that a file is damaged, rather than that it is unavailable now.

    A file that was emptied is a database without tables.
    """
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or str(error).startswith("no such table")


def read_parts(db: sqlite3.Connection) -> list[Part]:
    """Return the parts that a file lists. Raises sqlite3.Error."""
    rows = db.execute("SELECT id, generation, level, samples, spans, first_ms, last_ms, nbytes FROM part ORDER BY id")
    return [Part(*row) for row in rows]


class SegmentWriter:
    """A file open for writing; one at a time, on the maintenance thread. Every method may raise sqlite3.Error."""

    def __init__(self, path: Path, tier: str) -> None:
        self.path = path
        self.tier = tier
        self._unsynced_nbytes = 0
        self._new = not path.exists()
        if self._new:
            _make(path, tier)
        self.db = sqlite3.connect(path, isolation_level=None, timeout=30.0, check_same_thread=False)
        try:
            for pragma in ("synchronous=NORMAL", "secure_delete=OFF", "wal_autocheckpoint=0"):
                self.db.execute(f"PRAGMA {pragma}")
        except BaseException:
            self.db.close()
            raise

    def close(self) -> None:
        self.db.close()

    @contextmanager
    def slice(self) -> Iterator[sqlite3.Connection]:
        """Open a transaction, kept short so that readers and the disk never wait long."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield self.db
            self.db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                self.db.execute("ROLLBACK")
            raise

    def sync_written(self, nbytes: int) -> None:
        """Note that so much was written, and make it durable once it is SYNC_NBYTES: the disk would have all of it in
        one go at the end, and requests wait for it with their commits."""
        self._unsynced_nbytes += nbytes
        if self._unsynced_nbytes >= SYNC_NBYTES:
            self._unsynced_nbytes = 0
            self.db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def parts(self) -> list[Part]:
        return read_parts(self.db)

    def next_part_id(self) -> int:
        """Return one above every part id there is, also of rows whose part is absent."""
        tables = ("part", *ROW_TABLES[self.tier])
        columns = ["id", *["part_id"] * (len(tables) - 1)]
        highest = [
            self.db.execute(f"SELECT max({column}) FROM {table}").fetchone()[0] or 0  # noqa: S608 - names of ours
            for table, column in zip(tables, columns, strict=True)
        ]
        return int(max(highest)) + 1

    def sweep(self, *, generation_max: int | None = None, unfinished: frozenset[int] = frozenset()) -> int:
        """Delete parts of later generations, and rows of no part but ``unfinished`` ones. Returns how many."""
        deleted = 0
        spared = json.dumps(sorted(unfinished))
        with self.slice() as db:
            if generation_max is not None:
                deleted += db.execute("DELETE FROM part WHERE generation > ?", (generation_max,)).rowcount
            for table in ROW_TABLES[self.tier]:
                deleted += db.execute(
                    f"DELETE FROM {table} WHERE part_id NOT IN (SELECT id FROM part)"  # noqa: S608 - names of ours
                    " AND part_id NOT IN (SELECT value FROM json_each(?))",
                    (spared,),
                ).rowcount
        return deleted

    def delete_narrow(self, table: str, where: str, before_ms: int) -> int:
        """Delete the rows of ``table`` that end before a time, of those that ``where`` selects. Returns how many."""
        deleted = 0
        while True:
            with self.slice() as db:
                rows = db.execute(
                    f"DELETE FROM {table} WHERE id IN"  # noqa: S608 - of ours
                    f" (SELECT id FROM {table} WHERE {where} AND last_ms < ? LIMIT 32)",
                    (before_ms,),
                ).rowcount
            deleted += rows
            if rows < 32:
                return deleted

    def checkpoint(self) -> None:
        """Make everything committed durable; it is in the file unless a reader prevents that just now."""
        busy, _, _ = self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            _sync(self.path.with_name(self.path.name + "-wal"))
        if self._new:
            _sync(self.path.parent)  # the file's name too must survive a power cut
            self._new = False

    def shrink(self) -> None:
        """Return freed pages to the disk."""
        # Through executescript, which steps to the end: execute would free one page.
        self.db.executescript("PRAGMA incremental_vacuum;")
        self.checkpoint()


def _make(path: Path, tier: str) -> None:
    """Create a file. It gets its name once it is complete: a process may die at any moment."""
    unnamed = path.with_name(path.name + UNNAMED)
    unnamed.unlink(missing_ok=True)
    unnamed.touch(mode=0o600)
    db = sqlite3.connect(unnamed, isolation_level=None)
    try:
        for pragma in (f"page_size={PAGE_NBYTES}", "auto_vacuum=INCREMENTAL", "synchronous=FULL"):
            db.execute(f"PRAGMA {pragma}")
        db.executescript(
            f"BEGIN IMMEDIATE; {_SCHEMAS[tier]} PRAGMA application_id={APPLICATION_ID};"
            f"PRAGMA user_version={FORMAT}; COMMIT; PRAGMA journal_mode=WAL;"
        )
    finally:
        db.close()
    unnamed.rename(path)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def segment_paths(path: Path) -> tuple[Path, Path, Path]:
    """Return a database's path and those of the files that SQLite adds."""
    return path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")
