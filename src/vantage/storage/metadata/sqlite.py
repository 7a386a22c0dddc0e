"""SQLite's files, connections and transactions.

A server and the command line use one file at the same time. With WAL readers do not wait for a writer, the busy timeout
makes one writer wait for the other, and BEGIN IMMEDIATE takes the write lock before the first read, so that nothing
that a change has read is altered before it commits (https://www.sqlite.org/isolation.html).
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import aiosqlite
from sqlalchemy import Connection, Engine, NullPool, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from vantage.core.errors import ConfigError
from vantage.storage.sqlite_reading import connect_beside, connect_frozen

BUSY_TIMEOUT_MS: Final = 5000
_ROWS_AT_ONCE: Final = 64
WRITE: Final[Mapping[str, Any]] = {"vantage_write": True}  # execution options of transactions that write

_PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # the default, unless this SQLite was built with another one
    "PRAGMA foreign_keys = ON",
    "PRAGMA recursive_triggers = ON",  # without it INSERT OR REPLACE deletes audit rows without their trigger
)


def path_of(url: str) -> Path:
    """Return the file of a ``sqlite:///`` URL. Raises ConfigError for anything else."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # ValueError: of its port, which may be a part of a password
        raise ConfigError("the metadata URL is invalid: use one like sqlite:///data/metadata.db") from None
    backend = parsed.get_backend_name()
    if backend != "sqlite":
        raise ConfigError(f"the metadata URL names {backend!r}: use sqlite:///FILE or postgresql://HOST/DATABASE")
    if parsed.query or not parsed.database or parsed.database.startswith((":memory:", "file:")):
        raise ConfigError("the metadata URL must name a file and no options, like sqlite:///data/metadata.db")
    return Path(parsed.database)


def create_file(path: Path) -> None:
    """Create an empty file for its owner alone, unless it exists. SQLite gives the files beside it the same mode.
    Raises OSError."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def connect_args(busy_timeout_ms: int) -> dict[str, Any]:
    """Return arguments for ``create_engine``: the timeout for another writer, and no implicit BEGIN."""
    return {"timeout": busy_timeout_ms / 1000, "isolation_level": None}


def prepare(engine: Engine) -> None:
    """Make the engine set the pragmas on each connection and begin each transaction by its execution options."""
    event.listen(engine, "connect", _set_pragmas)
    event.listen(engine, "begin", _begin)


def writing_engine(path: Path, *, busy_timeout_ms: int = BUSY_TIMEOUT_MS) -> Engine:
    """Return a blocking engine whose transactions all own the write lock. Dispose of it after use."""
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool, connect_args=connect_args(busy_timeout_ms))
    prepare(engine)
    return engine.execution_options(**WRITE)


def reading_engine(path: Path, *, busy_timeout_ms: int = BUSY_TIMEOUT_MS) -> Engine:
    """Return a blocking engine that cannot change the file, not even its journal mode. Dispose of it after use."""

    def connect() -> sqlite3.Connection:
        return connect_beside(path, timeout_s=busy_timeout_ms / 1000)

    return create_engine("sqlite://", creator=connect, poolclass=NullPool)


def frozen_engine(path: Path) -> AsyncEngine:
    """Return an engine that reads where SQLite cannot write beside the file; each connection is for one read."""

    def connect(*_arguments: object, **_options: object) -> aiosqlite.Connection:
        connection = aiosqlite.Connection(lambda: connect_frozen(path), iter_chunk_size=_ROWS_AT_ONCE)
        # As SQLAlchemy does for its own: the thread does not keep the process from ending.
        thread = connection if isinstance(connection, threading.Thread) else connection._thread  # noqa: SLF001
        thread.daemon = True
        return connection

    engine = create_async_engine("sqlite+aiosqlite://", async_creator=connect, poolclass=NullPool)
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


def _set_pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    try:
        for pragma in _PRAGMAS:
            cursor.execute(pragma)
    finally:
        cursor.close()


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("vantage_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
