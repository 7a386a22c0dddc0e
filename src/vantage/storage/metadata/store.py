"""The MetadataStore on SQLAlchemy: its statements are the same on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Final, Self

from sqlalchemy.ext.asyncio import AsyncConnection

from vantage.core.anomaly import Anomaly
from vantage.core.api_key import ApiKey
from vantage.core.audit import AuditEntry
from vantage.core.clock import Clock
from vantage.core.comparison import SavedComparison
from vantage.core.deployment import DETECTED, Deployment
from vantage.core.saved_query import SavedQuery
from vantage.core.stream_position import StreamPosition
from vantage.core.timerange import TimeRange
from vantage.storage.closing import to_its_end
from vantage.storage.metadata import anomalies as anomaly_rows
from vantage.storage.metadata import (
    audit,
    audit_entries,
    comparisons,
    deployments,
    keys,
    positions,
    postgres,
    saved_queries,
    sqlite,
)
from vantage.storage.metadata.alerts import SqlAlerts
from vantage.storage.metadata.availability import SqlAvailability
from vantage.storage.metadata.database import Database, check_answers
from vantage.storage.metadata.notices import SqlNotices
from vantage.storage.metadata.postgres_database import PostgresDatabase
from vantage.storage.metadata.sqlite_database import SqliteDatabase
from vantage.storage.ports import Selector

DETECTED_MAX: Final = 20_000  # detected deployments
DETECTED_AUDITED_MAX: Final = 1000  # those that have an entry in the audit log, since the start
PRUNE_EVERY: Final = 100


class SqlMetadataStore:
    """Implements ``MetadataStore``. Any number of these, in any number of processes, may have one database open.

    The store keeps working after any error: a failed change is rolled back.
    """

    def __init__(self, url: str, clock: Clock, *, busy_timeout_ms: int = sqlite.BUSY_TIMEOUT_MS) -> None:
        """``url`` is ``sqlite:///…`` or ``postgresql://…``; ``busy_timeout_ms`` is how long a change waits for another
        process's. Opens nothing. Raises ConfigError for an invalid URL."""
        self._clock = clock
        self._database: Database
        if postgres.is_postgres(url):
            self._database = PostgresDatabase(url, clock, busy_timeout_ms=busy_timeout_ms)
        else:
            self._database = SqliteDatabase(url, busy_timeout_ms=busy_timeout_ms)
        self.alerts = SqlAlerts(self._database, clock)
        self.availability = SqlAvailability(self._database, clock)
        self.notices = SqlNotices(self._database, clock)
        self._detected = 0  # deployments recorded since the start

    async def __aenter__(self) -> Self:
        """Open. On return the database has the newest schema and answers; a PostgreSQL server that cannot be reached is
        opened later, and until then every other method raises StoreUnavailable. Raises FormatTooNew when a newer
        version wrote it (nothing was changed), ConfigError when it is another program's or refuses the login,
        StoreUnavailable."""
        await self._database.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close, after the current change. Later calls raise StoreUnavailable."""
        await to_its_end(self._database.close())

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

    async def record_anomalies(self, anomalies: Sequence[Anomaly], *, since_ms: int) -> int:
        """Store anomalies, durably, replacing those of the same series and start. Delete those that ended before
        ``since_ms`` and the oldest beyond ANOMALIES_MAX; return their number. Raises StoreUnavailable."""
        async with self._write() as connection:
            return await anomaly_rows.record(connection, anomalies, since_ms=since_ms)

    async def anomalies(
        self, *, service: str = "", time_range: TimeRange | None = None, limit: int = 100
    ) -> Sequence[Anomaly]:
        """Return up to ``limit`` anomalies that touch the range, the latest start first. Raises StoreUnavailable."""
        async with self._read() as connection:
            return await anomaly_rows.latest(connection, service=service, time_range=time_range, limit=limit)

    async def anomaly(self, anomaly_id: int) -> Anomaly | None:
        """Return an anomaly by its id, None for an unknown one. Raises StoreUnavailable."""
        async with self._read() as connection:
            return await anomaly_rows.find(connection, anomaly_id)

    async def remove_anomalies(self, service: str) -> int:
        """Remove those of a deleted service, and return their number. Raises StoreUnavailable."""
        async with self._write() as connection:
            return await anomaly_rows.remove(connection, service)

    async def save_query(self, query: SavedQuery) -> None:
        """Store a query, or replace that of its name, durably. Raises ConflictError when there are too many,
        StoreUnavailable."""
        async with self._write() as connection:
            await saved_queries.save(connection, query)
            await audit.append(connection, audit_entries.query_saved(query))

    async def saved_queries(self) -> Sequence[SavedQuery]:
        """Return all saved queries by name. Raises StoreUnavailable."""
        async with self._read() as connection:
            return await saved_queries.all_queries(connection)

    async def remove_query(self, name: str, *, actor: str) -> bool:
        """Remove a saved query. False, without an audit entry: there is none of this name. Raises StoreUnavailable."""
        async with self._write() as connection:
            if not await saved_queries.remove(connection, name):
                return False
            entry = audit_entries.query_removed(name, actor=actor, at_ms=self._clock.now_ms())
            await audit.append(connection, entry)
            return True

    async def save_comparison(self, saved: SavedComparison) -> SavedComparison:
        """Store a comparison, durably, and return it, or the one that has its key. Raises StoreUnavailable."""
        async with self._write() as connection:
            return await comparisons.save(connection, saved)

    async def comparisons(self, *, service: str = "", limit: int = 100) -> Sequence[SavedComparison]:
        """Return comparisons without their documents, the latest first. Raises StoreUnavailable."""
        async with self._read() as connection:
            return await comparisons.latest(connection, service=service, limit=limit)

    async def comparison(self, comparison_id: str) -> SavedComparison | None:
        """Return a comparison; None where there is none. Raises StoreUnavailable."""
        async with self._read() as connection:
            return await comparisons.by_id(connection, comparison_id)

    async def comparison_of(self, key: str) -> SavedComparison | None:
        """Return the comparison with a key; None where there is none. Raises StoreUnavailable."""
        async with self._read() as connection:
            return await comparisons.by_key(connection, key)

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
            await check_answers(connection)

    def _read(self) -> AbstractAsyncContextManager[AsyncConnection]:
        return self._database.read()

    def _write(self) -> AbstractAsyncContextManager[AsyncConnection]:
        return self._database.write()
