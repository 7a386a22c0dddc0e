"""Trace links as segments keep them: each with its sample, in the order of trace ids.

A trace is then found in one block a part, and its samples without a look at any chunk. The other way, from samples to
their links, is for exports and for the few queries that ask for ids: a link belongs to a sample of the same series,
time and value, and which of two equal samples has it makes no difference.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np

from vantage.core.batch import F64, I64, U32
from vantage.core.exemplars import NO_LINK_COLUMNS, LinkColumns
from vantage.core.idhash import Ids, concat_ids, hash_ids
from vantage.core.span_table import decode_ids
from vantage.storage.embedded.format import span_column_codec
from vantage.storage.embedded.format.chunk import ChunkCodec, checksum
from vantage.storage.embedded.format.column_codec import deltas, undelta
from vantage.storage.embedded.format.trace_id_index import truncate_hash
from vantage.storage.embedded.write.block import Mask

EXEMPLARS_MAX: Final = 2048  # of a block: to find a trace one is unpacked
Linked = tuple[int, int, float, str]  # slot, time, value, span id
_encode: Final = msgspec.msgpack.Encoder().encode
_decode_ids: Final = msgspec.msgpack.Decoder(tuple[span_column_codec.PackedIds, bytes]).decode
_decode_body: Final = msgspec.msgpack.Decoder(tuple[span_column_codec.PackedIds, bytes, bytes, bytes, bytes]).decode
_FIND: Final = (
    "SELECT id, high, links, ids_crc, ids FROM trace_link WHERE part_id=? AND low<=? ORDER BY low DESC, high DESC"
)
_BODY: Final = "SELECT body_crc, body FROM trace_link WHERE id=?"
_BETWEEN: Final = (
    "SELECT links, ids_crc, body_crc, ids, body FROM trace_link WHERE part_id=? AND low<? AND high>=? ORDER BY id"
)
_EVER: Final = 1 << 62


@dataclass(frozen=True, slots=True, eq=False)
class ExemplarColumns:
    """Columns of equal length: ids, and the sample that carries them."""

    trace_id: Ids
    span_id: Ids
    slot: U32
    time_ms: I64
    value: F64

    def __len__(self) -> int:
        return len(self.slot)

    @property
    def filtered(self) -> I64:
        """What indexes keep of the trace ids' hashes."""
        return truncate_hash(hash_ids(self.trace_id))

    def take(self, rows: I64) -> ExemplarColumns:
        return self._each(lambda column: column.take(rows))

    def keep(self, mask: Mask) -> ExemplarColumns:
        return self if mask.all() else self.take(np.flatnonzero(mask))

    def slice(self, start: int, end: int) -> ExemplarColumns:
        return self._each(lambda column: column[start:end])

    def _each(self, change: Callable[[Any], Any]) -> ExemplarColumns:
        columns = (self.trace_id, self.span_id, self.slot, self.time_ms, self.value)
        return ExemplarColumns(*map(change, columns))

    def in_storage_order(self) -> ExemplarColumns:
        """By the hash of the trace id; those of one trace as they came."""
        return self.take(np.argsort(hash_ids(self.trace_id), kind="stable"))


def concat_exemplars(parts: Sequence[ExemplarColumns]) -> ExemplarColumns:
    """Links laid end to end; at least one part."""
    if len(parts) == 1:
        return parts[0]
    return ExemplarColumns(
        concat_ids([part.trace_id for part in parts]),
        concat_ids([part.span_id for part in parts]),
        np.concatenate([part.slot for part in parts]),
        np.concatenate([part.time_ms for part in parts]),
        np.concatenate([part.value for part in parts]),
    )


def exemplars_of_samples(links: LinkColumns, slot: U32, time_ms: I64, value: F64) -> ExemplarColumns:
    """The links of some sample columns, in no particular order."""
    rows = links.position
    return ExemplarColumns(links.trace_id, links.span_id, slot[rows], time_ms[rows], value[rows])


# --- blocks ---


