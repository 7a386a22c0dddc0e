"""Spans as columns: what stores keep, queries read and files hold. Text is dictionary-coded; ids are bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Final

import numpy as np

from vantage.core.arrays import I64, U64, Mask, Rows
from vantage.core.dict_column import DictColumn, TextColumn, concat_dict_columns, dict_encode
from vantage.core.idhash import Ids, concat_ids, decode_ids, encode_ids, hash_ids
from vantage.core.span import Span, SpanKind, SpanStatus

_KINDS: Final = {kind.value: kind for kind in SpanKind}
_STATUSES: Final = {status.value: status for status in SpanStatus}


@dataclass(frozen=True, slots=True, eq=False)
class SpanTable:
    """The columns of ``len()`` spans; its arrays are never changed.

    Ids are bytes of fixed width, as wide as the longest ('' where there is no parent); times are nanoseconds since the
    epoch. The attributes of span ``i`` are the entries from ``attr_start[i]`` up to ``attr_start[i + 1]`` of
    ``attr_key`` and ``attr_value``, in the order they were sent.
    """

    trace_id: Ids
    span_id: Ids
    parent_span_id: Ids
    service_name: TextColumn
    name: TextColumn
    kind: TextColumn
    status: TextColumn
    environment: TextColumn
    service_version: TextColumn
    instance: TextColumn
    start_ns: I64
    duration_ns: I64
    attr_start: I64
    attr_key: TextColumn
    attr_value: TextColumn

    def __len__(self) -> int:
        return len(self.start_ns)

    @property
    def start_ms(self) -> I64:
        return self.start_ns // 1_000_000

    @property
    def nbytes(self) -> int:
        """Return roughly how many bytes of memory the table takes."""
        return sum(int(getattr(self, name).nbytes) for name in self.__slots__)

    def trace_hashes(self) -> U64:
        """Return the ``idhash`` of each row's trace id."""
        return hash_ids(self.trace_id)

    def take(self, rows: Rows) -> SpanTable:
        """Return the given rows, in the given order."""
        starts = self.attr_start[rows]
        counts = self.attr_start[rows + 1] - starts
        attr_start = _starts(counts)
        entries = np.repeat(starts - attr_start[:-1], counts) + np.arange(attr_start[-1])
        columns: dict[str, Any] = {name: getattr(self, name)[rows] for name in (*IDS, *NUMBERS)}
        columns |= {name: getattr(self, name).take_compact(rows) for name in TEXTS}
        return SpanTable(
            **columns,
            attr_start=attr_start,
            attr_key=self.attr_key.take_compact(entries),
            attr_value=self.attr_value.take_compact(entries),
        )

    def within(self, start_ms: int, end_ms: int) -> Mask:
        """Return which rows start in the range; its end is exclusive."""
        return (self.start_ns >= start_ms * 1_000_000) & (self.start_ns < end_ms * 1_000_000)

    def attribute(self, key: str) -> TextColumn:
        """Return the value of one attribute for each row, '' where it is absent."""
        entries = np.flatnonzero(self.attr_key.codes == self.attr_key.code_of(key))
        column = DictColumn(self.attr_value.codes[entries], self.attr_value.values).compacted()
        absent, values = column.code_of(""), column.values
        if absent < 0 and len(entries) < len(self):
            absent, values = len(values), (*values, "")
        codes = np.full(len(self), max(absent, 0), np.uint32)
        codes[self._rows_of(entries)] = column.codes
        return DictColumn(codes, values)

    def with_attribute(self, key: str, value: str) -> Mask:
        """Return which rows have the attribute with exactly this value."""
        key_code, value_code = self.attr_key.code_of(key), self.attr_value.code_of(value)
        entries = np.flatnonzero((self.attr_key.codes == key_code) & (self.attr_value.codes == value_code))
        return self._marked(entries)

    def with_value(self, condition: Callable[[str], bool]) -> Mask:
        """Return which rows have an attribute, whatever its key, whose value meets the condition."""
        return self._marked(np.flatnonzero(self.attr_value.mask(condition)))

    def attributes(self) -> list[dict[str, str]]:
        """Return a dictionary of attributes for each row."""
        pairs = zip(self.attr_key.to_list(), self.attr_value.to_list(), strict=True)
        return [dict(islice(pairs, size)) for size in np.diff(self.attr_start).tolist()]

    def span(self, row: int) -> Span:
        """Return one row as a Span."""
        entries = range(int(self.attr_start[row]), int(self.attr_start[row + 1]))
        return Span(
            bytes(self.trace_id[row]).decode(),
            bytes(self.span_id[row]).decode(),
            self.service_name.value(row),
            self.name.value(row),
            int(self.start_ns[row]),
            int(self.duration_ns[row]),
            bytes(self.parent_span_id[row]).decode(),
            _KINDS[self.kind.value(row)],
            _STATUSES[self.status.value(row)],
            self.environment.value(row),
            self.service_version.value(row),
            self.instance.value(row),
            {self.attr_key.value(entry): self.attr_value.value(entry) for entry in entries},
        )

    def spans(self, rows: Rows | None = None) -> list[Span]:
        """Return some or all rows as Spans, equal to those the table was built from."""
        if rows is not None:
            return self.take(rows).spans()
        kinds, statuses = ([_KINDS[v] for v in self.kind.values], [_STATUSES[v] for v in self.status.values])
        return list(
            map(
                Span,
                decode_ids(self.trace_id),
                decode_ids(self.span_id),
                self.service_name.to_list(),
                self.name.to_list(),
                self.start_ns.tolist(),
                self.duration_ns.tolist(),
                decode_ids(self.parent_span_id),
                map(kinds.__getitem__, self.kind.codes.tolist()),
                map(statuses.__getitem__, self.status.codes.tolist()),
                self.environment.to_list(),
                self.service_version.to_list(),
                self.instance.to_list(),
                self.attributes(),
            )
        )

    def _rows_of(self, entries: Rows) -> Rows:
        """Return the rows that attribute entries belong to."""
        return np.searchsorted(self.attr_start, entries, side="right") - 1

    def _marked(self, entries: Rows) -> Mask:
        marked = np.zeros(len(self), np.bool_)
        marked[self._rows_of(entries)] = True
        return marked


