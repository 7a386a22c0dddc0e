"""The MetadataStore on SQLAlchemy: SQLite through aiosqlite."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final, Self

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from vantage.core.api_key import ApiKey
from vantage.core.audit import AuditEntry
from vantage.core.clock import Clock
from vantage.core.deployment import DETECTED, Deployment
from vantage.core.errors import StoreUnavailable
from vantage.core.stream_position import StreamPosition
from vantage.core.timerange import TimeRange
from vantage.storage.disk_reserve import DiskReserve
from vantage.storage.metadata import audit, audit_entries, deployments, keys, migrate, positions, sqlite
from vantage.storage.metadata.errors import driver_errors
from vantage.storage.ports import Selector
from vantage.storage.sqlite_reading import is_write_failure
from vantage.storage.write_access import why_read_only

# One connection may write and wait for another process; the second can still read.
_CONNECTIONS: Final = 2
DETECTED_MAX: Final = 20_000  # detected deployments
DETECTED_AUDITED_MAX: Final = 1000  # those that have an entry in the audit log, since the start
PRUNE_EVERY: Final = 100
RESERVE_NBYTES: Final = 64 << 10
_WAIT_S: Final = 10.0  # for a connection, and for the changes before this one


class SqlMetadataStore:
    """Implements ``MetadataStore``. Any number of these, in any number of processes, may have one file open.

    The store keeps working after any error: a failed change is rolled back. On a full disk, and in a folder that is
    read-only, what is stored is read and changes raise StoreUnavailable, until they are possible again.
    """

    def __init__(self, url: str, clock: Clock, *, busy_timeout_ms: int = sqlite.BUSY_TIMEOUT_MS) -> None:
        """``url`` is ``sqlite:///…``; ``busy_timeout_ms`` is how long a change waits for another process's. Opens
        nothing. Raises ConfigError for an invalid URL."""
        self._path = sqlite.path_of(url)
        self._url = url
        self._clock = clock
        self._busy_timeout_ms = busy_timeout_ms
        self._engine: AsyncEngine | None = None
        self._frozen: AsyncEngine | None = None  # for reads where SQLite cannot write
        self._is_read_only = False  # when it was last read
        self._writer = asyncio.Lock()
        self._detected = 0  # deployments recorded since the start
        self._reserve = DiskReserve(self._path.with_name(self._path.name + ".reserve"), nbytes=RESERVE_NBYTES)

    async def __aenter__(self) -> Self:
        """Open. On return the file exists, has the newest schema and answers. Raises FormatTooNew when a newer version
        wrote it (nothing was changed), ConfigError when it is another program's, StoreUnavailable."""
        self._reserve.release()
        await asyncio.to_thread(migrate.upgrade, self._url)
        self._engine = create_async_engine(
            f"sqlite+aiosqlite:///{self._path}",
            pool_size=_CONNECTIONS,
            max_overflow=0,
            pool_timeout=_WAIT_S,
            connect_args=sqlite.connect_args(self._busy_timeout_ms),
        )
        sqlite.prepare(self._engine.sync_engine)
        self._frozen = sqlite.frozen_engine(self._path)
        try:
            await self.ping()
        except BaseException:
            await self._close()
            raise
        self._reserve.keep()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close, after the current change. Later calls raise StoreUnavailable."""
        await self._close()
        self._reserve.keep(spare_nbytes=0)  # of what closing gave back to a full disk

    async def create_key(self, key: ApiKey, *, actor: str) -> None:
        """Store a key. On return the key is durable and every process sees it. Raises ConflictError when its id, its
        name (among active keys) or its hash is in use, StoreUnavailable; then nothing is stored."""
        async with self._write() as connection:
            now_ms = self._clock.now_ms()
            await keys.create(connection, key, now_ms=now_ms)
            await audit.append(connection, audit_entries.key_created(key, actor=actor, at_ms=now_ms))

    async def keys(self) -> Sequence[ApiKey]:
        """Return all keys, including revoked and expired ones, oldest first, ties by id. Raises StoreUnavailable."""
        async with self._read() as connection:
            return await keys.all_keys(connection)

    async def revoke_key(self, key_id: str, *, actor: str) -> ApiKey:
        """Revoke by id, or else by the name of an active key, and return the revoked key. A key that is revoked already
        is not changed, without an audit entry. Raises NotFoundError, StoreUnavailable."""
        async with self._write() as connection:
            now_ms = self._clock.now_ms()
            key = await keys.find(connection, key_id, now_ms=now_ms)
            if key.revoked_ms is not None:
                return key
            revoked = await keys.revoke(connection, key, now_ms=now_ms)
            await audit.append(connection, audit_entries.key_revoked(revoked, actor=actor, at_ms=now_ms))
            return revoked

    async def record_deployment(self, deployment: Deployment, *, actor: str) -> bool:
        """Store a deployment. True: stored, durably. False: a detected one whose service, environment and version are
        known; only an earlier time is stored. Its ``id`` is ignored. Raises StoreUnavailable."""
        async with self._write() as connection:
            is_new = await deployments.record(connection, deployment)
            if is_new and deployment.source == DETECTED:
                self._detected += 1
                if self._detected % PRUNE_EVERY == 0:
                    await deployments.prune_detected(connection, remaining=DETECTED_MAX)
            if is_new and (deployment.source != DETECTED or self._detected <= DETECTED_AUDITED_MAX):
                entry = audit_entries.deployment_recorded(deployment, actor=actor, at_ms=self._clock.now_ms())
                await audit.append(connection, entry)
            return is_new

    async def deployments(
        self, *, service: str = "", time_range: TimeRange | None = None, limit: int = 100
    ) -> Sequence[Deployment]:
        """Return up to ``limit`` deployments, the latest first; of equal times the one recorded last is first. Raises
        StoreUnavailable."""
        async with self._read() as connection:
            return await deployments.latest(connection, service=service, time_range=time_range, limit=limit)

    async def remove_deployments(self, selector: Selector, *, actor: str) -> int:
        """Remove those of a deleted service or environment, and return their number. If that is 0, there is no audit
        entry. Raises InputError for an empty selector, StoreUnavailable."""
        async with self._write() as connection:
            removed = await deployments.remove(connection, selector)
            if removed:
                now_ms = self._clock.now_ms()
                entry = audit_entries.deployments_removed(selector, removed=removed, actor=actor, at_ms=now_ms)
                await audit.append(connection, entry)
            return removed

    async def take_partition(self, topic: str, partition: int) -> StreamPosition:
        """Become the owner of a partition, and return its position. Raises StoreUnavailable."""
        async with self._write() as connection:
            return await positions.take(connection, topic, partition)

    async def move_partition(self, topic: str, partition: int, position: StreamPosition) -> bool:
        """Set the position, durably. False: the partition has another owner. Raises StoreUnavailable."""
        async with self._write() as connection:
            return await positions.move(connection, topic, partition, position)

    async def record_audit(self, entry: AuditEntry) -> None:
        """Append an entry, durable on return, with its ``at_ms``; its ``id`` is ignored. A repeat appends it again.
        Raises StoreUnavailable."""
        async with self._write() as connection:
            await audit.append(connection, entry)

    async def audit(self, *, limit: int = 100, before_id: int | None = None) -> Sequence[AuditEntry]:
        """Return up to ``limit`` entries with an id below ``before_id``, the latest first. Raises StoreUnavailable."""
        async with self._read() as connection:
            return await audit.latest(connection, limit=limit, before_id=before_id)

    async def last_change_id(self) -> int:
        """Return a number that grows with every change, by any process; 0 before the first. One index look-up, so a
        cache may read it every second. Expiry is not a change. Raises StoreUnavailable."""
        async with self._read() as connection:
            return await audit.last_id(connection)

    async def ping(self) -> None:
        """Return if the database answers; raise StoreUnavailable if not."""
        async with self._read() as connection:
            # Read from the file: SELECT 1 would not even open it.
            await connection.execute(text("SELECT version_num FROM alembic_version"))

    @asynccontextmanager
    async def _read(self) -> AsyncIterator[AsyncConnection]:
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
    async def _write(self) -> AsyncIterator[AsyncConnection]:
        """Begin a transaction, isolated from other changes, that commits at the end or rolls back on an error.

        Changes queue on a lock of this store first, because SQLite's waiting writers poll, and would use every
        connection that readers need.
        """
        if reason := self._why_read_only():
            raise StoreUnavailable(reason)
        with driver_errors():
            async with asyncio.timeout(_WAIT_S):
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

    async def _close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            async with self._writer:
                await engine.dispose()
        if self._frozen is not None:
            await self._frozen.dispose()
