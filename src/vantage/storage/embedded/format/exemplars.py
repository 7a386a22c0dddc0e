"""Exemplars as segments store them: each with its sample, sorted by trace id.

A trace is then one block per part, and its samples are read without any chunk. The other way, from samples to their
exemplars, is for exports and for the few queries that read ids: an exemplar belongs to a sample of the same series,
time and value, and which of two equal samples has it makes no difference.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from vantage.core.arrays import F64, I64, U32, U64, Mask
from vantage.core.exemplars import NO_EXEMPLARS, Exemplars
from vantage.core.idhash import Ids, hash_ids
from vantage.core.int_packing import deltas, undelta
from vantage.core.sample_columns import SampleColumns, concat_samples
from vantage.storage.embedded.format import span_column_codec
from vantage.storage.embedded.format.chunk import ChunkCodec, checksum
from vantage.storage.embedded.format.trace_id_index import HASH_SHIFT, truncate_hash

EXEMPLARS_MAX: Final = 2048  # of a block: to find a trace one is unpacked
_encode: Final = msgspec.msgpack.Encoder().encode
_decode_ids: Final = msgspec.msgpack.Decoder(tuple[span_column_codec.PackedIds, bytes]).decode
_decode_body: Final = msgspec.msgpack.Decoder(tuple[span_column_codec.PackedIds, bytes, bytes, bytes, bytes]).decode
_FIND: Final = (
    "SELECT id, high, exemplars, ids_crc, ids FROM exemplar WHERE part_id=? AND low<=? ORDER BY low DESC, high DESC"
)
_BODY: Final = "SELECT body_crc, body FROM exemplar WHERE id=?"
_BETWEEN: Final = (
    "SELECT exemplars, ids_crc, body_crc, ids, body FROM exemplar WHERE part_id=? AND low<? AND high>=? ORDER BY id"
)
_EVER: Final = 1 << 62


def exemplar_samples(samples: SampleColumns) -> SampleColumns:
    """Return the samples that carry an exemplar, and no others: what the functions of this module take."""
    return samples.take(samples.exemplars.position)


@dataclass(frozen=True, slots=True, eq=False)
class SortedExemplars:
    """Exemplar samples and their storage order: ``samples`` are in any order, ``rows`` are theirs by ``hashes``, which
    ascend. Blocks are gathered out of it as they are packed: of a generation there is no second copy.
    """

    samples: SampleColumns
    rows: I64
    hashes: I64  # truncated, of rows[i]

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, mask: Mask) -> SortedExemplars:
        """Return those whose samples ``mask`` selects (by row of ``samples``)."""
        if mask.all():
            return self
        chosen = mask[self.rows]
        return SortedExemplars(self.samples, self.rows[chosen], self.hashes[chosen])


def sort_by_trace(samples: SampleColumns, trace_hash: U64 | None = None) -> SortedExemplars:
    """Return exemplar samples in storage order: by the hash of the trace id, those of one trace as they came.
    ``trace_hash`` are the hashes of all their trace ids, where they are known."""
    hashes = hash_ids(samples.exemplars.trace_id) if trace_hash is None else trace_hash
    if len(hashes) > 1 << HASH_SHIFT:
        rows = np.argsort(truncate_hash(hashes), kind="stable")
        return SortedExemplars(samples, rows, truncate_hash(hashes[rows]))
    # One number has the bits of the hash that count, and the row in place of the others: a sort of numbers is several
    # times as fast as one of their positions, and it is stable since no two are equal.
    low = np.uint64((1 << HASH_SHIFT) - 1)
    keys = (hashes & ~low) | np.arange(len(hashes), dtype=np.uint64)
    keys.sort()
    return SortedExemplars(samples, (keys & low).astype(np.int64), truncate_hash(keys))


def trace_hashes(samples: SampleColumns) -> I64:
    """Return the truncated hash of each exemplar sample's trace id, as indexes hold it."""
    return truncate_hash(hash_ids(samples.exemplars.trace_id))


# --- blocks ---


