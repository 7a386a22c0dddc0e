"""A part's own statistics, read without its rows: what it has of each series, and of which services it has spans."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from vantage.core.arrays import I64, U32
from vantage.storage.embedded.format.chunk import ChunkCodec, checksum
from vantage.storage.embedded.format.segment import Part

ServiceStats = dict[tuple[str, str, str, str], tuple[int, int, int]]
_encode: Final = msgspec.msgpack.Encoder().encode
_decode_columns: Final = msgspec.msgpack.Decoder(list[bytes]).decode
_decode_services: Final = msgspec.msgpack.Decoder(list[tuple[tuple[str, str, str, str], tuple[int, int, int]]]).decode


@dataclass(frozen=True, slots=True)
class SeriesStats:
    """What a part has of each of its series: samples (none in rollups), first and last time, and its share of the
    bytes."""

    slot: U32
    samples: I64
    first_ms: I64
    last_ms: I64
    nbytes: I64


def pack_series_stats(codec: ChunkCodec, counts: SeriesStats) -> bytes:
    pack = codec.packer.pack_ints
    columns = (counts.slot, counts.samples, counts.first_ms, counts.last_ms - counts.first_ms, counts.nbytes)
    return _encode([pack(column) for column in columns])


def unpack_series_stats(codec: ChunkCodec, body: bytes) -> SeriesStats:
    """Return the statistics by series. Raises ValueError."""
    slot, samples, first_ms, length_ms, nbytes = (codec.packer.unpack_ints(column) for column in _decode_columns(body))
    return SeriesStats(slot.astype(np.uint32), samples, first_ms, first_ms + length_ms, nbytes)


def unpack_service_stats(body: bytes) -> ServiceStats:
    """Return spans, first and last start by service, environment, version and instance. Raises ValueError."""
    return dict(_decode_services(body))


@dataclass(frozen=True, slots=True)
class PartStats:
    """What a part has by series, and of spans by service, environment, version and instance."""

    part: Part
    series: SeriesStats
    services: ServiceStats


def read_part_stats(db: sqlite3.Connection, codec: ChunkCodec, part: Part) -> PartStats | None:
    """Return a part's statistics, None when it was just deleted. Raises sqlite3.Error, and ValueError for damage."""
    row = db.execute("SELECT series, services, crc FROM part WHERE id=?", (part.id,)).fetchone()
    if row is None:
        return None
    series, services, crc = row
    if checksum(series, services) != crc:
        raise ValueError(f"part {part.id}: checksum mismatch")
    return PartStats(part, unpack_series_stats(codec, series), unpack_service_stats(services))


def add_up_services(parts: Iterable[ServiceStats]) -> ServiceStats:
    """Add up the spans of services."""
    totals: ServiceStats = {}
    for part in parts:
        for key, (count, first_ms, last_ms) in part.items():
            total = totals.get(key, (0, first_ms, last_ms))
            totals[key] = (total[0] + count, min(total[1], first_ms), max(total[2], last_ms))
    return totals
