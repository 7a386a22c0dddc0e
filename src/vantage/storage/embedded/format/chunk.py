"""Chunks: up to 8192 samples of neighbouring series, as bytes, and the same for partials of rollups.

Samples are sorted by series, then by time; a run is what a chunk has of one series. The directory of runs is separate
from the columns, so that a reader knows what a chunk has without unpacking it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from vantage.core.arrays import F64, I64, U32, Mask
from vantage.core.int_packing import deltas, undelta
from vantage.core.rollup import NO_SKETCHES, Partials, Sketches
from vantage.storage.embedded.format import span_column_codec
from vantage.storage.embedded.format.column_codec import ColumnCodec, rows_of

CHUNK_SAMPLES_MAX: Final = 8192
CHUNK_PARTIALS_MAX: Final = 8192
RUN_SAMPLES: Final = 256  # what a run should have: longer ones have queries unpack what is long before their range
_encode: Final = msgspec.msgpack.Encoder().encode
_decode_parts: Final = msgspec.msgpack.Decoder(list[bytes]).decode


@dataclass(frozen=True, slots=True)
class ChunkDirectory:
    """A chunk's directory: for each run its series, its number of rows, and the times of its first and last."""

    slot: U32
    count: I64
    first_ms: I64
    last_ms: I64

    def __len__(self) -> int:
        return len(self.slot)

    @property
    def rows(self) -> int:
        """Return the number of rows of the chunk."""
        return int(self.count.sum())

    def rows_of(self, wanted: Mask) -> I64:
        """Return the rows of the selected runs."""
        return np.flatnonzero(np.repeat(wanted, self.count))

    def take(self, wanted: Mask) -> ChunkDirectory:
        """Return the selected runs."""
        return ChunkDirectory(self.slot[wanted], self.count[wanted], self.first_ms[wanted], self.last_ms[wanted])


@dataclass(frozen=True, slots=True)
class SampleChunk:
    """A row of the table ``chunk``."""

    runs: bytes
    times: bytes
    vals: bytes
    crc: int
    first_ms: int
    last_ms: int
    samples: int

    @property
    def nbytes(self) -> int:
        return len(self.runs) + len(self.times) + len(self.vals)


@dataclass(frozen=True, slots=True)
class PartialChunk:
    """A row of the table ``rollup``."""

    runs: bytes
    times: bytes
    counts: bytes
    sums: bytes
    mins: bytes
    maxs: bytes
    sketches: bytes | None
    crc: int
    first_ms: int
    last_ms: int
    partials: int

    @property
    def nbytes(self) -> int:
        return sum(len(part) for part in self.parts)

    @property
    def parts(self) -> tuple[bytes, ...]:
        return (self.runs, self.times, self.counts, self.sums, self.mins, self.maxs, self.sketches or b"")


def checksum(*parts: bytes | None) -> int:
    """Return the CRC-32 (zlib's) of the parts one after another."""
    crc = 0
    for part in parts:
        crc = zlib.crc32(part or b"", crc)
    return crc


def chunk_directory(slot: U32, time_ms: I64) -> ChunkDirectory:
    """Return the runs of rows that are sorted by series."""
    first = np.flatnonzero(np.append(True, slot[1:] != slot[:-1]))
    count = np.diff(np.append(first, len(slot)))
    return ChunkDirectory(slot[first], count, time_ms[first], time_ms[first + count - 1])


def chunk_bounds(slot: U32, rows_max: int) -> Iterator[tuple[int, int]]:
    """Yield where to cut rows sorted by series into chunks.

    A chunk ends with a run where one ends in its second half, so that a longer run is spread over as few chunks as
    possible.
    """
    ends = np.append(np.flatnonzero(slot[1:] != slot[:-1]) + 1, len(slot))
    at = 0
    while at < len(slot):
        full = min(at + rows_max, len(slot))
        index = int(np.searchsorted(ends, full, side="right")) - 1
        end = int(ends[index]) if index >= 0 else 0
        if end - at < rows_max // 2:  # the run that is under way fills most of the chunk
            end = full
        yield at, end
        at = end


