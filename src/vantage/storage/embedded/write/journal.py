"""``journal.db``: what is committed and not yet sealed. One row per commit, the series catalogue, the batch ids.

All in one SQLite file, so that a commit is one transaction. Only the commit thread writes; a second connection in
another thread checkpoints the write-ahead log, because doing that inside commits made their p99 20 times worse.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import structlog

from vantage.core.errors import FormatTooNew, StartupError
from vantage.core.record import Record, decode, encode
from vantage.storage.sqlite_reading import connect_frozen, is_write_failure

WAL_NBYTES_KEPT: Final = 32 << 20  # of a log that grew beyond it, once it begins from its start
FORMAT: Final = 3  # 2 had ids of exemplars as text, and `forgetting` for `tombstones`; 1 neither that nor `progress`
APPLICATION_ID: Final = 0x56544731  # "VTG1"
_HEADER_VERSION: Final = slice(60, 64)  # where SQLite keeps user_version: sqlite.org/fileformat2.html, 1.3
_HEADER_MAGIC: Final = b"SQLite format 3\0"

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS series (slot INTEGER PRIMARY KEY AUTOINCREMENT, identity BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS journal (
    seq INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, kind TEXT NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS batch_id (seq INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, ids BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS progress (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS tombstones (seq INTEGER PRIMARY KEY, body BLOB NOT NULL);
INSERT OR IGNORE INTO progress VALUES ('sealed_seq', 0), ('sealed_generation', 0);
"""
_RENAMES_FROM_2: Final = """
ALTER TABLE forgetting RENAME TO tombstones;
UPDATE journal SET kind = 'delete' WHERE kind = 'forget';
"""
_INSERT: Final = "INSERT INTO journal VALUES (?, ?, 'data', ?, ?)"
FREE_PAGES_KEPT: Final = 2048  # of 4 KiB
GIVE_BACK_PAGES: Final = 128  # at once: some milliseconds, in which no commit begins
REWRITTEN_PAGES_MAX: Final = 1024
DELETE_ROWS: Final = 64  # deleted in one transaction: commits wait for no longer than that
_encode: Final = msgspec.msgpack.Encoder().encode
_decode_ids: Final = msgspec.msgpack.Decoder(list[str]).decode
_decode_selector: Final = msgspec.msgpack.Decoder(tuple[str, str]).decode

_log = structlog.get_logger("vantage.storage.journal")


@dataclass(frozen=True, slots=True)
class Entry:
    """A journal row: samples and spans, or (``deletes``) a deletion at that point."""

    seq: int
    record: Record | None
    deletes: tuple[str, str] | None  # service, environment


