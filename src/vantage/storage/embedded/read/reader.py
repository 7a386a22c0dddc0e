"""One query's view of the store: head, generations being sealed and segments, read as one."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import structlog

from vantage.core.arrays import Mask
from vantage.core.errors import StoreUnavailable
from vantage.core.idhash import decode_ids, hash_id
from vantage.core.rollup import FIVE_MINUTES_MS, Partials
from vantage.core.sample_columns import SampleColumns, concat_samples
from vantage.core.series import Series
from vantage.core.span_table import SpanTable, build_span_table, concat_span_tables
from vantage.core.timerange import TIME_MS_MAX, TimeRange
from vantage.storage.embedded.format import span_block
from vantage.storage.embedded.format.chunk import ChunkCodec, ChunkDirectory, checksum
from vantage.storage.embedded.format.exemplars import UnmatchedExemplars, find_exemplars, unpack_exemplars
from vantage.storage.embedded.format.part_stats import PartStats, ServiceStats, read_part_stats
from vantage.storage.embedded.format.segment import Part, Segment, is_damage
from vantage.storage.embedded.format.trace_id_index import find, truncate_hash
from vantage.storage.embedded.read.chunk_index import ChunkIndex, ChunkIndexCache
from vantage.storage.embedded.read.connection_pool import ConnectionPool
from vantage.storage.embedded.read.snapshot import PinnedSnapshot
from vantage.storage.embedded.write.block import SampleBlock, SpanBlock
from vantage.storage.embedded.write.head import exemplars_of_trace, overlapping, spans_of_traces
from vantage.storage.trace_summary import count_by_service
from vantage.vql.exec.series_table import SeriesColumns
from vantage.vql.exec.source import ScanEstimate
from vantage.vql.signatures import ROLLUP_WIDTHS_MS
from vantage.vql.tree import TableName

T = TypeVar("T")
BLOCKS_MAX: Final = 16
NO_SPANS: Final = build_span_table(())
_ALWAYS: Final = TimeRange(-(1 << 62), TIME_MS_MAX)
_CHUNK: Final = "SELECT crc, runs, times, vals FROM chunk WHERE id=?"
_ROLLUP: Final = "SELECT crc, runs, times, counts, sums, mins, maxs, sketches FROM rollup WHERE id=?"
_BLOCKS: Final = "SELECT id, first_ms, last_ms, duration_ns_max, services, spans FROM span_block WHERE part_id=?"

_log = structlog.get_logger("vantage.storage.reading")


class DamageLog:
    """Where readers report what they could not read: ``file`` for a whole segment, ``rows`` for single rows."""

    def __init__(self, quarantine: Callable[[Segment, str], None]) -> None:
        self._quarantine = quarantine
        self.rows = 0

    def row(self, segment: Segment, what: str, reason: object) -> None:
        self.rows += 1
        _log.error("row of a segment unreadable, passed over", file=segment.name, row=what, reason=str(reason))

    def file(self, segment: Segment, reason: object) -> None:
        self._quarantine(segment, str(reason))


class SnapshotReader:
    """Reads what ``seen`` holds. One thread at a time."""

    def __init__(
        self,
        seen: PinnedSnapshot,
        series: SeriesColumns,
        *,
        histograms: Mask,
        codec: ChunkCodec,
        pool: ConnectionPool,
        indexes: ChunkIndexCache,
        damage: DamageLog,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._pinned = seen
        self._series = series
        self._histograms = histograms
        self._pool = pool
        self._indexes = indexes
        self._damage = damage
        self._tick = tick
        self._codec = codec
        self._blocks: dict[tuple[Path, int], SpanTable] = {}  # the last few that were read

    def series(self) -> SeriesColumns:
        return self._series

    # --- what there is to read ---

    def rows_upper_bound(self, table: TableName, time_range: TimeRange) -> int:
        view = self._pinned.snapshot
        if table in ROLLUP_WIDTHS_MS:  # parts do not tell their rows, but no four of them take less than a byte
            parts = self._parts(view.rollups.values(), time_range)
            sealed = sum(4 * part.nbytes for _, part in parts)
        else:
            parts = self._parts(view.samples.values(), time_range)
            sealed = sum(part.spans if table == "spans" else part.samples for _, part in parts)
        if table == "spans":
            return sealed + sum(len(block.table) for block in self._span_blocks())
        return sealed + sum(len(block) for block in self._sample_blocks())

    def plan(self, table: TableName, time_range: TimeRange, slots: Mask) -> list[ScanEstimate]:
        time_range = self._clamp_to_floor(time_range)
        if table == "spans":
            return self._plan_of_spans(time_range)
        width_ms = ROLLUP_WIDTHS_MS.get(table, 0)
        tier = self._pinned.snapshot.rollups if width_ms else self._pinned.snapshot.samples
        chunks = rows = 0
        for segment, part in self._parts(tier.values(), time_range):
            for index in self._read(segment, self._index, segment, part, width_ms):
                self._tick()
                for _, runs, picked in index.matching(slots, time_range):
                    chunks += 1
                    rows += runs.rows if picked is None else int(runs.count[picked].sum())
        blocks = list(overlapping(self._sample_blocks(), time_range))
        young = sum(np.count_nonzero(slots[block.samples.slot]) for block in blocks)
        return [ScanEstimate("sealed", chunks, rows), ScanEstimate("head", len(blocks), int(young))]

    def _plan_of_spans(self, time_range: TimeRange) -> list[ScanEstimate]:
        blocks = list(overlapping(self._span_blocks(), time_range))
        chunks = rows = 0
        for segment, part in self._parts(self._pinned.snapshot.samples.values(), time_range):
            for _, first_ms, last_ms, _, _, spans in self._read(segment, _blocks_of, part.id) if part.spans else ():
                if last_ms >= time_range.start_ms and first_ms < time_range.end_ms:
                    chunks, rows = chunks + 1, rows + spans
        young = sum(len(block.table) for block in blocks)
        return [ScanEstimate("sealed", chunks, rows), ScanEstimate("head", len(blocks), young)]

    def _index(self, db: sqlite3.Connection, segment: Segment, part: Part, width_ms: int) -> Iterator[ChunkIndex]:
        yield self._indexes.get(segment.path, db, part.id, self._codec, width_ms=width_ms)

    # --- samples ---

    def samples(self, time_range: TimeRange, slots: Mask, *, exemplars: bool) -> Iterator[SampleColumns]:
        time_range = self._clamp_to_floor(time_range)
        for segment, part in self._parts(self._pinned.snapshot.samples.values(), time_range):
            unmatched = UnmatchedExemplars(self._exemplars(segment, part, time_range, slots)) if exemplars else None
            yield from self._read(segment, self._chunks, segment, part, time_range, slots, unmatched)
        for block in overlapping(self._sample_blocks(), time_range):
            yield self._drop_expired(block.samples)

    def _chunks(
        self,
        db: sqlite3.Connection,
        segment: Segment,
        part: Part,
        time_range: TimeRange,
        slots: Mask,
        unmatched: UnmatchedExemplars | None,
    ) -> Iterator[SampleColumns]:
        index = self._indexes.get(segment.path, db, part.id, self._codec)
        for chunk_id, runs, wanted in index.matching(slots, time_range):
            self._tick()
            try:
                row = db.execute(_CHUNK, (chunk_id,)).fetchone()
                if row is None:
                    continue  # its part was deleted while this query ran
                crc, directory, times, vals = row
                if checksum(directory, times, vals) != crc:
                    raise ValueError("checksum mismatch")
                samples = self._unpack_chunk(runs, times, vals, wanted)
                if unmatched is not None:
                    claimed = unmatched.claim(samples.slot, samples.time_ms, samples.value)
                    samples = replace(samples, exemplars=claimed)
            except ValueError as error:
                self._damage.row(segment, f"chunk {chunk_id}", error)
                continue
            yield self._drop_expired(samples)

    def _drop_expired(self, samples: SampleColumns) -> SampleColumns:
        """Leave out samples that have expired and are not deleted yet."""
        floor_ms = self._pinned.snapshot.floor_ms
        return samples.filter(samples.time_ms >= floor_ms) if floor_ms else samples

    def _unpack_chunk(self, runs: ChunkDirectory, times: bytes, vals: bytes, wanted: Mask | None) -> SampleColumns:
        read = runs if wanted is None else runs.take(wanted)
        return SampleColumns(
            np.repeat(read.slot, read.count),
            self._codec.unpack_times(times, runs, wanted),
            self._codec.unpack_values(vals, runs, wanted),
        )

    def _exemplars(self, segment: Segment, part: Part, time_range: TimeRange, slots: Mask) -> list[SampleColumns]:
        """Return a part's exemplar samples of the selected series in a range."""
        selected, slot_numbers = [], np.flatnonzero(slots)
        for samples in self._read(segment, self._exemplar_blocks, segment, part):
            self._tick()
            in_range = (samples.time_ms >= time_range.start_ms) & (samples.time_ms < time_range.end_ms)
            selected.append(samples.filter(in_range & np.isin(samples.slot, slot_numbers)))
        return selected

    def _exemplar_blocks(self, db: sqlite3.Connection, segment: Segment, part: Part) -> Iterator[SampleColumns]:
        for row in db.execute(
            "SELECT id, links, ids_crc, body_crc, ids, body FROM trace_link WHERE part_id=?", (part.id,)
        ):
            try:
                yield unpack_exemplars(self._codec, *row[1:])
            except ValueError as error:
                self._damage.row(segment, f"trace_link {row[0]}", error)

    # --- rollups ---

    def partials(
        self, time_range: TimeRange, slots: Mask, *, width_ms: int, wanted: frozenset[str]
    ) -> Iterator[Partials]:
        time_range = self._clamp_to_floor(time_range)
        for segment, part in self._parts(self._pinned.snapshot.rollups.values(), time_range):
            yield from self._read(segment, self._rollups, segment, part, time_range, slots, width_ms, wanted)
        # A bucket may begin before the block's first sample, and the block's last sample lie after the range.
        wider = TimeRange(time_range.start_ms, time_range.end_ms + width_ms)
        for block in overlapping(self._sample_blocks(), wider):
            self._tick()
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
        index = self._indexes.get(segment.path, db, part.id, self._codec, width_ms=width_ms)
        for rollup_id, runs, wanted in index.matching(slots, time_range):
            self._tick()
            try:
                row = db.execute(_ROLLUP, (rollup_id,)).fetchone()
                if row is None:
                    continue
                crc, *body = row
                if checksum(*body) != crc:
                    raise ValueError("checksum mismatch")
                some = self._codec.unpack_partials(
                    tuple(body[1:]), runs, width_ms=width_ms, columns=columns, wanted=wanted
                )
            except ValueError as error:
                self._damage.row(segment, f"rollup {rollup_id}", error)
                continue
            yield some

    # --- spans ---

    def spans(self, time_range: TimeRange, *, service: str = "", min_duration_ns: int = 0) -> Iterator[SpanTable]:
        """The latest blocks first, those left out that cannot hold what is looked for."""
        for block in self.span_blocks(time_range, service=service, min_duration_ns=min_duration_ns):
            self._tick()
            if (table := block[1]()) is not None:
                yield table

    def span_blocks(
        self, time_range: TimeRange, *, service: str = "", min_duration_ns: int = 0
    ) -> list[tuple[int, Callable[[], SpanTable | None]]]:
        """Blocks that may hold such spans, as the time of their last start and a way to read them; the latest first."""
        time_range = self._clamp_to_floor(time_range)
        found: list[tuple[int, Callable[[], SpanTable | None]]] = [
            (block.last_ms, partial(self._read_head_block, block))
            for block in overlapping(self._span_blocks(), time_range)
        ]
        for segment, part in self._parts(self._pinned.snapshot.samples.values(), time_range):
            if not part.spans:
                continue
            for block_id, first_ms, last_ms, longest_ns, services, _ in self._read(segment, _blocks_of, part.id):
                if last_ms < time_range.start_ms or first_ms >= time_range.end_ms or longest_ns < min_duration_ns:
                    continue
                if service and service not in json.loads(services):
                    continue
                found.append((last_ms, partial(self._read_sealed_block, segment, block_id)))
        found.sort(key=lambda entry: -entry[0])
        return found

    def _read_head_block(self, block: SpanBlock) -> SpanTable:
        return self._drop_hidden(block.table)

    def _read_sealed_block(self, segment: Segment, block_id: int) -> SpanTable | None:
        table = self._block(segment, block_id)
        return None if table is None else self._drop_hidden(table)

    def _block(self, segment: Segment, block_id: int) -> SpanTable | None:
        def read(db: sqlite3.Connection) -> Iterator[SpanTable]:
            row = db.execute("SELECT body FROM span_block WHERE id=?", (block_id,)).fetchone()
            if row is not None:
                try:
                    yield span_block.decode(row[0])
                except ValueError as error:
                    self._damage.row(segment, f"span_block {block_id}", error)

        key = (segment.path, block_id)
        found = self._blocks.get(key)
        if found is None and (found := next(self._read(segment, read), None)) is not None:
            while len(self._blocks) >= BLOCKS_MAX:
                del self._blocks[next(iter(self._blocks))]
            self._blocks[key] = found
        return found

    def _drop_hidden(self, table: SpanTable) -> SpanTable:
        """Without spans that are being removed, or have outlived their retention."""
        view = self._pinned.snapshot
        if not view.hidden and not view.floor_ms:
            return table
        keep = table.start_ns >= view.floor_ms * 1_000_000
        for service, environment in self._pinned.snapshot.hidden:
            keep &= ~selected_rows(table, service, environment)
        return table if keep.all() else table.take(np.flatnonzero(keep))

    def service_counts(self) -> Iterator[ServiceStats]:
        """Spans, first and last start by service, environment, version and instance: one for each block and part."""
        for block in self._span_blocks():
            yield count_by_service(block.table)
        for segment, part in self._parts(self._pinned.snapshot.samples.values(), _ALWAYS):
            if part.spans:
                for counts in self._read(segment, self._counts, part):
                    yield {
                        key: held
                        for key, held in (counts.services if counts else {}).items()
                        if not any(
                            one in ("", key[0]) and other in ("", key[1]) for one, other in self._pinned.snapshot.hidden
                        )
                    }

    def _counts(self, db: sqlite3.Connection, part: Part) -> Iterator[PartStats | None]:
        yield read_part_stats(db, self._codec, part)

    # --- traces ---

    def spans_of(self, trace_ids: Collection[str]) -> SpanTable:
        """Every span of some traces."""
        unsealed = spans_of_traces(self._span_blocks(), trace_ids)
        tables = [build_span_table(unsealed)] if unsealed else []
        wanted = {int(truncate_hash(np.array([hash_id(one)], np.uint64))[0]) for one in trace_ids}
        ids = {one.encode() for one in trace_ids}
        for segment in self._pinned.snapshot.samples.values():
            rows: dict[int, set[int]] = {}
            for kept in wanted:
                self._tick()
                for block_id, row in self._read(segment, self._find, segment, kept):
                    rows.setdefault(block_id, set()).add(row)
            for block_id, places in rows.items():
                table = self._block(segment, block_id)
                if table is None:
                    continue
                picked = np.array(sorted(row for row in places if bytes(table.trace_id[row]) in ids), np.int64)
                tables.append(table.take(picked))
        return self._drop_hidden(concat_span_tables(tables)) if tables else NO_SPANS

    def exemplars_of(self, trace_id: str) -> list[tuple[Series, int, float, str]]:
        """Return series, time, value and span id of every sample that carries the trace id."""
        parts = list(exemplars_of_trace(self._sample_blocks(), trace_id))
        trace_hash = int(truncate_hash(np.array([hash_id(trace_id)], np.uint64))[0])
        for segment in self._pinned.snapshot.samples.values():
            parts += self._read(segment, self._exemplars_of, segment, trace_id, trace_hash)
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
        for part in segment.parts:
            self._tick()
            try:
                yield from find_exemplars(db, self._codec, part=part.id, trace_id=trace_id, trace_hash=trace_hash)
            except ValueError as error:
                self._damage.row(segment, "trace_link", error)

    def _find(self, db: sqlite3.Connection, segment: Segment, kept: int) -> Iterator[tuple[int, int]]:
        """Block and row of spans whose trace id has a hash."""
        for part in segment.parts:
            if not part.spans:
                continue
            try:
                yield from find(db, self._codec.packer, part=part.id, kept=kept)
            except ValueError as error:
                self._damage.row(segment, "id_index", error)

    # --- common ---

    def _clamp_to_floor(self, time_range: TimeRange) -> TimeRange:
        floor_ms = self._pinned.snapshot.floor_ms
        if floor_ms <= time_range.start_ms:
            return time_range
        return TimeRange(min(floor_ms, time_range.end_ms - 1), time_range.end_ms)

    def _sample_blocks(self) -> Iterator[SampleBlock]:
        sealing = chain.from_iterable(generation.samples for generation in self._pinned.snapshot.sealing_generations)
        return chain(sealing, self._pinned.samples)

    def _span_blocks(self) -> Iterator[SpanBlock]:
        sealing = chain.from_iterable(generation.spans for generation in self._pinned.snapshot.sealing_generations)
        return chain(sealing, self._pinned.spans)

    @staticmethod
    def _parts(segments: Collection[Segment], time_range: TimeRange) -> Iterator[tuple[Segment, Part]]:
        for segment in segments:
            for part in segment.parts:
                if part.last_ms >= time_range.start_ms and part.first_ms < time_range.end_ms:
                    yield segment, part

    def _read(self, segment: Segment, read: Callable[..., Iterator[T]], *arguments: object) -> Iterator[T]:
        """What is read of a file. One that is gone was let go by retention; one that is damaged is reported."""
        try:
            with self._pool.reading(segment.path) as db:
                yield from read(db, *arguments)
        except sqlite3.DatabaseError as error:
            if not segment.path.exists():
                return
            if not is_damage(error):
                raise StoreUnavailable(f"{segment.name} cannot be read: {error}") from error
            self._damage.file(segment, error)
        except ValueError as error:
            self._damage.row(segment, "directory", error)


def _blocks_of(db: sqlite3.Connection, part: int) -> Iterator[tuple[int, int, int, int, str, int]]:
    return iter(db.execute(_BLOCKS, (part,)).fetchall())


def selected_rows(table: SpanTable, service: str, environment: str) -> Mask:
    """The spans of a service, an environment or both ('' means any)."""
    gone = np.ones(len(table), np.bool_)
    if service:
        gone &= table.service_name.mask(lambda text: text == service)
    if environment:
        gone &= table.environment.mask(lambda text: text == environment)
    return gone
