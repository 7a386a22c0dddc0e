"""Spans and traces of one snapshot."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from cachetools import LRUCache

from vantage.core.arrays import I64
from vantage.core.idhash import encode_ids, hash_ids
from vantage.core.span_table import SpanTable, build_span_table, concat_span_tables
from vantage.core.timerange import TIME_MS_MAX, TimeRange
from vantage.storage.embedded.format import span_block
from vantage.storage.embedded.format.part_stats import PartStats, ServiceStats, read_part_stats
from vantage.storage.embedded.format.segment import Part, Segment
from vantage.storage.embedded.format.span_services import figures_of_service
from vantage.storage.embedded.format.trace_id_index import find_many, truncate_hash
from vantage.storage.embedded.read.access import SnapshotAccess
from vantage.storage.embedded.read.selector import selected_rows
from vantage.storage.embedded.write.block import SpanBlock
from vantage.storage.embedded.write.head import overlapping, spans_of_traces
from vantage.storage.ports import SpanFilter
from vantage.storage.trace_summary import count_by_service
from vantage.vql.exec.budget import QueryBudget
from vantage.vql.exec.source import ScanEstimate

BLOCKS_NBYTES_MAX: Final = 32 << 20  # of decoded blocks that one query may look at again
NO_SPANS: Final = build_span_table(())
_UNKNOWN_NS: Final = 1 << 62
_ALWAYS: Final = TimeRange(-(1 << 62), TIME_MS_MAX)
_BLOCKS: Final = "SELECT id, first_ms, last_ms, duration_ns_max, services, spans FROM span_block WHERE part_id=?"


class _DecodedBlocks(LRUCache[tuple[Path, int], SpanTable]):
    """Blocks that the query may look at again, by file and id, as a part of its memory."""

    def __init__(self, budget: QueryBudget) -> None:
        self._budget = budget
        nbytes_max = min(BLOCKS_NBYTES_MAX, budget.nbytes_max // 4)

        def nbytes(table: SpanTable) -> int:  # not a method: a cycle would keep the blocks
            return min(table.nbytes, nbytes_max)

        self._nbytes = nbytes
        super().__init__(nbytes_max, getsizeof=nbytes)

    def keep(self, key: tuple[Path, int], table: SpanTable) -> None:
        """Keep a block. Raises what the budget raises."""
        self._budget.take(self._nbytes(table))
        self[key] = table

    def popitem(self) -> tuple[tuple[Path, int], SpanTable]:
        key, table = super().popitem()
        self._budget.give(self._nbytes(table))
        return key, table


class RankedBlock(NamedTuple):
    """No span of the service in the block starts later, or lasts longer, than ``rank_ns``."""

    rank_ns: int
    read: Callable[[], SpanTable | None]


class SpanReader:
    """Reads spans: by time, by trace id, and counted by service."""

    def __init__(self, access: SnapshotAccess) -> None:
        self._access = access
        self._blocks = _DecodedBlocks(access.budget)

    def tick(self) -> None:
        """Raise what the budget raises, and let others compute."""
        self._access.tick()

    def plan(self, time_range: TimeRange) -> list[ScanEstimate]:
        """Return what reading the spans of a range takes."""
        time_range = self._access.clamp_to_floor(time_range)
        blocks = list(overlapping(self._access.span_blocks(), time_range))
        chunks = rows = 0
        for segment, part in self._access.parts(self._access.pinned.snapshot.samples.values(), time_range):
            for _, first_ms, last_ms, _, _, spans in (
                self._access.read(segment, _blocks_of, part.id) if part.spans else ()
            ):
                if last_ms >= time_range.start_ms and first_ms < time_range.end_ms:
                    chunks, rows = chunks + 1, rows + spans
        head_rows = sum(len(block.table) for block in blocks)
        return [ScanEstimate("sealed", chunks, rows), ScanEstimate("head", len(blocks), head_rows)]

    def spans(self, time_range: TimeRange, *, service: str = "", min_duration_ns: int = 0) -> Iterator[SpanTable]:
        """Yield blocks, the latest first, without those that cannot match. The caller counts what it keeps."""
        blocks = self.span_blocks(time_range, service=service, min_duration_ns=min_duration_ns, again=False)
        for block in blocks:
            self._access.tick()
            if (table := block[1]()) is not None:
                yield table

    def span_blocks(
        self, time_range: TimeRange, *, service: str = "", min_duration_ns: int = 0, again: bool = True
    ) -> list[tuple[int, Callable[[], SpanTable | None]]]:
        """Return blocks that may have such spans, as the time of their last start and a function that reads them; the
        latest first. ``again``: they are likely to be read again."""
        time_range = self._access.clamp_to_floor(time_range)
        blocks: list[tuple[int, Callable[[], SpanTable | None]]] = [
            (block.last_ms, partial(self._read_head_block, block))
            for block in overlapping(self._access.span_blocks(), time_range)
        ]
        for segment, part in self._access.parts(self._access.pinned.snapshot.samples.values(), time_range):
            if not part.spans:
                continue
            for block_id, first_ms, last_ms, longest_ns, services, _ in self._access.read(segment, _blocks_of, part.id):
                if last_ms < time_range.start_ms or first_ms >= time_range.end_ms or longest_ns < min_duration_ns:
                    continue
                if service and service not in json.loads(services):
                    continue
                blocks.append((last_ms, partial(self._read_sealed_block, segment, block_id, again=again)))
        blocks.sort(key=lambda entry: -entry[0])
        return blocks

    def service_blocks(self, wanted: SpanFilter) -> tuple[list[RankedBlock], list[RankedBlock]]:
        """Return the blocks that are not sealed and the sealed ones that may have such spans, in no order."""
        time_range = self._access.clamp_to_floor(wanted.time_range)
        is_slowest = wanted.order == "slowest"
        head = [
            RankedBlock(_UNKNOWN_NS if is_slowest else _end_ns(block.last_ms), partial(self._read_head_block, block))
            for block in overlapping(self._access.span_blocks(), time_range)
        ]
        sealed: list[RankedBlock] = []
        for segment, part in self._access.parts(self._access.pinned.snapshot.samples.values(), time_range):
            if not part.spans:
                continue
            for block_id, first_ms, last_ms, longest_ns, services, _ in self._access.read(segment, _blocks_of, part.id):
                if last_ms < time_range.start_ms or first_ms >= time_range.end_ms:
                    continue
                figures = figures_of_service(services, wanted.service, longest_ns)
                if figures is None or (wanted.failed and not figures.failed):
                    continue
                rank_ns = figures.longest_ns if is_slowest else _end_ns(last_ms)
                sealed.append(RankedBlock(rank_ns, partial(self._read_sealed_block, segment, block_id, again=False)))
        return head, sealed

    def _read_head_block(self, block: SpanBlock) -> SpanTable:
        return self._drop_hidden(block.table)

    def _read_sealed_block(self, segment: Segment, block_id: int, *, again: bool) -> SpanTable | None:
        table = self._block(segment, block_id, again=again)
        return None if table is None else self._drop_hidden(table)

    def _block(self, segment: Segment, block_id: int, *, again: bool) -> SpanTable | None:
        def read(db: sqlite3.Connection) -> Iterator[SpanTable]:
            row = db.execute("SELECT body FROM span_block WHERE id=?", (block_id,)).fetchone()
            if row is not None:
                try:
                    yield span_block.decode(row[0])
                except ValueError as error:
                    self._access.damage.row(segment, f"span_block {block_id}", error)

        key = (segment.path, block_id)
        table = self._blocks.get(key)
        if table is None and (table := next(self._access.read(segment, read), None)) is not None and again:
            self._blocks.keep(key, table)
        return table

    def _drop_hidden(self, table: SpanTable) -> SpanTable:
        """Leave out spans that are being deleted or have expired."""
        snapshot = self._access.pinned.snapshot
        if not snapshot.hidden and not snapshot.floor_ms:
            return table
        keep = table.start_ns >= snapshot.floor_ms * 1_000_000
        for service, environment in self._access.pinned.snapshot.hidden:
            keep &= ~selected_rows(table, service, environment)
        return table if keep.all() else table.take(np.flatnonzero(keep))

    def unsealed_counts(self) -> Iterator[ServiceStats]:
        """Yield spans, first and last start by service, environment, version and instance, per block."""
        for block in self._access.span_blocks():
            yield block.counts

    def sealed_counts(self) -> Iterator[ServiceStats]:
        """Yield the same per part."""
        for segment, part in self._access.parts(self._access.pinned.snapshot.samples.values(), _ALWAYS):
            if part.spans:
                for stats in self._access.read(segment, self._counts, part):
                    # A merge removes the part's row at once; its blocks stay while this snapshot is pinned.
                    counts = [stats.services] if stats is not None else self._count_blocks(segment, part)
                    for services in counts:
                        yield {key: total for key, total in services.items() if not self._is_hidden(key[0], key[1])}

    def _count_blocks(self, segment: Segment, part: Part) -> Iterator[ServiceStats]:
        for block_id, *_ in self._access.read(segment, _blocks_of, part.id):
            self._access.tick()
            if (table := self._block(segment, block_id, again=False)) is not None:
                yield count_by_service(table)

    def _counts(self, db: sqlite3.Connection, part: Part) -> Iterator[PartStats | None]:
        yield read_part_stats(db, self._access.codec, part)

    def _is_hidden(self, service: str, environment: str) -> bool:
        return any(
            hidden_service in ("", service) and hidden_environment in ("", environment)
            for hidden_service, hidden_environment in self._access.pinned.snapshot.hidden
        )

    def spans_of_traces(self, trace_ids: Collection[str], *, rows_max: int | None = None) -> tuple[SpanTable, int]:
        """Return the spans of the given traces, and how many are left out: beyond ``rows_max`` the latest."""
        unsealed = spans_of_traces(self._access.span_blocks(), trace_ids)
        hashes = np.unique(truncate_hash(hash_ids(encode_ids(list(trace_ids)))))
        blocks: list[tuple[Segment, int, I64]] = []
        for segment in self._access.pinned.snapshot.samples.values():
            entries: list[tuple[I64, I64]] = []
            for entry in self._access.read(segment, self._find, segment, hashes):
                self._access.tick()
                entries.append(entry)
            blocks += [(segment, block_id, rows) for block_id, rows in _by_block(entries)]
        total = len(unsealed) + sum(len(rows) for *_, rows in blocks)
        if rows_max is None or total <= rows_max:
            tables = [table for block in blocks if (table := self._of_traces(*block, trace_ids)) is not None]
            left_out = 0
        else:
            unsealed = sorted(unsealed, key=lambda span: span.start_ns)[:rows_max]
            tables = [self._first_of_traces(blocks, trace_ids, rows_max)]
            left_out = total - rows_max
        if unsealed:
            tables.append(build_span_table(unsealed))
        table = concat_span_tables(tables) if tables else NO_SPANS
        return self._drop_hidden(table if rows_max is None else _first_rows(table, rows_max)), left_out

    def _first_of_traces(
        self, blocks: Sequence[tuple[Segment, int, I64]], trace_ids: Collection[str], rows_max: int
    ) -> SpanTable:
        """Return the ``rows_max`` spans of the traces that start first. Blocks are read in the order of their
        first start, as long as one of their spans may be among those; they may overlap in time."""
        first_ms = [
            next(self._access.read(segment, _first_ms_of, block_id), TIME_MS_MAX) for segment, block_id, _ in blocks
        ]
        tables: list[SpanTable] = []
        rows_read, last_ns = 0, TIME_MS_MAX * 1_000_000
        for first, (segment, block_id, rows) in sorted(zip(first_ms, blocks, strict=True), key=lambda entry: entry[0]):
            if first * 1_000_000 > last_ns:
                break
            table = self._of_traces(segment, block_id, rows, trace_ids)
            if table is None:
                continue
            tables.append(table)
            rows_read += len(table)
            if rows_read >= rows_max:
                tables = [_first_rows(concat_span_tables(tables), rows_max)]
                rows_read, last_ns = rows_max, int(tables[0].start_ns.max())
        return concat_span_tables(tables)

    def _of_traces(self, segment: Segment, block_id: int, rows: I64, trace_ids: Collection[str]) -> SpanTable | None:
        """Return the rows of a block that are of the traces: a few may have other ids of the same hash."""
        self._access.tick()
        table = self._block(segment, block_id, again=True)
        ids = {trace_id.encode() for trace_id in trace_ids}
        picked = [row for row in rows.tolist() if bytes(table.trace_id[row]) in ids] if table is not None else []
        if table is None or not picked:
            return None
        self._access.budget.take(table.nbytes * len(picked) // len(table))
        return table.take(np.array(picked, np.int64))

    def _find(self, db: sqlite3.Connection, segment: Segment, hashes: I64) -> Iterator[tuple[I64, I64]]:
        """Yield blocks and rows of the spans whose trace ids have the hashes."""
        for part in segment.parts:
            if not part.spans:
                continue
            known = self._access.indexes.possible_traces(segment.path, db, part.id, hashes)
            if not len(known):
                continue
            try:
                yield from find_many(db, self._access.codec.packer, part=part.id, hashes=known)
            except ValueError as error:
                self._access.damage.row(segment, "id_index", error)


def _end_ns(last_ms: int) -> int:
    """Return the last nanosecond of a millisecond."""
    return last_ms * 1_000_000 + 999_999


def _first_rows(table: SpanTable, rows_max: int) -> SpanTable:
    """Return the rows that start first, ascending, where a table has more than ``rows_max``."""
    return table if len(table) <= rows_max else table.take(np.argsort(table.start_ns, kind="stable")[:rows_max])


def _by_block(entries: Sequence[tuple[I64, I64]]) -> Iterator[tuple[int, I64]]:
    """Yield each block with its rows, in ascending order."""
    if not entries:
        return
    blocks, rows = (np.concatenate(columns) for columns in zip(*entries, strict=True))
    order = np.lexsort((rows, blocks))
    blocks, rows = blocks[order], rows[order]
    starts = np.flatnonzero(np.diff(blocks, prepend=blocks[0] - 1)).tolist()
    for start, end in zip(starts, [*starts[1:], len(blocks)], strict=True):
        yield int(blocks[start]), rows[start:end]


def _blocks_of(db: sqlite3.Connection, part: int) -> Iterator[tuple[int, int, int, int, str, int]]:
    return iter(db.execute(_BLOCKS, (part,)).fetchall())


def _first_ms_of(db: sqlite3.Connection, block_id: int) -> Iterator[int]:
    return (first_ms for (first_ms,) in db.execute("SELECT first_ms FROM span_block WHERE id=?", (block_id,)))