@dataclass(frozen=True, slots=True)
class ExemplarBlock:
    """A row of the table ``trace_link``."""

    low: int
    high: int
    links: int
    ids_crc: int
    body_crc: int
    ids: bytes
    body: bytes

    @property
    def nbytes(self) -> int:
        return len(self.ids) + len(self.body)

    @property
    def columns(self) -> tuple[int, int, int, int, int, bytes, bytes]:
        """Those of the row, after its own number and its part's."""
        return self.low, self.high, self.links, self.ids_crc, self.body_crc, self.ids, self.body


def exemplar_blocks(codec: ChunkCodec, links: ExemplarColumns) -> Iterator[tuple[ExemplarColumns, ExemplarBlock]]:
    """The blocks of links that lie in order, and what is in each."""
    kept = links.filtered
    for start in range(0, len(links), EXEMPLARS_MAX):
        some = links.slice(start, start + EXEMPLARS_MAX)
        yield some, _pack(codec, some, int(kept[start]), int(kept[start + len(some) - 1]))


def _pack(codec: ChunkCodec, links: ExemplarColumns, low: int, high: int) -> ExemplarBlock:
    first = np.flatnonzero(np.append(True, links.trace_id[1:] != links.trace_id[:-1]))
    counts = np.diff(np.append(first, len(links)))
    ints = codec.packer.pack_ints
    ids = _encode((codec.ids.pack_ids(links.trace_id[first]), ints(counts)))
    body = _encode(
        (
            codec.ids.pack_ids(links.span_id),
            ints(links.slot),
            ints(links.time_ms[first]),
            ints(deltas(links.time_ms, counts)),
            codec.packer.pack_floats(links.value, np.array([len(links)])),
        )
    )
    return ExemplarBlock(low, high, len(links), checksum(ids), checksum(body), ids, body)


def _trace_ids(codec: ChunkCodec, crc: int, ids: bytes) -> tuple[Ids, bytes]:
    """The trace ids of a block, and how many links each has, packed."""
    if checksum(ids) != crc:
        raise ValueError("checksum mismatch")
    try:
        packed_ids, counts = _decode_ids(ids)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error
    return codec.ids.unpack_ids(packed_ids, count_max=EXEMPLARS_MAX), counts


def _with_samples(
    codec: ChunkCodec, links: int, trace_ids: Ids, packed_counts: bytes, crc: int, body: bytes
) -> ExemplarColumns:
    if checksum(body) != crc:
        raise ValueError("checksum mismatch")
    try:
        span_ids, slot, first, apart, value = _decode_body(body)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error
    ints = codec.packer.unpack_ints
    counts, first_ms, steps_ms = ints(packed_counts), ints(first), ints(apart)
    if not len(trace_ids) == len(counts) == len(first_ms) or (counts < 1).any() or int(counts.sum()) != links:
        raise ValueError("links that do not fit together")
    found = ExemplarColumns(
        np.repeat(trace_ids, counts),
        codec.ids.unpack_ids(span_ids, count_max=EXEMPLARS_MAX),
        ints(slot).astype(np.uint32),
        undelta(steps_ms, first_ms, counts) if len(steps_ms) == links else steps_ms,
        codec.packer.unpack_floats(value, np.array([links])),
    )
    if not len(found.span_id) == len(found.slot) == len(found.time_ms) == links:
        raise ValueError("links that do not fit together")
    return found


def unpack_exemplars(
    codec: ChunkCodec, links: int, ids_crc: int, body_crc: int, ids: bytes, body: bytes
) -> ExemplarColumns:
    """The links of a block. Raises ValueError."""
    return _with_samples(codec, links, *_trace_ids(codec, ids_crc, ids), body_crc, body)


