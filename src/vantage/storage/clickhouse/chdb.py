"""The engine inside this process: chdb, which is ClickHouse as a library.

It serves one folder a process, and keeps some 200 MB. Queries of one connection wait for each other, so every thread
has a connection of its own.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vantage.core.errors import ConfigError, StartupError, StoreUnavailable
from vantage.storage.clickhouse.engine import Column, Insert, Param, QueryResult, Statement, translate_error

if TYPE_CHECKING:
    from types import ModuleType

DATABASE: Final = "vantage"
# Of samples that were sent late or imported, one insert may reach any number of months.
# One thread makes the same blocks of the same rows, which is what tokens go by when an insert is repeated; inserts of a
# commit's size were no slower for it.
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
    """A parameter's value as the engine reads it back exactly."""
    return value.translate(_ESCAPES) if isinstance(value, str) else repr(value)


class ChdbEngine:
    """``open`` before use. ``path`` is the engine's own folder."""

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
        """Close every connection; the engine stops with the last one. No statement may be under way."""
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

    def _own(self) -> Any:
        """The connection of this thread."""
        found = getattr(self._local, "connection", None)
        if found is None:
            found = self._local.connection = self._connect()
            found.query(f"USE {DATABASE}", "Null")
        return found

    def run(self, statement: Statement, **settings: float) -> QueryResult:
        params = {name: param_text(value) for name, value in statement.params.items()}
        text = _with_settings(statement.text, settings)
        connection = self._own()
        try:
            result = connection.query(text, self._format, params=params)
        except RuntimeError as error:
            raise translate_error(error, settings) from error
        return self._answer(result)

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
        connection = self._own()
        try:
            inserter = connection.send_insert(text, self._format)
            connection.insert_append(inserter, insert.payload)
            connection.insert_done(inserter)
        except RuntimeError as error:
            raise StoreUnavailable(f"the ClickHouse engine could not insert: {str(error)[:300]}") from error

    def stream(self, statement: Statement, **settings: float) -> Iterator[QueryResult]:
        """On a connection of its own: the thread's may answer other statements meanwhile."""
        connection = self._connect()
        try:
            connection.query(f"USE {DATABASE}", "Null")
            yield from self._streamed(connection, statement, settings)
        finally:
            with self._guard:
                if connection in self._connections:
                    self._connections.remove(connection)
                    connection.close()

    def _streamed(self, connection: Any, statement: Statement, settings: Mapping[str, float]) -> Iterator[QueryResult]:
        params = {name: param_text(value) for name, value in statement.params.items()}
        under_way = None
        try:
            under_way = connection.send_query(_with_settings(statement.text, settings), self._format, params=params)
            while True:
                piece = connection.streaming_fetch_result(under_way)
                if piece is None or piece.rows_read() == 0:
                    under_way = None
                    return
                yield self._answer(piece)
        except RuntimeError as error:
            under_way = None
            raise translate_error(error, settings) from error
        finally:
            if under_way is not None:
                connection.streaming_cancel_query(under_way)

    @property
    def _format(self) -> str:
        if self._arrow is None:
            raise StoreUnavailable("the store is closed")
        found: str = self._arrow.FORMAT
        return found

    def _answer(self, result: Any) -> QueryResult:
        if self._arrow is None:
            raise StoreUnavailable("the store is closed")
        found: QueryResult = self._arrow.ArrowResult(result.bytes())
        return found


def _with_settings(text: str, settings: Mapping[str, float]) -> str:
    if not settings:
        return text
    return f"{text}\nSETTINGS {', '.join(f'{name} = {value!r}' for name, value in settings.items())}"
