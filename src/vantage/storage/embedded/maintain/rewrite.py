"""Rewriting parts of a segment as one part: to merge small parts, and to drop rows that are deleted or expired.

Readers go on with the old parts until the new one is published; then the old rows are deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, TypeVar

import numpy as np

from vantage.core.arrays import I64, U32, Mask
from vantage.core.red import RedKey, RedKeys, RedLevel, regroup
from vantage.core.rollup import WIDTHS_MS, Partials, concat_partials
from vantage.core.sample_columns import SampleColumns, concat_samples
from vantage.core.span_table import SpanTable, concat_span_tables
from vantage.core.timerange import TIME_MS_MAX, TimeRange
from vantage.storage.edge_join import EdgeKey, EdgeKeys
from vantage.storage.embedded.format import span_block
from vantage.storage.embedded.format.chunk import (
    CHUNK_SAMPLES_MAX,
    RUN_SAMPLES,
    ChunkCodec,
    ChunkDirectory,
    SampleChunk,
    checksum,
)
from vantage.storage.embedded.format.edge_chunk import EDGE_ROW, unpack_edges
from vantage.storage.embedded.format.exemplars import count_exemplars, exemplars_between, sort_by_trace
from vantage.storage.embedded.format.part_writer import PartWriter
from vantage.storage.embedded.format.red_chunk import RED_ROW, RED_WIDTHS_MS, WINDOW_BUCKETS, unpack_red
from vantage.storage.embedded.format.segment import ROW_TABLES, SAMPLES, Part, SegmentWriter
from vantage.storage.embedded.format.trace_id_index import HASH_MAX
from vantage.storage.embedded.maintain.sort import in_storage_order, merge_partials
from vantage.storage.embedded.read.chunk_index import ChunkIndex, ChunkIndexCache
from vantage.storage.service_edges import EDGE_WIDTHS_MS

K = TypeVar("K")
ROWS_AT_ONCE: Final = 1 << 18  # how much of the parts is in memory at a time
_ALWAYS: Final = TimeRange(-(1 << 62), TIME_MS_MAX)
_COLUMNS: Final = frozenset({"sum", "min", "max", "sketches"})


@dataclass(frozen=True, slots=True)
class RowFilter:
    """Which rows stay: samples of a slot not before ``cutoff_ms[slot]`` (a huge cutoff drops the series), spans that
    ``spans`` selects, and rollups of requests and edges not before what ``red`` and ``edges`` return for their key."""

    cutoff_ms: I64
    spans: Callable[[SpanTable], Mask] | None = None
    red: Callable[[RedKey], int] | None = None  # the cutoff of rollups of requests
    edges: Callable[[EdgeKey], int] | None = None  # the cutoff of edges

    def rows(self, slot: U32, time_ms: I64) -> Mask:
        mask: Mask = time_ms >= self.cutoff_ms[slot]
        return mask


CUTOFF_MAX_MS: Final = 1 << 62  # later than any sample: drops a series; its negative keeps everything


class PartRewriter:
    """Rewrites parts of one segment.

    Raises sqlite3.Error, and ValueError when a part cannot be read: then nothing has changed and the damaged rows stay.
    """

    def __init__(
        self,
        writer: SegmentWriter,
        codec: ChunkCodec,
        indexes: ChunkIndexCache,
        *,
        group: I64,
        identities: Callable[[U32], Mapping[int, bytes]],
        on_slice: Callable[[], None],
        red_keys: RedKeys,
        edge_keys: EdgeKeys,
    ) -> None:
        self._writer = writer
        self._red_keys = red_keys
        self._edge_keys = edge_keys
        self._db = writer.db
        self._codec = codec
        self._indexes = indexes
        self._group = group
        self._identities = identities
        self._on_slice = on_slice

    def rewrite(self, parts: Sequence[Part], keep: RowFilter, *, level: int, part_id: int) -> Part | None:
        """Write one part to replace several; returns None when no rows remain. The old rows are not deleted yet."""
        target = PartWriter(
            self._writer, self._codec, part_id=part_id, identities=self._identities, on_slice=self._on_slice
        )
        if self._writer.tier == SAMPLES:
            self._samples(parts, keep, target)
            self._exemplars(parts, keep, target)
            self._spans(parts, keep, target)
        else:
            for width_ms in WIDTHS_MS.values():
                self._rollups(parts, keep, target, width_ms)
            for red_level, widths_ms in RED_WIDTHS_MS.items():
                for red_width_ms in widths_ms:
                    self._red(parts, keep, target, red_level, red_width_ms)
            for width_ms in EDGE_WIDTHS_MS:
                self._edges(parts, keep, target, width_ms)
        replaced = [part.id for part in parts]
        if target.is_empty:
            with self._writer.slice() as db:
                db.executemany("DELETE FROM part WHERE id=?", [(part,) for part in replaced])
            return None
        return target.finish(generation=max(part.generation for part in parts), level=level, replaces=replaced)

    def _series_batches(self, indexes: Sequence[ChunkIndex]) -> Iterator[Mask]:
        """Yield the series in storage order, as many at a time as fit into memory."""
        if not indexes:
            return
        slots = np.concatenate([index.slot for index in indexes])
        rows = np.concatenate([np.concatenate([runs.count for runs in index.directories]) for index in indexes])
        distinct, index = np.unique(slots, return_inverse=True)
        counts = np.zeros(len(distinct), np.int64)
        np.add.at(counts, index, rows)
        order = np.lexsort((distinct, self._group[distinct]))
        share = np.cumsum(counts[order]) // ROWS_AT_ONCE
        for number in np.unique(share).tolist():
            mask = np.zeros(int(distinct[-1]) + 1, np.bool_)
            mask[distinct[order[share == number]]] = True
            yield mask

    def _index(self, part: Part, width_ms: int = 0) -> ChunkIndex:
        return self._indexes.get(self._writer.path, self._db, part.id, self._codec, width_ms=width_ms)

    def _samples(self, parts: Sequence[Part], keep: RowFilter, target: PartWriter) -> None:
        indexes = [
            self._copy_chunks(index, keep, target) for part in parts if len((index := self._index(part)).chunk_id)
        ]
        indexes = [index for index in indexes if len(index.chunk_id)]
        for slots in self._series_batches(indexes):
            read = [
                self._chunk(chunk_id, runs, wanted, keep)
                for index in indexes
                for chunk_id, runs, wanted in index.matching(slots, _ALWAYS)
            ]
            for samples in in_storage_order(concat_samples([samples for samples in read if len(samples)]), self._group):
                target.samples(samples)
            self._on_slice()

    def _copy_chunks(self, index: ChunkIndex, keep: RowFilter, target: PartWriter) -> ChunkIndex:
        """Write the chunks as they are that would be no better if they were packed again. Return the index of the
        others."""
        again = np.ones(len(index.chunk_id), np.bool_)
        for number, (chunk_id, runs) in enumerate(zip(index.chunk_id.tolist(), index.directories, strict=True)):
            if runs.rows < max(CHUNK_SAMPLES_MAX, RUN_SAMPLES * len(runs)) // 2:
                continue
            if not keep.rows(runs.slot, runs.first_ms).all():
                continue
            again[number] = False
            crc, directory, times, vals, first_ms, last_ms = self._db.execute(
                "SELECT crc, runs, times, vals, first_ms, last_ms FROM chunk WHERE id=?", (chunk_id,)
            ).fetchone()
            if checksum(directory, times, vals) != crc:
                raise ValueError(f"chunk {chunk_id}: checksum mismatch")
            target.chunk(SampleChunk(directory, times, vals, crc, first_ms, last_ms, runs.rows), runs)
        self._on_slice()
        return index.only(again)

    def _chunk(self, chunk_id: int, runs: ChunkDirectory, wanted: Mask | None, keep: RowFilter) -> SampleColumns:
        crc, directory, times, vals = self._db.execute(
            "SELECT crc, runs, times, vals FROM chunk WHERE id=?", (chunk_id,)
        ).fetchone()
        if checksum(directory, times, vals) != crc:
            raise ValueError(f"chunk {chunk_id}: checksum mismatch")
        slot = np.repeat(runs.slot, runs.count)
        time_ms = self._codec.unpack_times(times, runs)
        samples = SampleColumns(slot, time_ms, self._codec.unpack_values(vals, runs))
        mask = keep.rows(slot, time_ms)
        if wanted is not None:
            mask &= np.repeat(wanted, runs.count)
        return samples if mask.all() else samples.take(np.flatnonzero(mask))

    def _exemplars(self, parts: Sequence[Part], keep: RowFilter, target: PartWriter) -> None:
        total = sum(count_exemplars(self._db, part.id) for part in parts)
        # Hashes are evenly distributed: a share of their range has a share of the exemplars.
        shares = total // ROWS_AT_ONCE + 1
        for low, high in pairwise(HASH_MAX * number // shares for number in range(shares + 1)):
            blocks = [
                samples.filter(keep.rows(samples.slot, samples.time_ms))
                for part in parts
                for samples in exemplars_between(self._db, self._codec, part=part.id, low=low, high=high)
            ]
            if blocks:
                target.exemplars(sort_by_trace(concat_samples(blocks)))
            self._on_slice()

    def _rollups(self, parts: Sequence[Part], keep: RowFilter, target: PartWriter, width_ms: int) -> None:
        indexes = [index for part in parts if len((index := self._index(part, width_ms)).chunk_id)]
        for slots in self._series_batches(indexes):
            read = [
                self._partials(rollup_id, runs, wanted, keep, width_ms)
                for index in indexes
                for rollup_id, runs, wanted in index.matching(slots, _ALWAYS)
            ]
            target.partials(merge_partials(read, self._group, width_ms=width_ms), width_ms=width_ms)
            self._on_slice()

    def _partials(
        self, rollup_id: int, runs: ChunkDirectory, wanted: Mask | None, keep: RowFilter, width_ms: int
    ) -> Partials:
        crc, *body = self._db.execute(
            "SELECT crc, runs, times, counts, sums, mins, maxs, sketches FROM rollup WHERE id=?", (rollup_id,)
        ).fetchone()
        if checksum(*body) != crc:
            raise ValueError(f"rollup {rollup_id}: checksum mismatch")
        partials = self._codec.unpack_partials(
            tuple(body[1:]), runs, width_ms=width_ms, columns=_COLUMNS, wanted=wanted
        )
        # A bucket stays as long as its end does.
        mask = keep.rows(partials.slot, partials.time_ms + width_ms - 1)
        return partials if mask.all() else partials.take(np.flatnonzero(mask))

    def _red(self, parts: Sequence[Part], keep: RowFilter, target: PartWriter, level: RedLevel, width_ms: int) -> None:
        """Add up the rollups of requests, window by window, as they lie in chunks."""
        keys = self._red_keys
        sql = "SELECT id, first_ms FROM red WHERE part_id=? AND level=? AND width_ms=?"
        for chunk_ids in self._windows(sql, parts, (level, width_ms), width_ms):
            rows = [self._red_chunk(chunk_id, keep, width_ms) for chunk_id in chunk_ids]
            target.red(
                regroup(concat_partials(rows), None, width_ms=width_ms), keys.keys, level=level, width_ms=width_ms
            )
            self._on_slice()

    def _red_chunk(self, chunk_id: int, keep: RowFilter, width_ms: int) -> Partials:
        row = self._db.execute(f"SELECT {RED_ROW} FROM red WHERE id=?", (chunk_id,)).fetchone()  # noqa: S608 - of ours
        partials = unpack_red(self._codec, self._red_keys, row, width_ms=width_ms)
        return _not_before(partials, keep.red, self._red_keys.keys, width_ms)

    def _edges(self, parts: Sequence[Part], keep: RowFilter, target: PartWriter, width_ms: int) -> None:
        """Add up edges, window by window."""
        keys = self._edge_keys
        sql = "SELECT id, first_ms FROM edge WHERE part_id=? AND width_ms=?"
        for chunk_ids in self._windows(sql, parts, (width_ms,), width_ms):
            rows = [self._edge_chunk(chunk_id, keep, width_ms) for chunk_id in chunk_ids]
            summed = regroup(concat_partials(rows), None, width_ms=width_ms)
            target.edges(summed.take(np.flatnonzero(summed.count != 0)), keys.keys, width_ms=width_ms)
            self._on_slice()

    def _edge_chunk(self, chunk_id: int, keep: RowFilter, width_ms: int) -> Partials:
        row = self._db.execute(f"SELECT {EDGE_ROW} FROM edge WHERE id=?", (chunk_id,)).fetchone()  # noqa: S608 - of ours
        partials = unpack_edges(self._codec, self._edge_keys, row, width_ms=width_ms)
        return _not_before(partials, keep.edges, self._edge_keys.keys, width_ms)

    def _windows(self, sql: str, parts: Sequence[Part], values: tuple[Any, ...], width_ms: int) -> Iterator[list[int]]:
        """Yield the chunks of each window of WINDOW_BUCKETS buckets."""
        windows: dict[int, list[int]] = {}
        for part in parts:
            for chunk_id, first_ms in self._db.execute(sql, (part.id, *values)):
                windows.setdefault(first_ms // (width_ms * WINDOW_BUCKETS), []).append(chunk_id)
        for _, chunk_ids in sorted(windows.items()):
            yield chunk_ids

    def _spans(self, parts: Sequence[Part], keep: RowFilter, target: PartWriter) -> None:
        blocks = sorted(
            row
            for part in parts
            for row in self._db.execute("SELECT first_ms, id FROM span_block WHERE part_id=?", (part.id,))
        )
        tables: list[SpanTable] = []
        waiting = 0
        for _, block_id in blocks:
            (body,) = self._db.execute("SELECT body FROM span_block WHERE id=?", (block_id,)).fetchone()
            table = span_block.decode(body)
            if keep.spans is not None:
                table = table.take(np.flatnonzero(keep.spans(table)))
            tables.append(table)
            waiting += len(table)
            if waiting >= 8 * 4096:
                self._put_spans(tables, target)
                tables, waiting = [], 0
                self._on_slice()
        self._put_spans(tables, target)

    @staticmethod
    def _put_spans(tables: list[SpanTable], target: PartWriter) -> None:
        table = concat_span_tables(tables)
        if len(table):
            target.spans(table.take(np.argsort(table.start_ns, kind="stable")))


def _not_before(partials: Partials, cutoff_ms: Callable[[K], int] | None, keys: Sequence[K], width_ms: int) -> Partials:
    """Return the rows whose buckets do not end before the cutoff of their key."""
    if cutoff_ms is None:
        return partials
    codes, index = np.unique(partials.slot, return_inverse=True)
    cutoffs = np.array([cutoff_ms(keys[code]) for code in codes.tolist()], np.int64)
    return partials.take(np.flatnonzero(partials.time_ms + width_ms > cutoffs[index]))


def delete_parts(writer: SegmentWriter, parts: Sequence[int], on_slice: Callable[[], None]) -> None:
    """Delete rows of parts that no longer exist, a few at a time. Raises sqlite3.Error."""
    for part in parts:
        for table in ROW_TABLES[writer.tier]:
            while True:
                with writer.slice() as db:
                    deleted = db.execute(
                        f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE part_id=? LIMIT 32)",  # noqa: S608
                        (part,),
                    ).rowcount
                on_slice()
                if deleted < 32:
                    break