def find_exemplars(
    db: sqlite3.Connection, codec: ChunkCodec, *, part: int, trace_id: str, kept: int
) -> Iterator[Linked]:
    """The links of a trace in a part. Raises sqlite3.Error, and ValueError for damage."""
    wanted = trace_id.encode()
    for block_id, high, links, crc, ids in db.execute(_FIND, (part, kept)):
        if high < kept:  # the blocks of a part follow each other: those before end earlier still
            break
        trace_ids, counts = _trace_ids(codec, crc, ids)
        if not (trace_ids == wanted).any():
            continue
        if (row := db.execute(_BODY, (block_id,)).fetchone()) is None:
            continue  # its part has left while this query ran
        some = _with_samples(codec, links, trace_ids, counts, *row)
        some = some.keep(some.trace_id == wanted)
        yield from zip(
            some.slot.tolist(), some.time_ms.tolist(), some.value.tolist(), decode_ids(some.span_id), strict=True
        )


def count_exemplars(db: sqlite3.Connection, part: int) -> int:
    """How many links a part has. Raises sqlite3.Error."""
    (found,) = db.execute("SELECT coalesce(sum(links), 0) FROM trace_link WHERE part_id=?", (part,)).fetchone()
    return int(found)


def exemplars_between(
    db: sqlite3.Connection, codec: ChunkCodec, *, part: int, low: int = 0, high: int = _EVER
) -> Iterator[ExemplarColumns]:
    """A part's links block by block, those whose trace ids' hashes (what is kept of them) are from ``low`` up to
    ``high``. Raises sqlite3.Error and ValueError."""
    for row in db.execute(_BETWEEN, (part, high, low)).fetchall():
        some = unpack_exemplars(codec, *row)
        if low or high < _EVER:
            kept = some.filtered
            some = some.keep((kept >= low) & (kept < high))
        yield some


# --- from samples to their links ---


class UnmatchedExemplars:
    """Links of a part that no sample has claimed yet."""

    def __init__(self, links: Sequence[ExemplarColumns]) -> None:
        held = concat_exemplars(links) if links else None
        self._links = held.take(np.argsort(held.slot, kind="stable")) if held is not None else None
        self._free = np.ones(len(held) if held is not None else 0, np.bool_)

    @property
    def left(self) -> int:
        """How many are left."""
        return int(np.count_nonzero(self._free))

    def claim(self, slot: U32, time_ms: I64, value: F64) -> LinkColumns:
        """The links of some samples, which take each only once."""
        links = self._links
        if links is None or not len(slot):
            return NO_LINK_COLUMNS
        low, high = np.searchsorted(links.slot, [slot.min(), slot.max() + np.uint32(1)]).tolist()
        times = links.time_ms[low:high]
        some = low + np.flatnonzero(self._free[low:high] & (times >= time_ms.min()) & (times <= time_ms.max()))
        if not some.size:
            return NO_LINK_COLUMNS
        # Samples and links in one order, the samples of each series, time and value before their links: the first of
        # the ones have the first of the others, as far as there are both.
        rows = np.flatnonzero(np.isin(slot, links.slot[some]))
        slots = np.concatenate([slot[rows], links.slot[some]])
        moments = np.concatenate([time_ms[rows], links.time_ms[some]])
        bits = np.concatenate([value[rows], links.value[some]]).view(np.int64)
        is_link = np.arange(len(slots)) >= len(rows)
        order = np.lexsort((is_link, bits, moments, slots))
        differs = np.zeros(len(order), np.bool_)
        for column in (slots[order], moments[order], bits[order]):
            differs[1:] |= column[1:] != column[:-1]
        group = np.cumsum(differs)
        start = np.flatnonzero(np.append(True, differs[1:]))[group]
        samples = np.bincount(group, weights=~is_link[order]).astype(np.int64)[group]
        place = np.arange(len(order))
        number = place - start - samples  # of a link within its group
        met = np.flatnonzero(is_link[order] & (number < samples))
        claimed = some[order[met] - len(rows)]
        position = rows[order[start[met] + number[met]]]
        self._free[claimed] = False
        by_row = np.argsort(position)
        claimed = claimed[by_row]
        return LinkColumns(position[by_row], links.trace_id[claimed], links.span_id[claimed])
