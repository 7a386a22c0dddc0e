"""A ClickHouse server, by its native protocol."""

from __future__ import annotations

import contextlib
import importlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from vantage.core.errors import ConfigError, StartupError, StoreTimeout, StoreUnavailable, VantageError
from vantage.storage.clickhouse.engine import (
    NO_SETTINGS,
    WINDOW,
    Column,
    Insert,
    QueryResult,
    Statement,
    translate_error,
)
from vantage.storage.clickhouse.numpy_columns import NumpyResult, pack_columns, unpack_columns
from vantage.storage.clickhouse.server_url import ServerUrl

if TYPE_CHECKING:
    from types import ModuleType

T = TypeVar("T")
VERSION_MIN: Final = (23, 10)  # what the tests run the tables and queries on
GRACE_S: Final = 1.0  # a server has so long after a query's deadline to end it by itself
ALTER_TIMEOUT_S: Final = 600.0  # the server answers a deletion when it is done, and says nothing before
PING_TIMEOUT_S: Final = 5.0
RETRY_AFTER_S: Final = 5.0
_READS: Final = ("SELECT", "EXPLAIN")
# What an account's profile may set otherwise, and would change results.
_PINNED: Final = {"join_use_nulls": 0, "group_by_use_nulls": 0, "transform_null_in": 0, "final": 0, "extremes": 0}
# As for the engine inside the process; and an insert that the server only queues would neither be durable on return nor
# be deduplicated.
_INSERT_SETTINGS: Final = {
    "async_insert": 0,
    "insert_deduplicate": 1,
    "deduplicate_blocks_in_dependent_materialized_views": 1,
    "max_partitions_per_insert_block": 0,
    "max_threads": 1,
    "max_insert_threads": 1,
    "insert_block_size": 1 << 31,  # a setting of the driver: one block for each insert
}


