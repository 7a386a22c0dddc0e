"""Sealed spans of traces that go on: by the filters and indexes of trace ids, of the parts that are near in time."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import structlog

from vantage.core.arrays import I64, Mask
from vantage.core.span_table import SpanTable, build_span_table
from vantage.storage.edge_join import PARENT_REACH_MS, EdgeSpans, concat_edge_spans, edge_spans
from vantage.storage.embedded.format import span_block
from vantage.storage.embedded.format.column_codec import ColumnCodec
from vantage.storage.embedded.format.segment import Part, Segment
from vantage.storage.embedded.format.trace_id_index import find_many, truncate_hash
from vantage.storage.embedded.read.chunk_index import ChunkIndexCache
from vantage.storage.embedded.read.connection_pool import ConnectionPool
from vantage.storage.embedded.read.selector import selected_rows
from vantage.storage.embedded.read.snapshot import Snapshot

REACH_MS: Final = 2 * PARENT_REACH_MS  # what a span counts for depends on others at most that far away
BLOCKS_MAX: Final = 256  # of spans, that are read for one look-up

_NO_SPANS: Final = build_span_table(())

_log = structlog.get_logger("vantage.storage.edges")


@dataclass(frozen=True, slots=True)
class _Traces:
    """Traces that go on: their truncated hashes, which ascend, and the time in which their spans are wanted."""

    hashes: I64
    first_ms: I64
    last_ms: I64

    def near(self, part: Part) -> I64:
        near: Mask = (self.first_ms <= part.last_ms) & (self.last_ms >= part.first_ms)
        return self.hashes[near]


def _traces_of(spans: EdgeSpans) -> _Traces:
    hashes, index = np.unique(truncate_hash(spans.trace_hashes()), return_inverse=True)
    first, last = np.full(len(hashes), np.iinfo(np.int64).max), np.zeros(len(hashes), np.int64)
    np.minimum.at(first, index, spans.start_ms)
    np.maximum.at(last, index, spans.start_ms)
    return _Traces(hashes, first - REACH_MS, last + REACH_MS)


class EarlierSpans:
    """Finds sealed spans. One thread at a time. ``on_lost`` is called with the number of spans whose other half is not
    looked up, since that would take more than BLOCKS_MAX blocks."""

    def __init__(
        self, pool: ConnectionPool, indexes: ChunkIndexCache, packer: ColumnCodec, *, on_lost: Callable[[int], None]
    ) -> None:
        self._pool = pool
        self._indexes = indexes
        self._packer = packer
        self._on_lost = on_lost

    def of(self, spans: EdgeSpans, snapshot: Snapshot, *, on_block: Callable[[], None] = lambda: None) -> EdgeSpans:
        """Return the spans of the same traces, in parts whose edges are counted. ``on_block`` is called between blocks.
        What cannot be read is left out."""
        if not len(spans):
            return spans
        traces = _traces_of(spans)
        tables: list[EdgeSpans] = []
        blocks = 0
        for segment in snapshot.samples.values():
            uncounted = snapshot.without_edges.get(segment.week, frozenset())
            for part in segment.parts:
                hashes = traces.near(part) if part.spans and part.id not in uncounted else traces.hashes[:0]
                for block_id, rows in self._blocks(segment, part, hashes) if len(hashes) else ():
                    blocks += 1
                    if blocks > BLOCKS_MAX:
                        self._on_lost(len(rows))
                        continue
                    tables.append(edge_spans(self._read(segment, block_id, rows, snapshot)))
                    on_block()
        return concat_edge_spans(tables)

    def _blocks(self, segment: Segment, part: Part, hashes: I64) -> Iterator[tuple[int, I64]]:
        """Yield blocks with the rows that have spans of the traces."""
        try:
            with self._pool.reading(segment.path) as db:
                known = self._indexes.possible_traces(segment.path, db, part.id, hashes)
                entries = list(find_many(db, self._packer, part=part.id, hashes=known)) if len(known) else []
        except (ValueError, sqlite3.Error) as error:
            _log.error("index of ids unreadable, skipped", file=segment.name, part=part.id, reason=str(error))
            return
        if entries:
            blocks, rows = (np.concatenate(columns) for columns in zip(*entries, strict=True))
            for block_id in np.unique(blocks).tolist():
                yield block_id, np.sort(rows[blocks == block_id])

    def _read(self, segment: Segment, block_id: int, rows: I64, snapshot: Snapshot) -> SpanTable:
        try:
            with self._pool.reading(segment.path) as db:
                table = read_span_block(db, segment, block_id)
        except sqlite3.Error as error:
            _log.error("spans unreadable, left out of edges", file=segment.name, block=block_id, reason=str(error))
            return _NO_SPANS
        table = table.take(rows[rows < len(table)])
        deleted = np.zeros(len(table), np.bool_)
        for service, environment in snapshot.hidden:
            deleted |= selected_rows(table, service, environment)
        return table.take(np.flatnonzero(~deleted)) if deleted.any() else table


def read_span_block(db: sqlite3.Connection, segment: Segment, block_id: int) -> SpanTable:
    """Return a block of spans; one that cannot be read has none. Raises sqlite3.Error."""
    row = db.execute("SELECT body FROM span_block WHERE id=?", (block_id,)).fetchone()
    try:
        return _NO_SPANS if row is None else span_block.decode(row[0])
    except ValueError as error:
        _log.error("spans unreadable, left out of edges", file=segment.name, block=block_id, reason=str(error))
        return _NO_SPANS
