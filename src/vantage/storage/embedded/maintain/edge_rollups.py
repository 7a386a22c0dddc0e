"""Edges on their way into segments: of a generation that is sealed, and of parts that have none yet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import numpy as np
import structlog

from vantage.core.arrays import U32
from vantage.core.red import regroup
from vantage.core.rollup import FIVE_MINUTES_MS, HOUR_MS, Partials
from vantage.storage.edge_join import EdgeKeys, EdgeSpans, added_edges, concat_edge_spans, edge_spans
from vantage.storage.embedded.format.part_writer import PartWriter
from vantage.storage.embedded.format.segment import ROLLUPS, Part, Segment
from vantage.storage.embedded.format.week import week_numbers
from vantage.storage.embedded.maintain.segment_files import SegmentFiles
from vantage.storage.embedded.read.earlier_spans import EarlierSpans, read_span_block
from vantage.storage.embedded.write.block import SpanBlock

EdgeRollups = dict[int, Partials]  # by width in milliseconds
_BLOCKS: Final = "SELECT id FROM span_block WHERE part_id=? ORDER BY id"

_log = structlog.get_logger("vantage.storage.edges")


class EdgeCounter:
    """Works out what spans add to the edges of those that are sealed. For the maintenance thread."""

    def __init__(self, files: SegmentFiles, keys: EdgeKeys, *, on_lost: Callable[[int], None]) -> None:
        self._files = files
        self.keys = keys
        self._earlier = EarlierSpans(files.pool, files.indexes, files.codec.packer, on_lost=on_lost)

    def by_week(
        self, blocks: Iterable[SpanBlock], *, floor_ms: int, on_slice: Callable[[], None]
    ) -> dict[int, EdgeRollups]:
        """Return the edges of blocks by week, without buckets that end before ``floor_ms``."""
        spans = concat_edge_spans([edge_spans(block.table) for block in blocks])
        weeks: dict[int, EdgeRollups] = {}
        for width_ms, partials in self.of(spans, on_slice=on_slice).items():
            numbers = week_numbers(partials.time_ms)
            fresh = partials.time_ms + width_ms > floor_ms
            for week in np.unique(numbers[fresh]).tolist():
                weeks.setdefault(week, {})[width_ms] = partials.take(np.flatnonzero(fresh & (numbers == week)))
        return weeks

    def of(self, spans: EdgeSpans, *, on_slice: Callable[[], None]) -> EdgeRollups:
        """Return what spans add, by width."""
        earlier = self._earlier.of(spans, self._files.snapshots.now, on_block=on_slice)
        narrow = added_edges(spans, earlier, self.keys)
        return {width_ms: regroup(narrow, None, width_ms=width_ms) for width_ms in (FIVE_MINUTES_MS, HOUR_MS)}


def write_edges(target: PartWriter, edges: EdgeRollups, keys: EdgeKeys) -> None:
    """Write the edges of a part."""
    for width_ms, partials in edges.items():
        target.edges(partials, keys.keys, width_ms=width_ms)


class EdgeFiller:
    """Fills in the edges of parts that an earlier version wrote; runs on the maintenance thread. Raises sqlite3.Error
    and OSError. ``on_slice`` is called between pieces of work."""

    def __init__(
        self,
        files: SegmentFiles,
        counter: EdgeCounter,
        *,
        identities: Callable[[U32], Mapping[int, bytes]],
        on_slice: Callable[[], None],
    ) -> None:
        self._files = files
        self._counter = counter
        self._identities = identities
        self._on_slice = on_slice

    def fill_next(self) -> bool:
        """Fill in one part, the newest that lacks its edges. Returns False when none does."""
        weeks = self._files.snapshots.now.without_edges
        if not weeks:
            return False
        self._fill_one(max(weeks))
        return True

    def fill(self, week: int) -> None:
        """Fill in all parts of a week: afterwards they may become other parts."""
        while week in self._files.snapshots.now.without_edges:
            self._fill_one(week)

    def _fill_one(self, week: int) -> None:
        snapshot = self._files.snapshots.now
        segment, lacking = snapshot.samples.get(week), snapshot.without_edges[week]
        waiting = [part for part in (segment.parts if segment else ()) if part.id in lacking]
        part = max(waiting, key=lambda part: part.id, default=None)
        if segment is None or part is None:  # its data has expired
            self._files.note_edges(week, lacking)
            return
        started = time.perf_counter()
        edges = self._counter.of(self._spans(segment, part), on_slice=self._on_slice)
        # Rows of the weeks beside it, of traces that go over midnight, are written here too: the part counts at once.
        with self._files.open_writer(week, ROLLUPS) as writer, self._files.allocate_part(writer) as part_id:
            target = PartWriter(
                writer, self._files.codec, part_id=part_id, identities=self._identities, on_slice=self._on_slice
            )
            write_edges(target, edges, self._counter.keys)
            if target.is_empty:
                with writer.slice() as db:
                    db.execute("INSERT OR IGNORE INTO edge_filled VALUES (?)", (part.id,))
            else:
                written = target.finish(generation=part.generation, level=0, fills=("edge_filled", part.id))
                empty = Segment(writer.path, week, ROLLUPS, ())
                self._files.replace_parts(self._files.snapshots.now.rollups.get(week, empty), (), [written])
        self._files.note_edges(week, frozenset({part.id}))
        _log.info("edges filled in", file=segment.name, part=part.id, spans=part.spans,
                  took_s=round(time.perf_counter() - started, 2))  # fmt: skip

    def _spans(self, segment: Segment, part: Part) -> EdgeSpans:
        with self._files.pool.reading(segment.path) as db:
            ids = [row[0] for row in db.execute(_BLOCKS, (part.id,))]
        spans: list[EdgeSpans] = []
        for block_id in ids:
            with self._files.pool.reading(segment.path) as db:
                spans.append(edge_spans(read_span_block(db, segment, block_id)))
            self._on_slice()
        return concat_edge_spans(spans)
