"""The engine inside this process: chdb, which is ClickHouse as a library.

It serves one folder per process, and takes about 200 MB of memory. Queries of one connection wait for each other, so
every thread has a connection of its own.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vantage.core.errors import ConfigError, StartupError, StoreUnavailable
from vantage.storage.clickhouse.engine import (
    NO_SETTINGS,
    WINDOW,
    Column,
    Insert,
    Param,
    QueryResult,
    Statement,
    translate_error,
)

if TYPE_CHECKING:
    from types import ModuleType

DATABASE: Final = "vantage"
# One insert of late or imported samples may contain any number of months.
# One thread makes the same blocks of the same rows, which the tokens of repeated inserts rely on; inserts of a commit's
# size were not slower.
_INSERT_SETTINGS: Final = (
    "max_partitions_per_insert_block = 0, deduplicate_blocks_in_dependent_materialized_views = 1, "
    "max_threads = 1, max_insert_threads = 1"
)
# ClickHouse reads the value of a parameter as a field of its TabSeparated format:
# https://clickhouse.com/docs/interfaces/formats/TabSeparated
_ESCAPES: Final = str.maketrans(
    {"\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\0": "\\0", "\b": "\\b", "\f": "\\f", "'": "\\'"}
)


def param_text(value: Param) -> str:
    """Return a parameter's value as a text that the engine parses exactly."""
    return value.translate(_ESCAPES) if isinstance(value, str) else repr(value)


class ChdbEngine:
    """Runs statements in this process; ``open`` it before use. ``path`` is the engine's own folder."""

    name = "chdb"
    shared = False
    deduplication = WINDOW

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._connections: list[Any] = []
        self._guard = threading.Lock()
        self._chdb: ModuleType | None = None
        self._arrow: ModuleType | None = None

    def open(self) -> None:
        """Load the engine and start it on the folder. Raises ConfigError when it is not installed, StartupError when
        it does not start."""
        try:
            self._chdb = importlib.import_module("chdb._chdb")
            self._arrow = importlib.import_module("vantage.storage.clickhouse.arrow")
        except ImportError as error:
            raise ConfigError(
                f"store_url names the ClickHouse engine, which is not installed ({error}): "
                "pip install 'vantage[server,chdb]'"
            ) from error
        try:
            self._connect().query(f"CREATE DATABASE IF NOT EXISTS {DATABASE} ENGINE = Atomic", "Null")
        except StoreUnavailable as error:
            raise StartupError(str(error)) from error
        except RuntimeError as error:
            raise StartupError(f"the ClickHouse engine did not start: {error}") from error
        self.close()

    def close(self) -> None:
        """Close every connection; the engine stops with the last one. No statement may be running."""
        with self._guard:
            for connection in self._connections:
                connection.close()
            self._connections.clear()
            self._local = threading.local()

    def _connect(self) -> Any:
        if self._chdb is None:
            raise StoreUnavailable("the store is closed")
        try:
            connection = self._chdb.connect(str(self._path))
        except RuntimeError as error:
            raise StoreUnavailable(f"the ClickHouse engine did not start: {error}") from error
        with self._guard:
            self._connections.append(connection)
        return connection

    def _thread_connection(self) -> Any:
        """Return the connection of this thread."""
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
            connection.query(f"USE {DATABASE}", "Null")
        return connection

    def run(
        self,
        statement: Statement,
        settings: Mapping[str, float] = NO_SETTINGS,
        *,
        cancelled: threading.Event | None = None,  # noqa: ARG002 - a statement cannot be ended from outside
    ) -> QueryResult:
        params = {name: param_text(value) for name, value in statement.params.items()}
        text = _with_settings(statement.text, settings)
        connection = self._thread_connection()
        try:
            result = connection.query(text, self._format, params=params)
        except RuntimeError as error:
            raise translate_error(error, settings) from error
        return self._result(result)

    def encode(self, table: str, columns: Mapping[str, Column], *, token: str) -> Insert:
        if self._arrow is None:
            raise StoreUnavailable("the store is closed")
        return Insert(table, tuple(columns), token, self._arrow.encode(columns))

    def insert(self, insert: Insert) -> None:
        names = ", ".join(insert.columns)
        text = (
            f"INSERT INTO {insert.table} ({names}) "
            f"SETTINGS insert_deduplication_token = '{insert.token}', {_INSERT_SETTINGS}"
        )
        connection = self._thread_connection()
        try:
            inserter = connection.send_insert(text, self._format)
            connection.insert_append(inserter, insert.payload)
            connection.insert_done(inserter)
        except RuntimeError as error:
            raise StoreUnavailable(f"the ClickHouse engine could not insert: {str(error)[:300]}") from error

    def stream(self, statement: Statement, settings: Mapping[str, float] = NO_SETTINGS) -> Iterator[QueryResult]:
        """Stream on a separate connection: the thread's may run other statements meanwhile."""
        connection = self._connect()
        try:
            connection.query(f"USE {DATABASE}", "Null")
            yield from self._stream(connection, statement, settings)
        finally:
            with self._guard:
                if connection in self._connections:
                    self._connections.remove(connection)
                    connection.close()

    def _stream(self, connection: Any, statement: Statement, settings: Mapping[str, float]) -> Iterator[QueryResult]:
        params = {name: param_text(value) for name, value in statement.params.items()}
        running = None
        try:
            running = connection.send_query(_with_settings(statement.text, settings), self._format, params=params)
            while True:
                chunk = connection.streaming_fetch_result(running)
                if chunk is None or chunk.rows_read() == 0:
                    running = None
                    return
                yield self._result(chunk)
        except RuntimeError as error:
            running = None
            raise translate_error(error, settings) from error
        finally:
            if running is not None:
                connection.streaming_cancel_query(running)

    @property
    def _format(self) -> str:
        if self._arrow is None:
            raise StoreUnavailable("the store is closed")
        name: str = self._arrow.FORMAT
        return name

    def _result(self, result: Any) -> QueryResult:
        if self._arrow is None:
            raise StoreUnavailable("the store is closed")
        decoded: QueryResult = self._arrow.ArrowResult(result.bytes())
        return decoded


def _with_settings(text: str, settings: Mapping[str, float]) -> str:
    if not settings:
        return text
    return f"{text}\nSETTINGS {', '.join(f'{name} = {value!r}' for name, value in settings.items())}"