IDS: Final = ("trace_id", "span_id", "parent_span_id")
TEXTS: Final = ("service_name", "name", "kind", "status", "environment", "service_version", "instance")
NUMBERS: Final = ("start_ns", "duration_ns")


def _starts(counts: I64) -> I64:
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts


def build_span_table(spans: Sequence[Span]) -> SpanTable:
    """Return spans as columns."""
    maps = [span.attributes for span in spans]
    return SpanTable(
        trace_id=encode_ids([span.trace_id for span in spans]),
        span_id=encode_ids([span.span_id for span in spans]),
        parent_span_id=encode_ids([span.parent_span_id for span in spans]),
        service_name=dict_encode([span.service_name for span in spans]),
        name=dict_encode([span.name for span in spans]),
        # A member of an enum is hashed by a function in Python; its text is hashed at once.
        kind=dict_encode([str.__str__(span.kind) for span in spans]),
        status=dict_encode([str.__str__(span.status) for span in spans]),
        environment=dict_encode([span.environment for span in spans]),
        service_version=dict_encode([span.service_version for span in spans]),
        instance=dict_encode([span.instance for span in spans]),
        start_ns=np.array([span.start_ns for span in spans], np.int64),
        duration_ns=np.array([span.duration_ns for span in spans], np.int64),
        attr_start=_starts(np.fromiter(map(len, maps), np.int64, len(maps))),
        attr_key=dict_encode(list(chain.from_iterable(maps))),
        attr_value=dict_encode(list(chain.from_iterable(map(dict.values, maps)))),
    )


def concat_span_tables(tables: Iterable[SpanTable]) -> SpanTable:
    """Concatenate tables under common dictionaries; no tables give a table without rows."""
    present = [table for table in tables if len(table)]
    if len(present) == 1:
        return present[0]
    if not present:
        return build_span_table(())
    columns: dict[str, Any] = {
        name: (concat_ids if name in IDS else np.concatenate)([getattr(table, name) for table in present])
        for name in (*IDS, *NUMBERS)
    }
    columns |= {
        name: concat_dict_columns([getattr(table, name) for table in present])
        for name in (*TEXTS, "attr_key", "attr_value")
    }
    counts = np.concatenate([np.diff(table.attr_start) for table in present])
    return SpanTable(**columns, attr_start=_starts(counts))
