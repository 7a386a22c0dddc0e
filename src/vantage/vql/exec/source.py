"""What a query reads: a store's columns, as frames of the rows that its range and its series leave."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from vantage.core.arrays import Mask
from vantage.core.errors import InputError
from vantage.core.rollup import Partials
from vantage.core.sample_columns import SampleColumns
from vantage.core.span_table import SpanTable
from vantage.core.timerange import TimeRange
from vantage.vql.check import CheckedSelect
from vantage.vql.exec.series_table import SeriesColumns
from vantage.vql.tree import TableName


@dataclass(frozen=True, slots=True)
class ScanEstimate:
    """What a query takes up in one tier: how many chunks, and how many rows in them have to be read."""

    tier: str
    chunks: int
    rows: int


class ColumnSource(Protocol):
    """A consistent view of a store's columns, taken for one query."""

    def rows_upper_bound(self, table: TableName, time_range: TimeRange) -> int:
        """A quick bound on what any query of the range reads."""
        ...

    def plan(self, table: TableName, time_range: TimeRange, slots: Mask) -> list[ScanEstimate]:
        """What reading the range and the series whose slots are set takes up; ``slots`` tells nothing of spans."""
        ...

    def series(self) -> SeriesColumns:
        """By slot."""
        ...

    def samples(self, time_range: TimeRange, slots: Mask, *, exemplars: bool) -> Iterator[SampleColumns]:
        """Chunks that hold every sample of the range and of the series whose slots are set, and perhaps others;
        without ``exemplars`` they need not hold any."""
        ...

    def partials(
        self, time_range: TimeRange, slots: Mask, *, width_ms: int, wanted: frozenset[str]
    ) -> Iterator[Partials]:
        """Rows that sum up every sample of the series whose slots are set, in buckets of ``width_ms`` that begin in the
        range, and perhaps others. ``wanted`` names the columns that must be there: sum, min, max, sketches."""
        ...

    def spans(self, time_range: TimeRange) -> Iterator[SpanTable]:
        """Tables that hold every span starting in the range, and perhaps others."""
        ...


def check_scan_limit(source: ColumnSource, query: CheckedSelect, slots: Mask, *, rows_max: int) -> None:
    """Raises InputError, with the figure, when more than ``rows_max`` rows would have to be read."""
    table, time_range = query.select.table, query.time_range
    if source.rows_upper_bound(table, time_range) <= rows_max:
        return
    rows = sum(reading.rows for reading in source.plan(table, time_range, slots))
    if rows > rows_max:
        unit = "spans" if table == "spans" else "samples" if table == "metrics" else "rows of rollups"
        raise InputError(
            f"the query would read {rows} {unit}, at most {rows_max} are read: narrow its time range or its filters"
        )
