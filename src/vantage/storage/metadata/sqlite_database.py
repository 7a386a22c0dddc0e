"""The metadata in a file of SQLite, through aiosqlite."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from vantage.core.errors import StoreUnavailable
from vantage.storage.disk_reserve import DiskReserve
from vantage.storage.metadata import migrate, sqlite
from vantage.storage.metadata.database import WAIT_S, check_answers
from vantage.storage.metadata.errors import driver_errors
from vantage.storage.sqlite_reading import is_write_failure
from vantage.storage.write_access import why_read_only

# One connection may write and wait for another process; the second can still read.
_CONNECTIONS: Final = 2
RESERVE_NBYTES: Final = 64 << 10


class SqliteDatabase:
    """Implements ``Database``. On a full disk, and in a folder that is read-only, what is stored is read and changes
    raise StoreUnavailable, until they are possible again."""

    def __init__(self, url: str, *, busy_timeout_ms: int) -> None:
        """Raises ConfigError for an invalid URL."""
        self._path = sqlite.path_of(url)
        self._url = url
        self._busy_timeout_ms = busy_timeout_ms
        self._engine: AsyncEngine | None = None
        self._frozen: AsyncEngine | None = None  # for reads where SQLite cannot write
        self._is_read_only = False  # when it was last read
        self._writer = asyncio.Lock()
        self._reserve = DiskReserve(self._path.with_name(self._path.name + ".reserve"), nbytes=RESERVE_NBYTES)

    async def open(self) -> None:
        """Open. On return the file exists, has the newest schema and answers."""
        self._reserve.release()
        await asyncio.to_thread(migrate.upgrade, self._url)
        self._engine = create_async_engine(
            f"sqlite+aiosqlite:///{self._path}",
            pool_size=_CONNECTIONS,
            max_overflow=0,
            pool_timeout=WAIT_S,
            connect_args=sqlite.connect_args(self._busy_timeout_ms),
        )
        sqlite.prepare(self._engine.sync_engine)
        self._frozen = sqlite.frozen_engine(self._path)
        try:
            async with self.read() as connection:
                await check_answers(connection)
        except BaseException:
            await self._dispose()
            raise
        self._reserve.keep()

    async def close(self) -> None:
        """Close after the current change."""
        await self._dispose()
        self._reserve.keep(spare_nbytes=0)  # of what closing gave back to a full disk

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Return a connection that reads."""
        with driver_errors():
            connection = await self._connected()
            try:
                yield connection
            finally:
                await asyncio.shield(connection.close())

    async def _connected(self) -> AsyncConnection:
        engine = self._opened()
        if self._frozen is not None and self._why_read_only():
            if not self._is_read_only:
                # A connection that was opened without the right to write never gets it, and one that is opened beside
                # others without locks makes them lose theirs.
                self._is_read_only = True
                await engine.dispose()
            return await self._frozen.connect()
        self._is_read_only = False
        try:
            return await engine.connect()
        except (DBAPIError, sqlite3.Error) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            if self._frozen is None or cause is None or not is_write_failure(cause):
                raise
        return await self._frozen.connect()

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Begin a transaction.

        Changes queue on a lock of this object first, because SQLite's waiting writers poll, and would use every
        connection that readers need.
        """
        if reason := self._why_read_only():
            raise StoreUnavailable(reason)
        with driver_errors():
            async with asyncio.timeout(WAIT_S):
                await self._writer.acquire()
            try:
                async with self._opened().execution_options(**sqlite.WRITE).begin() as connection:
                    yield connection
            finally:
                self._writer.release()

    def _why_read_only(self) -> str:
        return why_read_only((self._path.parent, self._path))

    def _opened(self) -> AsyncEngine:
        if self._engine is None:
            raise StoreUnavailable("the metadata store is not open")
        return self._engine

    async def _dispose(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            async with self._writer:
                await engine.dispose()
        if self._frozen is not None:
            await self._frozen.dispose()
