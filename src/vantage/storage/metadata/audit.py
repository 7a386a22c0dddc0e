"""The audit log. The transaction that makes a change also writes its entry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from vantage.core.audit import AuditEntry
from vantage.storage.metadata.schema import audit


async def append(connection: AsyncConnection, entry: AuditEntry) -> None:
    """Add an entry; it is durable once the connection's transaction commits. The database assigns its ``id``."""
    await connection.execute(
        insert(audit).values(
            at_ms=entry.at_ms,
            actor=entry.actor,
            action=entry.action,
            subject=entry.subject,
            detail=dict(entry.detail),
        )
    )


async def latest(connection: AsyncConnection, *, limit: int, before_id: int | None) -> list[AuditEntry]:
    """Return up to ``limit`` entries, the latest first; ``before_id`` continues a listing."""
    query = select(audit).order_by(audit.c.id.desc()).limit(max(0, limit))
    if before_id is not None:
        query = query.where(audit.c.id < before_id)
    return [_entry(row) for row in await connection.execute(query)]


async def last_id(connection: AsyncConnection) -> int:
    """Return the id of the latest entry, 0 when there is none."""
    max_id = await connection.scalar(select(func.max(audit.c.id)))
    return max_id or 0


def _entry(row: Row[Any]) -> AuditEntry:
    detail: Mapping[str, str] = row.detail
    return AuditEntry(
        at_ms=row.at_ms, actor=row.actor, action=row.action, subject=row.subject, detail=detail, id=row.id
    )
