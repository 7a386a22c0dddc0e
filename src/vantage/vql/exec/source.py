"""What a query reads: the port to a store's own columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from vantage.core.arrays import Mask
from vantage.core.errors import InputError
from vantage.core.rollup import Partials
from vantage.core.sample_columns import SampleColumns
from vantage.core.span_table import SpanTable
from vantage.core.timerange import TimeRange
from vantage.vql.check import CheckedSelect
from vantage.vql.exec.series_table import SeriesColumns
from vantage.vql.tree import TableName

SAMPLE_COLUMNS: Final = frozenset({"timestamp", "value", "exemplars"})


@dataclass(frozen=True, slots=True)
class ScanEstimate:
    """What a query reads in one tier: how many chunks, and how many rows in them."""

    tier: str
    chunks: int
    rows: int


class ColumnSource(Protocol):
    """A consistent snapshot of a store's columns, taken for one query."""

    def rows_upper_bound(self, table: TableName, time_range: TimeRange) -> int:
        """Return a quick upper bound on the rows that any query of the range reads."""
        ...

    def plan(self, table: TableName, time_range: TimeRange, slots: Mask) -> list[ScanEstimate]:
        """Return the cost of reading the range and the series whose slots are set; spans ignore ``slots``."""
        ...

    def series(self) -> SeriesColumns:
        """Return the series by slot."""
        ...

    def samples(self, time_range: TimeRange, slots: Mask, *, wanted: frozenset[str]) -> Iterator[SampleColumns]:
        """Yield chunks with every sample of the range and of the series whose slots are set, and perhaps others.

        ``wanted`` names the columns that must be filled: timestamp, value, exemplars. Timestamps that are not wanted
        may be any in the range where all of a chunk's are.
        """
        ...

    def partials(
        self, time_range: TimeRange, slots: Mask, *, width_ms: int, wanted: frozenset[str]
    ) -> Iterator[Partials]:
        """Yield partials that cover every sample of the series whose slots are set, in buckets of ``width_ms`` that
        begin in the range, and perhaps others.

        ``wanted`` names the columns that must be filled: sum, min, max, sketches.
        """
        ...

    def spans(self, time_range: TimeRange) -> Iterator[SpanTable]:
        """Yield tables with every span that starts in the range, and perhaps others."""
        ...


def check_scan_limit(source: ColumnSource, query: CheckedSelect, slots: Mask, *, rows_max: int) -> None:
    """Raise InputError, with the figure, when more than ``rows_max`` rows would have to be read."""
    table, time_range = query.select.table, query.time_range
    if source.rows_upper_bound(table, time_range) <= rows_max:
        return
    rows = sum(reading.rows for reading in source.plan(table, time_range, slots))
    if rows > rows_max:
        unit = "spans" if table == "spans" else "samples" if table == "metrics" else "rows of rollups"
        raise InputError(
            f"the query would read {rows} {unit}, at most {rows_max} are read: narrow its time range or its filters"
        )
