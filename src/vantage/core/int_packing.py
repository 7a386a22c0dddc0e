"""Integers in few bytes: the narrowest width that holds them, bytes of equal weight together, small deltas.

The byte order is little-endian. Both formats of column that segments hold are made of these pieces.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from vantage.core.arrays import I64, U64, Array

Rows = I64 | slice  # ascending row numbers, or neighbouring rows
WIDTHS: Final = (0, 1, 2, 4, 8)  # bytes a number; 0 where every number is 0
U64_MAX: Final = (1 << 64) - 1
_DTYPES: Final[dict[int, np.dtype[Any]]] = {
    0: np.dtype("<u1"),
    1: np.dtype("<u1"),
    2: np.dtype("<u2"),
    4: np.dtype("<u4"),
    8: np.dtype("<u8"),
}


def width_for(largest: int) -> int:
    """Return the bytes that hold every number up to ``largest``: 0, 1, 2, 4 or 8."""
    if not largest:
        return 0
    return next(width for width in WIDTHS[1:] if largest < 1 << (8 * width))


def distances(values: Array) -> tuple[int, U64]:
    """Return the smallest of at least one int64 value, and each value's distance from it."""
    ints = values.astype(np.int64, copy=False)
    low = int(ints.min())
    return low, ints.view(np.uint64) - np.uint64(low & U64_MAX)  # modulo 2**64: any two int64 have a distance


def add_distances(low: int, numbers: U64) -> I64:
    """Return the inverse of ``distances``; ``low`` may be given modulo 2**64."""
    return (numbers + np.uint64(low & U64_MAX)).view(np.int64)


def pack_narrow(numbers: U64, width: int) -> bytes:
    """Return numbers in ``width`` bytes each, bytes of equal weight together; nothing at width 0."""
    return byte_shuffle(numbers.astype(_DTYPES[width])) if width else b""


def unpack_narrow(data: bytes | memoryview, width: int, count: int, rows: Rows | None = None) -> U64:
    """Return all ``count`` numbers of ``pack_narrow``, or only some rows. Raises ValueError for another length."""
    if not width:
        return np.zeros(count if rows is None else row_count(rows), np.uint64)
    return byte_unshuffle(data, _DTYPES[width], count, rows).astype(np.uint64)


def byte_shuffle(values: Array) -> bytes:
    """Return the bytes of fixed-width numbers, those of equal weight together."""
    width = values.dtype.itemsize
    planes = np.empty((width, len(values)), np.uint8)
    rows = values.view(np.uint8).reshape(-1, width)
    for weight in range(width):  # plane by plane numpy is several times faster than with a transposed array
        planes[weight] = rows[:, weight]
    return planes.tobytes()


def byte_unshuffle(data: bytes | memoryview, dtype: Any, count: int, rows: Rows | None = None) -> Array:
    """Return the inverse of ``byte_shuffle``, of all ``count`` numbers or only some rows. Raises ValueError."""
    width = np.dtype(dtype).itemsize
    if len(data) != count * width:
        raise ValueError("a column of the wrong length")
    planes = np.frombuffer(data, np.uint8).reshape(width, count)
    if rows is not None:
        planes = planes[:, rows]
    shuffled = np.empty((planes.shape[1], width), np.uint8)
    for weight, plane in enumerate(planes):
        shuffled[:, weight] = plane
    numbers: Array = shuffled.view(dtype)
    return numbers.reshape(len(shuffled))


def row_count(rows: Rows) -> int:
    """Return how many rows are selected."""
    return int(rows.stop - rows.start) if isinstance(rows, slice) else len(rows)


def zigzag(values: I64) -> U64:
    """Map small numbers of either sign to small unsigned ones: 0, -1, 1, -2 … to 0, 1, 2, 3 …"""
    numbers: U64 = ((values << 1) ^ (values >> 63)).view(np.uint64)
    return numbers


def unzigzag(numbers: U64) -> I64:
    """Return the inverse of ``zigzag``."""
    values: I64 = (numbers >> np.uint64(1)).view(np.int64) ^ -(numbers & np.uint64(1)).view(np.int64)
    return values


def run_starts(counts: I64) -> I64:
    """Return the first row of each run of ``counts`` rows."""
    starts: I64 = np.cumsum(counts) - counts
    return starts


def deltas(values: I64, counts: I64) -> I64:
    """Return each value's difference from the row before, run by run (``counts`` rows each).

    A run's first row has none: it repeats the second one's, which compresses best.
    """
    differences = np.zeros(len(values), np.int64)
    np.subtract(values[1:], values[:-1], out=differences[1:])
    starts = run_starts(counts)
    differences[starts] = np.where(counts > 1, differences[np.minimum(starts + 1, len(values) - 1)], 0)
    return differences


def undelta(differences: I64, first: I64, counts: I64) -> I64:
    """Return the inverse of ``deltas``, given each run's first value."""
    values: I64 = np.cumsum(differences)
    values += np.repeat(first - values[run_starts(counts)], counts)
    return values
