"""What one query reads: head, generations being sealed and segments as one source of columns."""

from __future__ import annotations

from collections.abc import Iterator

from vantage.core.arrays import Mask
from vantage.core.red import RedSlots
from vantage.core.rollup import Partials
from vantage.core.sample_columns import SampleColumns
from vantage.core.span_table import SpanTable
from vantage.core.timerange import TimeRange
from vantage.storage.embedded.read.access import SnapshotAccess
from vantage.storage.embedded.read.edges import EdgeReader, UnsealedEdges
from vantage.storage.embedded.read.red import RedReader
from vantage.storage.embedded.read.samples import SampleReader
from vantage.storage.embedded.read.spans import SpanReader
from vantage.vql.exec.series_table import SeriesColumns
from vantage.vql.exec.source import ScanEstimate
from vantage.vql.signatures import ROLLUP_WIDTHS_MS
from vantage.vql.tree import TableName


class SnapshotReader:
    """A ``ColumnSource`` over one snapshot. Traces and exports use ``sample_reader`` and ``span_reader`` directly.

    One thread at a time.
    """

    def __init__(
        self, access: SnapshotAccess, series: SeriesColumns, *, histograms: Mask, red: RedSlots, edges: UnsealedEdges
    ) -> None:
        self._access = access
        self.budget = access.budget
        self._series = series
        self.sample_reader = SampleReader(access, series, histograms=histograms)
        self.span_reader = SpanReader(access)
        self.red_reader = RedReader(access, red)
        self.edge_reader = EdgeReader(access, edges)

    @property
    def version(self) -> int:
        """Return the version of the snapshot, which changes with what is sealed."""
        return self._access.pinned.snapshot.version

    def series(self) -> SeriesColumns:
        return self._series

    def rows_upper_bound(self, table: TableName, time_range: TimeRange) -> int:
        access, snapshot = self._access, self._access.pinned.snapshot
        if table == "spans":
            sealed = sum(part.spans for _, part in access.parts(snapshot.samples.values(), time_range))
            return sealed + sum(map(len, access.span_blocks()))
        if table in ROLLUP_WIDTHS_MS:  # parts do not count their partials, but no four of them take less than a byte
            sealed = sum(4 * part.nbytes for _, part in access.parts(snapshot.rollups.values(), time_range))
        else:
            sealed = sum(part.samples for _, part in access.parts(snapshot.samples.values(), time_range))
        return sealed + sum(map(len, access.sample_blocks()))

    def plan(self, table: TableName, time_range: TimeRange, slots: Mask) -> list[ScanEstimate]:
        if table == "spans":
            return self.span_reader.plan(time_range)
        return self.sample_reader.plan(time_range, slots, width_ms=ROLLUP_WIDTHS_MS.get(table, 0))

    def samples(self, time_range: TimeRange, slots: Mask, *, wanted: frozenset[str]) -> Iterator[SampleColumns]:
        return self.sample_reader.samples(time_range, slots, wanted=wanted)

    def partials(
        self, time_range: TimeRange, slots: Mask, *, width_ms: int, wanted: frozenset[str]
    ) -> Iterator[Partials]:
        return self.sample_reader.partials(time_range, slots, width_ms=width_ms, wanted=wanted)

    def spans(self, time_range: TimeRange) -> Iterator[SpanTable]:
        return self.span_reader.spans(time_range)
