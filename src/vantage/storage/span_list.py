"""List the latest or the slowest spans of a service, for stores that search span tables."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from vantage.core.arrays import I64, Rows
from vantage.core.span import Span, SpanStatus
from vantage.core.span_table import SpanTable
from vantage.storage.ports import SpanFilter
from vantage.storage.recent_spans import distinct_spans


class SpanLister:
    """Collects the first ``limit`` spans in the order of a filter from tables that come in any order."""

    def __init__(self, wanted: SpanFilter) -> None:
        self._wanted = wanted
        self.spans: list[Span] = []

    def add(self, table: SpanTable) -> None:
        """Add those spans of a table that match and are not behind the limit."""
        rows = _matching_rows(table, self._wanted)
        if not rows.size:
            return
        rows = rows[np.lexsort((table.span_id[rows], table.trace_id[rows], -self._rank(table)[rows]))]
        if self._wanted.order == "slowest":
            _, first = np.unique(table.trace_id[rows], return_index=True)
            rows = rows[np.sort(first)]
        # A span that was sent again takes two of the rows.
        self.add_spans(table.spans(rows[: 2 * self._wanted.limit]))

    def add_spans(self, spans: Iterable[Span]) -> None:
        """Add spans that match."""
        ordered = sorted(
            distinct_spans([*self.spans, *spans]), key=lambda span: (-self.rank(span), span.trace_id, span.span_id)
        )
        if self._wanted.order == "slowest":
            slowest = {span.trace_id: span for span in reversed(ordered)}
            ordered = [span for span in ordered if slowest[span.trace_id] is span]
        self.spans = ordered[: self._wanted.limit]

    def rank(self, span: Span) -> int:
        """Return what spans are ordered by, the highest first: nanoseconds."""
        return span.duration_ns if self._wanted.order == "slowest" else span.start_ns

    def _rank(self, table: SpanTable) -> I64:
        return table.duration_ns if self._wanted.order == "slowest" else table.start_ns

    def is_settled(self, rank: int) -> bool:
        """Return whether spans whose rank is ``rank`` at most change nothing any more."""
        return len(self.spans) >= self._wanted.limit and self.rank(self.spans[-1]) > rank


def _matching_rows(table: SpanTable, wanted: SpanFilter) -> Rows:
    mask = table.within(wanted.time_range.start_ms, wanted.time_range.end_ms)
    mask &= table.service_name.codes == table.service_name.code_of(wanted.service)
    if wanted.failed:
        mask &= table.status.codes == table.status.code_of(SpanStatus.ERROR.value)
    return np.flatnonzero(mask)
