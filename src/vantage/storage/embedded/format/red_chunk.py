"""Chunks of ``red``: rollups of requests of some time, of a service's endpoints or of many services, as bytes.

A chunk names its keys itself, so that it can be read without anything else. One covers WINDOW_BUCKETS buckets, so that
a query of an hour does not unpack a day.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
import zstandard

from vantage.core.red import MINUTE_MS, RedKey, RedKeys, RedLevel
from vantage.core.rollup import FIVE_MINUTES_MS, HOUR_MS, Partials
from vantage.storage.embedded.format.chunk import CHUNK_PARTIALS_MAX, ChunkCodec, PartialChunk, checksum

RED_WIDTHS_MS: Final[dict[RedLevel, tuple[int, ...]]] = {
    "service": (MINUTE_MS, FIVE_MINUTES_MS, HOUR_MS),
    "endpoint": (FIVE_MINUTES_MS, HOUR_MS),
}
WINDOW_BUCKETS: Final = 60
OWN_ROWS_MIN: Final = 64  # a service with fewer rows of endpoints shares a chunk with others
RED_COLUMNS: Final = frozenset({"sum", "min", "max", "sketches"})
RED_ROW: Final = "crc, keys, runs, times, counts, sums, mins, maxs, sketches"  # what ``unpack_red`` takes
T = TypeVar("T")
_encode: Final = msgspec.msgpack.Encoder().encode
_decode_keys: Final = msgspec.msgpack.Decoder(list[RedKey]).decode


@dataclass(frozen=True, slots=True)
class RedChunk:
    """A row of the table ``red``; ``service`` is '' when it has several."""

    service: str
    keys: bytes
    chunk: PartialChunk

    @property
    def nbytes(self) -> int:
        return len(self.keys) + self.chunk.nbytes

    @property
    def columns(self) -> tuple[Any, ...]:
        """Return the values from ``service`` on."""
        chunk = self.chunk
        crc = checksum(self.keys, *chunk.parts[:-1], chunk.sketches)
        sizes = (chunk.first_ms, chunk.last_ms, chunk.partials, self.nbytes, crc)
        return (self.service, *sizes, self.keys, *chunk.parts[:-1], chunk.sketches)


def pack_red(
    codec: ChunkCodec, partials: Partials, keys: Sequence[RedKey], *, level: RedLevel, width_ms: int
) -> Iterator[RedChunk]:
    """Yield the chunks of rows; ``keys`` are by code."""
    window = partials.time_ms // (width_ms * WINDOW_BUCKETS)
    for number in np.unique(window).tolist():
        in_window = partials.take(np.flatnonzero(window == number))
        for service, of_service in _by_service(in_window, keys, level):
            for start in range(0, len(of_service), CHUNK_PARTIALS_MAX):
                rows = of_service.take(np.arange(start, min(start + CHUNK_PARTIALS_MAX, len(of_service))))
                codes, local = np.unique(rows.slot, return_inverse=True)
                names = zstandard.compress(_encode([keys[code] for code in codes.tolist()]), 3)
                numbered = replace(rows, slot=local.astype(np.uint32))
                yield RedChunk(service, names, codec.pack_partials(numbered, width_ms=width_ms))


def _by_service(partials: Partials, keys: Sequence[RedKey], level: RedLevel) -> Iterator[tuple[str, Partials]]:
    """Yield the rows of each service that has many, and those of all others under ''."""
    if level == "service":
        yield "", partials
        return
    codes, index, counts = np.unique(partials.slot, return_inverse=True, return_counts=True)
    names = [keys[code].service for code in codes.tolist()]
    rows_of: dict[str, int] = {}
    for name, count in zip(names, counts.tolist(), strict=True):
        rows_of[name] = rows_of.get(name, 0) + count
    own = sorted(name for name, count in rows_of.items() if count >= OWN_ROWS_MIN)
    numbers = {name: number for number, name in enumerate(own)}
    number_of = np.array([numbers.get(name, -1) for name in names], np.int64)[index]
    for name, number in (*numbers.items(), ("", -1)):
        rows = np.flatnonzero(number_of == number)
        if rows.size:
            yield name, partials.take(rows)


def unpack_red(codec: ChunkCodec, keys: RedKeys, row: Sequence[Any], *, width_ms: int) -> Partials:
    """Return the rows of a chunk, under the codes of ``keys``. ``row`` has the columns from ``crc`` on. Raises
    ValueError."""
    crc, names, *body = row
    if checksum(names, *body) != crc:
        raise ValueError("checksum mismatch")
    decoded = decode_names(names, _decode_keys)
    partials = codec.unpack_partials(
        tuple(body[1:]), codec.unpack_runs(body[0]), width_ms=width_ms, columns=RED_COLUMNS
    )
    return with_codes(partials, [keys.code(key) for key in decoded])


def decode_names(names: bytes, decode: Callable[[bytes], list[T]]) -> list[T]:
    """Return the keys that a chunk names. Raises ValueError."""
    try:
        return decode(zstandard.decompress(names, max_output_size=1 << 28))
    except (zstandard.ZstdError, msgspec.DecodeError) as error:
        raise ValueError(str(error)) from error


def with_codes(partials: Partials, codes: Sequence[int]) -> Partials:
    """Return rows of a chunk under the codes of its keys, in their order. Raises ValueError."""
    if len(partials) and int(partials.slot.max()) >= len(codes):
        raise ValueError("rows of a key that the chunk does not name")
    return replace(partials, slot=np.array(codes, np.int64)[partials.slot].astype(np.uint32))
