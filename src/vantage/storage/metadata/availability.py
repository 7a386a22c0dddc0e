"""Objectives, heartbeats and HTTP checks in the database. A check is claimed by a conditional UPDATE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Row, Table, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from vantage.core.audit import AuditEntry
from vantage.core.availability import (
    CHECKS_MAX,
    HEARTBEATS_MAX,
    CheckResult,
    Heartbeat,
    HttpCheck,
    PingState,
    StoredCheck,
    StoredHeartbeat,
)
from vantage.core.clock import Clock
from vantage.core.errors import ConflictError
from vantage.core.slo import Slo, StoredSlo
from vantage.storage.metadata import audit
from vantage.storage.metadata.availability_ports import SLOS_MAX
from vantage.storage.metadata.database import Database
from vantage.storage.metadata.schema import heartbeat as heartbeat_table
from vantage.storage.metadata.schema import http_check, slo

PING_COLUMNS: Final = {"start": "started_ms", "success": "last_ms", "fail": "failed_ms"}


class SqlAvailability:
    """Implements ``AvailabilityStore``."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def slos(self) -> Sequence[StoredSlo]:
        """Return all objectives by name. Raises StoreUnavailable."""
        return [_slo(row) for row in await self._all(slo)]

    async def heartbeats(self) -> Sequence[StoredHeartbeat]:
        """Return all heartbeats by name. Raises StoreUnavailable."""
        return [_heartbeat(row) for row in await self._all(heartbeat_table)]

    async def checks(self) -> Sequence[StoredCheck]:
        """Return all checks by name. Raises StoreUnavailable."""
        return [_check(row) for row in await self._all(http_check)]

    async def save_slo(self, item: Slo, *, actor: str, revision: int | None = None) -> StoredSlo:
        """Store an objective, or replace that of its name. Raises ConflictError, StoreUnavailable."""
        async with self._database.write() as connection:
            return _slo(await self._save(connection, slo, item, SLOS_MAX, {}, {}, actor=actor, revision=revision))

    async def save_heartbeat(
        self, item: Heartbeat, *, token: str, actor: str, revision: int | None = None
    ) -> StoredHeartbeat:
        """Store a heartbeat, or replace that of its name. Raises ConflictError, StoreUnavailable."""
        first = {"token": token, "created_ms": self._clock.now_ms()}
        async with self._database.write() as connection:
            row = await self._save(
                connection, heartbeat_table, item, HEARTBEATS_MAX, first, {}, actor=actor, revision=revision
            )
            return _heartbeat(row)

    async def save_check(self, item: HttpCheck, *, actor: str, revision: int | None = None) -> StoredCheck:
        """Store a check, or replace that of its name. Raises ConflictError, StoreUnavailable."""
        again: dict[str, Any] = {"due_ms": self._clock.now_ms()}
        first = again | {"failures": 0}
        async with self._database.write() as connection:
            before = await _row(connection, http_check, item.name)
            if before is not None and before.document.get("url") != item.url:
                again |= {"result": None, "failures": 0, "since_ms": None}
            row = await self._save(
                connection, http_check, item, CHECKS_MAX, first, again, actor=actor, revision=revision
            )
            return _check(row)

    async def remove_slo(self, name: str, *, actor: str) -> bool:
        """Remove an objective. False: there is none. Raises StoreUnavailable."""
        return await self._remove(slo, name, actor=actor)

    async def remove_heartbeat(self, name: str, *, actor: str) -> bool:
        """Remove a heartbeat. False: there is none. Raises StoreUnavailable."""
        return await self._remove(heartbeat_table, name, actor=actor)

    async def remove_check(self, name: str, *, actor: str) -> bool:
        """Remove a check. False: there is none. Raises StoreUnavailable."""
        return await self._remove(http_check, name, actor=actor)

    async def ping(self, token: str, state: PingState, *, at_ms: int) -> bool:
        """Record what a job reports. False: no heartbeat has the token. Raises StoreUnavailable."""
        same = heartbeat_table.c.token == token
        async with self._database.write() as connection:
            result = await connection.execute(update(heartbeat_table).where(same).values({PING_COLUMNS[state]: at_ms}))
            return bool(result.rowcount)

    async def claim_checks(self, *, now_ms: int, limit: int) -> Sequence[StoredCheck]:
        """Return checks that are due, each to one caller alone. Raises StoreUnavailable."""
        due = select(http_check).where(http_check.c.due_ms <= now_ms).order_by(http_check.c.due_ms).limit(limit)
        async with self._database.read() as connection:
            rows = list(await connection.execute(due))
        if not rows:
            return []
        claimed = []
        async with self._database.write() as connection:
            for row in rows:
                same = (http_check.c.name == row.name, http_check.c.due_ms == row.due_ms)
                next_ms = now_ms + msgspec.convert(row.document, HttpCheck).every_ms
                result = await connection.execute(update(http_check).where(*same).values(due_ms=next_ms))
                if result.rowcount:
                    claimed.append(_check(row))
        return claimed

    async def record_result(self, name: str, result: CheckResult) -> None:
        """Store how a check went. Raises StoreUnavailable."""
        values: dict[str, Any] = {"result": msgspec.to_builtins(result)}
        async with self._database.write() as connection:
            before = await _row(connection, http_check, name)
            if before is None:
                return
            was_up = before.result is None or before.result["is_up"]
            if before.result is None or was_up != result.is_up:
                values["since_ms"] = result.at_ms
            values["failures"] = 0 if result.is_up else before.failures + 1
            await connection.execute(update(http_check).where(http_check.c.name == name).values(values))

    async def _all(self, table: Table) -> list[Row[Any]]:
        async with self._database.read() as connection:
            rows = list(await connection.execute(select(table)))
        return sorted(rows, key=lambda row: str(row.name))

    async def _save(
        self,
        connection: AsyncConnection,
        table: Table,
        item: Slo | Heartbeat | HttpCheck,
        most: int,
        first: dict[str, Any],
        again: dict[str, Any],
        *,
        actor: str,
        revision: int | None,
    ) -> Row[Any]:
        """Insert a row with ``first``, or update the one of this name with ``again``."""
        now_ms = self._clock.now_ms()
        before = await _row(connection, table, item.name)
        check_revision(before.revision if before is not None else 0, revision)
        values = {"document": msgspec.to_builtins(item), "author": actor, "at_ms": now_ms}
        if before is None:
            count = (await connection.execute(select(func.count()).select_from(table))).scalar_one()
            check_room(count, most)
            await connection.execute(insert(table).values(name=item.name, revision=1, **values, **first))
        else:
            changed = {**values, **again, "revision": before.revision + 1}
            await connection.execute(update(table).where(table.c.name == item.name).values(changed))
        await audit.append(connection, AuditEntry(now_ms, actor, f"{table.name}.save", item.name))
        stored = await _row(connection, table, item.name)
        assert stored is not None
        return stored

    async def _remove(self, table: Table, name: str, *, actor: str) -> bool:
        async with self._database.write() as connection:
            result = await connection.execute(delete(table).where(table.c.name == name))
            if not result.rowcount:
                return False
            entry = AuditEntry(self._clock.now_ms(), actor, f"{table.name}.remove", name)
            await audit.append(connection, entry)
            return True