class Journal:
    """The file. Every method must be called from the thread that called ``open``.

    Where it cannot be written, on a full disk or in a read-only folder, it is opened for reading. Each change then
    tries first to open it for writing.
    """

    def __init__(
        self,
        path: Path,
        *,
        synchronous: str,
        page_count_max: int | None = None,
        refusal: Callable[[], str] = str,
    ) -> None:
        """``refusal`` returns why the folder cannot be written, '' when it can."""
        self.path = path
        self._refusal = refusal
        self._synchronous = synchronous
        self._page_count_max = page_count_max
        self._db: sqlite3.Connection | None = None
        self._next_seq = 1
        self.new = False  # made by ``open``
        self.unwritable = ""  # why it is open for reading only; empty when it can be written
        self.sealed_seq = 0  # commits up to this one are in segments
        self.sealed_generation = 0
        self.damaged: list[int] = []  # sequence numbers that could not be read

    def open(self) -> None:
        """Open or create the file. Raises FormatTooNew (nothing touched) or StartupError."""
        refuse_newer(self.path)
        try:
            db = self._opened()
            progress = dict(db.execute("SELECT name, value FROM progress"))
            self.sealed_seq, self.sealed_generation = progress["sealed_seq"], progress["sealed_generation"]
            (highest,) = db.execute("SELECT max(seq) FROM journal").fetchone()
        except (sqlite3.Error, OSError, KeyError) as error:
            raise StartupError(f"{self.path} cannot be opened: {error}") from error
        self._next_seq = max(highest or 0, self.sealed_seq) + 1
        self._db = db

    def _opened(self) -> sqlite3.Connection:
        """Return a connection that writes, or one that reads where that is not possible. Raises StartupError,
        sqlite3.Error, OSError."""
        self.unwritable = self._refusal()
        if not self.unwritable:
            try:
                return self._connected_for_writing()
            except sqlite3.Error as error:
                if not is_write_failure(error) or not _first_bytes(self.path, 1):
                    raise
                self.unwritable = str(error)
        if not self.path.exists():
            raise StartupError(f"{self.unwritable}, and it holds no data: {self.path} is missing")
        db = connect_frozen(self.path)
        try:
            if db.execute("PRAGMA user_version").fetchone()[0] < FORMAT:
                raise StartupError(f"{self.path} has an earlier format and cannot be upgraded: {self.unwritable}")
        except BaseException:
            db.close()
            raise
        return db

    def _connected_for_writing(self) -> sqlite3.Connection:
        self.path.touch(mode=0o600)
        db = connect(self.path, synchronous=self._synchronous)
        try:
            if self._page_count_max is not None:
                db.execute(f"PRAGMA max_page_count={self._page_count_max}")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            self.new = not version
            if version < FORMAT:
                renames = _RENAMES_FROM_2 if version == 2 else ""
                db.executescript(
                    f"BEGIN IMMEDIATE; {renames} {_SCHEMA} PRAGMA application_id={APPLICATION_ID};"
                    f"PRAGMA user_version={FORMAT}; COMMIT;"
                )
        except BaseException:
            db.close()
            raise
        return db

    def _write_again(self) -> None:
        """Open for writing what could only be opened for reading. Raises sqlite3.Error, and then it is still open for
        reading."""
        if reason := self._refusal():
            raise sqlite3.OperationalError(reason)
        # First: to close a file makes a process lose the locks of its other connections to it.
        self.db.close()
        try:
            self._db = self._connected_for_writing()
            self.unwritable = ""
        except BaseException:
            self._db = connect_frozen(self.path)
            raise
        _log.info("journal can be written again", file=str(self.path))

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    @property
    def db(self) -> sqlite3.Connection:
        if self._db is None:
            raise RuntimeError("the journal is closed")
        return self._db

    def series(self) -> Iterator[tuple[int, bytes]]:
        """Slot and canonical identity of every series, by slot."""
        yield from self.db.execute("SELECT slot, identity FROM series ORDER BY slot")

    @property
    def slots(self) -> int:
        """Return how many slots were ever allocated."""
        row = self.db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'series'").fetchone()
        return int(row[0]) + 1 if row else 0

    def entries(self) -> Iterator[Entry]:
        """Replay in order what is not sealed. A row that cannot be read is logged, not deleted, and skipped."""
        seqs = [
            row[0] for row in self.db.execute("SELECT seq FROM journal WHERE seq > ? ORDER BY seq", (self.sealed_seq,))
        ]
        for seq in seqs:
            try:
                kind, crc, body = self.db.execute("SELECT kind, crc, body FROM journal WHERE seq=?", (seq,)).fetchone()
                if zlib.crc32(body) != crc:
                    raise ValueError("checksum mismatch")
                if kind in ("delete", "forget"):
                    yield Entry(seq, None, _decode_selector(body))
                else:
                    yield Entry(seq, decode(body), None)
            except (sqlite3.DatabaseError, ValueError, TypeError) as error:
                self.damaged.append(seq)
                _log.error("journal row unreadable, skipped", file=str(self.path), seq=seq, reason=str(error))

    def last_deletion_seq(self) -> int:
        """Return the number of the last deletion among what is not sealed, 0 without."""
        row = self.db.execute(
            "SELECT max(seq) FROM journal WHERE seq > ? AND kind IN ('delete', 'forget')", (self.sealed_seq,)
        ).fetchone()
        return int(row[0] or 0)

    def newest_batch_ids_ms(self) -> int | None:
        """Return the time of the newest batch ids, None where there are none."""
        newest_ms: int | None = self.db.execute("SELECT max(at_ms) FROM batch_id").fetchone()[0]
        return newest_ms

    def batch_ids(self, since_ms: int) -> Iterator[tuple[int, list[str]]]:
        """Yield commit time and batch ids of the commits since then, oldest first."""
        rows = self.db.execute("SELECT at_ms, ids FROM batch_id WHERE at_ms >= ? ORDER BY seq", (since_ms,))
        for at_ms, ids in rows:
            try:
                yield at_ms, _decode_ids(ids)
            except msgspec.DecodeError as error:
                _log.error("batch ids unreadable, skipped", file=str(self.path), reason=str(error))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit everything or nothing. Raises sqlite3.Error."""
        if self.unwritable:
            self._write_again()
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield self.db
            self.db.execute("COMMIT")
        except BaseException:
            self._rollback()
            raise

    def commit(
        self, record: Record, *, at_ms: int, new_series: Sequence[tuple[int, bytes]], batch_ids: Sequence[str]
    ) -> int:
        """Write one commit in one transaction and return its sequence number.

        Raises sqlite3.Error; then nothing is stored.
        """
        body = encode(record)
        seq = self._next_seq
        row = (seq, at_ms, zlib.crc32(body), body)
        if not new_series and not batch_ids and not self.unwritable:
            self.db.execute(_INSERT, row)  # a statement is a transaction
        else:
            with self._transaction() as db:
                if new_series:
                    db.executemany("INSERT INTO series (slot, identity) VALUES (?, ?)", new_series)
                db.execute(_INSERT, row)
                if batch_ids:
                    db.execute("INSERT INTO batch_id VALUES (?, ?, ?)", (seq, at_ms, _encode(list(batch_ids))))
        self._next_seq = seq + 1
        return seq

    def add_tombstone(self, *, service: str, environment: str, slots: Sequence[int], at_ms: int) -> int:
        """Record that everything selected so far is deleted, and remove its series. Slots are never used again.

        Returns the number to pass to ``clear_tombstone`` once segments no longer contain it.
        """
        body, seq = _encode((service, environment)), self._next_seq
        with self._transaction() as db:
            db.executemany("DELETE FROM series WHERE slot=?", [(slot,) for slot in slots])
            db.execute("INSERT INTO journal VALUES (?, ?, 'delete', ?, ?)", (seq, at_ms, zlib.crc32(body), body))
            db.execute("INSERT INTO tombstones VALUES (?, ?)", (seq, body))
        self._next_seq = seq + 1
        return seq

    def tombstones(self) -> list[tuple[int, str, str]]:
        """Return what was deleted and segments may still contain: number, service, environment."""
        rows = self.db.execute("SELECT seq, body FROM tombstones ORDER BY seq")
        return [(seq, *_decode_selector(body)) for seq, body in rows]

    def clear_tombstone(self, seq: int) -> None:
        """Delete a tombstone: segments no longer contain its data."""
        with self._transaction() as db:
            db.execute("DELETE FROM tombstones WHERE seq=?", (seq,))

    def seal(self, *, seq_max: int, generation: int) -> None:
        """Record durably that everything up to ``seq_max`` is in segments."""
        with self._transaction() as db:
            db.execute("UPDATE progress SET value=? WHERE name='sealed_seq'", (seq_max,))
            db.execute("UPDATE progress SET value=? WHERE name='sealed_generation'", (generation,))
        self.sealed_seq, self.sealed_generation = seq_max, generation

    def delete_sealed(self) -> bool:
        """Delete a few sealed rows; returns whether there are more. Damaged rows stay for inspection."""
        damaged = json.dumps(self.damaged)
        with self._transaction() as db:
            db.execute(
                "DELETE FROM journal WHERE seq IN (SELECT seq FROM journal WHERE seq <= ?"
                " AND seq NOT IN (SELECT value FROM json_each(?)) ORDER BY seq LIMIT ?)",
                (self.sealed_seq, damaged, DELETE_ROWS),
            )
            (deleted,) = db.execute("SELECT changes()").fetchone()
        return int(deleted) == DELETE_ROWS

    def give_back(self) -> bool:
        """Return a piece of the file's free pages to the disk, beyond those that the next commits will use; returns
        whether there are more. The file itself gets smaller with a later checkpoint.

        A file that an earlier version made is rewritten as a whole, once, when that is little.
        """
        if self.unwritable:
            return False
        pages, free, mode = (
            int(self.db.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "auto_vacuum")
        )
        if free <= FREE_PAGES_KEPT:
            return False
        if mode:
            # Through executescript, which steps to the end: execute would free one page.
            self.db.executescript(f"PRAGMA incremental_vacuum({min(GIVE_BACK_PAGES, free - FREE_PAGES_KEPT)});")
            return free - GIVE_BACK_PAGES > FREE_PAGES_KEPT
        if pages - free <= REWRITTEN_PAGES_MAX:
            self.db.execute("VACUUM")
        return False

    def drop_batch_ids(self, *, before_ms: int) -> None:
        """Delete batch ids committed before ``before_ms``."""
        with self._transaction() as db:
            db.execute("DELETE FROM batch_id WHERE at_ms < ?", (before_ms,))

    def add_series(self, series: Sequence[tuple[int, bytes]]) -> None:
        """Restore series at their slots, as segments have them. Present ones stay."""
        with self._transaction() as db:
            db.executemany("INSERT OR IGNORE INTO series (slot, identity) VALUES (?, ?)", series)

    def drop_series(self, slots: Sequence[int]) -> None:
        """Delete series without data. Slots are never used again."""
        if slots:
            with self._transaction() as db:
                db.executemany("DELETE FROM series WHERE slot=?", [(slot,) for slot in slots])

    def _rollback(self) -> None:
        try:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
        except sqlite3.Error as error:
            _log.error("rollback failed", file=str(self.path), reason=str(error))


def connect(path: Path, *, synchronous: str) -> sqlite3.Connection:
    """Return a connection for an embedded file: WAL, explicit transactions, checkpoints in their own thread."""
    db = sqlite3.connect(path, isolation_level=None, timeout=5.0)
    try:
        db.execute("PRAGMA auto_vacuum=INCREMENTAL")  # of a file that is made now
        db.execute("PRAGMA journal_mode=WAL")
        db.execute(f"PRAGMA journal_size_limit={WAL_NBYTES_KEPT}")
        db.execute(f"PRAGMA synchronous={synchronous}")
        db.execute("PRAGMA wal_autocheckpoint=0")
        # Where it is on by default, as in Debian, deleting sealed rows would write all their pages again, with zeros.
        db.execute("PRAGMA secure_delete=OFF")
    except BaseException:
        db.close()
        raise
    return db


def refuse_newer(path: Path) -> None:
    """Read the version from the file's own header, since opening it with SQLite could change it.

    Raises FormatTooNew and StartupError.
    """
    try:
        header = _first_bytes(path, 64)
    except OSError as error:
        raise StartupError(f"{path} cannot be read: {error.strerror}") from error
    if header and not header.startswith(_HEADER_MAGIC):
        raise StartupError(f"{path} is not a SQLite file")
    version = int.from_bytes(header[_HEADER_VERSION], "big") if header else 0
    if version > FORMAT:
        raise FormatTooNew(
            f"{path} has format {version}, this version of Vantage knows up to {FORMAT}: nothing was touched; "
            "start the newer version, or give another folder with --data"
        )


def _first_bytes(path: Path, count: int) -> bytes:
    if not path.exists():
        return b""
    with path.open("rb") as file:
        return file.read(count)


@dataclass(frozen=True, slots=True)
class JournalCheck:
    """The result of checking a journal; ``problem`` is empty when it could be read."""

    commits: int = 0
    series: int = 0
    damaged: int = 0
    newest_ms: int = 0  # time of the newest sample or span that is not sealed; 0: there is none
    problem: str = ""


def check_journal(path: Path, connect: Callable[[Path], sqlite3.Connection]) -> JournalCheck:
    """Verify the checksum of every row; ``connect`` opens the file so that nothing changes in it.

    The server may be running.
    """
    try:
        refuse_newer(path)
        db = connect(path)
    except (StartupError, sqlite3.Error) as error:
        return JournalCheck(problem=str(error))
    try:
        (series,) = db.execute("SELECT count(*) FROM series").fetchone()
        commits = damaged = newest_ms = 0
        for kind, crc, body in db.execute("SELECT kind, crc, body FROM journal"):
            commits += 1
            if zlib.crc32(body) != crc:
                damaged += 1
            elif kind == "data":
                newest_ms = max(newest_ms, decode(body).newest_ms)
        return JournalCheck(commits, series, damaged, newest_ms)
    except (sqlite3.Error, ValueError) as error:
        return JournalCheck(problem=str(error))
    finally:
        db.close()
