"""Search for the latest traces that reads no more spans than needed."""

from __future__ import annotations

from typing import Final

import numpy as np

from vantage.core.idhash import decode_ids
from vantage.core.span_table import SpanTable
from vantage.storage.embedded.read.spans import SpanReader
from vantage.storage.ports import TraceFilter, TraceSummary
from vantage.storage.trace_summary import matching_rows, summarize_traces

TRACES_PER_READ: Final = 64
LISTED_SPANS_MAX: Final = 100_000  # of one read; of a trace with more the first ones are summed up
_SPLIT: Final = 16


def latest_traces(source: SpanReader, wanted: TraceFilter) -> list[TraceSummary]:
    """Return up to ``limit`` traces of which a span matches, the latest start first.

    Blocks are read from the latest back. A trace starts no later than any of its spans: once ``limit`` traces are read
    completely, and all of them start later than anything still unread, the rest need not be read.
    """
    latest = _LatestTraces(source, wanted)
    blocks = source.span_blocks(wanted.time_range, service=wanted.service, min_duration_ns=wanted.min_duration_ns)
    for index, (_, read) in enumerate(blocks):
        table = read()
        if table is not None:
            latest.add(table)
        unread_ns = (blocks[index + 1][0] + 1) * 1_000_000 if index + 1 < len(blocks) else -1
        if latest.is_complete(unread_ns):
            break
    latest.summaries.sort(key=lambda summary: (summary.start_ns, summary.trace_id), reverse=True)
    return latest.summaries[: wanted.limit]


class _LatestTraces:
    """Traces that match: those read completely, and those of which only the start's upper bound is known."""

    def __init__(self, source: SpanReader, wanted: TraceFilter) -> None:
        self._source = source
        self._filter = wanted
        self._bounds: dict[str, int] = {}  # of traces not read yet
        self._known: set[str] = set()
        self._starts: list[int] = []  # of ``summaries``, the latest first
        self.summaries: list[TraceSummary] = []  # of traces that were read and sort after ``before``

    def add(self, table: SpanTable) -> None:
        rows = matching_rows(table, self._filter)
        if not rows.size:
            return
        order = np.argsort(table.start_ns[rows], kind="stable")[::-1]  # the earliest last: it is what dict() keeps
        starts = dict(zip(decode_ids(table.trace_id[rows][order]), table.start_ns[rows][order].tolist(), strict=True))
        for trace_id, start_ns in starts.items():
            if trace_id not in self._known:
                self._bounds[trace_id] = min(start_ns, self._bounds.get(trace_id, start_ns))

    def is_complete(self, unread_ns: int) -> bool:
        """Read traces completely until ``limit`` of them start later than every other, known or unread."""
        limit = self._filter.limit
        while self._bounds:
            later = sorted(self._bounds.items(), key=lambda entry: -entry[1])
            if len(self._starts) >= limit and self._starts[limit - 1] > later[0][1]:
                break
            wanted = max(TRACES_PER_READ, limit - len(self._starts))  # each read looks through every block of the head
            self._read([trace_id for trace_id, _ in later[:wanted]])
        return len(self._starts) >= limit and self._starts[limit - 1] > unread_ns

    def _read(self, trace_ids: list[str]) -> None:
        pending = [trace_ids]
        while pending:
            part = pending.pop()
            table, left_out = self._source.spans_of_traces(part, rows_max=LISTED_SPANS_MAX)
            if left_out and len(part) > 1:  # a large trace must not leave others without spans
                size = -(-len(part) // _SPLIT)
                pending += [part[start : start + size] for start in range(0, len(part), size)]
            else:
                self._sum_up(table)
        self._starts.sort(reverse=True)
        for trace_id in trace_ids:
            del self._bounds[trace_id]
            self._known.add(trace_id)

    def _sum_up(self, table: SpanTable) -> None:
        before = self._filter.before
        for summary in summarize_traces(table):
            if before is None or (summary.start_ns, summary.trace_id) < before:
                self._starts.append(summary.start_ns)
                self.summaries.append(summary)
