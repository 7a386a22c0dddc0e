"""Columns as bytes: integers and floats, without loss.

Every column is one zstd frame (RFC 8878) around what is described at its function; ``docs/storage.md`` says the same
for reading the files without Vantage. All numbers are little-endian.
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
import zstandard

from vantage.core.arrays import F64, I64, U8, U64, Array, Mask
from vantage.core.int_packing import (
    U64_MAX,
    WIDTHS,
    Rows,
    add_distances,
    byte_shuffle,
    byte_unshuffle,
    deltas,
    distances,
    pack_narrow,
    run_starts,
    undelta,
    unpack_narrow,
    unzigzag,
    width_for,
    zigzag,
)

LEVEL: Final = 3
PACKED_NBYTES_MAX: Final = 64 << 20  # no column of a sound file unpacks to more
DIGITS_MAX: Final = 9
RAW: Final = 255  # in place of a number of digits: the floats as they are
_NOISE: Final = zstandard.ZstdCompressionParameters(
    window_log=20, hash_log=6, min_match=7, strategy=zstandard.STRATEGY_FAST, write_content_size=1, write_checksum=0
)
_EXACT: Final = float(1 << 53)
_INTS: Final = struct.Struct("<BIQ")  # width in bytes, count, smallest value (two's complement)
_STEPPED: Final = 16  # added to a run's number of digits: steps are kept, not distances from the smallest
_POWERS: Final = 10.0 ** np.arange(DIGITS_MAX + 1)
_WIDTH_BYTES: Final = frozenset(WIDTHS)


class ColumnCodec:
    """zstd's contexts, which are expensive to create. One thread at a time."""

    def __init__(self) -> None:
        self._compress = zstandard.ZstdCompressor(level=LEVEL, write_checksum=False).compress
        self._compress_noise = zstandard.ZstdCompressor(compression_params=_NOISE).compress
        self._decompress = zstandard.ZstdDecompressor().decompress

    def pack(self, data: bytes) -> bytes:
        return self._compress(data)

    def unpack(self, packed: bytes) -> bytes:
        """Decompress a column. Raises ValueError for bytes that are no frame, or far too large."""
        try:
            size = zstandard.frame_content_size(packed)
            if not 0 <= size <= PACKED_NBYTES_MAX:
                raise ValueError("a column of an impossible size")
            data: bytes = self._decompress(packed)
        except zstandard.ZstdError as error:
            raise ValueError(f"a column that cannot be unpacked: {error}") from error
        return data

    def pack_ints(self, values: Array) -> bytes:
        """Pack int64 values as unsigned distances from the smallest, in 0, 1, 2, 4 or 8 bytes each, bytes of equal
        weight together."""
        return self.pack(_write_ints_raw(values))

    def pack_noise(self, values: Array) -> bytes:
        """Pack int64 values as ``pack_ints`` does, for those that hardly ever repeat in a row: zstd then codes single
        bytes, where searching for repeats makes it a tenth larger."""
        return self._compress_noise(_write_ints_raw(values))

    def unpack_ints(self, packed: bytes, rows: Rows | None = None) -> I64:
        """Return all values, or the given rows. Raises ValueError."""
        values, rest = _read_ints(self.unpack(packed), rows)
        if rest:
            raise ValueError("bytes are left behind a column")
        return values

    def pack_floats(self, values: F64, counts: I64) -> bytes:
        """Pack floats run by run (``counts`` rows each).

        A run whose every float is a decimal fraction of at most 9 digits is stored as integers: the numerators, or
        (where that is shorter) their differences.
        """
        return self.pack(_write_floats_raw(values, counts))

    def unpack_floats(self, packed: bytes, counts: I64, wanted: Mask | None = None) -> F64:
        """Return all floats, or those of the wanted runs. Raises ValueError."""
        return _read_floats(self.unpack(packed), counts, wanted)


def _write_ints_raw(values: Array) -> bytes:
    if not len(values):
        return _INTS.pack(0, 0, 0)
    low, rest = distances(values)
    width = width_for(int(rest.max()))
    return _INTS.pack(width, len(values), low & U64_MAX) + pack_narrow(rest, width)


