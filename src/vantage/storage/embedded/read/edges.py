"""Edges of one snapshot: from segments, and of spans that are not sealed."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from vantage.core.arrays import I64
from vantage.core.red import regroup
from vantage.core.rollup import FIVE_MINUTES_MS, NO_PARTIALS, Partials, concat_partials
from vantage.core.span_table import build_span_table
from vantage.core.timerange import TimeRange
from vantage.storage.edge_join import EdgeKeys, EdgeSpans, added_edges, concat_edge_spans, edge_spans
from vantage.storage.embedded.format.edge_chunk import EDGE_ROW, unpack_edges
from vantage.storage.embedded.format.red_chunk import WINDOW_BUCKETS
from vantage.storage.embedded.format.segment import Part, Segment
from vantage.storage.embedded.format.week import week_of
from vantage.storage.embedded.read.access import SnapshotAccess
from vantage.storage.embedded.read.earlier_spans import EarlierSpans
from vantage.storage.embedded.read.snapshot import Snapshot
from vantage.storage.embedded.write.block import SpanBlock
from vantage.storage.ports import ServiceEdges
from vantage.storage.service_edges import sum_edges, with_parents

COPIES: Final = 3  # of the rows in memory while they are summed up
PIECES_MAX: Final = 8  # of joined spans: further ones are put together
_CHUNKS: Final = (
    f"SELECT id, {EDGE_ROW} FROM edge"  # noqa: S608 - names of ours
    " WHERE part_id=? AND width_ms=? AND first_ms > ? AND first_ms < ? AND last_ms >= ?"
)


@dataclass(slots=True)
class _Generation:
    """What is joined of a generation: how many of its spans, in the order they came, and what they add to the edges of
    everything before."""

    number: int
    spans: int = 0
    edges: Partials = NO_PARTIALS
    pieces: list[EdgeSpans] = field(default_factory=list)


class UnsealedEdges:
    """The edges of spans that are not sealed. Each span is joined once, when edges are first read after it came. Any
    thread. ``on_lost``: see ``EarlierSpans``."""

    def __init__(self, keys: EdgeKeys, *, on_lost: Callable[[int], None]) -> None:
        self.keys = keys
        self._on_lost = on_lost
        self._lock = threading.Lock()
        self._generations: list[_Generation] = []
        self._deletions = 0

    def read(self, access: SnapshotAccess) -> list[Partials]:
        """Return what the unsealed spans of a snapshot add to the edges of its sealed ones, in buckets of 5 minutes."""
        snapshot, blocks = access.pinned.snapshot, access.pinned.span_generations
        numbers = [number for number, _ in blocks]
        earlier = EarlierSpans(access.pool, access.indexes, access.codec.packer, on_lost=self._on_lost)
        with self._lock:
            known = self._generations
            if self._deletions > snapshot.deletions or (known and known[-1].number > numbers[-1]):
                return self._join([], access, earlier)  # the snapshot is older than what is joined
            if self._deletions < snapshot.deletions:
                known, self._deletions = [], snapshot.deletions
            self._generations = []  # where joining ends half-way, all is joined again
            known = [generation for generation in known if generation.number in numbers]
            counts = {number: sum(map(len, of_number)) for number, of_number in blocks}
            if any(generation.spans > counts[generation.number] for generation in known):
                return self._join([], access, earlier)
            edges = self._join(known, access, earlier)
            self._generations = known
            return edges

    def _join(self, known: list[_Generation], access: SnapshotAccess, earlier: EarlierSpans) -> list[Partials]:
        """Join what is new in the generations, which ``known`` then has, and return the edges of each."""
        by_number = {generation.number: generation for generation in known}
        for number, blocks in access.pinned.span_generations:
            generation = by_number.get(number)
            if generation is None:
                generation = _Generation(number)
                known.append(generation)
            if len(new := _spans_after(blocks, generation.spans, access)):
                access.budget.take(COPIES * new.nbytes)
                before = [earlier.of(new, access.pinned.snapshot, on_block=access.tick)]
                before += [piece for other in known for piece in _of_traces(other.pieces, new)]
                added = added_edges(new, concat_edge_spans(before), self.keys)
                generation.edges = regroup(concat_partials([generation.edges, added]), None, width_ms=FIVE_MINUTES_MS)
                generation.spans += len(new)
                generation.pieces.append(new)
                if len(generation.pieces) > PIECES_MAX:
                    generation.pieces = [concat_edge_spans(generation.pieces)]
        return [generation.edges for generation in known]


def _spans_after(blocks: Sequence[SpanBlock], number: int, access: SnapshotAccess) -> EdgeSpans:
    """Return the spans of blocks without the first ``number``."""
    parts: list[EdgeSpans] = []
    for block in blocks:
        if number < len(block):
            access.tick()
            table = block.table if not number else build_span_table(block.spans[number:])
            parts.append(edge_spans(table))
        number = max(0, number - len(block))
    return concat_edge_spans(parts)


def _of_traces(pieces: Sequence[EdgeSpans], spans: EdgeSpans) -> Iterator[EdgeSpans]:
    """Yield the spans of the same traces."""
    wanted = np.unique(spans.trace_hashes())
    for piece in pieces:
        hashes = piece.trace_hashes()
        rows = np.flatnonzero(wanted[np.searchsorted(wanted[:-1], hashes)] == hashes)
        if rows.size:
            yield piece.take(rows)


class EdgeReader:
    """Reads edges."""

    def __init__(self, access: SnapshotAccess, unsealed: UnsealedEdges) -> None:
        self._access = access
        self._keys = unsealed.keys
        self._unsealed = unsealed

    def edges(self, time_range: TimeRange, *, width_ms: int) -> ServiceEdges | None:
        """Return the edges of a range of whole buckets. None where they have to be computed from spans: parts that an
        earlier version wrote lack them."""
        wide = with_parents(time_range)
        without = self._access.pinned.snapshot.without_edges
        if any(week_of(wide.start_ms) <= week <= week_of(wide.end_ms - 1) for week in without):
            return None
        parts = list(self._parts(time_range, width_ms))
        return replace(sum_edges(parts, self._keys, self._access.clamp_to_floor(time_range)), time_range=time_range)

    def _parts(self, time_range: TimeRange, width_ms: int) -> Iterator[Partials]:
        near = TimeRange(time_range.start_ms - width_ms, time_range.end_ms)
        for segment, part in self._access.parts(self._access.pinned.snapshot.rollups.values(), near):
            yield from self._access.read(segment, self._chunks, segment, part, time_range, width_ms)
        if self._access.pinned.spans:
            yield from map(self._counted, self._unsealed.read(self._access))

    def _chunks(
        self, db: sqlite3.Connection, segment: Segment, part: Part, time_range: TimeRange, width_ms: int
    ) -> Iterator[Partials]:
        earliest_ms = time_range.start_ms - width_ms * WINDOW_BUCKETS
        values = (part.id, width_ms, earliest_ms, time_range.end_ms, time_range.start_ms)
        for chunk_id, *row in db.execute(_CHUNKS, values):
            self._access.tick()
            try:
                partials = unpack_edges(self._access.codec, self._keys, row, width_ms=width_ms)
            except ValueError as error:
                self._access.damage.row(segment, f"edge {chunk_id}", error)
                continue
            yield self._counted(self._drop_hidden(partials, self._access.pinned.snapshot))

    def _drop_hidden(self, partials: Partials, snapshot: Snapshot) -> Partials:
        """Leave out what is being deleted."""
        if not snapshot.hidden:
            return partials
        codes, index = np.unique(partials.slot, return_inverse=True)
        stays = [
            not any(self._keys.keys[code].has_side(service, environment) for service, environment in snapshot.hidden)
            for code in codes.tolist()
        ]
        rows: I64 = np.flatnonzero(np.array(stays, np.bool_)[index])
        return partials.take(rows)

    def _counted(self, partials: Partials) -> Partials:
        self._access.budget.take(COPIES * partials.nbytes)
        return partials
