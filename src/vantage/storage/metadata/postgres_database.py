"""The metadata in a database of PostgreSQL, which several processes share, through asyncpg."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from vantage.core.clock import Clock
from vantage.core.errors import StartupError, StoreUnavailable, VantageError
from vantage.storage.metadata import migrate
from vantage.storage.metadata.database import WAIT_S, check_answers
from vantage.storage.metadata.postgres import (
    CHANGE_LOCK,
    IDLE_S,
    create_engine,
    is_standby,
    is_unreachable,
    parse_url,
    postgres_errors,
)

CONNECTIONS: Final = 4
RECYCLE_S: Final = 1800  # the age at which a connection is replaced: firewalls drop idle ones without a word
PAUSE_S: Final = 1.0  # between attempts to reach a server that is away; meanwhile every use fails at once


class PostgresDatabase:
    """Implements ``Database``. A server that is away is opened, migrated and used as soon as it is back."""

    def __init__(self, url: str, clock: Clock, *, busy_timeout_ms: int) -> None:
        """``busy_timeout_ms`` is how long a change waits for other processes. Raises ConfigError for an invalid URL."""
        self._text = url
        self._url = parse_url(url)
        self._clock = clock
        self._busy_timeout_ms = busy_timeout_ms
        self._engine: AsyncEngine | None = None
        self._current = False  # the schema is
        self._migrating = asyncio.Lock()
        self._writer = asyncio.Lock()
        self._failure = ""  # of the last attempt to reach the server
        self._retry_s = 0.0

    async def open(self) -> None:
        """Open. On return the database has the newest schema and answers, or the server is away."""
        self._engine = create_engine(
            self._url,
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_timeout=WAIT_S,
            pool_recycle=RECYCLE_S,
            pool_pre_ping=True,  # after a restart of the server every open connection is dead
        )
        try:
            with self._attempt():
                await self._migrate()
            async with self.read() as connection:
                await check_answers(connection)
        except StoreUnavailable:
            pass  # every use raises it, and tries again
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close after the current change."""
        engine, self._engine = self._engine, None
        if engine is not None:
            async with self._writer:
                await engine.dispose()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Return a connection that reads."""
        with self._used():
            await self._make_current()
            connection = await self._opened().connect()
            try:
                yield connection
            finally:
                await asyncio.shield(connection.close())

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Begin a transaction. Changes queue on a lock of this object first: they would use every connection otherwise.

        A lock of the server makes the changes of all processes take turns. It is released after the commit is visible.
        """
        try:
            with self._used():
                await self._make_current()
                await self._wait_for_turn()
                try:
                    async with self._opened().begin() as connection:
                        await self._lock(connection)
                        yield connection
                finally:
                    self._writer.release()
        except StoreUnavailable as error:
            if is_standby(error) and self._engine is not None:
                await self._engine.dispose()  # connections made from now on lead to the host that can be written
            raise

    async def _lock(self, connection: AsyncConnection) -> None:
        """Wait until no other process changes anything, and let none wait for this one if it stands still."""
        limits = {
            "lock_timeout": f"{self._busy_timeout_ms}ms",
            "idle_in_transaction_session_timeout": f"{IDLE_S}s",
        }
        for name, value in limits.items():
            await connection.execute(text("SELECT set_config(:name, :value, true)"), {"name": name, "value": value})
        await connection.execute(text(f"SELECT pg_advisory_xact_lock({CHANGE_LOCK})"))

    async def _wait_for_turn(self) -> None:
        try:
            async with asyncio.timeout(WAIT_S):
                await self._writer.acquire()
        except TimeoutError:
            raise StoreUnavailable("the metadata database is busy: other changes take too long") from None

    async def _make_current(self) -> None:
        if not self._current:
            async with self._migrating:
                if not self._current:
                    await self._migrate()

    async def _migrate(self) -> None:
        await asyncio.to_thread(migrate.upgrade, self._text)
        self._current = True

    @contextmanager
    def _used(self) -> Iterator[None]:
        """Run the body, in which errors of the server are ours. What can be mended only by its operators is
        unavailable: the process goes on."""
        self._opened()
        try:
            with self._attempt(), postgres_errors(self._url):
                yield
        except StartupError as error:
            raise StoreUnavailable(str(error)) from error

    @contextmanager
    def _attempt(self) -> Iterator[None]:
        """Run the body. While the server is away one caller at a time tries to reach it, once in PAUSE_S; for others
        this raises StoreUnavailable at once."""
        now_s = self._clock.monotonic_s()
        if self._failure:
            if now_s < self._retry_s:
                raise StoreUnavailable(self._failure)
            self._retry_s = now_s + WAIT_S
        try:
            yield
        except BaseException as error:
            if isinstance(error, StoreUnavailable) and is_unreachable(error):
                self._failure = str(error)
            self._retry_s = self._clock.monotonic_s() + PAUSE_S
            if isinstance(error, VantageError) and not is_unreachable(error):
                self._failure = ""  # it answered
            raise
        self._failure = ""

    def _opened(self) -> AsyncEngine:
        if self._engine is None:
            raise StoreUnavailable("the metadata store is not open")
        return self._engine
