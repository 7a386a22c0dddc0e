"""The index of a part's spans: the hashes of their trace ids, sorted, with the block and row of each span.

Ids are random, so an index updated row by row touches a page per entry: inserts were seven times slower with one. Here
the entries of a complete part are sorted once, when it is sealed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np

from vantage.core.arrays import I64, U64
from vantage.storage.embedded.format.chunk import checksum
from vantage.storage.embedded.format.column_codec import ColumnCodec

ENTRIES_MAX: Final = 1024  # to find an id one block is unpacked
HASH_SHIFT: Final = (
    24  # 40 bits of the hash are kept: among a million ids a false match comes once in a million look-ups
)
HASH_MAX: Final = 1 << 64 - HASH_SHIFT
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(tuple[bytes, bytes, bytes]).decode
_PLACES: Final = "SELECT DISTINCT low, high FROM id_index WHERE part_id=? AND kind='span' AND low<=? AND high>=?"
_BLOCKS: Final = "SELECT crc, body FROM id_index WHERE part_id=? AND kind='span' AND low=? AND high=?"
Entry = tuple[int, int, int, bytes]


def truncate_hash(hashes: U64) -> I64:
    """Return the bits of 64-bit hashes that the index stores."""
    return (hashes >> np.uint64(HASH_SHIFT)).astype(np.int64)


def pack_index(packer: ColumnCodec, hashes_in: I64, block_ids: I64, row: I64) -> list[Entry]:
    """Return rows of the table ``id_index`` (low, high, crc, body) for entries in any order."""
    order = np.argsort(hashes_in, kind="stable")
    entries = []
    for start in range(0, len(order), ENTRIES_MAX):
        rows = order[start : start + ENTRIES_MAX]
        hashes = hashes_in[rows]
        differences = np.diff(hashes, prepend=hashes[0])
        body = _encode([packer.pack_ints(differences), packer.pack_ints(block_ids[rows]), packer.pack_ints(row[rows])])
        entries.append((int(hashes[0]), int(hashes[-1]), checksum(body), body))
    return entries


def find_many(db: sqlite3.Connection, packer: ColumnCodec, *, part: int, hashes: I64) -> Iterator[tuple[I64, I64]]:
    """Yield blocks and rows of the entries with any of the hashes, which ascend: each block of the index is unpacked
    once. A few entries may have other ids. Raises sqlite3.Error, and ValueError for damage."""
    for low, high in db.execute(_PLACES, (part, int(hashes[-1]), int(hashes[0]))).fetchall():
        if np.searchsorted(hashes, low) == np.searchsorted(hashes, high, side="right"):
            continue
        for crc, body in db.execute(_BLOCKS, (part, low, high)):
            if checksum(body) != crc:
                raise ValueError("checksum mismatch in an index of ids")
            differences, block_ids, row = _decode(body)
            rows = np.flatnonzero(np.isin(np.cumsum(packer.unpack_ints(differences)) + low, hashes))
            if rows.size:
                yield packer.unpack_ints(block_ids, rows), packer.unpack_ints(row, rows)
