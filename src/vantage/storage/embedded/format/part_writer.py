"""Writing a part into a segment: rows in short slices, then the part's own row, which makes them count."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec
import numpy as np
import zstandard

from vantage.core.arrays import I64, U32
from vantage.core.red import RedKey, RedLevel
from vantage.core.rollup import Partials
from vantage.core.sample_columns import SampleColumns
from vantage.core.span_table import SpanTable
from vantage.storage.edge_join import EdgeKey
from vantage.storage.embedded.format import span_block
from vantage.storage.embedded.format.chunk import (
    CHUNK_PARTIALS_MAX,
    CHUNK_SAMPLES_MAX,
    ChunkCodec,
    ChunkDirectory,
    SampleChunk,
    checksum,
    chunk_bounds,
)
from vantage.storage.embedded.format.edge_chunk import pack_edges
from vantage.storage.embedded.format.exemplars import SortedExemplars, exemplar_blocks
from vantage.storage.embedded.format.part_stats import SeriesStats, ServiceStats, pack_series_stats
from vantage.storage.embedded.format.red_chunk import pack_red
from vantage.storage.embedded.format.segment import SAMPLES, Part, SegmentWriter
from vantage.storage.embedded.format.span_services import services_of_block
from vantage.storage.embedded.format.trace_id_filter import pack_filter
from vantage.storage.embedded.format.trace_id_index import pack_index, truncate_hash
from vantage.storage.trace_summary import ServiceKey, count_by_service

SLICE_NBYTES: Final = 256 << 10  # written in one transaction, a few milliseconds of the disk
SPAN_BLOCK_ROWS: Final = 4096
SPAN_BLOCK_NBYTES: Final = 16 << 20  # in memory
FilledTable = Literal["red_filled", "edge_filled"]
_PART_SHIFT: Final = 32
_encode: Final = msgspec.msgpack.Encoder().encode
_decode_identities: Final = msgspec.msgpack.Decoder(list[tuple[int, bytes]]).decode


@dataclass(slots=True)
class _StatsBuilder:
    """Collects ``SeriesStats`` chunk by chunk."""

    slots: list[U32] = field(default_factory=list)
    samples: list[I64] = field(default_factory=list)
    firsts: list[I64] = field(default_factory=list)
    lasts: list[I64] = field(default_factory=list)
    nbytes: list[I64] = field(default_factory=list)

    def add(self, runs: ChunkDirectory, nbytes: int) -> None:
        rows = int(runs.count.sum())
        self.slots.append(runs.slot)
        self.samples.append(runs.count)
        self.firsts.append(runs.first_ms)
        self.lasts.append(runs.last_ms)
        self.nbytes.append(-(-runs.count * nbytes // rows))  # rounded up: nothing takes no space

    def add_exemplars(self, slot: U32, nbytes: int) -> None:
        """Add the bytes of exemplars to their series; samples and times are counted with the chunks."""
        distinct, exemplars = np.unique(slot, return_counts=True)
        self.slots.append(distinct)
        self.samples.append(np.zeros(len(distinct), np.int64))
        self.firsts.append(np.full(len(distinct), np.iinfo(np.int64).max))
        self.lasts.append(np.full(len(distinct), np.iinfo(np.int64).min))
        self.nbytes.append(-(-exemplars * nbytes // len(slot)))

    def by_series(self, *, of_rollups: bool) -> SeriesStats:
        if not self.slots:
            nothing = np.empty(0, np.int64)
            return SeriesStats(np.empty(0, np.uint32), nothing, nothing, nothing, nothing)
        slot, index = np.unique(np.concatenate(self.slots), return_inverse=True)
        first = np.full(len(slot), np.iinfo(np.int64).max)
        last = np.full(len(slot), np.iinfo(np.int64).min)
        np.minimum.at(first, index, np.concatenate(self.firsts))
        np.maximum.at(last, index, np.concatenate(self.lasts))
        samples, nbytes = np.zeros(len(slot), np.int64), np.zeros(len(slot), np.int64)
        np.add.at(nbytes, index, np.concatenate(self.nbytes))
        if not of_rollups:
            np.add.at(samples, index, np.concatenate(self.samples))
        return SeriesStats(slot, samples, first, last, nbytes)


class PartWriter:
    """Writes one part. ``on_slice`` is called between slices, outside any transaction. Raises sqlite3.Error."""

    def __init__(
        self,
        writer: SegmentWriter,
        codec: ChunkCodec,
        *,
        part_id: int,
        identities: Callable[[U32], Mapping[int, bytes]],
        on_slice: Callable[[], None],
    ) -> None:
        self._writer = writer
        self._codec = codec
        self._identities = identities
        self._on_slice = on_slice
        self.part_id = part_id
        self._waiting: list[tuple[str, tuple[object, ...]]] = []
        self._waiting_nbytes = 0
        self._nbytes = 0
        self._samples = self._spans = 0
        self._first_ms, self._last_ms = np.iinfo(np.int64).max, np.iinfo(np.int64).min
        self._stats = _StatsBuilder()
        self._services: ServiceStats = {}
        self._span_index: list[tuple[I64, I64, I64]] = []  # of spans: what is kept of their hashes, block, row
        self._trace_hashes: list[I64] = []  # of exemplars
        self._next_id = part_id << _PART_SHIFT  # ids need no agreement with other parts that are being written

    @property
    def is_empty(self) -> bool:
        """Return whether nothing was written."""
        return not self._nbytes

    def _id(self) -> int:
        self._next_id += 1
        return self._next_id

    def _insert(self, sql: str, row: tuple[object, ...], nbytes: int) -> None:
        self._waiting.append((sql, row))
        self._waiting_nbytes += nbytes
        self._nbytes += nbytes
        if self._waiting_nbytes >= SLICE_NBYTES:
            self._flush()
            self._on_slice()

    def _flush(self) -> None:
        with self._writer.slice() as db:
            for sql, row in self._waiting:
                db.execute(sql, row)
        self._writer.sync_written(self._waiting_nbytes)
        self._waiting, self._waiting_nbytes = [], 0

    def _grow(self, first_ms: int, last_ms: int) -> None:
        self._first_ms, self._last_ms = min(self._first_ms, first_ms), max(self._last_ms, last_ms)

    def samples(self, samples: SampleColumns) -> None:
        """Write samples that are in storage order, chunk by chunk."""
        for start, end in chunk_bounds(samples.slot, CHUNK_SAMPLES_MAX):
            self._chunk(samples.slice(start, end))

    def _chunk(self, samples: SampleColumns) -> None:
        chunk = self._codec.pack_samples(samples.slot, samples.time_ms, samples.value)
        self.chunk(chunk, self._codec.unpack_runs(chunk.runs))

    def chunk(self, chunk: SampleChunk, directory: ChunkDirectory) -> None:
        """Write a chunk that is packed already, and has this directory."""
        nbytes = chunk.nbytes
        self._insert(
            "INSERT INTO chunk VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (self._id(), self.part_id, chunk.first_ms, chunk.last_ms, chunk.samples, nbytes, chunk.crc,
             chunk.runs, chunk.times, chunk.vals),
            nbytes,
        )  # fmt: skip
        self._samples += chunk.samples
        self._grow(chunk.first_ms, chunk.last_ms)
        self._stats.add(directory, nbytes)

    def exemplars(self, exemplars: SortedExemplars) -> None:
        """Write exemplars, whose hashes come after those written before."""
        for block_samples, block in exemplar_blocks(self._codec, exemplars):
            row = (self._id(), self.part_id, *block.columns)
            self._insert("INSERT INTO exemplar VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row, block.nbytes)
            self._stats.add_exemplars(block_samples.slot, block.nbytes)
        self._trace_hashes.append(np.unique(exemplars.hashes))

    def spans(self, table: SpanTable) -> None:
        """Write spans that are sorted by start, block by block."""
        # Spans may carry much text: a block is read as a whole, so it has a bound in bytes as well.
        rows = max(1, min(SPAN_BLOCK_ROWS, SPAN_BLOCK_NBYTES * len(table) // max(1, table.nbytes)))
        for start in range(0, len(table), rows):
            block = table.take(np.arange(start, min(start + rows, len(table))))
            body = span_block.encode(block)
            block_id = self._id()
            starts = block.start_ms
            first_ms, last_ms = int(starts.min()), int(starts.max())
            self._insert(
                "INSERT INTO span_block VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (block_id, self.part_id, first_ms, last_ms, len(block), int(block.duration_ns.max()),
                 services_of_block(block), body),
                len(body),
            )  # fmt: skip
            hashes = truncate_hash(block.trace_hashes())
            self._span_index.append((hashes, np.full(len(hashes), block_id), np.arange(len(hashes))))
            self._spans += len(block)
            self._grow(first_ms, last_ms)
            for key, (count, first, last) in count_by_service(block).items():
                total = self._services.get(key, (0, first, last))
                self._services[key] = (total[0] + count, min(total[1], first), max(total[2], last))

    def partials(self, partials: Partials, *, width_ms: int) -> None:
        """Write partials that are in storage order, chunk by chunk."""
        for start, end in chunk_bounds(partials.slot, CHUNK_PARTIALS_MAX):
            chunk = self._codec.pack_partials(partials.take(np.arange(start, end)), width_ms=width_ms)
            self._insert(
                "INSERT INTO rollup VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (self._id(), self.part_id, width_ms, chunk.first_ms, chunk.last_ms, chunk.partials,
                 chunk.nbytes, chunk.crc, *chunk.parts[:-1], chunk.sketches),
                chunk.nbytes,
            )  # fmt: skip
            self._grow(chunk.first_ms, chunk.last_ms)
            self._stats.add(self._codec.unpack_runs(chunk.runs), chunk.nbytes)

    def red(self, partials: Partials, keys: Sequence[RedKey], *, level: RedLevel, width_ms: int) -> None:
        """Write rollups of requests; ``keys`` are by code."""
        for chunk in pack_red(self._codec, partials, keys, level=level, width_ms=width_ms):
            self._insert(
                "INSERT INTO red VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (self._id(), self.part_id, level, width_ms, *chunk.columns),
                chunk.nbytes,
            )
            self._grow(chunk.chunk.first_ms, chunk.chunk.last_ms)
        for code, first_ms, last_ms in _times_by_code(partials):
            key = keys[code]
            self._name((key.service, key.environment, key.version, ""), first_ms, last_ms)

    def edges(self, partials: Partials, keys: Sequence[EdgeKey], *, width_ms: int) -> None:
        """Write edges that are sorted by code, then by time; ``keys`` are by code."""
        for columns in pack_edges(self._codec, partials, keys, width_ms=width_ms):
            first_ms, last_ms, _, nbytes, *_ = columns
            self._insert(
                "INSERT INTO edge VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (self._id(), self.part_id, width_ms, *columns),
                nbytes,
            )
            self._grow(first_ms, last_ms)
        for code, first_ms, last_ms in _times_by_code(partials):
            for service, environment in keys[code].sides:
                self._name((service, environment, "", ""), first_ms, last_ms)

    def _name(self, name: ServiceKey, first_ms: int, last_ms: int) -> None:
        """Note that rollups name a service."""
        _, earliest, latest = self._services.get(name, (0, first_ms, last_ms))
        self._services[name] = (0, min(earliest, first_ms), max(latest, last_ms))

    def finish(
        self, *, generation: int, level: int, replaces: Iterable[int] = (), fills: tuple[FilledTable, int] | None = None
    ) -> Part:
        """Write the part's row, and delete those of the parts it replaces, in one transaction. ``fills``: the table
        that notes it, and the part of samples whose rollups of requests or edges it has."""
        if self._span_index:
            hashes, block_ids, row = (np.concatenate(columns) for columns in zip(*self._span_index, strict=True))
            for low, high, crc, body in pack_index(self._codec.packer, hashes, block_ids, row):
                values = (self.part_id, low, high, crc, body)
                self._insert("INSERT INTO id_index VALUES (NULL, ?, 'span', ?, ?, ?, ?)", values, len(body))
            self._trace_hashes.append(hashes)
        if self._trace_hashes:
            for low, high, crc, body in pack_filter(np.concatenate(self._trace_hashes)):
                values = (self.part_id, low, high, crc, body)
                self._insert("INSERT INTO id_index VALUES (NULL, ?, 'filter', ?, ?, ?, ?)", values, len(body))
        counts = self._stats.by_series(of_rollups=self._writer.tier != SAMPLES)
        series = pack_series_stats(self._codec, counts)
        services = _encode(list(self._services.items()))
        part = Part(
            self.part_id, generation, level, self._samples, self._spans,
            int(self._first_ms), int(self._last_ms), self._nbytes,
        )  # fmt: skip
        values_of_part = (*_fields(part), series, services, checksum(series, services))
        self._waiting.append(("INSERT INTO part VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values_of_part))
        self._waiting += [("DELETE FROM part WHERE id=?", (old,)) for old in replaces]
        if fills is not None:
            table, samples_part = fills
            self._waiting.append((f"INSERT OR IGNORE INTO {table} VALUES (?)", (samples_part,)))  # noqa: S608 - of ours
        if body := self._new_identities(counts.slot):
            self._waiting.append(("INSERT INTO series VALUES (NULL, ?, ?)", (checksum(body), body)))
        self._flush()
        return part

    def _new_identities(self, slots: U32) -> bytes:
        """Return the identities of series that the file lacks: it can then be read without the journal."""
        written: set[int] = set()
        for crc, body in self._writer.db.execute("SELECT crc, body FROM series"):
            if checksum(body) == crc:
                written.update(slot for slot, _ in read_identities(body))
        missing = [(slot, identity) for slot, identity in self._identities(slots).items() if slot not in written]
        return zstandard.ZstdCompressor(level=3).compress(_encode(missing)) if missing else b""


def read_identities(body: bytes) -> list[tuple[int, bytes]]:
    """Return slots and canonical identities of a row of ``series``. Raises ValueError."""
    try:
        return _decode_identities(zstandard.ZstdDecompressor().decompress(body))
    except (zstandard.ZstdError, msgspec.DecodeError) as error:
        raise ValueError(str(error)) from error


def _times_by_code(partials: Partials) -> Iterator[tuple[int, int, int]]:
    """Yield each code with its first and last time."""
    codes, index = np.unique(partials.slot, return_inverse=True)
    first, last = np.full(len(codes), np.iinfo(np.int64).max), np.zeros(len(codes), np.int64)
    np.minimum.at(first, index, partials.time_ms)
    np.maximum.at(last, index, partials.time_ms)
    return zip(codes.tolist(), first.tolist(), last.tolist(), strict=True)


def _fields(part: Part) -> Iterator[int]:
    return (getattr(part, name) for name in Part.__slots__)
