"""The MetadataStore on SQLAlchemy: SQLite through aiosqlite."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final, Self

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from vantage.core.api_key import ApiKey
from vantage.core.audit import AuditEntry
from vantage.core.clock import Clock
from vantage.core.deployment import Deployment
from vantage.core.errors import StoreUnavailable
from vantage.core.timerange import TimeRange
from vantage.storage.metadata import audit, audit_entries, deployments, keys, migrate, sqlite
from vantage.storage.metadata.errors import driver_errors
from vantage.storage.ports import Selector

# One connection may write and wait for another process; the second is then still there to read.
_CONNECTIONS: Final = 2
_WAIT_S: Final = 10.0  # for a connection, and for the changes before this one


class SqlMetadataStore:
    """Implements ``MetadataStore``. Any number of these, in any number of processes, may have one file open.

    After any error the store goes on working: what failed left nothing behind.
    """

    def __init__(self, url: str, clock: Clock, *, busy_timeout_ms: int = sqlite.BUSY_TIMEOUT_MS) -> None:
        """``url`` is ``sqlite:///…``; ``busy_timeout_ms`` is how long a change waits for another process's. Nothing
        is opened. Raises ConfigError when the URL cannot be used."""
        self._path = sqlite.path_of(url)
        self._url = url
        self._clock = clock
        self._busy_timeout_ms = busy_timeout_ms
        self._engine: AsyncEngine | None = None
        self._writer = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Open. When it returns the file exists, has the newest schema and answers. Raises FormatTooNew when a newer
        version wrote it (nothing was touched), ConfigError when it is something else's, StoreUnavailable."""
        await asyncio.to_thread(migrate.upgrade, self._url)
        self._engine = create_async_engine(
            f"sqlite+aiosqlite:///{self._path}",
            pool_size=_CONNECTIONS,
            max_overflow=0,
            pool_timeout=_WAIT_S,
            connect_args=sqlite.connect_args(self._busy_timeout_ms),
        )
        sqlite.prepare(self._engine.sync_engine)
        try:
            await self.ping()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close. A change under way is finished first; whatever is asked afterwards raises StoreUnavailable."""
        await self._close()

    async def create_key(self, key: ApiKey, *, actor: str) -> None:
        """Keep a key. When it returns the key is durable and every process sees it. Raises ConflictError when its id,
        its name (among usable keys) or its hash is taken, StoreUnavailable; then nothing was kept."""
        async with self._write() as connection:
            now_ms = self._clock.now_ms()
            await keys.create(connection, key, now_ms=now_ms)
            await audit.append(connection, audit_entries.key_created(key, actor=actor, at_ms=now_ms))

    async def keys(self) -> Sequence[ApiKey]:
        """All keys, revoked and expired ones too, oldest first, ties by id. Raises StoreUnavailable."""
        async with self._read() as connection:
            return await keys.all_keys(connection)

    async def revoke_key(self, key_id: str, *, actor: str) -> ApiKey:
        """Revoke by id, or else by the name of a usable key, and return the key as it is then. A key revoked before
        stays as it was, without an audit entry. Raises NotFoundError, StoreUnavailable."""
        async with self._write() as connection:
            now_ms = self._clock.now_ms()
            key = await keys.find(connection, key_id, now_ms=now_ms)
            if key.revoked_ms is not None:
                return key
            revoked = await keys.revoke(connection, key, now_ms=now_ms)
            await audit.append(connection, audit_entries.key_revoked(revoked, actor=actor, at_ms=now_ms))
            return revoked

    async def record_deployment(self, deployment: Deployment, *, actor: str) -> bool:
        """Keep a deployment. True: kept, durably. False: it was only seen and its service, environment and version
        are known; nothing changed. The given ``id`` is ignored. Raises StoreUnavailable."""
        async with self._write() as connection:
            kept = await deployments.record(connection, deployment)
            if kept:
                entry = audit_entries.deployment_recorded(deployment, actor=actor, at_ms=self._clock.now_ms())
                await audit.append(connection, entry)
            return kept

    async def deployments(
        self, *, service: str = "", time_range: TimeRange | None = None, limit: int = 100
    ) -> Sequence[Deployment]:
        """Up to ``limit`` deployments, the latest first, of two at one time the one recorded later first. Raises
        StoreUnavailable."""
        async with self._read() as connection:
            return await deployments.latest(connection, service=service, time_range=time_range, limit=limit)

    async def remove_deployments(self, selector: Selector, *, actor: str) -> int:
        """Remove those of a forgotten service or environment; how many. When it was none, nothing changed and no
        audit entry tells of it. Raises InputError for a selector without any name, StoreUnavailable."""
        async with self._write() as connection:
            removed = await deployments.remove(connection, selector)
            if removed:
                now_ms = self._clock.now_ms()
                entry = audit_entries.deployments_removed(selector, removed=removed, actor=actor, at_ms=now_ms)
                await audit.append(connection, entry)
            return removed

    async def record_audit(self, entry: AuditEntry) -> None:
        """Append an entry; when it returns the entry is durable. Its ``at_ms`` is kept, its ``id`` is ignored. A
        repeat appends once more. Raises StoreUnavailable."""
        async with self._write() as connection:
            await audit.append(connection, entry)

    async def audit(self, *, limit: int = 100, before_id: int | None = None) -> Sequence[AuditEntry]:
        """Up to ``limit`` entries with an id below ``before_id``, the latest first. Raises StoreUnavailable."""
        async with self._read() as connection:
            return await audit.latest(connection, limit=limit, before_id=before_id)

    async def last_change_id(self) -> int:
        """A number that has grown when anything was changed here, by any process; 0 before the first change. One
        index look-up, so a cache may ask every second. Expiry is no change. Raises StoreUnavailable."""
        async with self._read() as connection:
            return await audit.last_id(connection)

    async def ping(self) -> None:
        """Return when the database answers; raises StoreUnavailable when not."""
        async with self._read() as connection:
            # Something that is in the file: SELECT 1 would not even open it.
            await connection.execute(text("SELECT version_num FROM alembic_version"))

    @asynccontextmanager
    async def _read(self) -> AsyncIterator[AsyncConnection]:
        with driver_errors():
            async with self._opened().connect() as connection:
                yield connection

    @asynccontextmanager
    async def _write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that nobody else's changes fall into: it commits at the end, or leaves nothing on an error.

        Changes queue on a lock of ours first, for SQLite makes waiting writers poll, and would let them take every
        connection from the readers.
        """
        with driver_errors():
            async with asyncio.timeout(_WAIT_S):
                await self._writer.acquire()
            try:
                async with self._opened().execution_options(**sqlite.WRITE).begin() as connection:
                    yield connection
            finally:
                self._writer.release()

    def _opened(self) -> AsyncEngine:
        if self._engine is None:
            raise StoreUnavailable("the metadata store is not open")
        return self._engine

    async def _close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            async with self._writer:
                await engine.dispose()