def _read_ints(data: bytes | memoryview, rows: Rows | None = None) -> tuple[I64, memoryview]:
    view = memoryview(data)
    if len(view) < _INTS.size:
        raise ValueError("a column that ends early")
    width, count, low = _INTS.unpack_from(view)
    if width not in WIDTHS or count * 8 > PACKED_NBYTES_MAX:
        raise ValueError("a column of no known width")
    end = _INTS.size + width * count
    if end > len(view) or (rows is not None and _end(rows) > count):
        raise ValueError("a column that ends early")
    return add_distances(low, unpack_narrow(view[_INTS.size : end], width, count, rows)), view[end:]


def rows_of(counts: I64, wanted: Mask) -> Rows:
    """Return the rows of the wanted runs (``counts`` rows each). Wanted series are mostly neighbours, and so are their
    rows."""
    runs = np.flatnonzero(wanted)
    if not runs.size:
        return slice(0, 0)
    first, last = int(runs[0]), int(runs[-1])
    if last - first + 1 == runs.size:
        start = int(counts[:first].sum())
        return slice(start, start + int(counts[first : last + 1].sum()))
    return np.flatnonzero(np.repeat(wanted, counts))


def _end(rows: Rows) -> int:
    """Return one after the last row."""
    if isinstance(rows, slice):
        return int(rows.stop)
    return int(rows[-1]) + 1 if len(rows) else 0


def _digits(values: F64, counts: I64) -> U8:
    """Return for each run the fewest decimal digits that represent all its floats exactly, or RAW."""
    digits_of = np.full(len(counts), RAW, np.uint8)
    left = np.arange(len(counts))
    for digits in (DIGITS_MAX, *range(DIGITS_MAX)):
        if not left.size:
            break
        scale = 10.0**digits
        with np.errstate(over="ignore"):
            numerators = np.rint(values * scale) + 0.0  # -0.0 becomes 0.0, and is then not exact
        small = np.abs(numerators) < _EXACT
        exact = small & ((numerators / scale).view(np.int64) == values.view(np.int64))
        at = run_starts(counts[left])
        fits = np.logical_and.reduceat(exact, at)
        digits_of[left[fits]] = digits
        # What 9 digits cannot tell, fewer cannot either; a numerator too large for a float proves nothing.
        keep = ~np.logical_or.reduceat(small & ~exact, at) if digits == DIGITS_MAX else ~fits
        if not keep.all():
            values = values[np.repeat(keep, counts[left])]
            left = left[keep]
    return digits_of


def _bits(values: U64) -> I64:
    """Return nearly how many bits each number needs."""
    return np.frexp(values.astype(np.float64))[1].astype(np.int64)


def _write_floats_raw(values: F64, counts: I64) -> bytes:
    digits = _digits(values, counts) if len(values) else np.empty(0, np.uint8)
    whole_run = digits != RAW
    of_whole = np.repeat(whole_run, counts)
    decimal_counts = counts[whole_run]
    scale = np.repeat(_POWERS[digits[whole_run]], decimal_counts)
    numerators = np.rint(values[of_whole] * scale).astype(np.int64)
    start = run_starts(decimal_counts)
    if len(decimal_counts):
        lowest = np.minimum.reduceat(numerators, start)
        distance = (numerators - np.repeat(lowest, decimal_counts)).view(np.uint64)
        step = zigzag(deltas(numerators, decimal_counts))
        stepped = np.add.reduceat(_bits(step) - _bits(distance), start) < 0
        first = np.where(stepped, numerators[start], lowest)
        rest = np.where(np.repeat(stepped, decimal_counts), step, distance)
        width = np.array([width_for(largest) for largest in np.maximum.reduceat(rest, start).tolist()], np.uint8)
    else:
        stepped, first, rest, width = np.empty(0, bool), numerators, numerators.view(np.uint64), np.empty(0, np.uint8)
    modes = digits.copy()
    modes[whole_run] += np.where(stepped, _STEPPED, 0).astype(np.uint8)
    wide = np.repeat(width, decimal_counts)
    streams = [pack_narrow(rest[wide == byte_width], byte_width) for byte_width in WIDTHS[1:]]
    return b"".join(
        (
            modes.tobytes(),
            width.tobytes(),
            _write_ints_raw(first),
            *streams,
            byte_shuffle(values[~of_whole].view(np.uint64)),
        )
    )


