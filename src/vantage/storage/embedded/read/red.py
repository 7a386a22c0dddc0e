"""Rollups of requests of one snapshot: from segments, and of blocks that are not sealed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from vantage.core.red import KEPT_MS, RedSlots
from vantage.core.red_table import RedQuery, RedTable, grain_of, summarize
from vantage.core.rollup import Partials
from vantage.core.timerange import TimeRange
from vantage.storage.embedded.format.red_chunk import (
    RED_ROW,
    RED_WIDTHS_MS,
    WINDOW_BUCKETS,
    unpack_red,
)
from vantage.storage.embedded.format.segment import Part, Segment
from vantage.storage.embedded.format.week import week_of
from vantage.storage.embedded.read.access import SnapshotAccess
from vantage.storage.embedded.write.head import overlapping

COPIES: Final = 4  # of the rows in memory while they are summed up
_CHUNKS: Final = (
    f"SELECT service, id, {RED_ROW} FROM red"  # noqa: S608 - names of ours
    " WHERE part_id=? AND level=? AND width_ms=? AND first_ms > ? AND first_ms < ? AND last_ms >= ?"
)


class RedReader:
    """Reads rollups of requests."""

    def __init__(self, access: SnapshotAccess, slots: RedSlots) -> None:
        self._access = access
        self._slots = slots

    def table(self, query: RedQuery, *, now_ms: int) -> RedTable | None:
        """Return the result of a query; None where rollups do not suffice: for a step that is none of their widths, a
        time whose rows of that width are deleted, or a week that an earlier version wrote and that is not filled in
        yet."""
        widths_ms = [
            width
            for width in RED_WIDTHS_MS[query.level]
            if query.time_range.start_ms >= now_ms - KEPT_MS.get((query.level, width), now_ms)
        ]
        width_ms = grain_of(query.step_ms, widths_ms)
        if width_ms is None or self._lacks(query.time_range):
            return None
        time_range = self._access.clamp_to_floor(query.time_range)
        parts = list(self._parts(query, time_range, width_ms))
        return summarize(parts, self._slots.keys.keys, query)

    def _lacks(self, time_range: TimeRange) -> bool:
        return any(
            week_of(time_range.start_ms) <= week <= week_of(time_range.end_ms - 1)
            for week in self._access.pinned.snapshot.without_red
        )

    def _parts(self, query: RedQuery, time_range: TimeRange, width_ms: int) -> Iterator[Partials]:
        for segment, part in self._access.parts(
            self._access.pinned.snapshot.rollups.values(),
            TimeRange(time_range.start_ms - width_ms, time_range.end_ms),
        ):
            yield from self._access.read(segment, self._chunks, segment, part, query, time_range, width_ms)
        for block in overlapping(self._access.sample_blocks(), time_range):
            yield self._counted(block.red(query.level, self._slots))
        for spans in overlapping(self._access.span_blocks(), time_range):
            yield self._counted(spans.red(query.level, self._slots))

    def _chunks(
        self,
        db: sqlite3.Connection,
        segment: Segment,
        part: Part,
        query: RedQuery,
        time_range: TimeRange,
        width_ms: int,
    ) -> Iterator[Partials]:
        earliest_ms = time_range.start_ms - width_ms * WINDOW_BUCKETS
        values: tuple[Any, ...] = (part.id, query.level, width_ms, earliest_ms, time_range.end_ms, time_range.start_ms)
        sql = _CHUNKS
        if query.level == "endpoint" and query.services is not None:
            sql += f" AND service IN ({', '.join('?' * (len(query.services) + 1))})"
            values += ("", *sorted(query.services))
        for _, chunk_id, *row in db.execute(sql, values):
            self._access.tick()
            try:
                partials = unpack_red(self._access.codec, self._slots.keys, row, width_ms=width_ms)
            except ValueError as error:
                self._access.damage.row(segment, f"red {chunk_id}", error)
                continue
            yield self._counted(self._drop_hidden(partials))

    def _drop_hidden(self, partials: Partials) -> Partials:
        """Leave out what is being deleted."""
        if not (hidden := self._access.pinned.snapshot.hidden):
            return partials
        keys = self._slots.keys.keys
        codes, index = np.unique(partials.slot, return_inverse=True)
        stays = [
            not any(service in ("", key.service) and environment in ("", key.environment)
                    for service, environment in hidden)
            for key in (keys[code] for code in codes.tolist())
        ]  # fmt: skip
        return partials.take(np.flatnonzero(np.array(stays, np.bool_)[index]))

    def _counted(self, partials: Partials) -> Partials:
        self._access.budget.take(COPIES * partials.nbytes)
        return partials
