"""The part of a timeseries that changes no more is kept for a while, and only what is newer is read again.

Kept are whole buckets that ended two steps ago, and two minutes: senders collect for seconds, and send again for
minutes. A window that moves on finds the buckets it shares with the one before, so a live chart reads its end alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Final

from vantage.core.timerange import TimeRange
from vantage.query.cache import SETTLE_MS_MIN
from vantage.query.context import QueryContext
from vantage.query.timeseries_query import ROWS_MAX, Point, PointRows, Source, TimeseriesQuery

UNSETTLED_STEPS: Final = 2
ROW_NBYTES: Final = 200  # a point's tuple and its numbers; the texts of a group are counted once
_ANY: Final = TimeRange(0, 1)


@dataclass(frozen=True, slots=True)
class PointLoader:
    """How the points of a question are read. ``source`` is what tells its whole buckets, ``determines`` what they
    depend on beside question and step. ``joins``: a bucket's points do not depend on where the reading began.
    ``since`` gives the points from the beginning of a bucket to the end of what is asked for."""

    aligned: TimeRange
    step_ms: int
    _: KW_ONLY
    source: Source
    determines: Hashable
    joins: bool
    since: Callable[[int], Awaitable[PointRows]]


@dataclass(frozen=True, slots=True)
class _CachedPoints:
    """Every point of the buckets from ``start_ms`` to ``end_ms``."""

    start_ms: int
    end_ms: int
    rows: tuple[Point, ...]


async def cached_points(reads: QueryContext, asked: TimeseriesQuery, reading: PointLoader) -> PointRows:
    """All points of a question: those of settled buckets may be 5 minutes old, the others are read now. Ranges whose
    readings do not join are kept by themselves, and once all of them is settled. Raises what the reading raises."""
    cache, generation = reads.cache, reads.cache.generation
    start_ms, end_ms = reading.aligned.start_ms, _final_until_ms(asked, reading, reads.clock.now_ms())
    if not cache.enabled or end_ms <= start_ms:
        return await reading.since(start_ms)
    question = replace(asked, time_range=_ANY, step_ms=reading.step_ms)
    key = ("timeseries", question, _window_key(asked.time_range, reading), reading.source, reading.determines)
    kept: _CachedPoints | None = cache.get(key)
    if kept is not None and (found := await _extend_cached(kept, asked, reading, end_ms)) is not None:
        return found
    points = await reading.since(start_ms)
    if not points.truncated:
        rows = _concat_between(points.rows, start_ms, end_ms)
        cache.put(
            key,
            _CachedPoints(start_ms, end_ms, tuple(rows)),
            nbytes=_nbytes(rows),
            generation=generation,
            data_end_ms=end_ms,
        )
    return points


def _window_key(time_range: TimeRange, reading: PointLoader) -> Hashable:
    """The range, but a window that moves on has one key for about as long as it shares buckets with where it was."""
    if not reading.joins:
        return time_range
    return time_range.length_ms, time_range.start_ms // time_range.length_ms


def _final_until_ms(asked: TimeseriesQuery, reading: PointLoader, now_ms: int) -> int:
    """Where the buckets end that are whole and old enough: the beginning of the range where none are."""
    old_ms = now_ms - max(UNSETTLED_STEPS * reading.step_ms, SETTLE_MS_MIN)
    if not reading.joins:
        return reading.aligned.end_ms if asked.time_range.end_ms <= old_ms else reading.aligned.start_ms
    return min(old_ms, asked.time_range.end_ms) // reading.step_ms * reading.step_ms


async def _extend_cached(
    kept: _CachedPoints, asked: TimeseriesQuery, reading: PointLoader, settled_ms: int
) -> PointRows | None:
    """What is kept, and what follows it; None where that is not the whole answer."""
    start_ms, end_ms = reading.aligned.start_ms, min(kept.end_ms, settled_ms)
    if not kept.start_ms <= start_ms < end_ms:
        return None
    rows = _concat_between(kept.rows, start_ms, end_ms)
    if end_ms >= asked.time_range.end_ms:
        return PointRows(rows, reading.source, truncated=False)
    newer = await reading.since(end_ms)
    # Beyond the limit the whole is cut off by its last buckets: it has to be read as a whole.
    if newer.truncated or len(rows) + len(newer.rows) > ROWS_MAX:
        return None
    # Rollups, and then an end that samples alone tell.
    mixed = newer.source == "raw" and reading.source != "raw" and bool(rows)
    return PointRows([*rows, *newer.rows], "mixed" if mixed else newer.source, truncated=False)


def _concat_between(rows: Sequence[Point], start_ms: int, end_ms: int) -> list[Point]:
    return [row for row in rows if start_ms <= row.at_ms < end_ms]


def _nbytes(rows: Sequence[Point]) -> int:
    texts = [text for row in rows for text in row.group]
    return ROW_NBYTES * len(rows) + 8 * len(texts) + sum(50 + 4 * len(text) for text in set(texts))