@dataclass(frozen=True, slots=True)
class ExemplarBlock:
    """A row of the table ``exemplar``."""

    low: int
    high: int
    exemplars: int
    ids_crc: int
    body_crc: int
    ids: bytes
    body: bytes

    @property
    def nbytes(self) -> int:
        return len(self.ids) + len(self.body)

    @property
    def columns(self) -> tuple[int, int, int, int, int, bytes, bytes]:
        """Return the columns of the row, after its own id and its part's."""
        return self.low, self.high, self.exemplars, self.ids_crc, self.body_crc, self.ids, self.body


def exemplar_blocks(codec: ChunkCodec, exemplars: SortedExemplars) -> Iterator[tuple[SampleColumns, ExemplarBlock]]:
    """Pack exemplars into blocks. Yields the samples of each block beside it."""
    hashes = exemplars.hashes
    for start in range(0, len(exemplars), EXEMPLARS_MAX):
        block = exemplars.samples.take(exemplars.rows[start : start + EXEMPLARS_MAX])
        yield block, _pack(codec, block, int(hashes[start]), int(hashes[start + len(block) - 1]))


def _pack(codec: ChunkCodec, samples: SampleColumns, low: int, high: int) -> ExemplarBlock:
    trace_id, span_id = samples.exemplars.trace_id, samples.exemplars.span_id
    first = np.flatnonzero(np.append(True, trace_id[1:] != trace_id[:-1]))
    counts = np.diff(np.append(first, len(samples)))
    ints = codec.packer.pack_ints
    ids = _encode((codec.ids.pack_ids(trace_id.take(first)), ints(counts)))
    body = _encode(
        (
            codec.ids.pack_ids(span_id),
            ints(samples.slot),
            ints(samples.time_ms[first]),
            ints(deltas(samples.time_ms, counts)),
            codec.packer.pack_floats(samples.value, np.array([len(samples)])),
        )
    )
    return ExemplarBlock(low, high, len(samples), checksum(ids), checksum(body), ids, body)


def _trace_ids(codec: ChunkCodec, crc: int, ids: bytes) -> tuple[Ids, bytes]:
    """Return the trace ids of a block, and how many exemplars each has, packed."""
    if checksum(ids) != crc:
        raise ValueError("checksum mismatch")
    try:
        packed_ids, counts = _decode_ids(ids)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error
    return codec.ids.unpack_ids(packed_ids, count_max=EXEMPLARS_MAX), counts


def _unpack_samples(
    codec: ChunkCodec, count: int, trace_ids: Ids, packed_counts: bytes, crc: int, body: bytes
) -> SampleColumns:
    if checksum(body) != crc:
        raise ValueError("checksum mismatch")
    try:
        packed_span_ids, packed_slot, packed_first, packed_deltas, packed_value = _decode_body(body)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error
    ints = codec.packer.unpack_ints
    counts, first_ms, deltas_ms = ints(packed_counts), ints(packed_first), ints(packed_deltas)
    if not len(trace_ids) == len(counts) == len(first_ms) or (counts < 1).any() or int(counts.sum()) != count:
        raise ValueError("exemplars that do not fit together")
    span_ids = codec.ids.unpack_ids(packed_span_ids, count_max=EXEMPLARS_MAX)
    slot = ints(packed_slot).astype(np.uint32)
    if not len(span_ids) == len(slot) == len(deltas_ms) == count:
        raise ValueError("exemplars that do not fit together")
    return SampleColumns(
        slot,
        undelta(deltas_ms, first_ms, counts),
        codec.packer.unpack_floats(packed_value, np.array([count])),
        Exemplars(np.arange(count), np.repeat(trace_ids, counts), span_ids),
    )


def unpack_exemplars(
    codec: ChunkCodec, count: int, ids_crc: int, body_crc: int, ids: bytes, body: bytes
) -> SampleColumns:
    """Return the exemplar samples of a block. Raises ValueError."""
    return _unpack_samples(codec, count, *_trace_ids(codec, ids_crc, ids), body_crc, body)


