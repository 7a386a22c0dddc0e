"""Caches the buckets that can no longer change; only newer buckets are read again.

A complete bucket is final two steps and two minutes after its end: senders collect for seconds, and resend for minutes.
A window that moves on shares its buckets with the one before, so a live chart reads only its end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Final

from vantage.core.timerange import TimeRange, step_offset_ms
from vantage.query.cache import SETTLE_MS_MIN
from vantage.query.context import QueryContext
from vantage.query.timeseries_query import ROWS_MAX, Point, PointRows, Source, TimeseriesQuery

OPEN_STEPS: Final = 2
ROW_NBYTES: Final = 200  # a point's tuple and its numbers; the texts of a group are counted once
_ANY: Final = TimeRange(0, 1)


@dataclass(frozen=True, slots=True)
class PointLoader:
    """Loads the points of a query. ``source`` is where complete buckets are read from, ``determines`` what they depend
    on beside query and step. ``joins``: the points of a bucket do not depend on where reading began. ``since`` loads
    the points from the start of a bucket to the end of the range."""

    aligned: TimeRange
    step_ms: int
    _: KW_ONLY
    source: Source
    determines: Hashable
    joins: bool
    since: Callable[[int], Awaitable[PointRows]]


@dataclass(frozen=True, slots=True)
class _CachedPoints:
    """All points of the buckets from ``start_ms`` to ``end_ms``."""

    start_ms: int
    end_ms: int
    rows: tuple[Point, ...]


async def cached_points(context: QueryContext, query: TimeseriesQuery, loader: PointLoader) -> PointRows:
    """Return all points of a query: those of final buckets may be 5 minutes old, the others are read now.

    A range whose points do not join is cached by itself, once it is completely final. Raises what the loader raises.
    """
    cache, generation = context.cache, context.cache.generation
    start_ms, end_ms = loader.aligned.start_ms, _final_until_ms(query, loader, context.clock.now_ms())
    if not cache.enabled or end_ms <= start_ms:
        return await loader.since(start_ms)
    any_time = replace(query, time_range=_ANY, step_ms=loader.step_ms)
    key = ("timeseries", any_time, _window_key(query.time_range, loader), loader.source, loader.determines)
    cached: _CachedPoints | None = cache.get(key)
    if cached is not None and (extended := await _extend_cached(cached, query, loader, end_ms)) is not None:
        return extended
    points = await loader.since(start_ms)
    if not points.truncated:
        rows = _rows_between(points.rows, start_ms, end_ms)
        cache.put(
            key,
            _CachedPoints(start_ms, end_ms, tuple(rows)),
            nbytes=_nbytes(rows),
            generation=generation,
            data_end_ms=end_ms,
        )
    return points


def _window_key(time_range: TimeRange, loader: PointLoader) -> Hashable:
    """Return the range, or for a moving window a key that stays the same for about as long as buckets are shared."""
    if not loader.joins:
        return time_range
    return time_range.length_ms, time_range.start_ms // time_range.length_ms


def _final_until_ms(query: TimeseriesQuery, loader: PointLoader, now_ms: int) -> int:
    """Return the end of the buckets that are complete and old enough; the start of the range if there are none."""
    final_ms = now_ms - max(OPEN_STEPS * loader.step_ms, SETTLE_MS_MIN)
    if not loader.joins:
        return loader.aligned.end_ms if query.time_range.end_ms <= final_ms else loader.aligned.start_ms
    offset_ms = step_offset_ms(loader.step_ms)
    final_ms = min(final_ms, query.time_range.end_ms) - offset_ms
    return final_ms // loader.step_ms * loader.step_ms + offset_ms


async def _extend_cached(
    cached: _CachedPoints, query: TimeseriesQuery, loader: PointLoader, final_ms: int
) -> PointRows | None:
    """Return the cached points and newer ones; None where these are not the complete result."""
    start_ms, end_ms = loader.aligned.start_ms, min(cached.end_ms, final_ms)
    if not cached.start_ms <= start_ms < end_ms:
        return None
    rows = _rows_between(cached.rows, start_ms, end_ms)
    if end_ms >= query.time_range.end_ms:
        return PointRows(rows, loader.source, truncated=False)
    newer = await loader.since(end_ms)
    # Beyond the limit the last buckets are cut off: read everything at once.
    if newer.truncated or len(rows) + len(newer.rows) > ROWS_MAX:
        return None
    # Rollups, followed by an end that was read from samples.
    mixed = newer.source == "raw" and loader.source != "raw" and bool(rows)
    return PointRows([*rows, *newer.rows], "mixed" if mixed else newer.source, truncated=False)


def _rows_between(rows: Sequence[Point], start_ms: int, end_ms: int) -> list[Point]:
    return [row for row in rows if start_ms <= row.at_ms < end_ms]


def _nbytes(rows: Sequence[Point]) -> int:
    texts = [text for row in rows for text in row.group]
    return ROW_NBYTES * len(rows) + 8 * len(texts) + sum(50 + 4 * len(text) for text in set(texts))
