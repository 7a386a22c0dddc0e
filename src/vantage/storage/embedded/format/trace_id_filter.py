"""Which trace ids a part does not have: a look-up of a trace then reads nothing of nearly every other part.

A Bloom filter (Bloom, 1970) of the hashes of a part's trace ids, those of its spans and of its exemplars. With 10 bits
an id and 7 probes it takes one absent id in a hundred for a present one, and never the other way.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Final

import numpy as np

from vantage.core.arrays import I64, U8, U64, Mask
from vantage.storage.embedded.format.chunk import checksum
from vantage.storage.embedded.format.trace_id_index import HASH_MAX, Entry

KIND: Final = "filter"
SLICE_IDS: Final = 1 << 16  # about; a filter is read by the slice
SLICES_MAX: Final = 64
_BITS_PER_ID: Final = 10
_PROBES: Final = 7
_HASH_BITS: Final = HASH_MAX.bit_length() - 1
_MULTIPLIER: Final = 0x9E3779B97F4A7C15
_ALL: Final = (1 << 64) - 1
_STEP_SHIFT: Final = 24
_ROWS: Final = "SELECT id, length(body) FROM id_index WHERE part_id=? AND kind='filter' ORDER BY low"
_BODY: Final = "SELECT crc, body FROM id_index WHERE id=?"


def pack_filter(hashes: I64) -> Iterator[Entry]:
    """Yield rows of the table ``id_index`` (low, high, crc, body) for truncated hashes in any order: one for each of
    2**n equal slices of their range."""
    hashes = np.unique(hashes)
    slices = 1
    while slices < SLICES_MAX and len(hashes) > SLICE_IDS * slices:
        slices *= 2
    width = HASH_MAX // slices
    for low in range(0, HASH_MAX, width):
        first, end = np.searchsorted(hashes, [low, low + width]).tolist()
        bits = np.zeros(max(64, -(-_BITS_PER_ID * (end - first) // 8) * 8), np.bool_)
        for numbers in _bits_of(hashes[first:end], len(bits)):
            bits[numbers] = True
        body = np.packbits(bits, bitorder="little").tobytes()
        yield low, low + width - 1, checksum(body), body


def may_contain(body: bytes, hashes: I64) -> Mask:
    """Return for each hash of a slice whether it may be in the slice's filter."""
    octets: U8 = np.frombuffer(body, np.uint8)
    present = np.ones(len(hashes), np.bool_)
    for numbers in _bits_of(hashes, 8 * len(octets)):
        present &= (octets[numbers >> np.uint64(3)] >> (numbers & np.uint64(7)).astype(np.uint8)) & 1 > 0
    return present


def _bits_of(hashes: I64, bits: int) -> Iterator[U64]:
    """Yield the bits of each hash, one probe after the other: Kirsch and Mitzenmacher, "Less Hashing, Same Performance"
    (2006)."""
    probe = hashes.astype(np.uint64)
    step = probe * np.uint64(_MULTIPLIER) >> np.uint64(_STEP_SHIFT) | np.uint64(1)
    for _ in range(_PROBES):
        yield probe % np.uint64(bits)
        probe = probe + step


class TraceIdFilter:
    """The filter of a part. A slice is read when it is first looked at. Any thread, with a connection of its own."""

    def __init__(self, db: sqlite3.Connection, part: int) -> None:
        """Read what slices there are. Raises sqlite3.Error."""
        rows = db.execute(_ROWS, (part,)).fetchall()
        self._ids = [row for row, _ in rows]
        self._bodies: list[bytes | None] = [None] * len(rows)
        self.size = 200 + sum(nbytes for _, nbytes in rows)

    def may_contain(self, db: sqlite3.Connection, trace_hash: int) -> bool:
        """Return whether the part may have a trace id of this truncated hash: always where it has no filter, as parts
        of earlier versions, or a damaged one. Raises sqlite3.Error."""
        if not self._ids:
            return True
        body = self._slice(db, trace_hash * len(self._ids) >> _HASH_BITS)
        return body is None or _has(body, trace_hash)

    def possible(self, db: sqlite3.Connection, hashes: I64) -> Mask:
        """Return the same for many hashes, which ascend."""
        mask = np.ones(len(hashes), np.bool_)
        width = HASH_MAX // max(1, len(self._ids))
        bounds = np.searchsorted(hashes, np.arange(len(self._ids) + 1) * width).tolist()
        for number in range(len(self._ids)):
            rows = slice(bounds[number], bounds[number + 1])
            if rows.start < rows.stop and (body := self._slice(db, number)) is not None:
                mask[rows] = may_contain(body, hashes[rows])
        return mask

    def _slice(self, db: sqlite3.Connection, number: int) -> bytes | None:
        """Return a slice, None where it cannot be read."""
        body = self._bodies[number]
        if body is None:
            row = db.execute(_BODY, (self._ids[number],)).fetchone()
            if row is None or checksum(row[1]) != row[0]:
                return None
            body = self._bodies[number] = row[1]
        return body


def _has(body: bytes, trace_hash: int) -> bool:
    """Return what ``may_contain`` does, for one hash: without numpy, whose calls take longer."""
    probe, bits = trace_hash, 8 * len(body)
    step = (trace_hash * _MULTIPLIER & _ALL) >> _STEP_SHIFT | 1
    for _ in range(_PROBES):
        bit = probe % bits
        if not body[bit >> 3] >> (bit & 7) & 1:
            return False
        probe += step
    return True