def _read_floats(data: bytes, counts: I64, wanted: Mask | None) -> F64:
    runs = len(counts)
    view = memoryview(data)
    modes = np.frombuffer(view[:runs], np.uint8)
    if len(modes) != runs or (counts < 1).any():
        raise ValueError("a column that ends early")
    decimal = modes != RAW
    number = int(np.count_nonzero(decimal))
    widths = np.frombuffer(view[runs : runs + number], np.uint8)
    first, rest = _read_ints(view[runs + number :])
    if len(first) != number or len(widths) != number or not _WIDTH_BYTES.issuperset(widths.tobytes()):
        raise ValueError("runs of floats that do not fit together")
    of: slice | Mask = slice(None) if number == runs else decimal
    offsets, rest = _read_numerators(rest, counts[of], widths, None if wanted is None else wanted[of])
    selected = slice(None) if wanted is None else wanted[of]
    floats = _fractions(offsets, first[selected], counts[of][selected], modes[of][selected])
    if number == runs:
        if rest:
            raise ValueError("bytes are left behind a column")
        return floats
    raw_counts = counts[~decimal]
    raw_rows = None if wanted is None else rows_of(raw_counts, wanted[~decimal])
    raw = byte_unshuffle(rest, np.uint64, int(raw_counts.sum()), raw_rows).view(np.float64)
    if wanted is not None:
        counts, decimal = counts[wanted], decimal[wanted]
    values = np.empty(int(counts.sum()), np.float64)
    of_decimals = np.repeat(decimal, counts)
    values[of_decimals], values[~of_decimals] = floats, raw
    return values


def _read_numerators(rest: memoryview, counts: I64, widths: U8, wanted: Mask | None) -> tuple[U64, memoryview]:
    """Return what is added to each run's first number, one stream per width, and the bytes after the streams."""
    selected_counts = counts if wanted is None else counts[wanted]
    offsets = np.zeros(int(selected_counts.sum()), np.uint64)
    for width in sorted(set(widths.tobytes()) - {0}):
        of_width = widths == width
        width_counts = counts[of_width]
        size = int(width_counts.sum())
        stream, rest = rest[: size * width], rest[size * width :]
        rows = None if wanted is None else rows_of(width_counts, wanted[of_width])
        numbers = unpack_narrow(stream, width, size, rows)
        if len(numbers) == len(offsets):
            return numbers, _skipped(rest, counts, widths, width)
        offsets[np.repeat(of_width if wanted is None else of_width[wanted], selected_counts)] = numbers
    return offsets, rest


def _skipped(rest: memoryview, counts: I64, widths: U8, after: int) -> memoryview:
    return rest[int((counts * widths)[widths > after].sum()) :]


def _fractions(offsets: U64, first: I64, counts: I64, modes: U8) -> F64:
    """Return floats from numerators, or from their differences, and their numbers of digits."""
    stepped, digits = modes & _STEPPED, modes & (_STEPPED - 1)
    if (digits > DIGITS_MAX).any():
        raise ValueError("runs of floats that do not fit together")
    if not len(counts):
        return np.empty(0, np.float64)
    numerators = np.repeat(first, counts) + offsets.view(np.int64)
    if stepped.any():
        is_stepped = stepped > 0
        rows = rows_of(counts, is_stepped)
        numerators[rows] = undelta(unzigzag(offsets[rows]), first[is_stepped], counts[is_stepped])
    same = bool((digits == digits[0]).all())
    floats: F64 = numerators / (_POWERS[digits[0]] if same else np.repeat(_POWERS[digits], counts))
    return floats
