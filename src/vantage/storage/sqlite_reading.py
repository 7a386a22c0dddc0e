"""Reading SQLite files where SQLite cannot write beside them: on a full disk, and in a folder that is read-only."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

_EXCLUSIVE = "PRAGMA locking_mode=EXCLUSIVE"
_SMALL_CACHE = "PRAGMA cache_size=-256"  # in KiB: blocks are read once, and the system caches the file; default 2 MB


class FrozenConnection(sqlite3.Connection):
    """A connection that does without locks and shared memory: for one read, and what it cannot read proves nothing."""


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Return a connection that never creates a database. Raises sqlite3.Error.

    SQLite shares an index of the write-ahead log in a file beside the database. Where there is none, and none can be
    made, the file is read as by ``connect_frozen``.
    """
    try:
        return _connect(f"{path.absolute().as_uri()}?mode=rw", sqlite3.Connection)
    except sqlite3.Error as error:
        if not is_write_failure(error) or not path.is_file():
            raise
        return connect_frozen(path)


def connect_beside(path: Path, *, timeout_s: float = 5.0) -> sqlite3.Connection:
    """Return a connection that reads what another process may be writing, and changes nothing itself. Raises
    sqlite3.Error."""
    address = f"{path.absolute().as_uri()}?mode=ro"
    db = sqlite3.connect(address, uri=True, isolation_level=None, timeout=timeout_s, check_same_thread=False)
    try:
        db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.Error as error:
        db.close()
        if not is_write_failure(error) or not path.is_file():
            raise
        return connect_frozen(path)
    return db


def connect_frozen(path: Path) -> sqlite3.Connection:
    """Return a connection that writes nothing, not even beside the file. Raises sqlite3.Error.

    A file without a log is read as one that does not change. One with a log is read with the index in memory, which
    SQLite permits to the only user of a file (sqlite.org/wal.html, "Use of WAL Without Shared-Memory"). Where the file
    can be written, as on a full disk, a lock ensures that. Where it cannot, there is no lock: SQLite can only lock what
    it can write, and nobody writes.
    """
    address = path.absolute().as_uri()
    if not has_log(path):
        return _connect(f"{address}?mode=ro&immutable=1", FrozenConnection)
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        try:
            return _connect(f"{address}?mode=rw", FrozenConnection, _EXCLUSIVE)
        except sqlite3.Error as error:
            if not is_write_failure(error):
                raise
    return _connect(f"{address}?mode=ro&vfs=unix-none", FrozenConnection, _EXCLUSIVE)


def has_log(path: Path) -> bool:
    """Return whether a database has a write-ahead log that may hold something."""
    try:
        return path.with_name(path.name + "-wal").stat().st_size > 0
    except OSError:
        return False


def is_write_failure(error: BaseException) -> bool:
    """Return whether an error may come from a disk that is full or must not be written."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)


def _connect(address: str, factory: type[sqlite3.Connection], *pragmas: str) -> sqlite3.Connection:
    db = sqlite3.connect(address, uri=True, isolation_level=None, timeout=5.0, check_same_thread=False, factory=factory)
    try:
        for pragma in (*pragmas, _SMALL_CACHE, "PRAGMA query_only=ON", "PRAGMA wal_autocheckpoint=0"):
            db.execute(pragma)
        db.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # opens the log and its index, or fails
    except BaseException:
        db.close()
        raise
    return db
