"""Reading every row of a part and comparing it with the part's own index and statistics."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from typing import Final

import msgspec
import numpy as np

from vantage.core.arrays import I64, U64
from vantage.core.red import RedKeys
from vantage.storage.edge_join import EdgeKeys
from vantage.storage.embedded.format import span_block
from vantage.storage.embedded.format.chunk import ChunkCodec, ChunkDirectory, checksum
from vantage.storage.embedded.format.edge_chunk import EDGE_ROW, unpack_edges
from vantage.storage.embedded.format.exemplars import UnmatchedExemplars, trace_hashes, unpack_exemplars
from vantage.storage.embedded.format.part_stats import SeriesStats, ServiceStats, read_part_stats
from vantage.storage.embedded.format.red_chunk import RED_ROW, unpack_red
from vantage.storage.embedded.format.segment import SAMPLES, Part
from vantage.storage.embedded.format.span_services import check_services
from vantage.storage.embedded.format.trace_id_filter import KIND, may_contain
from vantage.storage.embedded.format.trace_id_index import truncate_hash
from vantage.storage.trace_summary import count_by_service

Report = tuple[str, int | None, str]  # table, row, what is wrong with it
_CHUNKS: Final = "SELECT id, first_ms, last_ms, samples, crc, runs, times, vals FROM chunk WHERE part_id=? ORDER BY id"
_LINKS: Final = (
    "SELECT id, low, high, exemplars, ids_crc, body_crc, ids, body FROM exemplar WHERE part_id=? ORDER BY id"
)
_SPANS: Final = (
    "SELECT id, first_ms, last_ms, spans, duration_ns_max, services, body FROM span_block WHERE part_id=? ORDER BY id"
)
_INDEX: Final = "SELECT id, kind, low, high, crc, body FROM id_index WHERE part_id=? ORDER BY id"
_ROLLUPS: Final = (
    "SELECT id, width_ms, first_ms, last_ms, partials, crc, runs, times, counts, sums, mins, maxs, sketches"
    " FROM rollup WHERE part_id=? ORDER BY id"
)
_RED: Final = (
    f"SELECT id, width_ms, service, first_ms, last_ms, partials, nbytes, {RED_ROW}"  # noqa: S608 - of ours
    " FROM red WHERE part_id=? ORDER BY id"
)
_EDGES: Final = (
    f"SELECT id, width_ms, first_ms, last_ms, partials, nbytes, {EDGE_ROW}"  # noqa: S608 - of ours
    " FROM edge WHERE part_id=? ORDER BY id"
)
_COLUMNS: Final = frozenset({"sum", "min", "max", "sketches"})
_decode_index: Final = msgspec.msgpack.Decoder(tuple[bytes, bytes, bytes]).decode


class _Sum:
    """A sum over index entries in any order; two sets have the same sum only when they are equal."""

    def __init__(self) -> None:
        self.entries = 0
        self._sum = np.uint64(0)

    def add(self, hashes: I64, block_ids: I64, row: I64) -> None:
        self.entries += len(hashes)
        mixed: U64 = hashes.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= block_ids.astype(np.uint64) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0x94D049BB133111EB) + row.astype(np.uint64)
        mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
        with np.errstate(over="ignore"):
            self._sum += mixed.sum(dtype=np.uint64)

    @property
    def value(self) -> tuple[int, int]:
        return self.entries, int(self._sum)


class PartVerifier:
    """Verifies one part.

    ``on_progress`` is called with the number of bytes read; sqlite3.Error is left to the caller.
    """

    def __init__(
        self, db: sqlite3.Connection, codec: ChunkCodec, part: Part, tier: str, on_progress: Callable[[int], None]
    ) -> None:
        self._db = db
        self._codec = codec
        self._part = part
        self._tier = tier
        self._on_progress = on_progress
        self._nbytes = self._samples = self._spans = 0
        self._blocks: dict[int, int] = {}  # of spans, with how many each has
        self._stored_ids = _Sum()
        self._trace_hashes: list[I64] = []
        self._unclaimed = UnmatchedExemplars(())
        self._runs: list[ChunkDirectory] = []
        self._services: ServiceStats = {}
        self._times: list[tuple[int, int]] = []
        self._red_times: list[tuple[int, int]] = []
        self._edge_times: list[tuple[int, int]] = []
        self._sound = True  # whether every row could be read: else the totals need not fit

    def faults(self) -> Iterator[Report]:
        """Yield everything wrong with the part."""
        steps = (
            (self._exemplars, self._chunks, self._span_blocks, self._index)
            if self._tier == SAMPLES
            else (self._rollups, self._red, self._edges)
        )
        for step in steps:
            for fault in step():
                self._sound = False
                yield fault
        try:
            counts = read_part_stats(self._db, self._codec, self._part)
        except ValueError as error:
            yield "part", self._part.id, str(error)
            return
        if counts is not None and self._sound:
            yield from self._totals(counts.series, counts.services)

    def _took(self, nbytes: int) -> None:
        self._nbytes += nbytes
        self._on_progress(nbytes)

    def _chunks(self) -> Iterator[Report]:
        for chunk_id, first_ms, last_ms, samples, crc, directory, times, vals in self._db.execute(
            _CHUNKS, (self._part.id,)
        ):
            self._took(len(directory) + len(times) + len(vals))
            try:
                _must(checksum(directory, times, vals) == crc, "its checksum does not fit")
                runs = self._codec.unpack_runs(directory)
                time_ms, values = self._codec.unpack_times(times, runs), self._codec.unpack_values(vals, runs)
                _must(runs.rows == len(time_ms) == len(values) == samples, "it holds another number of samples")
                _must(_fits(runs, time_ms), "its directory tells other times than its samples")
                _must((int(time_ms.min()), int(time_ms.max())) == (first_ms, last_ms), "its times are not what it says")
            except ValueError as error:
                yield "chunk", chunk_id, str(error)
                continue
            slot = np.repeat(runs.slot, runs.count)
            self._unclaimed.claim(slot, time_ms, values)
            self._samples += samples
            self._runs.append(runs)
            self._times.append((first_ms, last_ms))
        if self._unclaimed.left:
            yield (
                "exemplar",
                None,
                f"of part {self._part.id} has {self._unclaimed.left} exemplars without their samples",
            )

    def _exemplars(self) -> Iterator[Report]:
        blocks, last_hash = [], 0
        for block_id, low, high, *row in self._db.execute(_LINKS, (self._part.id,)):
            self._took(len(row[-2]) + len(row[-1]))
            try:
                samples = unpack_exemplars(self._codec, *row)
                hashes = trace_hashes(samples)
                _must(bool((np.diff(hashes) >= 0).all()) and low >= last_hash, "its trace ids are not in order")
                _must((int(hashes[0]), int(hashes[-1])) == (low, high), "its trace ids are not what it says")
            except ValueError as error:
                yield "exemplar", block_id, str(error)
                continue
            last_hash = high
            blocks.append(samples)
            self._trace_hashes.append(np.unique(hashes))
        self._unclaimed = UnmatchedExemplars(blocks)

    def _span_blocks(self) -> Iterator[Report]:
        for block_id, first_ms, last_ms, spans, longest_ns, services, body in self._db.execute(
            _SPANS, (self._part.id,)
        ):
            self._blocks[block_id] = spans
            self._took(len(body))
            try:
                table = span_block.decode(body)
                starts = table.start_ms
                _must(len(table) == spans, "it holds another number of spans")
                _must((int(starts.min()), int(starts.max())) == (first_ms, last_ms), "its times are not what it says")
                _must(int(table.duration_ns.max()) == longest_ns, "its longest span is not what it says")
                _must(check_services(services, table), "its services are not what it says")
            except ValueError as error:
                yield "span_block", block_id, str(error)
                continue
            hashes = truncate_hash(table.trace_hashes())
            self._trace_hashes.append(np.unique(hashes))
            self._stored_ids.add(hashes, np.full(len(hashes), block_id), np.arange(len(hashes)))
            self._spans += spans
            self._times.append((first_ms, last_ms))
            for key, (count, first, last) in count_by_service(table).items():
                total = self._services.get(key, (0, first, last))
                self._services[key] = (total[0] + count, min(total[1], first), max(total[2], last))

    def _index(self) -> Iterator[Report]:
        checksum_of_index = _Sum()
        sound = True
        all_hashes = np.unique(np.concatenate([np.empty(0, np.int64), *self._trace_hashes]))
        for entry_id, kind, low, high, crc, body in self._db.execute(_INDEX, (self._part.id,)):
            self._took(len(body))
            try:
                _must(checksum(body) == crc, "its checksum does not fit")
                if kind == KIND:
                    of_slice = all_hashes[slice(*np.searchsorted(all_hashes, [low, high + 1]).tolist())]
                    _must(bool(may_contain(body, of_slice).all()), "it does not know of each trace id")
                    continue
                _must(kind == "span", "it is of no known kind")
                differences, block_ids, row = (self._codec.packer.unpack_ints(column) for column in _decode_index(body))
                _must(len(differences) == len(block_ids) == len(row) > 0, "its columns do not fit together")
                hashes = np.cumsum(differences) + low
                _must(int(hashes[-1]) == high and bool((differences >= 0).all()), "its hashes are not in order")
                for block_id, last in zip(*_last_rows(block_ids, row), strict=True):
                    _must(
                        last < self._blocks.get(block_id, 0),
                        f"it points at row {last} of span_block {block_id}, not there",
                    )
            except (ValueError, msgspec.DecodeError) as error:
                sound = False
                yield "id_index", entry_id, str(error)
                continue
            checksum_of_index.add(hashes, block_ids, row)
        if sound and self._sound and checksum_of_index.value != self._stored_ids.value:
            yield (
                "id_index",
                None,
                (
                    f"of part {self._part.id} tells {checksum_of_index.entries} places in span_block, "
                    f"and not those of its {self._stored_ids.entries} ids"
                ),
            )

    def _rollups(self) -> Iterator[Report]:
        for rollup_id, width_ms, first_ms, last_ms, partials, crc, *body in self._db.execute(
            _ROLLUPS, (self._part.id,)
        ):
            self._took(sum(len(column or b"") for column in body))
            try:
                _must(checksum(*body) == crc, "its checksum does not fit")
                runs = self._codec.unpack_runs(body[0])
                unpacked = self._codec.unpack_partials(tuple(body[1:]), runs, width_ms=width_ms, columns=_COLUMNS)
                _must(len(unpacked) == partials, "it holds another number of partials")
                _must(bool((unpacked.count > 0).all()), "a bucket sums up nothing")
                _must(
                    len(unpacked.sum) == len(unpacked.min) == len(unpacked.max) == partials,
                    "its columns do not fit together",
                )
                _must(_fits(runs, unpacked.time_ms), "its directory tells other times than its buckets")
                _must(
                    (int(unpacked.time_ms.min()), int(unpacked.time_ms.max())) == (first_ms, last_ms),
                    "its times are not what it says",
                )
                if len(unpacked.sketches.key):
                    _must(int(unpacked.sketches.count.min()) > 0, "a sketch counts nothing")
            except ValueError as error:
                yield "rollup", rollup_id, str(error)
                continue
            self._runs.append(runs)
            self._times.append((first_ms, last_ms))

    def _red(self) -> Iterator[Report]:
        keys = RedKeys()
        for chunk_id, width_ms, service, first_ms, last_ms, partials, nbytes, *row in self._db.execute(
            _RED, (self._part.id,)
        ):
            self._took(sum(len(column or b"") for column in row[1:]))
            try:
                unpacked = unpack_red(self._codec, keys, row, width_ms=width_ms)
                _must(len(unpacked) == partials, "it holds another number of partials")
                _must(sum(len(column or b"") for column in row[1:]) == nbytes, "it holds another number of bytes")
                _must(bool((unpacked.count > 0).all()), "a bucket sums up nothing")
                _must(
                    (int(unpacked.time_ms.min()), int(unpacked.time_ms.max())) == (first_ms, last_ms),
                    "its times are not what it says",
                )
                names = {keys.keys[code].service for code in np.unique(unpacked.slot).tolist()}
                _must(not service or names == {service}, "it holds another service's rows")
            except ValueError as error:
                yield "red", chunk_id, str(error)
                continue
            self._red_times.append((first_ms, last_ms))

    def _edges(self) -> Iterator[Report]:
        keys = EdgeKeys()
        for chunk_id, width_ms, first_ms, last_ms, partials, nbytes, *row in self._db.execute(_EDGES, (self._part.id,)):
            self._took(sum(map(len, row[1:])))
            try:
                unpacked = unpack_edges(self._codec, keys, row, width_ms=width_ms)
                _must(len(unpacked) == partials, "it holds another number of partials")
                _must(sum(map(len, row[1:])) == nbytes, "it holds another number of bytes")
                _must(
                    (int(unpacked.time_ms.min()), int(unpacked.time_ms.max())) == (first_ms, last_ms),
                    "its times are not what it says",
                )
            except ValueError as error:
                yield "edge", chunk_id, str(error)
                continue
            self._edge_times.append((first_ms, last_ms))

    def _totals(self, series: SeriesStats, services: ServiceStats) -> Iterator[Report]:
        part = self._part
        times = self._times + self._red_times + self._edge_times
        # Rollups of requests and edges in narrow buckets are deleted after some days: what is left is in the widest.
        narrowed = bool(self._red_times or self._edge_times)
        facts = [
            ("samples", part.samples, self._samples, False),
            ("spans", part.spans, self._spans, False),
            ("bytes", part.nbytes, self._nbytes, narrowed),
            ("first time", part.first_ms, min((first for first, _ in times), default=0), False),
            ("last time", part.last_ms, max((last for _, last in times), default=0), narrowed),
        ]
        for name, says, holds, may_be_less in facts:
            if holds > says or (holds < says and not may_be_less):
                yield "part", part.id, f"it says {says} as its {name}, and its rows hold {holds}"
        if not _same_series(series, self._runs, of_samples=self._tier == SAMPLES):
            yield "part", part.id, "what it says of each series is not what its rows hold"
        if self._tier == SAMPLES and services != self._services:
            yield "part", part.id, "what it says of each service's spans is not what its rows hold"


def _same_series(stats: SeriesStats, directories: list[ChunkDirectory], *, of_samples: bool) -> bool:
    """Return whether samples and times are equal; bytes are estimates and are not compared."""
    if not directories:
        return not len(stats.slot)
    columns = zip(*((runs.slot, runs.count, runs.first_ms, runs.last_ms) for runs in directories), strict=True)
    slot, count, first_ms, last_ms = (np.concatenate(column) for column in columns)
    distinct, index = np.unique(slot, return_inverse=True)
    counts = np.zeros(len(distinct), np.int64)
    firsts = np.full(len(distinct), np.iinfo(np.int64).max)
    lasts = np.full(len(distinct), np.iinfo(np.int64).min)
    if of_samples:
        np.add.at(counts, index, count)
    np.minimum.at(firsts, index, first_ms)
    np.maximum.at(lasts, index, last_ms)
    pairs = ((distinct, stats.slot), (counts, stats.samples), (firsts, stats.first_ms), (lasts, stats.last_ms))
    return all(np.array_equal(read, stored) for read, stored in pairs)


def _fits(runs: ChunkDirectory, time_ms: I64) -> bool:
    """Return whether rows are in time order within each run, and begin and end as the directory says."""
    ends = np.cumsum(runs.count)
    starts = ends - runs.count
    back = np.diff(time_ms) < 0
    back[starts[1:] - 1] = False  # from one run to the next
    return not back.any() and bool(
        (time_ms[starts] == runs.first_ms).all() and (time_ms[ends - 1] == runs.last_ms).all()
    )


def _last_rows(block_ids: I64, row: I64) -> tuple[list[int], list[int]]:
    """Return each place with the highest row it is asked for; a row below 0 becomes an impossible one."""
    distinct, at = np.unique(block_ids, return_inverse=True)
    last = np.zeros(len(distinct), np.int64)
    np.maximum.at(last, at, np.where(row < 0, np.iinfo(np.int64).max, row))
    return distinct.tolist(), last.tolist()


def _must(holds: bool, why: str) -> None:  # noqa: FBT001 - a condition, not a switch
    if not holds:
        raise ValueError(why)