def find_exemplars(
    db: sqlite3.Connection, codec: ChunkCodec, *, part: int, trace_id: str, trace_hash: int
) -> Iterator[SampleColumns]:
    """Yield the exemplar samples of a trace in a part. Raises sqlite3.Error, and ValueError for damage."""
    wanted = trace_id.encode()
    for block_id, high, count, crc, ids in db.execute(_FIND, (part, trace_hash)):
        if high < trace_hash:  # the blocks of a part follow each other: earlier ones end earlier still
            break
        trace_ids, counts = _trace_ids(codec, crc, ids)
        if not (trace_ids == wanted).any():
            continue
        if (row := db.execute(_BODY, (block_id,)).fetchone()) is None:
            continue  # the part was deleted while this query ran
        samples = _unpack_samples(codec, count, trace_ids, counts, *row)
        yield samples.filter(samples.exemplars.trace_id == wanted)


def count_exemplars(db: sqlite3.Connection, part: int) -> int:
    """Return how many exemplars a part has. Raises sqlite3.Error."""
    (count,) = db.execute("SELECT coalesce(sum(exemplars), 0) FROM exemplar WHERE part_id=?", (part,)).fetchone()
    return int(count)


def exemplars_between(
    db: sqlite3.Connection, codec: ChunkCodec, *, part: int, low: int = 0, high: int = _EVER
) -> Iterator[SampleColumns]:
    """Yield a part's exemplar samples block by block, those whose truncated trace hash is from ``low`` up to ``high``.

    Raises sqlite3.Error and ValueError.
    """
    for row in db.execute(_BETWEEN, (part, high, low)).fetchall():
        samples = unpack_exemplars(codec, *row)
        if low or high < _EVER:
            hashes = trace_hashes(samples)
            samples = samples.filter((hashes >= low) & (hashes < high))
        yield samples


# --- from samples to their exemplars ---


class UnmatchedExemplars:
    """A part's exemplars that no sample has claimed yet."""

    def __init__(self, parts: Sequence[SampleColumns]) -> None:
        samples = concat_samples(parts)
        self._samples = samples.take(np.argsort(samples.slot, kind="stable"))
        self._free = np.ones(len(samples), np.bool_)

    @property
    def left(self) -> int:
        """How many are unclaimed."""
        return int(np.count_nonzero(self._free))

    def claim(self, slot: U32, time_ms: I64, value: F64) -> Exemplars:
        """Return the exemplars of the given samples; each is given once."""
        own = self._samples
        if not len(own) or not len(slot):
            return NO_EXEMPLARS
        low, high = np.searchsorted(own.slot, [slot.min(), slot.max() + np.uint32(1)]).tolist()
        times = own.time_ms[low:high]
        candidates = low + np.flatnonzero(self._free[low:high] & (times >= time_ms.min()) & (times <= time_ms.max()))
        if not candidates.size:
            return NO_EXEMPLARS
        # Samples and exemplars in one order, the samples of each series, time and value before their exemplars: the
        # first samples get the first exemplars, as far as there are both.
        rows = np.flatnonzero(np.isin(slot, own.slot[candidates]))
        slots = np.concatenate([slot[rows], own.slot[candidates]])
        moments = np.concatenate([time_ms[rows], own.time_ms[candidates]])
        bits = np.concatenate([value[rows], own.value[candidates]]).view(np.int64)
        is_exemplar = np.arange(len(slots)) >= len(rows)
        order = np.lexsort((is_exemplar, bits, moments, slots))
        differs = np.zeros(len(order), np.bool_)
        for column in (slots[order], moments[order], bits[order]):
            differs[1:] |= column[1:] != column[:-1]
        group = np.cumsum(differs)
        start = np.flatnonzero(np.append(True, differs[1:]))[group]
        samples = np.bincount(group, weights=~is_exemplar[order]).astype(np.int64)[group]
        number = np.arange(len(order)) - start - samples  # of an exemplar within its group
        matched = np.flatnonzero(is_exemplar[order] & (number < samples))
        claimed = candidates[order[matched] - len(rows)]
        position = rows[order[start[matched] + number[matched]]]
        self._free[claimed] = False
        by_row = np.argsort(position)
        claimed = claimed[by_row]
        return Exemplars(position[by_row], own.exemplars.trace_id[claimed], own.exemplars.span_id[claimed])
