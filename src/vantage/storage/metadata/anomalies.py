"""Anomalies in the database. Callers of ``record`` and ``remove`` own the write lock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Row, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from vantage.core.anomaly import Anomaly
from vantage.core.timerange import TimeRange
from vantage.storage.metadata.schema import anomaly as table

ANOMALIES_MAX: Final = 20_000


async def record(connection: AsyncConnection, anomalies: Sequence[Anomaly], *, since_ms: int) -> int:
    """Insert anomalies, or replace those of the same series and start. Delete those that ended before ``since_ms`` and
    the oldest beyond ANOMALIES_MAX; return their number."""
    for anomaly in anomalies:
        values = {name: getattr(anomaly, name) for name in Anomaly.__slots__ if name != "id"}
        values["evidence"] = dict(anomaly.evidence)
        same = [table.c[name] == values[name] for name in ("service", "figure", "metric", "start_ms")]
        if not (await connection.execute(update(table).where(*same).values(values))).rowcount:
            await connection.execute(insert(table).values(values))
    removed = (await connection.execute(delete(table).where(table.c.end_ms < since_ms))).rowcount
    count = (await connection.execute(select(func.count()).select_from(table))).scalar_one()
    if count > ANOMALIES_MAX:
        newest = select(table.c.id).order_by(table.c.start_ms.desc(), table.c.id.desc()).limit(ANOMALIES_MAX)
        removed += (await connection.execute(delete(table).where(table.c.id.not_in(newest)))).rowcount
    return removed


async def latest(
    connection: AsyncConnection, *, service: str, time_range: TimeRange | None, limit: int
) -> list[Anomaly]:
    """Return up to ``limit`` anomalies that touch a range, the latest start first."""
    query = select(table).order_by(table.c.start_ms.desc(), table.c.id.desc()).limit(max(0, limit))
    if service:
        query = query.where(table.c.service == service)
    if time_range is not None:
        query = query.where(table.c.end_ms > time_range.start_ms, table.c.start_ms < time_range.end_ms)
    return [_anomaly(row) for row in await connection.execute(query)]


async def find(connection: AsyncConnection, anomaly_id: int) -> Anomaly | None:
    """Return the anomaly of an id."""
    row = (await connection.execute(select(table).where(table.c.id == anomaly_id))).first()
    return None if row is None else _anomaly(row)


async def remove(connection: AsyncConnection, service: str) -> int:
    """Delete those of a service and return their number."""
    return (await connection.execute(delete(table).where(table.c.service == service))).rowcount


def _anomaly(row: Row[Any]) -> Anomaly:
    return Anomaly(**{name: getattr(row, name) for name in Anomaly.__slots__})