class ChunkCodec:
    """Packs chunks and unpacks them. One thread at a time."""

    def __init__(self) -> None:
        self.packer = ColumnCodec()
        self.ids = span_column_codec.SpanColumnCodec()

    def _pack_runs(self, runs: ChunkDirectory) -> bytes:
        pack = self.packer.pack_ints
        columns = (runs.slot, runs.count, runs.first_ms, runs.last_ms - runs.first_ms)
        return _encode([pack(column) for column in columns])

    def unpack_runs(self, body: bytes) -> ChunkDirectory:
        """Return the directory. Raises ValueError."""
        slot, count, first_ms, length_ms = self._columns(body, 4)
        if not len(slot) == len(count) == len(first_ms) == len(length_ms) or (count < 1).any():
            raise ValueError("a directory of runs that do not fit together")
        return ChunkDirectory(slot.astype(np.uint32), count, first_ms, first_ms + length_ms)

    def _columns(self, body: bytes, *numbers: int) -> list[I64]:
        return [self.packer.unpack_ints(part) for part in _parts(body, numbers)]

    def pack_samples(self, slot: U32, time_ms: I64, value: F64) -> SampleChunk:
        """Pack samples that are sorted by series, then by time."""
        runs = chunk_directory(slot, time_ms)
        directory = self._pack_runs(runs)
        times = self.packer.pack_ints(deltas(time_ms, runs.count))
        vals = self.packer.pack_floats(value, runs.count)
        crc = checksum(directory, times, vals)
        return SampleChunk(directory, times, vals, crc, int(time_ms.min()), int(time_ms.max()), len(slot))

    def unpack_times(self, body: bytes, runs: ChunkDirectory, wanted: Mask | None = None) -> I64:
        """Return the times of all runs, or of the wanted ones. Raises ValueError."""
        return self._unpack_steps(body, runs, runs.first_ms, wanted)

    def _unpack_steps(self, body: bytes, runs: ChunkDirectory, first: I64, wanted: Mask | None) -> I64:
        if wanted is None:
            differences = self.packer.unpack_ints(body)
            if len(differences) != runs.rows:
                raise ValueError("a column that does not fit the directory")
            return undelta(differences, first, runs.count)
        differences = self.packer.unpack_ints(body, rows_of(runs.count, wanted))
        return undelta(differences, first[wanted], runs.count[wanted])

    def unpack_values(self, body: bytes, runs: ChunkDirectory, wanted: Mask | None = None) -> F64:
        """Return the values of all runs, or of the wanted ones. Raises ValueError."""
        return self.packer.unpack_floats(body, runs.count, wanted)

    def pack_partials(self, partials: Partials, *, width_ms: int) -> PartialChunk:
        """Pack partials that are sorted by series, then by time."""
        runs = chunk_directory(partials.slot, partials.time_ms)
        packer = self.packer
        sketches = None
        if len(partials.sketches.key):
            sketch = partials.sketches
            sizes = np.bincount(sketch.row, minlength=len(partials))
            is_first = _firsts(sizes, len(sketch.key))
            differences = np.diff(sketch.key.astype(np.int64), prepend=0)[~is_first]
            parts = [packer.pack_ints(sizes), packer.pack_ints(sketch.key[is_first])]
            sketches = _encode([*parts, packer.pack_noise(differences), packer.pack_noise(sketch.count)])
        body = (
            self._pack_runs(runs),
            packer.pack_ints(deltas(partials.time_ms // width_ms, runs.count)),
            packer.pack_ints(partials.count),
            packer.pack_floats(partials.sum, runs.count),
            packer.pack_floats(partials.min, runs.count),
            packer.pack_floats(partials.max, runs.count),
        )
        first_ms, last_ms = int(partials.time_ms.min()), int(partials.time_ms.max())
        return PartialChunk(*body, sketches, checksum(*body, sketches), first_ms, last_ms, len(partials))

    def unpack_partials(
        self,
        body: tuple[bytes, ...],
        runs: ChunkDirectory,
        *,
        width_ms: int,
        columns: frozenset[str],
        wanted: Mask | None = None,
    ) -> Partials:
        """Return the partials of all runs, or of the wanted ones.

        ``body`` has the columns after the directory; those that ``columns`` does not name are NaN. Raises ValueError.
        """
        times, counts, sums, mins, maxs, sketches = body
        selected = runs if wanted is None else runs.take(wanted)

        def real(name: str, packed: bytes) -> F64:
            if name not in columns:
                return np.broadcast_to(np.float64(np.nan), selected.rows)
            return self.packer.unpack_floats(packed, runs.count, wanted)

        sketch = NO_SKETCHES
        if "sketches" in columns and sketches:
            sketch = self._unpack_sketches(sketches, runs.rows)
            sketch = sketch if wanted is None else sketch.take(runs.rows_of(wanted), of=runs.rows)
        partials = Partials(
            np.repeat(selected.slot, selected.count),
            self._unpack_steps(times, runs, runs.first_ms // width_ms, wanted) * width_ms,
            self.packer.unpack_ints(counts, None if wanted is None else rows_of(runs.count, wanted)),
            real("sum", sums),
            real("min", mins),
            real("max", maxs),
            sketch,
        )
        if not len(partials.time_ms) == len(partials.count) == selected.rows:
            raise ValueError("partials that do not fit the directory")
        return partials

    def _unpack_sketches(self, body: bytes, rows: int) -> Sketches:
        """Return the sketches; format 4 and earlier had one column for the first keys and the differences."""
        sizes, *keys, counts = self._columns(body, 3, 4)
        if len(sizes) != rows or int(sizes.sum()) != len(counts) or (sizes < 0).any():
            raise ValueError("sketches that do not fit together")
        if sum(len(column) for column in keys) != len(counts):
            raise ValueError("sketches that do not fit together")
        if len(keys) == 1:
            key = np.cumsum(keys[0])
        else:
            is_first = _firsts(sizes, len(counts))
            first, differences = keys
            if len(first) != np.count_nonzero(is_first):
                raise ValueError("sketches that do not fit together")
            steps = np.zeros(len(counts), np.int64)
            steps[~is_first] = differences
            total = np.cumsum(steps)
            at = np.flatnonzero(is_first)
            key = total + np.repeat(first - total[at], sizes[sizes > 0])
        return Sketches(np.repeat(np.arange(rows), sizes), key.astype(np.int32), counts)


def _firsts(sizes: I64, rows: int) -> Mask:
    """Return which of the rows are the first of their sketch."""
    is_first = np.zeros(rows, np.bool_)
    is_first[(np.cumsum(sizes) - sizes)[sizes > 0]] = True
    return is_first


def _parts(body: bytes, numbers: Sequence[int]) -> list[bytes]:
    try:
        parts = _decode_parts(body)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error
    if len(parts) not in numbers:
        raise ValueError("a chunk of another number of columns")
    return parts