class NativeEngine:
    """Runs statements on a server; ``open`` it before use. Threads may share it: each statement takes a connection for
    itself. Connections are kept open, ``connections_max`` of them at most."""

    name = "server"
    shared = True
    deduplication: Mapping[str, int] = WINDOW

    def __init__(self, url: ServerUrl, *, connections_max: int = 10) -> None:
        self.url = url
        self._connections_max = connections_max
        self._hosts = deque(url.hosts)
        self._idle: list[Any] = []
        self._guard = threading.Lock()
        self._driver: ModuleType | None = None
        self._refuse_writes = False

    def open(self) -> None:
        """Log in, and create the database if needed. Raises ConfigError when the driver is not installed, StartupError
        when the server cannot be used."""
        try:
            if not self.log_in():
                self._run_in_system(Statement(f"CREATE DATABASE IF NOT EXISTS {self.url.database} ENGINE = Atomic"))
            self._put_back(self._connect(self.url.database))
        except StartupError:
            raise
        except VantageError as error:
            raise StartupError(str(error)) from error

    def log_in(self) -> bool:
        """Return whether the database exists; without it no statement can run. Raises as ``open``."""
        self._load_driver()
        try:
            result = self._run_in_system(
                Statement(
                    "SELECT version() AS version, toInt64(getSetting('readonly')) AS readonly, "
                    "toInt64((SELECT count() FROM system.databases WHERE name = {name:String})) AS databases",
                    {"name": self.url.database},
                )
            )
        except VantageError as error:
            raise StartupError(str(error)) from error
        version, readonly, databases = (result.to_list(name)[0] for name in ("version", "readonly", "databases"))
        if tuple(map(int, version.split(".")[:2])) < VERSION_MIN:
            raise StartupError(
                f"ClickHouse at {self.url.where} is version {version}, and {'.'.join(map(str, VERSION_MIN))} is needed"
            )
        if readonly == 1:
            raise StartupError(
                f"the ClickHouse account {self.url.user!r} has readonly = 1, with which no query can be limited: "
                "give it readonly = 2 to read, or 0 to write as well"
            )
        self._refuse_writes = readonly == 0
        return bool(databases)

    def _load_driver(self) -> None:
        try:
            self._driver = importlib.import_module("clickhouse_driver")
            importlib.import_module("clickhouse_driver.numpy.result")
            importlib.import_module("clickhouse_driver.compression.lz4")
        except ImportError as error:
            raise ConfigError(
                f"store_url names a ClickHouse server, and its driver is not installed ({error}): "
                "pip install 'vantage[server,clickhouse]'"
            ) from error
        # Whatever it would log is raised as an error as well.
        logging.getLogger("clickhouse_driver").setLevel(logging.CRITICAL)

    def _run_in_system(self, statement: Statement) -> QueryResult:
        """Run a statement without the database, which may be missing."""
        client = self._connect("system")
        try:
            return self._read_all(client, statement, NO_SETTINGS)
        except _ConnectionLost as lost:
            raise StoreUnavailable(str(lost)) from lost
        finally:
            client.disconnect()

    def close(self) -> None:
        """Close every connection. No statement may be running."""
        self._close_idle()
        self._driver = None

    def _close_idle(self) -> None:
        with self._guard:
            idle, self._idle = self._idle, []
        for client in idle:
            client.disconnect()

    # --- connections ---

    def _connect(self, database: str) -> Any:
        """Log in to the first host that answers, beginning with the one that did last. Raises StoreUnavailable."""
        if self._driver is None:
            raise StoreUnavailable("the store is closed")
        with self._guard:
            hosts = list(self._hosts)
        failures = []
        for host, port in hosts:
            client = self._driver.Client(
                host,
                port=port,
                database=database,
                user=self.url.user,
                password=self.url.password,
                client_name="vantage",
                connect_timeout=self.url.connect_timeout_s,
                send_receive_timeout=self.url.read_timeout_s,
                sync_request_timeout=PING_TIMEOUT_S,
                compression="lz4",
                secure=self.url.secure,
                verify=self.url.verify,
                ca_certs=self.url.ca_certs or None,
                tcp_keepalive=True,
                settings={"use_numpy": True, "server_side_params": True, **_PINNED},
            )
            try:
                client.connection.connect()
            except self._driver.errors.ServerException as error:
                client.disconnect()
                raise StoreUnavailable(
                    f"ClickHouse at {host}:{port} refuses the login: {translate_error(error, {})}"
                ) from error
            except (self._driver.errors.Error, OSError, EOFError) as error:
                client.disconnect()
                failures.append(f"{host}:{port}: {_reason(error)}")
                with self._guard:
                    if self._hosts[0] == (host, port):
                        self._hosts.rotate(-1)
            else:
                return client
        raise StoreUnavailable(f"ClickHouse cannot be reached at {'; '.join(failures)}")

    @contextlib.contextmanager
    def _client(self) -> Iterator[Any]:
        """Lend a connection. One that failed is closed, which ends what it ran on the server."""
        with self._guard:
            client = self._idle.pop() if self._idle else None
        client = client or self._connect(self.url.database)
        try:
            yield client
        except BaseException:
            client.disconnect()
            raise
        self._put_back(client)

    def _put_back(self, client: Any) -> None:
        with self._guard:
            if len(self._idle) < self._connections_max and self._driver is not None:
                self._idle.append(client)
                return
        client.disconnect()

    # --- statements ---

    def run(
        self,
        statement: Statement,
        settings: Mapping[str, float] = NO_SETTINGS,
        *,
        cancelled: threading.Event | None = None,
    ) -> QueryResult:
        ends_s = time.monotonic() + settings.get("max_execution_time", float("inf"))

        def read(client: Any) -> QueryResult:
            left = dict(settings)
            if "max_execution_time" in left:
                left["max_execution_time"] = max(0.001, ends_s - time.monotonic())
            return self._read_all(client, statement, left, cancelled)

        return self._with_client(
            read, may_repeat=lambda: statement.text.startswith(_READS) and time.monotonic() < ends_s
        )

    def _with_client(self, work: Callable[[Any], T], *, may_repeat: Callable[[], bool]) -> T:
        """Call ``work`` with a connection, and once more when that broke: the server was restarted, or another host has
        to take over."""
        try:
            with self._client() as client:
                return work(client)
        except _ConnectionLost as lost:
            self._close_idle()
            if not may_repeat():
                raise StoreUnavailable(str(lost)) from lost
        try:
            with self._client() as client:
                return work(client)
        except _ConnectionLost as lost:
            raise StoreUnavailable(str(lost)) from lost

    def encode(self, table: str, columns: Mapping[str, Column], *, token: str) -> Insert:
        return Insert(table, tuple(columns), token, pack_columns(columns))

    def insert(self, insert: Insert) -> None:
        text = f"INSERT INTO {insert.table} ({', '.join(insert.columns)}) VALUES"
        columns = unpack_columns(insert.payload)
        settings = {**_INSERT_SETTINGS, "insert_deduplication_token": insert.token}

        def send(client: Any) -> None:
            _set_timeout(client, self.url.read_timeout_s)
            try:
                client.execute(text, columns, columnar=True, settings=settings)
            except Exception as error:
                reason = self._failure(client, error, {})
                if _is_lost(error):
                    raise _ConnectionLost(str(reason)) from error
                raise StoreUnavailable(
                    f"ClickHouse could not insert into {insert.table}: {reason}",
                    retry_after_s=reason.retry_after_s if isinstance(reason, StoreUnavailable) else RETRY_AFTER_S,
                ) from error

        self._with_client(send, may_repeat=lambda: True)  # the token makes it one insert

    def stream(self, statement: Statement, settings: Mapping[str, float] = NO_SETTINGS) -> Iterator[QueryResult]:
        client = self._connect(self.url.database)
        try:
            for names, columns in self._chunks(client, statement, settings, None):
                yield NumpyResult(names, [columns])
        except _ConnectionLost as lost:
            raise StoreUnavailable(str(lost)) from lost
        finally:
            client.disconnect()

    def _read_all(
        self,
        client: Any,
        statement: Statement,
        settings: Mapping[str, float],
        cancelled: threading.Event | None = None,
    ) -> QueryResult:
        blocks = list(self._chunks(client, statement, settings, cancelled))
        return NumpyResult(blocks[0][0] if blocks else (), [columns for _, columns in blocks])

    def _chunks(
        self,
        client: Any,
        statement: Statement,
        settings: Mapping[str, float],
        cancelled: threading.Event | None,
    ) -> Iterator[tuple[list[str], list[Any]]]:
        """Yield names and columns of a result, block by block. The server reports its progress ten times a second:
        each time it is checked whether the result is still wanted."""
        limit_s = settings.get("max_execution_time", float("inf"))
        ends_s = time.monotonic() + limit_s + GRACE_S
        is_read = statement.text.startswith(_READS)
        _set_timeout(client, min(self.url.read_timeout_s, limit_s + GRACE_S) if is_read else ALTER_TIMEOUT_S)
        sent = {**settings, "readonly": 2} if is_read and self._refuse_writes else dict(settings)
        try:
            result = client.execute_with_progress(
                statement.text, dict(statement.params), with_column_types=True, columnar=True, settings=sent
            )
            for packet in result.packet_generator:
                if cancelled is not None and cancelled.is_set():
                    raise StoreUnavailable("the query was cancelled")
                if time.monotonic() > ends_s:
                    raise StoreTimeout("the query took too long: narrow its time range or its filters")
                block = packet.block
                if block is not None and block.num_rows:
                    yield [name for name, _ in block.columns_with_types], block.get_columns()
        except VantageError:
            raise
        except Exception as error:
            if isinstance(error, TimeoutError) and time.monotonic() > ends_s - GRACE_S:
                raise StoreTimeout("the query took too long: narrow its time range or its filters") from error
            if _is_lost(error):
                raise _ConnectionLost(str(self._failure(client, error, settings))) from error
            raise self._failure(client, error, settings) from error

    def _failure(self, client: Any, error: Exception, settings: Mapping[str, float]) -> VantageError:
        if not _is_lost(error):
            return translate_error(error, settings)
        host, port = client.connection.hosts[0]
        return StoreUnavailable(f"the connection to ClickHouse at {host}:{port} broke: {_reason(error)}")


class _ConnectionLost(Exception):
    """The connection broke; the statement may have been run or not."""


def _is_lost(error: Exception) -> bool:
    """Return whether an error is of the network. The driver wraps those of a new connection, and not the others."""
    return isinstance(error, (OSError, EOFError)) or type(error).__name__ in ("NetworkError", "SocketTimeoutError")


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, EOFError):
        return "the server closed the connection"
    return str(getattr(error, "strerror", None) or getattr(error, "message", None) or type(error).__name__)


def _set_timeout(client: Any, seconds: float) -> None:
    connection = client.connection
    connection.send_receive_timeout = seconds
    if connection.socket is not None:
        connection.socket.settimeout(seconds)
