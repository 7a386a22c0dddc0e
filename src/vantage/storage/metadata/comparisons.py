"""Comparisons in the database. Callers of ``save`` own the write lock."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Row, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from vantage.core.comparison import SavedComparison
from vantage.storage.metadata.schema import comparison as table

COMPARISONS_MAX: Final = 2000


async def save(connection: AsyncConnection, saved: SavedComparison) -> SavedComparison:
    """Insert a comparison and return it, or the one that has its key. The oldest beyond COMPARISONS_MAX are removed."""
    if saved.key and (earlier := await by_key(connection, saved.key)) is not None:
        return earlier
    await connection.execute(
        insert(table).values(
            id=saved.id,
            at_ms=saved.at_ms,
            author=saved.author,
            service=saved.service,
            title=saved.title,
            word=saved.word,
            about=saved.key or None,
            document=dict(saved.document),
        )
    )
    oldest = select(table.c.id).order_by(table.c.at_ms.desc(), table.c.id).offset(COMPARISONS_MAX).limit(100)
    surplus = [row.id for row in await connection.execute(oldest)]
    if surplus:
        await connection.execute(delete(table).where(table.c.id.in_(surplus)))
    return saved


async def latest(connection: AsyncConnection, *, service: str, limit: int) -> list[SavedComparison]:
    """Return the latest first, without their documents; of any service for ''."""
    columns = [column for column in table.c if column.name != "document"]
    query = select(*columns).order_by(table.c.at_ms.desc(), table.c.id).limit(max(0, limit))
    if service:
        query = query.where(table.c.service == service)
    return [_comparison(row, has_document=False) for row in await connection.execute(query)]


async def by_id(connection: AsyncConnection, comparison_id: str) -> SavedComparison | None:
    """Return a comparison; None where there is none."""
    row = (await connection.execute(select(table).where(table.c.id == comparison_id))).one_or_none()
    return None if row is None else _comparison(row, has_document=True)


async def by_key(connection: AsyncConnection, key: str) -> SavedComparison | None:
    """Return the comparison with a key; None where there is none."""
    row = (await connection.execute(select(table).where(table.c.about == key))).one_or_none()
    return None if row is None else _comparison(row, has_document=True)


def _comparison(row: Row[tuple[object, ...]], *, has_document: bool) -> SavedComparison:
    document = row.document if has_document else {}
    return SavedComparison(row.id, row.at_ms, row.author, row.service, row.title, row.word, document, row.about or "")
