"""Chunks of ``edge``: calls between services of some time, as bytes. A chunk names its keys itself, and covers
WINDOW_BUCKETS buckets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec
import numpy as np
import zstandard

from vantage.core.rollup import Partials
from vantage.storage.edge_join import EdgeKey, EdgeKeys
from vantage.storage.embedded.format.chunk import CHUNK_PARTIALS_MAX, ChunkCodec, checksum
from vantage.storage.embedded.format.red_chunk import WINDOW_BUCKETS, decode_names, with_codes

EDGE_ROW: Final = "crc, keys, runs, times, counts, sums, maxs"  # what ``unpack_edges`` takes
_encode: Final = msgspec.msgpack.Encoder().encode
_decode_keys: Final = msgspec.msgpack.Decoder(list[EdgeKey]).decode
_COLUMNS: Final = frozenset({"sum", "max"})


def pack_edges(
    codec: ChunkCodec, partials: Partials, keys: Sequence[EdgeKey], *, width_ms: int
) -> Iterator[tuple[Any, ...]]:
    """Yield the columns of chunks from ``first_ms`` on, for rows that are sorted by code, then by time; ``keys`` are by
    code."""
    window = partials.time_ms // (width_ms * WINDOW_BUCKETS)
    for number in np.unique(window).tolist():
        of_window = np.flatnonzero(window == number)
        for start in range(0, len(of_window), CHUNK_PARTIALS_MAX):
            rows = partials.take(of_window[start : start + CHUNK_PARTIALS_MAX])
            codes, local = np.unique(rows.slot, return_inverse=True)
            names = zstandard.compress(_encode([keys[code] for code in codes.tolist()]), 3)
            chunk = codec.pack_partials(replace(rows, slot=local.astype(np.uint32)), width_ms=width_ms)
            columns = (names, chunk.runs, chunk.times, chunk.counts, chunk.sums, chunk.maxs)
            nbytes = sum(map(len, columns))
            yield (chunk.first_ms, chunk.last_ms, chunk.partials, nbytes, checksum(*columns), *columns)


def unpack_edges(codec: ChunkCodec, keys: EdgeKeys, row: Sequence[Any], *, width_ms: int) -> Partials:
    """Return the rows of a chunk, under the codes of ``keys``. ``row`` has the columns of EDGE_ROW. Raises
    ValueError."""
    crc, names, runs, times, counts, sums, maxs = row
    if checksum(*row[1:]) != crc:
        raise ValueError("checksum mismatch")
    partials = codec.unpack_partials(
        (times, counts, sums, b"", maxs, b""), codec.unpack_runs(runs), width_ms=width_ms, columns=_COLUMNS
    )
    partials = replace(partials, min=np.zeros(len(partials)))
    return with_codes(partials, [keys.code(key) for key in decode_names(names, _decode_keys)])
