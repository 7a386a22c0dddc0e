"""Compute calls between services from spans: join every span of a called service with its parent span."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from vantage.core.arrays import I64, Mask, Rows
from vantage.core.dict_column import DictColumn, TextColumn, concat_dict_columns
from vantage.core.errors import InputError
from vantage.core.idhash import Ids, hash_pairs
from vantage.core.span import SpanKind, SpanStatus
from vantage.core.span_table import SpanTable
from vantage.core.timerange import TimeRange
from vantage.storage.ports import EdgeKind, ServiceEdge
from vantage.storage.trace_summary import first_copies

PARENT_REACH_MS: Final = 600_000  # how long before the range a parent may start
SPANS_MAX: Final = 2_000_000  # about a microsecond each
COPIES: Final = 3  # of the columns in memory: those of each table, all together, and what sorting them takes
# Attributes of a caller's span that name a peer without spans; the first one present is used. The names are those of
# OpenTelemetry's semantic conventions; ``db.system`` was the name of ``db.system.name`` until 2025.
PEER_ATTRIBUTES: Final = ("peer.service", "db.system.name", "db.system", "messaging.system", "server.address")
_KINDS: Final[tuple[EdgeKind, ...]] = ("call", "message", "external")
_EXTERNAL: Final = _KINDS.index("external")


@dataclass(frozen=True, slots=True, eq=False)
class _SpanColumns:
    """The columns that edges need, of all tables. ``peer`` is '' where a span calls nobody or does not name it."""

    trace_id: Ids
    span_id: Ids
    parent_span_id: Ids
    service: TextColumn
    kind: TextColumn
    status: TextColumn
    peer: TextColumn
    start_ns: I64
    duration_ns: I64
    counted: Mask  # whether the span starts in the range

    def __len__(self) -> int:
        return len(self.service)

    @property
    def nbytes(self) -> int:
        """Return the memory of the columns, in bytes, without the values of texts, which tables share."""
        ids = self.trace_id.nbytes + self.span_id.nbytes + self.parent_span_id.nbytes
        texts = sum(column.codes.nbytes for column in (self.service, self.kind, self.status, self.peer))
        return ids + texts + self.start_ns.nbytes + self.duration_ns.nbytes + self.counted.nbytes


def service_edges(
    tables: Iterable[SpanTable],
    time_range: TimeRange,
    *,
    spans_max: int = SPANS_MAX,
    take: Callable[[int], None] = lambda _: None,
) -> list[ServiceEdge]:
    """Return the edges of the spans that start in the range.

    The tables contain every span that starts in it or up to PARENT_REACH_MS before, and perhaps others. A span without
    its parent in them makes no edge; a peer without spans in them is external. A table is released before the next one
    is read. ``take`` is called with bytes of memory about to be used. Raises InputError beyond ``spans_max`` spans.
    """
    parts: list[_SpanColumns] = []
    total = 0
    for table in tables:
        total += len(table)
        if total > spans_max:
            raise InputError(f"the range has more than {spans_max} spans: narrow it")
        if len(table):
            part = _columns(table, time_range)
            take(COPIES * part.nbytes)
            parts.append(part)
    if not parts:
        return []
    spans = _concat(parts)
    distinct = first_copies(spans.trace_id, spans.span_id, spans.service, spans.kind, spans.start_ns, spans.duration_ns)
    if len(distinct) < len(spans):
        copies = np.ones(len(spans), np.bool_)
        copies[distinct] = False
        spans.counted[copies] = False
    service = spans.service.codes
    child, parent = _with_parents(spans)
    across = service[child] != service[parent]
    child, parent = child[across], parent[across]

    received = spans.counted[child] & _of_kind(spans.kind, SpanKind.SERVER, SpanKind.CONSUMER)[child]
    callee_rows, caller_rows = child[received], parent[received]
    is_message = _of_kind(spans.kind, SpanKind.CONSUMER)[callee_rows]
    edges = _sum_calls(
        spans,
        callee_rows,
        spans.service.take(caller_rows),
        spans.service.take(callee_rows),
        is_message.astype(np.int64),
    )

    has_child = np.zeros(len(spans), np.bool_)
    has_child[parent] = True
    unmatched = np.flatnonzero(spans.counted & ~has_child & spans.peer.mask(bool))
    external = np.full(len(unmatched), _EXTERNAL)
    edges += _sum_calls(spans, unmatched, spans.service.take(unmatched), spans.peer.take(unmatched), external)
    return [edge for edge in edges if edge.caller != edge.callee]


def _of_kind(kinds: TextColumn, *selected: SpanKind) -> Mask:
    return kinds.mask(lambda kind: kind in selected)


def _columns(table: SpanTable, time_range: TimeRange) -> _SpanColumns:
    return _SpanColumns(
        trace_id=table.trace_id,
        span_id=table.span_id,
        parent_span_id=table.parent_span_id,
        service=table.service_name,
        kind=table.kind,
        status=table.status,
        peer=_peers(table),
        start_ns=table.start_ns,
        duration_ns=table.duration_ns,
        counted=table.within(time_range.start_ms, time_range.end_ms),
    )


def _concat(parts: Sequence[_SpanColumns]) -> _SpanColumns:
    """Concatenate the columns of all tables."""
    return _SpanColumns(
        trace_id=np.concatenate([part.trace_id for part in parts]),
        span_id=np.concatenate([part.span_id for part in parts]),
        parent_span_id=np.concatenate([part.parent_span_id for part in parts]),
        service=concat_dict_columns([part.service for part in parts]),
        kind=concat_dict_columns([part.kind for part in parts]),
        status=concat_dict_columns([part.status for part in parts]),
        peer=concat_dict_columns([part.peer for part in parts]),
        start_ns=np.concatenate([part.start_ns for part in parts]),
        duration_ns=np.concatenate([part.duration_ns for part in parts]),
        counted=np.concatenate([part.counted for part in parts]),
    )


def _peers(table: SpanTable) -> TextColumn:
    """Return the peer that each client's or producer's span names, '' without one."""
    unnamed = _of_kind(table.kind, SpanKind.CLIENT, SpanKind.PRODUCER)
    rows: list[Rows] = []
    parts = [DictColumn(np.zeros(1, np.uint32), ("",))]
    for key in PEER_ATTRIBUTES:
        if table.attr_key.code_of(key) < 0:
            continue
        column = table.attribute(key)
        named = np.flatnonzero(unnamed & column.mask(bool))
        unnamed[named] = False
        rows.append(named)
        parts.append(column.take(named))
    peers = concat_dict_columns(parts)
    codes = np.zeros(len(table), np.uint32)
    if rows:
        codes[np.concatenate(rows)] = peers.codes[1:]
    return DictColumn(codes, peers.values)


def _with_parents(spans: _SpanColumns) -> tuple[Rows, Rows]:
    """Return the rows whose parent is among the spans, and the row of each parent: the first span with that id."""
    children = np.flatnonzero(spans.parent_span_id != b"")
    parent_hashes = hash_pairs(spans.trace_id[children], spans.parent_span_id[children])
    hashes = hash_pairs(spans.trace_id, spans.span_id)
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    position = np.searchsorted(hashes, parent_hashes)
    child_rows: list[Rows] = []
    parent_rows: list[Rows] = []
    # The first round matches nearly every child; the others continue after a different span with the same hash.
    while children.size:
        row = np.minimum(position, len(hashes) - 1)
        matches = (position < len(hashes)) & (hashes[row] == parent_hashes)
        children, parent_hashes, position, parents = (
            children[matches],
            parent_hashes[matches],
            position[matches],
            order[row[matches]],
        )
        same = (spans.span_id[parents] == spans.parent_span_id[children]) & (
            spans.trace_id[parents] == spans.trace_id[children]
        )
        child_rows.append(children[same])
        parent_rows.append(parents[same])
        children, parent_hashes, position = children[~same], parent_hashes[~same], position[~same] + 1
    empty = np.empty(0, np.intp)
    return np.concatenate([empty, *child_rows]), np.concatenate([empty, *parent_rows])


def _sum_calls(
    spans: _SpanColumns, rows: Rows, callers: TextColumn, callees: TextColumn, kinds: I64
) -> list[ServiceEdge]:
    """Sum the spans of the rows by caller, callee and kind."""
    pairs = callers.codes.astype(np.int64) * max(1, len(callees.values)) + callees.codes
    _, first, group = np.unique(pairs * len(_KINDS) + kinds, return_index=True, return_inverse=True)
    failed = spans.status.codes[rows] == spans.status.code_of(SpanStatus.ERROR.value)
    duration_ns = spans.duration_ns[rows]
    longest_ns = np.zeros(len(first), np.int64)
    np.maximum.at(longest_ns, group, duration_ns)
    return list(
        map(
            ServiceEdge,
            callers.take(first).to_list(),
            callees.take(first).to_list(),
            map(_KINDS.__getitem__, kinds[first].tolist()),
            np.bincount(group, minlength=len(first)).tolist(),
            np.bincount(group[failed], minlength=len(first)).tolist(),
            # Floats, since a sum of integers may overflow; the error is less than a millionth of a percent.
            np.bincount(group, duration_ns, len(first)).astype(np.int64).tolist(),
            longest_ns.tolist(),
        )
    )
