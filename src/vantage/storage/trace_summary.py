"""Match spans and summarise traces, for stores that search span tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vantage.core.arrays import I64, Mask, Rows
from vantage.core.dict_column import TextColumn
from vantage.core.idhash import Ids, decode_ids, hash_ids, hash_pairs
from vantage.core.span import SpanStatus
from vantage.core.span_table import SpanTable
from vantage.storage.ports import TraceFilter, TraceSummary, possible_pairs

ServiceKey = tuple[str, str, str, str]


def matching_rows(table: SpanTable, trace_filter: TraceFilter) -> Rows:
    """Return the rows that meet every condition of the filter, ascending. A condition on text runs once per value."""
    mask = table.within(trace_filter.time_range.start_ms, trace_filter.time_range.end_ms)
    for texts, text in (
        (table.service_name, trace_filter.service),
        (table.name, trace_filter.operation),
        (table.status, trace_filter.status),
    ):
        if text:
            mask &= texts.codes == texts.code_of(text)
    if trace_filter.min_duration_ns:
        mask &= table.duration_ns >= trace_filter.min_duration_ns
    if trace_filter.max_duration_ns is not None:
        mask &= table.duration_ns <= trace_filter.max_duration_ns
    for key, value in trace_filter.attributes:
        mask &= np.logical_or.reduce([table.with_attribute(*pair) for pair in possible_pairs(key, value)])
    if trace_filter.text and mask.any():
        mask &= _mask_mentions(table, trace_filter.text.lower())
    return np.flatnonzero(mask)


def _mask_mentions(table: SpanTable, text: str) -> Mask:
    def contains(value: str) -> bool:
        return text in value.lower()

    return table.name.mask(contains) | table.with_value(contains) | _ids_with(table.trace_id, text)


def _ids_with(ids: Ids, text: str) -> Mask:
    """Return a mask of the ids that contain a lower-case text, in any case."""
    if not text.isascii() or "\0" in text:  # no id does; and numpy would cut a NUL off
        return np.zeros(len(ids), np.bool_)
    letters = np.ascontiguousarray(ids).view(np.uint8)
    lower = np.where((letters >= ord("A")) & (letters <= ord("Z")), letters | 0x20, letters).view(ids.dtype)
    return np.asarray(np.strings.find(lower, text.encode()) >= 0)


@dataclass(frozen=True, slots=True)
class _Traces:
    """The rows of a table, grouped by trace. Trace ``i`` has the rows ``order[starts[i]:starts[i] + counts[i]]``, the
    earliest first, ties by span id; traces are sorted by id."""

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
    if ((group[1:] == group[:-1]) & (start[1:] == start[:-1])).any():  # sorting texts is expensive: only if needed
        order = np.lexsort((table.span_id, table.start_ns, rank[code]))
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    return _Traces(order, starts, np.diff(starts, append=len(order)))


def first_copies(
    trace_id: Ids, span_id: Ids, service: TextColumn, kind: TextColumn, start_ns: I64, duration_ns: I64
) -> Rows:
    """Return the first row of each span, in ascending order: copies share all of this."""
    columns = (start_ns, duration_ns, hash_pairs(trace_id, span_id), service.codes, kind.codes)
    order = np.lexsort(columns)
    is_copy = np.ones(max(0, len(order) - 1), np.bool_)
    for column in columns:
        is_copy &= column[order][1:] == column[order][:-1]
    copies = order[1:][is_copy]
    keep = np.ones(len(order), np.bool_)
    keep[copies] = False
    return np.flatnonzero(keep)


def summarize_traces(table: SpanTable) -> list[TraceSummary]:
    """Return a summary of each trace, by trace id. The table must contain all spans of its traces; one that was sent
    again counts once."""
    if not len(table):
        return []
    distinct = first_copies(
        table.trace_id, table.span_id, table.service_name, table.kind, table.start_ns, table.duration_ns
    )
    if len(distinct) < len(table):
        table = table.take(distinct)
    traces = _group_by_trace(table)
    positions = np.arange(len(table))
    # The first span without a parent, or else the first of all.
    roots = np.where(table.parent_span_id[traces.order] == b"", positions, len(table))
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
    """Return the names of the services in each trace, sorted."""
    names = sorted(table.service_name.values)
    ranks = {name: rank for rank, name in enumerate(names)}
    rank = np.array([ranks[name] for name in table.service_name.values], np.int64)
    trace = np.repeat(np.arange(len(traces.starts)), traces.counts)
    pairs = np.unique(trace * len(names) + rank[table.service_name.codes[traces.order]])
    services: list[list[str]] = [[] for _ in range(len(traces.starts))]
    for pair in pairs.tolist():
        services[pair // len(names)].append(names[pair % len(names)])
    return list(map(tuple, services))


def latest_summaries(table: SpanTable, trace_filter: TraceFilter) -> list[TraceSummary]:
    """Return summaries, the latest start first, ties by trace id, after ``before`` and up to ``limit``. The table must
    contain all spans of its traces."""
    if not len(table):
        return []
    traces = _group_by_trace(table)
    start_ns, ids = table.start_ns[traces.first], table.trace_id[traces.first]
    latest = np.lexsort((np.arange(len(ids)), start_ns))[::-1]
    if trace_filter.before is not None:
        before_ns, before_id = trace_filter.before
        earlier = (start_ns < before_ns) | ((start_ns == before_ns) & (ids.astype(np.str_) < before_id))
        latest = latest[earlier[latest]]
    latest = latest[: trace_filter.limit]
    is_latest = np.zeros(len(ids), np.bool_)
    is_latest[latest] = True
    rows = traces.order[np.repeat(is_latest, traces.counts)]
    summaries = {summary.trace_id: summary for summary in summarize_traces(table.take(rows))}
    return [summaries[trace_id] for trace_id in decode_ids(ids[latest])]


def count_by_service(table: SpanTable) -> dict[ServiceKey, tuple[int, int, int]]:
    """Return the number of spans, first and last start (ms) by service, environment, version and instance."""
    columns = (table.service_name, table.environment, table.service_version, table.instance)
    code = np.zeros(len(table), np.int64)
    for texts in columns:
        # Renumber after each column, so that the product stays small.
        code = np.unique(code * len(texts.values) + texts.codes, return_inverse=True)[1]
    _, first, counts = np.unique(code, return_index=True, return_counts=True)
    earliest = np.full(len(first), np.iinfo(np.int64).max)
    latest = np.full(len(first), np.iinfo(np.int64).min)
    np.minimum.at(earliest, code, table.start_ms)
    np.maximum.at(latest, code, table.start_ms)
    keys = zip(*(texts.take(first).to_list() for texts in columns), strict=True)
    return dict(zip(keys, zip(counts.tolist(), earliest.tolist(), latest.tolist(), strict=True), strict=True))
