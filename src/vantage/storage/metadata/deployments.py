"""Deployments in the database. Callers of ``record`` and ``remove`` own the write lock."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from vantage.core.deployment import DETECTED, Deployment
from vantage.core.timerange import TimeRange
from vantage.storage.metadata.audit_entries import require_selector
from vantage.storage.metadata.schema import deployment as table
from vantage.storage.ports import Selector


async def record(connection: AsyncConnection, deployment: Deployment) -> bool:
    """Insert a deployment. Return False for a detected one that is known; an earlier time replaces the stored one."""
    if deployment.source == DETECTED:
        same_version = (
            table.c.service == deployment.service,
            table.c.environment == deployment.environment,
            table.c.version == deployment.version,
        )
        known = (
            await connection.execute(
                select(table.c.id, table.c.at_ms, table.c.source).where(*same_version).order_by(table.c.at_ms)
            )
        ).first()
        if known is not None:
            if known.source == DETECTED and deployment.at_ms < known.at_ms:  # older data arrived later
                await connection.execute(update(table).where(table.c.id == known.id).values(at_ms=deployment.at_ms))
            return False
    await connection.execute(
        insert(table).values(
            service=deployment.service,
            environment=deployment.environment,
            version=deployment.version,
            at_ms=deployment.at_ms,
            source=deployment.source,
            description=deployment.description,
        )
    )
    return True


async def prune_detected(connection: AsyncConnection, *, remaining: int) -> None:
    """Delete the oldest detected deployments beyond the number ``remaining``: senders make as many as they like."""
    newest = select(table.c.id).where(table.c.source == DETECTED).order_by(table.c.at_ms.desc()).limit(remaining)
    await connection.execute(delete(table).where(table.c.source == DETECTED, table.c.id.not_in(newest)))


async def latest(
    connection: AsyncConnection, *, service: str, time_range: TimeRange | None, limit: int
) -> list[Deployment]:
    """Return up to ``limit`` deployments, the latest first; of equal times the one recorded last is first."""
    query = select(table).order_by(table.c.at_ms.desc(), table.c.id.desc()).limit(max(0, limit))
    if service:
        query = query.where(table.c.service == service)
    if time_range is not None:
        query = query.where(table.c.at_ms >= time_range.start_ms, table.c.at_ms < time_range.end_ms)
    return [_deployment(row) for row in await connection.execute(query)]


async def remove(connection: AsyncConnection, selector: Selector) -> int:
    """Delete the selected deployments and return their number. Raises InputError when the selector names nothing."""
    require_selector(selector)
    statement = delete(table)
    if selector.service:
        statement = statement.where(table.c.service == selector.service)
    if selector.environment:
        statement = statement.where(table.c.environment == selector.environment)
    return (await connection.execute(statement)).rowcount


def _deployment(row: Row[Any]) -> Deployment:
    return Deployment(
        service=row.service,
        environment=row.environment,
        version=row.version,
        at_ms=row.at_ms,
        source=row.source,
        description=row.description,
        id=row.id,
    )
