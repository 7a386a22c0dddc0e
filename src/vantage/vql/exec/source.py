"""What a query reads: a store's columns, as frames of the rows that its range and its series leave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol, cast

import numpy as np

from vantage.core.arrays import I64, Array, Mask
from vantage.core.dict_column import DictColumn, TextColumn, concat_dict_columns, dict_encode
from vantage.core.errors import InputError
from vantage.core.idhash import decode_ids
from vantage.core.rollup import Partials
from vantage.core.sample_columns import SampleColumns
from vantage.core.span_table import IDS, SpanTable
from vantage.core.timerange import TimeRange
from vantage.vql.check import CheckedSelect
from vantage.vql.exec.frame import Frame, Vector
from vantage.vql.exec.series_table import SeriesColumns
from vantage.vql.signatures import SPANS
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


def _concat(parts: list[Any], dtype: Any) -> Array:
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def check_scan_limit(source: ColumnSource, query: CheckedSelect, slots: Mask, *, rows_max: int) -> None:
    """Raises InputError, with the figure, when more than ``rows_max`` rows would have to be read."""
    table, time_range = query.select.table, query.time_range
    if source.rows_upper_bound(table, time_range) <= rows_max:
        return
    rows = sum(reading.rows for reading in source.plan(table, time_range, slots))
    if rows > rows_max:
        what = "spans" if table == "spans" else "samples" if table == "metrics" else "rows of rollups"
        raise InputError(
            f"the query would read {rows} {what}, at most {rows_max} are read: narrow its time range or its filters"
        )


def scan_spans(query: CheckedSelect, source: ColumnSource, *, tick: Callable[[], None], rows_max: int) -> Frame:
    """The spans that start in the query's range. ``tick`` is called once a table; raises what it raises, and InputError
    when more than ``rows_max`` spans would have to be read."""
    check_scan_limit(source, query, np.empty(0, np.bool_), rows_max=rows_max)
    kept: list[tuple[SpanTable, Array]] = []
    for table in source.spans(query.time_range):
        tick()
        rows = np.flatnonzero(table.within(query.time_range.start_ms, query.time_range.end_ms))
        if rows.size:
            kept.append((table, rows))
    return _frame_of_spans(kept)


def _frame_of_spans(kept: Sequence[tuple[SpanTable, Array]]) -> Frame:
    """The given rows of some tables as columns, each made on first use."""

    def texts(get: Callable[[SpanTable], TextColumn]) -> TextColumn:
        return concat_dict_columns([get(table).take_compact(rows) for table, rows in kept])

    def text(name: str) -> Callable[[], Vector]:
        if name in IDS:
            return lambda: dict_encode(
                chain.from_iterable(decode_ids(getattr(table, name)[rows]) for table, rows in kept)
            )
        return lambda: texts(lambda table: cast(TextColumn, getattr(table, name)))

    def numbers(get: Callable[[SpanTable], I64]) -> Callable[[], Vector]:
        return lambda: _concat([get(table)[rows] for table, rows in kept], np.int64)

    def maps() -> DictColumn[dict[str, str]]:
        found = [attributes for table, rows in kept for attributes in table.take(rows).attributes()]
        return DictColumn(np.arange(len(found)), found)

    columns: dict[str, Callable[[], Vector]] = {name: text(name) for name, kind in SPANS.items() if kind == "string"}
    columns["timestamp"] = numbers(lambda table: table.start_ms)
    columns["start_ns"] = numbers(lambda table: table.start_ns)
    columns["duration_ns"] = numbers(lambda table: table.duration_ns)
    columns["attributes"] = maps
    total = sum(len(rows) for _, rows in kept)
    return Frame(total, columns, tag=lambda key: texts(lambda table: table.attribute(key)))
