"""The frame of spans: the rows within a query's range."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import cast

import numpy as np

from vantage.core.arrays import I64, Array
from vantage.core.dict_column import DictColumn, TextColumn, concat_dict_columns, dict_encode
from vantage.core.idhash import decode_ids
from vantage.core.span_table import IDS, SpanTable
from vantage.vql.check import CheckedSelect
from vantage.vql.exec.budget import QueryBudget
from vantage.vql.exec.frame import Frame
from vantage.vql.exec.source import ColumnSource, check_scan_limit
from vantage.vql.exec.vector import Vector
from vantage.vql.signatures import SPANS


def scan_spans(query: CheckedSelect, source: ColumnSource, budget: QueryBudget, *, rows_max: int) -> Frame:
    """Return the spans that start in the query's range.

    Raises what the budget raises, and InputError when more than ``rows_max`` spans would have to be read.
    """
    check_scan_limit(source, query, np.empty(0, np.bool_), rows_max=rows_max)
    selected: list[tuple[SpanTable, Array]] = []
    for table in source.spans(query.time_range):
        budget.check()
        rows = np.flatnonzero(table.within(query.time_range.start_ms, query.time_range.end_ms))
        if rows.size:
            budget.take(table.nbytes)
            selected.append((table, rows))
    return _frame_of_spans(selected, budget)


def _frame_of_spans(selected: Sequence[tuple[SpanTable, Array]], budget: QueryBudget) -> Frame:
    """Return the selected rows of tables as columns, each built on first use."""

    def texts(get: Callable[[SpanTable], TextColumn]) -> TextColumn:
        columns = []
        for table, rows in selected:
            budget.check()
            columns.append(get(table).take_compact(rows))
        return concat_dict_columns(columns)

    def text(name: str) -> Callable[[], Vector]:
        if name in IDS:
            return lambda: dict_encode(
                chain.from_iterable(decode_ids(getattr(table, name)[rows]) for table, rows in selected)
            )
        return lambda: texts(lambda table: cast(TextColumn, getattr(table, name)))

    def numbers(get: Callable[[SpanTable], I64]) -> Callable[[], Vector]:
        return lambda: (
            np.concatenate([get(table)[rows] for table, rows in selected]) if selected else np.empty(0, np.int64)
        )

    def maps() -> DictColumn[dict[str, str]]:
        maps_of_rows = [attributes for table, rows in selected for attributes in table.take(rows).attributes()]
        return DictColumn(np.arange(len(maps_of_rows)), maps_of_rows)

    columns: dict[str, Callable[[], Vector]] = {name: text(name) for name, kind in SPANS.items() if kind == "string"}
    columns["timestamp"] = numbers(lambda table: table.start_ms)
    columns["start_ns"] = numbers(lambda table: table.start_ns)
    columns["duration_ns"] = numbers(lambda table: table.duration_ns)
    columns["attributes"] = maps
    total = sum(len(rows) for _, rows in selected)
    return Frame(total, columns, tag=lambda key: texts(lambda table: table.attribute(key)), budget=budget)
