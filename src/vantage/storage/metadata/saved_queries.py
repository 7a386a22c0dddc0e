"""Saved queries in the database. Callers of ``save`` and ``remove`` own the write lock."""

from __future__ import annotations

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from vantage.core.saved_query import SavedQuery
from vantage.storage.metadata.audit_entries import require_room
from vantage.storage.metadata.schema import saved_query as table


async def save(connection: AsyncConnection, query: SavedQuery) -> None:
    """Insert a query, or replace that of its name. Raises ConflictError when there are too many."""
    values = {"text": query.text, "author": query.author, "at_ms": query.at_ms}
    changed = await connection.execute(update(table).where(table.c.name == query.name).values(values))
    if not changed.rowcount:
        require_room((await connection.execute(select(func.count()).select_from(table))).scalar_one())
        await connection.execute(insert(table).values(name=query.name, **values))


async def all_queries(connection: AsyncConnection) -> list[SavedQuery]:
    """Return all of them by name."""
    rows = await connection.execute(select(table))
    return sorted((SavedQuery(row.name, row.text, row.author, row.at_ms) for row in rows), key=lambda query: query.name)


async def remove(connection: AsyncConnection, name: str) -> bool:
    """Delete a query. Return False when there is none of this name."""
    return bool((await connection.execute(delete(table).where(table.c.name == name))).rowcount)
