"""Rollups of requests on their way into segments: of a generation that is sealed, and of parts that have none yet."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import numpy as np
import structlog

from vantage.core.arrays import U32
from vantage.core.red import (
    RedKeys,
    RedLevel,
    RedSlots,
    by_service,
    of_endpoints,
    red_of_samples,
    red_of_spans,
    regroup,
)
from vantage.core.rollup import FIVE_MINUTES_MS, NO_PARTIALS, Partials, concat_partials
from vantage.core.sample_columns import NO_SAMPLES, SampleColumns
from vantage.core.span_table import SpanTable, build_span_table
from vantage.storage.embedded.format import span_block
from vantage.storage.embedded.format.chunk import checksum
from vantage.storage.embedded.format.part_writer import PartWriter
from vantage.storage.embedded.format.red_chunk import RED_WIDTHS_MS
from vantage.storage.embedded.format.segment import ROLLUPS, Part, Segment
from vantage.storage.embedded.format.week import week_numbers
from vantage.storage.embedded.maintain.segment_files import SegmentFiles
from vantage.storage.embedded.write.block import SampleBlock, SpanBlock
from vantage.storage.embedded.write.catalogue import Catalogue

CHUNKS_AT_ONCE: Final = 32  # that are summed up before the next are read
RedRollups = dict[tuple[RedLevel, int], Partials]  # by level and width in milliseconds

_log = structlog.get_logger("vantage.storage.red")


def red_by_week(blocks: Iterable[SampleBlock | SpanBlock], slots: RedSlots, *, floor_ms: int) -> dict[int, RedRollups]:
    """Return the rollups of blocks by week, without buckets that end before ``floor_ms``."""
    parts: dict[RedLevel, list[Partials]] = {"service": [], "endpoint": []}
    for block in blocks:
        for level, of_level in parts.items():
            of_level.append(block.red(level, slots))
    weeks: dict[int, RedRollups] = {}
    narrow = {level: concat_partials([part for part in of_level if len(part)]) for level, of_level in parts.items()}
    for (level, width_ms), partials in _with_widths(narrow).items():
        numbers = week_numbers(partials.time_ms)
        fresh = partials.time_ms + width_ms > floor_ms
        for week in np.unique(numbers[fresh]).tolist():
            rows = partials.take(np.flatnonzero(fresh & (numbers == week)))
            weeks.setdefault(week, {})[level, width_ms] = rows
    return weeks


class RedFiller:
    """Fills in the rollups of parts that an earlier version wrote; runs on the maintenance thread. Raises sqlite3.Error
    and OSError. ``on_slice`` is called between pieces of work."""

    def __init__(
        self,
        files: SegmentFiles,
        catalogue: Catalogue,
        *,
        identities: Callable[[U32], Mapping[int, bytes]],
        on_slice: Callable[[], None],
    ) -> None:
        self._files = files
        self._catalogue = catalogue
        self._identities = identities
        self._on_slice = on_slice

    def fill_next(self) -> bool:
        """Fill in one part, the newest that lacks its rollups. Returns False when none does."""
        weeks = self._files.snapshots.now.without_red
        if not weeks:
            return False
        self._fill_one(max(weeks))
        return True

    def fill(self, week: int) -> None:
        """Fill in all parts of a week: afterwards they may become other parts."""
        while week in self._files.snapshots.now.without_red:
            self._fill_one(week)

    def _fill_one(self, week: int) -> None:
        segment = self._files.snapshots.now.samples.get(week)
        lacking = self._files.parts_without_red[week]
        waiting = [part for part in (segment.parts if segment else ()) if part.id in lacking]
        part = max(waiting, key=lambda part: part.id, default=None)
        if segment is None or part is None:  # its data has expired
            self._files.note_red(week, lacking)
            return
        started = time.perf_counter()
        red = _with_widths(self._service_minutes(segment, part))
        with self._files.open_writer(week, ROLLUPS) as writer, self._files.allocate_part(writer) as part_id:
            target = PartWriter(
                writer, self._files.codec, part_id=part_id, identities=self._identities, on_slice=self._on_slice
            )
            write_red(target, red, self._catalogue.red.keys)
            if target.is_empty:
                with writer.slice() as db:
                    db.execute("INSERT OR IGNORE INTO red_filled VALUES (?)", (part.id,))
            else:
                written = target.finish(generation=part.generation, level=0, fills=("red_filled", part.id))
                empty = Segment(writer.path, week, ROLLUPS, ())
                self._files.replace_parts(self._files.snapshots.now.rollups.get(week, empty), (), [written])
        self._files.note_red(week, {part.id})
        _log.info("rollups of requests filled in", file=segment.name, part=part.id, samples=part.samples,
                  spans=part.spans, took_s=round(time.perf_counter() - started, 2))  # fmt: skip

    def _service_minutes(self, segment: Segment, part: Part) -> dict[RedLevel, Partials]:
        """Return the part's rollups of the narrowest widths. What cannot be read is left out."""
        slots = self._catalogue.red
        sums: dict[RedLevel, Partials] = {"service": NO_PARTIALS, "endpoint": NO_PARTIALS}
        waiting: list[Partials] = []

        def add_up() -> None:
            minutes = concat_partials([part for part in waiting if len(part)])
            fresh: dict[RedLevel, Partials] = {
                "service": by_service(minutes, slots.keys),
                "endpoint": of_endpoints(minutes, slots.keys, width_ms=FIVE_MINUTES_MS),
            }
            for level, partials in fresh.items():
                sums[level] = regroup(concat_partials([sums[level], partials]), None, width_ms=RED_WIDTHS_MS[level][0])
            waiting.clear()

        with self._files.pool.reading(segment.path) as db:
            ids = [row[0] for row in db.execute("SELECT id FROM chunk WHERE part_id=? ORDER BY id", (part.id,))]
            for chunk_id in ids:
                waiting.append(red_of_samples(self._samples(db, chunk_id), slots))
                if len(waiting) == CHUNKS_AT_ONCE:
                    add_up()
                    self._on_slice()
            ids = [row[0] for row in db.execute("SELECT id FROM span_block WHERE part_id=? ORDER BY id", (part.id,))]
            for block_id in ids:
                waiting.append(red_of_spans(self._spans(db, block_id), slots.keys))
                if len(waiting) == CHUNKS_AT_ONCE:
                    add_up()
                    self._on_slice()
        add_up()
        return sums

    def _samples(self, db: sqlite3.Connection, chunk_id: int) -> SampleColumns:
        codec = self._files.codec
        crc, directory, times, vals = db.execute(
            "SELECT crc, runs, times, vals FROM chunk WHERE id=?", (chunk_id,)
        ).fetchone()
        try:
            if checksum(directory, times, vals) != crc:
                raise ValueError("checksum mismatch")
            runs = codec.unpack_runs(directory)
            slot = np.repeat(runs.slot, runs.count)
            return SampleColumns(slot, codec.unpack_times(times, runs), codec.unpack_values(vals, runs))
        except ValueError as error:
            _log.error("chunk unreadable, left out of rollups", chunk=chunk_id, reason=str(error))
            return NO_SAMPLES

    @staticmethod
    def _spans(db: sqlite3.Connection, block_id: int) -> SpanTable:
        (body,) = db.execute("SELECT body FROM span_block WHERE id=?", (block_id,)).fetchone()
        try:
            return span_block.decode(body)
        except ValueError as error:
            _log.error("spans unreadable, left out of rollups", block=block_id, reason=str(error))
            return build_span_table(())


def _with_widths(narrow: Mapping[RedLevel, Partials]) -> RedRollups:
    red: RedRollups = {}
    for level, partials in narrow.items():
        for width_ms in RED_WIDTHS_MS[level]:
            partials = regroup(partials, None, width_ms=width_ms)
            if len(partials):
                red[level, width_ms] = partials
    return red


def write_red(target: PartWriter, red: RedRollups, keys: RedKeys) -> None:
    """Write the rollups of a part."""
    for (level, width_ms), partials in red.items():
        target.red(partials, keys.keys, level=level, width_ms=width_ms)
