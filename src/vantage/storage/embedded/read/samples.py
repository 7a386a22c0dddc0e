"""Samples, exemplars and rollups of one snapshot."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np

from vantage.core.arrays import Mask
from vantage.core.idhash import decode_ids, hash_id
from vantage.core.rollup import FIVE_MINUTES_MS, Partials
from vantage.core.sample_columns import SampleColumns, concat_samples, constant_column
from vantage.core.series import Series
from vantage.core.timerange import TimeRange
from vantage.storage.embedded.format.chunk import ChunkDirectory, checksum
from vantage.storage.embedded.format.exemplars import UnmatchedExemplars, find_exemplars, unpack_exemplars
from vantage.storage.embedded.format.segment import Part, Segment
from vantage.storage.embedded.format.trace_id_index import truncate_hash
from vantage.storage.embedded.read.access import SnapshotAccess
from vantage.storage.embedded.read.chunk_index import ChunkIndex
from vantage.storage.embedded.write.head import exemplars_of_trace, overlapping
from vantage.vql.exec.series_table import SeriesColumns
from vantage.vql.exec.source import SAMPLE_COLUMNS, ScanEstimate

CHUNKS_AT_ONCE: Final = 8  # read by one statement, as each takes locks
_CHUNKS: Final = "SELECT id, crc, runs, times, vals FROM chunk WHERE id IN (?, ?, ?, ?, ?, ?, ?, ?)"
_ROLLUP: Final = "SELECT crc, runs, times, counts, sums, mins, maxs, sketches FROM rollup WHERE id=?"


class SampleReader:
    """Reads samples, exemplars and rollups; ``histograms`` says by slot which series are histograms."""

    def __init__(self, access: SnapshotAccess, series: SeriesColumns, *, histograms: Mask) -> None:
        self._access = access
        self._series = series
        self._histograms = histograms

    def plan(self, time_range: TimeRange, slots: Mask, *, width_ms: int) -> list[ScanEstimate]:
        """Return what reading samples takes, or (``width_ms`` > 0) rollups."""
        time_range = self._access.clamp_to_floor(time_range)
        tier = self._access.pinned.snapshot.rollups if width_ms else self._access.pinned.snapshot.samples
        chunks = rows = 0
        for segment, part in self._access.parts(tier.values(), time_range):
            for index in self._access.read(segment, self._index, segment, part, width_ms):
                self._access.tick()
                for _, runs, picked in index.matching(slots, time_range):
                    chunks += 1
                    rows += runs.rows if picked is None else int(runs.count[picked].sum())
        blocks = list(overlapping(self._access.sample_blocks(), time_range))
        head_rows = sum(np.count_nonzero(slots[block.samples.slot]) for block in blocks)
        return [ScanEstimate("sealed", chunks, rows), ScanEstimate("head", len(blocks), int(head_rows))]

    def _index(self, db: sqlite3.Connection, segment: Segment, part: Part, width_ms: int) -> Iterator[ChunkIndex]:
        yield self._access.indexes.get(segment.path, db, part.id, self._access.codec, width_ms=width_ms)

    def samples(self, time_range: TimeRange, slots: Mask, *, wanted: frozenset[str]) -> Iterator[SampleColumns]:
        """Yield the samples of a range and of the series whose slots are set, as ``ColumnSource.samples`` does: from
        segments, then from the head."""
        time_range = self._access.clamp_to_floor(time_range)
        exemplars = "exemplars" in wanted
        columns = SAMPLE_COLUMNS if exemplars else wanted  # a sample's exemplar is known by its time and value
        for segment, part in self._access.parts(self._access.pinned.snapshot.samples.values(), time_range):
            unmatched = UnmatchedExemplars(self._exemplars(segment, part, time_range, slots)) if exemplars else None
            yield from self._access.read(segment, self._chunks, segment, part, time_range, slots, columns, unmatched)
        for block in overlapping(self._access.sample_blocks(), time_range):
            yield self._drop_expired(block.samples)

    def _chunks(
        self,
        db: sqlite3.Connection,
        segment: Segment,
        part: Part,
        time_range: TimeRange,
        slots: Mask,
        columns: frozenset[str],
        unmatched: UnmatchedExemplars | None,
    ) -> Iterator[SampleColumns]:
        index = self._access.indexes.get(segment.path, db, part.id, self._access.codec)
        matching = index.matching(slots, time_range)
        rows: dict[int, tuple[int, bytes, bytes, bytes]] = {}
        for number, (chunk_id, runs, wanted) in enumerate(matching):
            self._access.tick()
            if number % CHUNKS_AT_ONCE == 0:
                ids = [other for other, _, _ in matching[number : number + CHUNKS_AT_ONCE]]
                ids += [ids[0]] * (CHUNKS_AT_ONCE - len(ids))
                rows = {row[0]: row[1:] for row in db.execute(_CHUNKS, ids)}
            if (row := rows.pop(chunk_id, None)) is None:
                continue  # its part was deleted while this query ran
            try:
                crc, directory, times, vals = row
                if checksum(directory, times, vals) != crc:
                    raise ValueError("checksum mismatch")
                samples = self._unpack_chunk(runs, times, vals, wanted, time_range, columns)
                if unmatched is not None:
                    claimed = unmatched.claim(samples.slot, samples.time_ms, samples.value)
                    samples = replace(samples, exemplars=claimed)
            except ValueError as error:
                self._access.damage.row(segment, f"chunk {chunk_id}", error)
                continue
            yield self._drop_expired(samples)

    def _drop_expired(self, samples: SampleColumns) -> SampleColumns:
        """Leave out samples that have expired and are not deleted yet."""
        floor_ms = self._access.pinned.snapshot.floor_ms
        return samples.filter(samples.time_ms >= floor_ms) if floor_ms else samples

    def _unpack_chunk(
        self,
        runs: ChunkDirectory,
        times: bytes,
        vals: bytes,
        wanted: Mask | None,
        time_range: TimeRange,
        columns: frozenset[str],
    ) -> SampleColumns:
        """Return the wanted runs. Raises ValueError."""
        read, codec = runs if wanted is None else runs.take(wanted), self._access.codec
        slot = np.repeat(read.slot, read.count)
        inside = int(read.first_ms.min()) >= time_range.start_ms and int(read.last_ms.max()) < time_range.end_ms
        if "timestamp" in columns or not inside:
            time_ms = codec.unpack_times(times, runs, wanted)
        else:
            time_ms = constant_column(time_range.start_ms, len(slot), np.int64)
        if "value" in columns:
            return SampleColumns(slot, time_ms, codec.unpack_values(vals, runs, wanted))
        return SampleColumns(slot, time_ms, constant_column(np.nan, len(slot), np.float64))

    def _exemplars(self, segment: Segment, part: Part, time_range: TimeRange, slots: Mask) -> list[SampleColumns]:
        """Return a part's exemplar samples of the selected series in a range."""
        selected, slot_numbers = [], np.flatnonzero(slots)
        for samples in self._access.read(segment, self._exemplar_blocks, segment, part):
            self._access.tick()
            in_range = (samples.time_ms >= time_range.start_ms) & (samples.time_ms < time_range.end_ms)
            selected.append(samples.filter(in_range & np.isin(samples.slot, slot_numbers)))
        return selected

    def _exemplar_blocks(self, db: sqlite3.Connection, segment: Segment, part: Part) -> Iterator[SampleColumns]:
        for row in db.execute(
            "SELECT id, exemplars, ids_crc, body_crc, ids, body FROM exemplar WHERE part_id=?", (part.id,)
        ):
            try:
                yield unpack_exemplars(self._access.codec, *row[1:])
            except ValueError as error:
                self._access.damage.row(segment, f"exemplar {row[0]}", error)

    def exemplars_of(self, trace_id: str) -> list[tuple[Series, int, float, str]]:
        """Return series, time, value and span id of every sample that carries the trace id."""
        parts = list(exemplars_of_trace(self._access.sample_blocks(), trace_id))
        trace_hash = int(truncate_hash(np.array([hash_id(trace_id)], np.uint64))[0])
        for segment in self._access.pinned.snapshot.samples.values():
            parts += self._access.read(segment, self._exemplars_of, segment, trace_id, trace_hash)
        samples = self._drop_expired(concat_samples(parts))
        rows = zip(
            samples.slot.tolist(),
            samples.time_ms.tolist(),
            samples.value.tolist(),
            decode_ids(samples.exemplars.span_id),
            strict=True,
        )
        all_series = self._series.series
        return [
            (series, time_ms, value, span_id)
            for slot, time_ms, value, span_id in rows
            if (series := all_series[slot]) is not None
        ]

    def _exemplars_of(
        self, db: sqlite3.Connection, segment: Segment, trace_id: str, trace_hash: int
    ) -> Iterator[SampleColumns]:
        hashes = np.array([trace_hash])
        for part in segment.parts:
            self._access.tick()
            if not len(self._access.indexes.possible_traces(segment.path, db, part.id, hashes)):
                continue
            try:
                yield from find_exemplars(
                    db, self._access.codec, part=part.id, trace_id=trace_id, trace_hash=trace_hash
                )
            except ValueError as error:
                self._access.damage.row(segment, "exemplar", error)

    def partials(
        self, time_range: TimeRange, slots: Mask, *, width_ms: int, wanted: frozenset[str]
    ) -> Iterator[Partials]:
        time_range = self._access.clamp_to_floor(time_range)
        for segment, part in self._access.parts(self._access.pinned.snapshot.rollups.values(), time_range):
            yield from self._access.read(segment, self._rollups, segment, part, time_range, slots, width_ms, wanted)
        # A bucket may begin before the block's first sample, and the block's last sample lie after the range.
        wide_range = TimeRange(time_range.start_ms, time_range.end_ms + width_ms)
        for block in overlapping(self._access.sample_blocks(), wide_range):
            self._access.tick()
            yield block.rollup_5m if width_ms == FIVE_MINUTES_MS else block.rollup_1h(self._histograms)

    def _rollups(
        self,
        db: sqlite3.Connection,
        segment: Segment,
        part: Part,
        time_range: TimeRange,
        slots: Mask,
        width_ms: int,
        columns: frozenset[str],
    ) -> Iterator[Partials]:
        index = self._access.indexes.get(segment.path, db, part.id, self._access.codec, width_ms=width_ms)
        for rollup_id, runs, wanted in index.matching(slots, time_range):
            self._access.tick()
            try:
                row = db.execute(_ROLLUP, (rollup_id,)).fetchone()
                if row is None:
                    continue
                crc, *body = row
                if checksum(*body) != crc:
                    raise ValueError("checksum mismatch")
                partials = self._access.codec.unpack_partials(
                    tuple(body[1:]), runs, width_ms=width_ms, columns=columns, wanted=wanted
                )
            except ValueError as error:
                self._access.damage.row(segment, f"rollup {rollup_id}", error)
                continue
            yield partials
