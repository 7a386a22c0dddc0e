"""Join spans with their parents, and sum up which service calls which.

Spans of a trace arrive and are sealed at different times. What spans count for is therefore worked out twice: together
with the spans of their traces that were counted before, and for those alone. The difference is what the new ones add,
in whichever order they come, and it may correct what was counted: a call that is answered later is no external one.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from vantage.core.arrays import I64, U64, Mask, Rows
from vantage.core.dict_column import DictColumn, TextColumn, concat_dict_columns
from vantage.core.idhash import Ids, concat_ids, hash_ids, hash_pairs
from vantage.core.red import NONE, bincount, numbered
from vantage.core.rollup import FIVE_MINUTES_MS, NO_PARTIALS, Partials
from vantage.core.span import SpanKind, SpanStatus
from vantage.core.span_table import SpanTable, build_span_table
from vantage.storage.ports import EdgeKind
from vantage.storage.trace_summary import first_copies

PARENT_REACH_MS: Final = 600_000  # how much earlier or later than its child a parent may start
# Attributes of a caller's span that name a peer without spans; the first one present is used. The names are those of
# OpenTelemetry's semantic conventions; ``db.system`` was the name of ``db.system.name`` until 2025.
PEER_ATTRIBUTES: Final = ("peer.service", "db.system.name", "db.system", "messaging.system", "server.address")
_KINDS: Final[tuple[EdgeKind, ...]] = ("call", "message", "external")
_EXTERNAL: Final = _KINDS.index("external")


class EdgeKey(NamedTuple):
    """What a row of edges is about. Of an external callee there is the name alone."""

    caller: str
    caller_environment: str
    callee: str
    callee_environment: str
    kind: EdgeKind
    failed: bool

    @property
    def sides(self) -> tuple[tuple[str, str], ...]:
        """Return service and environment of its sides that are services."""
        caller = (self.caller, self.caller_environment)
        return (caller,) if self.kind == "external" else (caller, (self.callee, self.callee_environment))

    def has_side(self, service: str, environment: str) -> bool:
        """Return whether the service, the environment or both ('' means any) are one of its sides."""
        return any(service in ("", name) and environment in ("", within) for name, within in self.sides)


class EdgeKeys:
    """Numbers for keys, which never change while the process runs. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._codes: dict[EdgeKey, int] = {}
        self.keys: list[EdgeKey] = []

    def code(self, key: EdgeKey) -> int:
        """Return the number of a key."""
        with self._lock:
            code = self._codes.setdefault(key, len(self.keys))
            if code == len(self.keys):
                self.keys.append(key)
            return code


@dataclass(frozen=True, slots=True, eq=False)
class EdgeSpans:
    """The columns of spans that edges need. ``peer`` is '' where a span calls nobody or does not name it."""

    trace_id: Ids
    span_id: Ids
    parent_span_id: Ids
    service: TextColumn
    environment: TextColumn
    kind: TextColumn
    status: TextColumn
    peer: TextColumn
    start_ns: I64
    duration_ns: I64

    def __len__(self) -> int:
        return len(self.start_ns)

    @property
    def nbytes(self) -> int:
        """Return the memory of the columns, in bytes, without the values of texts, which tables share."""
        ids = self.trace_id.nbytes + self.span_id.nbytes + self.parent_span_id.nbytes
        texts = (self.service, self.environment, self.kind, self.status, self.peer)
        return ids + sum(column.codes.nbytes for column in texts) + self.start_ns.nbytes + self.duration_ns.nbytes

    @property
    def start_ms(self) -> I64:
        return self.start_ns // 1_000_000

    def trace_hashes(self) -> U64:
        """Return the ``idhash`` of each row's trace id."""
        return hash_ids(self.trace_id)

    def take(self, rows: Rows) -> EdgeSpans:
        """Return the given rows."""
        return EdgeSpans(
            self.trace_id[rows],
            self.span_id[rows],
            self.parent_span_id[rows],
            self.service.take(rows),
            self.environment.take(rows),
            self.kind.take(rows),
            self.status.take(rows),
            self.peer.take(rows),
            self.start_ns[rows],
            self.duration_ns[rows],
        )


