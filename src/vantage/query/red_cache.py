"""Rollups of requests for live pages: the buckets that are over are read once, each look reads the present ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from vantage.core.red_table import RedQuery, RedTable, joined
from vantage.core.timerange import TimeRange
from vantage.query.cache import SETTLE_MS_MIN, Cache

Read = Callable[[RedQuery], Awaitable[RedTable | None]]


async def read_cached(read: Read, cache: Cache, query: RedQuery, *, now_ms: int) -> RedTable | None:
    """Return what ``read`` returns for the query. Raises what it raises."""
    time_range = query.time_range
    over_ms = min((now_ms - SETTLE_MS_MIN) // query.step_ms * query.step_ms, time_range.end_ms)
    if not cache.enabled or over_ms <= time_range.start_ms:
        return await read(query)
    closed = await _closed(read, cache, replace(query, time_range=TimeRange(time_range.start_ms, over_ms)))
    if closed is None or over_ms == time_range.end_ms:
        return closed
    present = await read(replace(query, time_range=TimeRange(over_ms, time_range.end_ms)))
    return None if present is None else joined(closed, present, query.quantiles)


async def _closed(read: Read, cache: Cache, query: RedQuery) -> RedTable | None:
    table: RedTable | None = cache.get(query)
    if table is None:
        generation = cache.generation
        table = await read(query)
        if table is not None:
            cache.put(query, table, nbytes=table.nbytes, generation=generation, data_end_ms=query.time_range.end_ms)
    return table
