"""The slowest traces of a service."""

from __future__ import annotations

from vantage.core.timerange import TimeRange
from vantage.query.context import QueryContext
from vantage.storage.ports import SpanFilter, SpanList


async def slowest_spans(context: QueryContext, time_range: TimeRange, *, service: str, limit: int) -> SpanList:
    """Return the slowest span of the service in each of the ``limit`` traces where it took longest, the slowest first.
    Raises what the store raises."""
    return await context.store.list_spans(SpanFilter(time_range, service, order="slowest", limit=limit))