def edge_spans(table: SpanTable) -> EdgeSpans:
    """Return the columns that edges need."""
    return EdgeSpans(
        table.trace_id,
        table.span_id,
        table.parent_span_id,
        table.service_name,
        table.environment,
        table.kind,
        table.status,
        _peers(table),
        table.start_ns,
        table.duration_ns,
    )


def concat_edge_spans(parts: Sequence[EdgeSpans]) -> EdgeSpans:
    """Concatenate spans."""
    parts = [part for part in parts if len(part)]
    if len(parts) <= 1:
        return parts[0] if parts else NO_EDGE_SPANS
    return EdgeSpans(
        concat_ids([part.trace_id for part in parts]),
        concat_ids([part.span_id for part in parts]),
        concat_ids([part.parent_span_id for part in parts]),
        concat_dict_columns([part.service for part in parts]),
        concat_dict_columns([part.environment for part in parts]),
        concat_dict_columns([part.kind for part in parts]),
        concat_dict_columns([part.status for part in parts]),
        concat_dict_columns([part.peer for part in parts]),
        np.concatenate([part.start_ns for part in parts]),
        np.concatenate([part.duration_ns for part in parts]),
    )


def added_edges(spans: EdgeSpans, earlier: EdgeSpans, keys: EdgeKeys) -> Partials:
    """Return what spans add to the edges of ``earlier`` ones, in buckets of 5 minutes of their start: numbers of spans
    as ``count``, nanoseconds as ``sum`` and ``max``. ``min`` is 0, and so is ``max`` of a correction, whose count is
    negative.

    ``earlier`` has the counted spans of the same traces that start up to twice PARENT_REACH_MS earlier or later, and
    perhaps others.
    """
    together = concat_edge_spans([earlier, spans])
    after = edge_codes(together, keys)
    before = np.full(len(after), NONE)
    before[: len(earlier)] = edge_codes(earlier, keys)
    added, removed = (np.flatnonzero((codes != NONE) & (before != after)) for codes in (after, before))
    return _sum_up(together, np.concatenate([after[added], before[removed]]), np.concatenate([added, removed]),
                   count=np.repeat([1, -1], [len(added), len(removed)]))  # fmt: skip


def _sum_up(spans: EdgeSpans, code: I64, rows: Rows, *, count: I64) -> Partials:
    if not len(rows):
        return NO_PARTIALS
    bucket = spans.start_ms[rows] // FIVE_MINUTES_MS
    duration_ns = spans.duration_ns[rows].astype(np.float64)
    group, first = numbered(code, bucket)
    size = len(first)
    longest = np.zeros(size)
    np.maximum.at(longest, group, np.where(count > 0, duration_ns, 0.0))
    return Partials(
        code[first].astype(np.uint32),
        bucket[first] * FIVE_MINUTES_MS,
        bincount(group, count.astype(np.float64), size).astype(np.int64),
        bincount(group, duration_ns * count, size),
        np.zeros(size),
        longest,
    )


