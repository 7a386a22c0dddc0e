"""What stores that keep spans themselves share: matching spans, and summing up traces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vantage.core.arrays import I64, Mask, Rows
from vantage.core.idhash import Ids, decode_ids, hash_ids
from vantage.core.span import SpanStatus
from vantage.core.span_table import SpanTable
from vantage.storage.ports import TraceFilter, TraceSummary

ServiceKey = tuple[str, str, str, str]


def matching_rows(table: SpanTable, wanted: TraceFilter) -> Rows:
    """The rows that meet every condition of the filter, ascending. A condition on text is asked once a value."""
    keep = table.within(wanted.time_range.start_ms, wanted.time_range.end_ms)
    for texts, text in (
        (table.service_name, wanted.service),
        (table.name, wanted.operation),
        (table.status, wanted.status),
    ):
        if text:
            keep &= texts.codes == texts.code_of(text)
    if wanted.min_duration_ns:
        keep &= table.duration_ns >= wanted.min_duration_ns
    if wanted.max_duration_ns is not None:
        keep &= table.duration_ns <= wanted.max_duration_ns
    for key, value in wanted.attributes:
        keep &= table.with_attribute(key, value)
    if wanted.text and keep.any():
        keep &= _mask_mentions(table, wanted.text.lower())
    return np.flatnonzero(keep)


def _mask_mentions(table: SpanTable, text: str) -> Mask:
    def holds(value: str) -> bool:
        return text in value.lower()

    return table.name.mask(holds) | table.with_value(holds) | _ids_with(table.trace_id, text)


def _ids_with(ids: Ids, text: str) -> Mask:
    """Which ids hold a text of lower case, in any case."""
    if not text.isascii() or "\0" in text:  # no id does; and numpy would cut a NUL off
        return np.zeros(len(ids), np.bool_)
    letters = np.ascontiguousarray(ids).view(np.uint8)
    lower = np.where((letters >= ord("A")) & (letters <= ord("Z")), letters | 0x20, letters).view(ids.dtype)
    return np.asarray(np.strings.find(lower, text.encode()) >= 0)


@dataclass(frozen=True, slots=True)
class _Traces:
    """The rows of a table trace by trace. Trace ``i`` has the rows ``order[starts[i]:starts[i] + counts[i]]``, earliest
    first, ties by span id; traces come in the order of their ids."""

    order: Rows
    starts: I64
    counts: I64

    @property
    def first(self) -> Rows:
        """The earliest row of each trace."""
        return self.order[self.starts]


def _group_by_trace(table: SpanTable) -> _Traces:
    _, first, code = np.unique(hash_ids(table.trace_id), return_index=True, return_inverse=True)
    if (table.trace_id[first][code] != table.trace_id).any():  # two ids with one hash
        _, first, code = np.unique(table.trace_id, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(table.trace_id[first])] = np.arange(len(first))
    group = rank[code]
    order = np.lexsort((table.start_ns, group))
    group, start = group[order], table.start_ns[order]
    if ((group[1:] == group[:-1]) & (start[1:] == start[:-1])).any():  # texts are dear to sort: only if it matters
        order = np.lexsort((table.span_id, table.start_ns, rank[code]))
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    return _Traces(order, starts, np.diff(starts, append=len(order)))


def summarize_traces(table: SpanTable) -> list[TraceSummary]:
    """One line about each trace of a table that holds all spans of some traces, by trace id."""
    if not len(table):
        return []
    traces = _group_by_trace(table)
    places = np.arange(len(table))
    # The first span without a parent, or else the first of all.
    roots = np.where(table.parent_span_id[traces.order] == b"", places, len(table))
    first_root = np.minimum.reduceat(roots, traces.starts)
    root = traces.order[np.where(first_root < len(table), first_root, traces.starts)]
    start_ns = table.start_ns[traces.first]
    end_ns = np.maximum.reduceat((table.start_ns + table.duration_ns)[traces.order], traces.starts)
    failed = table.status.codes == table.status.code_of(SpanStatus.ERROR.value)
    errors = np.add.reduceat(failed[traces.order].astype(np.int64), traces.starts)
    return list(
        map(
            TraceSummary,
            decode_ids(table.trace_id[traces.first]),
            table.service_name.take(root).to_list(),
            table.name.take(root).to_list(),
            start_ns.tolist(),
            (end_ns - start_ns).tolist(),
            traces.counts.tolist(),
            errors.tolist(),
            _services(table, traces),
        )
    )


def _services(table: SpanTable, traces: _Traces) -> list[tuple[str, ...]]:
    """The names of the services that take part in each trace, sorted."""
    names = sorted(table.service_name.values)
    places = {name: place for place, name in enumerate(names)}
    rank = np.array([places[name] for name in table.service_name.values], np.int64)
    trace = np.repeat(np.arange(len(traces.starts)), traces.counts)
    pairs = np.unique(trace * len(names) + rank[table.service_name.codes[traces.order]])
    found: list[list[str]] = [[] for _ in range(len(traces.starts))]
    for pair in pairs.tolist():
        found[pair // len(names)].append(names[pair % len(names)])
    return list(map(tuple, found))


def latest_summaries(table: SpanTable, wanted: TraceFilter) -> list[TraceSummary]:
    """Of a table that holds all spans of some traces: the latest start first, ties by trace id, after ``before`` and
    up to ``limit``."""
    if not len(table):
        return []
    traces = _group_by_trace(table)
    start_ns, ids = table.start_ns[traces.first], table.trace_id[traces.first]
    chosen = np.lexsort((np.arange(len(ids)), start_ns))[::-1]
    if wanted.before is not None:
        before_ns, before_id = wanted.before
        earlier = (start_ns < before_ns) | ((start_ns == before_ns) & (ids.astype(np.str_) < before_id))
        chosen = chosen[earlier[chosen]]
    chosen = chosen[: wanted.limit]
    is_chosen = np.zeros(len(ids), np.bool_)
    is_chosen[chosen] = True
    rows = traces.order[np.repeat(is_chosen, traces.counts)]
    found = {one.trace_id: one for one in summarize_traces(table.take(rows))}
    return [found[trace_id] for trace_id in decode_ids(ids[chosen])]


def count_by_service(table: SpanTable) -> dict[ServiceKey, tuple[int, int, int]]:
    """Spans, first and last start (ms) by service, environment, version and instance."""
    columns = (table.service_name, table.environment, table.service_version, table.instance)
    code = np.zeros(len(table), np.int64)
    for texts in columns:
        # Numbered anew after each column, so that the product stays small.
        code = np.unique(code * len(texts.values) + texts.codes, return_inverse=True)[1]
    _, first, counts = np.unique(code, return_index=True, return_counts=True)
    earliest = np.full(len(first), np.iinfo(np.int64).max)
    latest = np.full(len(first), np.iinfo(np.int64).min)
    np.minimum.at(earliest, code, table.start_ms)
    np.maximum.at(latest, code, table.start_ms)
    keys = zip(*(texts.take(first).to_list() for texts in columns), strict=True)
    return dict(zip(keys, zip(counts.tolist(), earliest.tolist(), latest.tolist(), strict=True), strict=True))
