"""Positions of a broker's partitions in the database. Callers own the write lock."""

from __future__ import annotations

from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from vantage.core.stream_position import StreamPosition
from vantage.storage.metadata.schema import stream_position as table

# One statement, so that of two workers at once each gets an epoch of its own.
_TAKE = text(
    "INSERT INTO stream_position (topic, partition, epoch) VALUES (:topic, :partition, 1) "
    "ON CONFLICT (topic, partition) DO UPDATE SET epoch = stream_position.epoch + 1 "
    "RETURNING epoch, next_offset, claimed_last"
)


async def take(connection: AsyncConnection, topic: str, partition: int) -> StreamPosition:
    """Begin a new epoch of a partition, and return its position."""
    row = (await connection.execute(_TAKE, {"topic": topic, "partition": partition})).one()
    return StreamPosition(row.epoch, row.next_offset, row.claimed_last)


async def move(connection: AsyncConnection, topic: str, partition: int, position: StreamPosition) -> bool:
    """Set the position if the epoch is still the same; return whether it was."""
    moved = await connection.execute(
        update(table)
        .where(table.c.topic == topic, table.c.partition == partition, table.c.epoch == position.epoch)
        .values(next_offset=position.next_offset, claimed_last=position.claimed_last)
    )
    return bool(moved.rowcount)
