"""Bytes, numbers and ids as fields of a MessagePack body, each as small as it can be: the parts of ``span_block``.

Numbers are little-endian, as narrow as they can be, bytes of equal weight together; whatever zstd (RFC 8878) makes
smaller is a zstd frame. Reading checks every length before it takes memory, and raises ValueError or ZstdError.
"""

from __future__ import annotations

from binascii import unhexlify
from typing import Final

import msgspec
import numpy as np
import zstandard

from vantage.core.arrays import I64, U64, Array
from vantage.core.idhash import Ids
from vantage.core.int_packing import (
    WIDTHS,
    add_distances,
    distances,
    pack_narrow,
    unpack_narrow,
    unzigzag,
    width_for,
    zigzag,
)
from vantage.core.sample import ID_LENGTH_MAX

LEVEL: Final = 3  # of zstd; higher ones take several times as long for a few hundredths
_WINDOW_NBYTES_MAX: Final = 1 << 23  # level 3 looks back 2 MiB
_HEX: Final = b"0123456789abcdef"


class PackedBytes(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """``nbytes`` bytes; a zstd frame where ``data`` has another length."""

    nbytes: int
    data: bytes


class PackedNumbers(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """``base``, and what is added to it: numbers of ``width`` bytes, none where the width is 0."""

    base: int
    width: int
    packed: PackedBytes


class PackedIds(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """``count`` ids of up to ``width`` characters: lower-case hex, stored as bytes, or text padded with NUL."""

    hex: bool
    width: int
    count: int
    packed: PackedBytes


class SpanColumnCodec:
    """zstd's contexts. One thread at a time."""

    def __init__(self) -> None:
        self._zip = zstandard.ZstdCompressor(level=LEVEL, write_checksum=False).compress
        self._unzip = zstandard.ZstdDecompressor(max_window_size=_WINDOW_NBYTES_MAX).decompress

    def pack(self, data: bytes) -> PackedBytes:
        zipped = self._zip(data)
        return PackedBytes(len(data), zipped if len(zipped) < len(data) else data)

    def unpack(self, packed: PackedBytes, nbytes: int) -> bytes:
        require(packed.nbytes == nbytes, "has a column of another length")
        if len(packed.data) == nbytes:
            return packed.data
        require(zstandard.frame_content_size(packed.data) == nbytes, "has a column of another length")
        data = self._unzip(packed.data)
        require(len(data) == nbytes, "has a column of another length")
        return data

    def pack_numbers(self, values: Array) -> PackedNumbers:
        """Pack integers as their distances from the smallest."""
        return self._pack_narrow(*distances(values)) if values.size else self._pack_narrow(0, np.empty(0, np.uint64))

    def unpack_numbers(self, numbers: PackedNumbers, count: int) -> I64:
        return add_distances(numbers.base, self._unpack_narrow(numbers, count))

    def pack_deltas(self, values: I64) -> PackedNumbers:
        """Pack each number as its difference from the one before; ``base`` is the first."""
        base = int(values[0]) if values.size else 0
        return self._pack_narrow(base, zigzag(np.diff(values)))  # what wraps around comes back by wrapping again

    def unpack_deltas(self, numbers: PackedNumbers, count: int) -> I64:
        values = np.full(count, numbers.base, np.int64)
        if count > 1:
            values[1:] = unzigzag(self._unpack_narrow(numbers, count - 1))
            np.cumsum(values, out=values)
        return values

    def _pack_narrow(self, base: int, rest: U64) -> PackedNumbers:
        width = width_for(int(rest.max(initial=0)))
        packed = self.pack(pack_narrow(rest, width)) if width else PackedBytes(0, b"")
        return PackedNumbers(base, width, packed)

    def _unpack_narrow(self, numbers: PackedNumbers, count: int) -> U64:
        require(numbers.width in WIDTHS, "has numbers of a strange width")
        data = self.unpack(numbers.packed, count * numbers.width) if numbers.width else b""
        return unpack_narrow(data, numbers.width, count)

    def pack_ids(self, ids: Ids) -> PackedIds:
        letters = np.ascontiguousarray(ids).view(np.uint8).reshape(len(ids), ids.dtype.itemsize)
        if not letters[:, -1].any():  # every id is padded
            width = max(1, int(np.flatnonzero((letters != 0).any(axis=0)).max(initial=0)) + 1)
            letters = letters[:, :width]
        text, width = letters.tobytes(), letters.shape[1]
        if text and width % 2 == 0 and not text.translate(None, _HEX):
            return PackedIds(True, width, len(ids), self.pack(unhexlify(text)))
        return PackedIds(False, width, len(ids), self.pack(text))

    def unpack_ids(self, ids: PackedIds, *, count_max: int) -> Ids:
        require(0 <= ids.count <= count_max and 1 <= ids.width <= ID_LENGTH_MAX, "has ids of a strange length")
        if ids.hex:
            require(ids.width % 2 == 0, "has ids of a strange length")
            data = self.unpack(ids.packed, ids.count * ids.width // 2).hex().encode("ascii")
            return np.frombuffer(data, f"S{ids.width}")
        data = self.unpack(ids.packed, ids.count * ids.width)
        letters = np.frombuffer(data, np.uint8).reshape(ids.count, ids.width)
        require(bool((letters < 128).all()), "has ids that are none")
        require(not ((letters[:, 1:] != 0) & (letters[:, :-1] == 0)).any(), "has ids that are none")
        return np.frombuffer(data, f"S{ids.width}")


def require(holds: bool, why: str) -> None:  # noqa: FBT001 - a condition, not a switch
    """Raise ValueError saying what is wrong with a block."""
    if not holds:
        raise ValueError(f"a block of spans {why}")