def check_revision(stored: int, wanted: int | None) -> None:
    """Raise ConflictError unless the stored revision (0: none) is the wanted one."""
    if wanted is not None and wanted != stored:
        reason = "was changed meanwhile" if wanted else "is in use already"
        raise ConflictError(reason, field="revision" if wanted else "name")


def check_room(count: int, most: int) -> None:
    """Raise ConflictError when there are too many."""
    if count >= most:
        raise ConflictError(f"there are {most} already: remove one first", field="name")


async def _row(connection: AsyncConnection, table: Table, name: str) -> Row[Any] | None:
    return (await connection.execute(select(table).where(table.c.name == name))).one_or_none()


def _slo(row: Row[Any]) -> StoredSlo:
    return StoredSlo(msgspec.convert(row.document, Slo), row.revision, row.author, row.at_ms)


def _heartbeat(row: Row[Any]) -> StoredHeartbeat:
    return StoredHeartbeat(
        msgspec.convert(row.document, Heartbeat),
        row.token,
        row.revision,
        row.author,
        row.at_ms,
        row.created_ms,
        row.last_ms,
        row.started_ms,
        row.failed_ms,
    )


def _check(row: Row[Any]) -> StoredCheck:
    result = None if row.result is None else msgspec.convert(row.result, CheckResult)
    return StoredCheck(
        msgspec.convert(row.document, HttpCheck),
        row.revision,
        row.author,
        row.at_ms,
        row.due_ms,
        result,
        row.failures,
        row.since_ms,
    )
