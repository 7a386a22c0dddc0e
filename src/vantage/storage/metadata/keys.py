"""API keys in the database. Callers of ``create`` and ``revoke`` own the write lock."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from vantage.core.api_key import ApiKey, Scope
from vantage.core.errors import ConflictError, NotFoundError
from vantage.storage.metadata.schema import api_key


async def create(connection: AsyncConnection, key: ApiKey, *, now_ms: int) -> None:
    """Insert a key. Raises ConflictError naming the field that another key has; then nothing is inserted."""
    unique = (
        ("id", api_key.c.id == key.id),
        ("name", and_(api_key.c.name == key.name, _is_active(now_ms))),
        ("secret", api_key.c.secret_hash == key.secret_hash),
    )
    for field, condition in unique:
        if await connection.scalar(select(api_key.c.id).where(condition)) is not None:
            raise ConflictError("is in use by another key", field=field)
    await connection.execute(
        insert(api_key).values(
            id=key.id,
            name=key.name,
            scopes=",".join(sorted(key.scopes)),
            secret_hash=key.secret_hash,
            created_ms=key.created_ms,
            expires_ms=key.expires_ms,
            revoked_ms=key.revoked_ms,
        )
    )


async def all_keys(connection: AsyncConnection) -> list[ApiKey]:
    """Return all keys, oldest first, ties by id."""
    keys = [_key(row) for row in await connection.execute(select(api_key))]
    return sorted(keys, key=lambda key: (key.created_ms, key.id))  # databases have orders of text of their own


async def find(connection: AsyncConnection, id_or_name: str, *, now_ms: int) -> ApiKey:
    """Return the key with that id, or else the active key with that name. Raises NotFoundError."""
    for condition in (api_key.c.id == id_or_name, and_(api_key.c.name == id_or_name, _is_active(now_ms))):
        row = (await connection.execute(select(api_key).where(condition))).one_or_none()
        if row is not None:
            return _key(row)
    raise NotFoundError("no key has this id, and no active key this name", field="key")


async def revoke(connection: AsyncConnection, key: ApiKey, *, now_ms: int) -> ApiKey:
    """Mark a key as revoked now, and return the revoked key."""
    await connection.execute(update(api_key).where(api_key.c.id == key.id).values(revoked_ms=now_ms))
    return replace(key, revoked_ms=now_ms)


def _is_active(now_ms: int) -> ColumnElement[bool]:
    """Return ``ApiKey.is_active`` as a condition."""
    return and_(api_key.c.revoked_ms.is_(None), or_(api_key.c.expires_ms.is_(None), api_key.c.expires_ms > now_ms))


def _key(row: Row[Any]) -> ApiKey:
    return ApiKey(
        id=row.id,
        name=row.name,
        scopes=frozenset(Scope(scope) for scope in row.scopes.split(",") if scope),
        secret_hash=row.secret_hash,
        created_ms=row.created_ms,
        expires_ms=row.expires_ms,
        revoked_ms=row.revoked_ms,
    )