def edge_codes(spans: EdgeSpans, keys: EdgeKeys) -> I64:
    """Return the code of the edge that each span counts for, NONE where it counts for none.

    A server's or consumer's span counts for the call of the service of its parent; a client's or producer's that names
    a peer, and has no child of another service, for an external one. Of copies of a span the first counts.
    """
    codes = np.full(len(spans), NONE)
    if not len(spans):
        return codes
    service, environment = spans.service.merge_equal_values(), spans.environment.merge_equal_values()
    child, parent = _with_parents(spans)
    pairs = service[child] != service[parent]
    pairs &= np.abs(spans.start_ns[child] - spans.start_ns[parent]) <= PARENT_REACH_MS * 1_000_000
    child, parent = child[pairs], parent[pairs]
    counted = _first_copies(spans)
    is_received = _of_kind(spans.kind, SpanKind.SERVER, SpanKind.CONSUMER)
    received = counted[child] & is_received[child]
    called, callers = child[received], parent[received]
    is_answered = np.zeros(len(spans), np.bool_)
    is_answered[parent] = True
    external = np.flatnonzero(counted & ~is_answered & spans.peer.mask(bool))

    rows = np.concatenate([called, external])
    caller_rows = np.concatenate([callers, external])
    is_external = np.repeat([False, True], [len(called), len(external)])
    is_message = _of_kind(spans.kind, SpanKind.CONSUMER)[rows]
    kind = np.where(is_external, _EXTERNAL, is_message.astype(np.int64))
    failed = spans.status.mask(lambda status: status == SpanStatus.ERROR.value)[rows]
    callee = np.where(is_external, spans.peer.codes[rows], service[rows])
    callee_environment = np.where(is_external, 0, environment[rows])
    combined = kind * 2 + failed
    for column in (service[caller_rows], environment[caller_rows], callee, callee_environment):
        combined = combined * (int(column.max(initial=0)) + 1) + column
    _, first, group = np.unique(combined, return_index=True, return_inverse=True)
    known = [
        NONE if (key := _key(spans, row, caller, kind_of_row)).caller == key.callee else keys.code(key)
        for row, caller, kind_of_row in zip(
            rows[first].tolist(), caller_rows[first].tolist(), kind[first].tolist(), strict=True
        )
    ]
    codes[rows] = np.array(known, np.int64)[group]
    return codes


def _key(spans: EdgeSpans, row: int, caller: int, kind: int) -> EdgeKey:
    external = kind == _EXTERNAL
    return EdgeKey(
        spans.service.value(caller),
        spans.environment.value(caller),
        spans.peer.value(row) if external else spans.service.value(row),
        "" if external else spans.environment.value(row),
        _KINDS[kind],
        spans.status.value(row) == SpanStatus.ERROR.value,
    )


def _first_copies(spans: EdgeSpans) -> Mask:
    mask = np.zeros(len(spans), np.bool_)
    distinct = first_copies(spans.trace_id, spans.span_id, spans.service, spans.kind, spans.start_ns, spans.duration_ns)
    mask[distinct] = True
    return mask


def _of_kind(kinds: TextColumn, *selected: SpanKind) -> Mask:
    return kinds.mask(lambda kind: kind in selected)


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


NO_EDGE_SPANS: Final = edge_spans(build_span_table(()))


def _with_parents(spans: EdgeSpans) -> tuple[Rows, Rows]:
    """Return the rows whose parent is among the spans, and the row of each parent. Of several spans with that id it is
    the one that starts first, then the first by the names of service and kind: in whichever order they came."""
    children = np.flatnonzero(spans.parent_span_id != b"")
    parent_hashes = hash_pairs(spans.trace_id[children], spans.parent_span_id[children])
    hashes = hash_pairs(spans.trace_id, spans.span_id)
    order = _ordered(spans, hashes)
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


def _ordered(spans: EdgeSpans, hashes: U64) -> Rows:
    """Return the rows by hash, those with the same one by start, service and kind."""
    order = np.argsort(hashes, kind="stable")
    same = hashes[order[1:]] == hashes[order[:-1]]
    if same.any():
        repeated = np.append(same, False) | np.append(False, same)
        positions = np.flatnonzero(repeated)
        rows = order[positions]
        ranks = [_ranks(column)[rows] for column in (spans.kind, spans.service)]
        order[positions] = rows[np.lexsort((*ranks, spans.start_ns[rows], hashes[rows]))]
    return order


def _ranks(column: TextColumn) -> I64:
    numbers = {value: number for number, value in enumerate(sorted(set(column.values)))}
    return np.array([numbers[value] for value in column.values], np.int64)[column.codes]
