"""Which chunks of a part hold which series, and which trace ids it may have: read from segments and cached."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from cachetools import LRUCache

from vantage.core.arrays import I64, U32, Mask
from vantage.core.timerange import TimeRange
from vantage.storage.embedded.format.chunk import ChunkCodec, ChunkDirectory
from vantage.storage.embedded.format.trace_id_filter import TraceIdFilter

CACHE_NBYTES_MAX: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class ChunkIndex:
    """The runs of every chunk of a part, concatenated: those of the chunk ``chunk_id[i]`` begin at ``starts[i]``."""

    chunk_id: I64
    directories: tuple[ChunkDirectory, ...]
    starts: I64
    slot: U32
    slot_max: int
    first_ms: I64
    last_ms: I64
    chunk_first_ms: I64
    chunk_last_ms: I64

    @property
    def size(self) -> int:
        """Return the bytes that the index takes in memory."""
        return 56 * len(self.slot) + 400 * len(self.chunk_id)

    def matching(self, slots: Mask, time_ms: TimeRange) -> list[tuple[int, ChunkDirectory, Mask | None]]:
        """Return the chunks that hold any of the chosen series in the range: id, directory, and which of its runs
        (None: all of them)."""
        if len(slots) <= self.slot_max:  # series that came after the mask was made
            slots = np.append(slots, np.zeros(self.slot_max + 1 - len(slots), np.bool_))
        in_range = np.flatnonzero((self.chunk_last_ms >= time_ms.start_ms) & (self.chunk_first_ms < time_ms.end_ms))
        if not in_range.size:
            return []
        # Chunks lie nearly in the order of time: between the first and the last there are few others.
        first, end = int(in_range[0]), int(in_range[-1]) + 1
        starts = self.starts[first:end]
        low = int(starts[0])
        runs_in_range = slice(low, int(starts[-1]) + len(self.directories[end - 1]))
        hit = slots[self.slot[runs_in_range]]
        hit &= (self.last_ms[runs_in_range] >= time_ms.start_ms) & (self.first_ms[runs_in_range] < time_ms.end_ms)
        matches = []
        for chunk in (first + np.flatnonzero(np.logical_or.reduceat(hit, starts - low))).tolist():
            runs = self.directories[chunk]
            at = int(self.starts[chunk]) - low
            picked = hit[at : at + len(runs)]
            matches.append((int(self.chunk_id[chunk]), runs, None if picked.all() else picked))
        return matches

    def only(self, chunks: Mask) -> ChunkIndex:
        """Return the index of the selected chunks."""
        numbers = np.flatnonzero(chunks)
        return _index_of(self.chunk_id[numbers], tuple(self.directories[number] for number in numbers.tolist()))


def make_index(rows: list[tuple[int, bytes]], codec: ChunkCodec) -> ChunkIndex:
    """Build an index from (id, directory) rows. Raises ValueError for a directory that cannot be read."""
    chunk_id = np.array([chunk_id for chunk_id, _ in rows], np.int64)
    return _index_of(chunk_id, tuple(codec.unpack_runs(directory) for _, directory in rows))


def _index_of(chunk_id: I64, directories: tuple[ChunkDirectory, ...]) -> ChunkIndex:
    def joined(get: Callable[[ChunkDirectory], Any], dtype: Any) -> Any:
        return np.concatenate([get(runs) for runs in directories]) if directories else np.empty(0, dtype)

    slot = joined(lambda runs: runs.slot, np.uint32)
    starts = np.cumsum([0, *map(len, directories[:-1])]) if directories else np.empty(0, np.int64)
    first_ms, last_ms = joined(lambda runs: runs.first_ms, np.int64), joined(lambda runs: runs.last_ms, np.int64)
    return ChunkIndex(
        chunk_id,
        directories,
        starts,
        slot,
        int(slot.max(initial=0)),
        first_ms,
        last_ms,
        np.minimum.reduceat(first_ms, starts) if directories else first_ms,
        np.maximum.reduceat(last_ms, starts) if directories else last_ms,
    )


_SAMPLES: Final = "SELECT id, runs FROM chunk WHERE part_id=? ORDER BY id"
_ROLLUPS: Final = "SELECT id, runs FROM rollup WHERE part_id=? AND width_ms=? ORDER BY id"


_FILTER: Final = -1  # in place of a width
FEW_HASHES: Final = 64  # one by one takes less time than numpy's calls


class ChunkIndexCache:
    """Indexes and filters of trace ids by file and part, at most ``nbytes_max`` bytes; the least recently used are
    evicted first. One that is larger by itself is cached alone. Any thread."""

    def __init__(self, *, nbytes_max: int = CACHE_NBYTES_MAX) -> None:
        self._lock = threading.Lock()
        self._indexes: LRUCache[tuple[Path, int, int], ChunkIndex | TraceIdFilter] = LRUCache(
            nbytes_max, getsizeof=lambda index: min(index.size, nbytes_max)
        )

    @property
    def nbytes(self) -> int:
        return int(self._indexes.currsize)

    def get(self, path: Path, db: sqlite3.Connection, part: int, codec: ChunkCodec, *, width_ms: int = 0) -> ChunkIndex:
        """Return the index of a part's samples, or (with ``width_ms``) of its rollups. Raises sqlite3.Error and
        ValueError."""
        key = (path, part, width_ms)
        with self._lock:
            if isinstance(cached := self._indexes.get(key), ChunkIndex):
                return cached
        rows = db.execute(_ROLLUPS, (part, width_ms)) if width_ms else db.execute(_SAMPLES, (part,))
        index = make_index(rows.fetchall(), codec)
        with self._lock:
            self._indexes[key] = index
        return index

    def possible_traces(self, path: Path, db: sqlite3.Connection, part: int, hashes: I64) -> I64:
        """Return which truncated hashes, which ascend, are perhaps those of traces of which the part has spans or
        exemplars. Raises sqlite3.Error."""
        key = (path, part, _FILTER)
        with self._lock:
            cached = self._indexes.get(key)
        if not isinstance(cached, TraceIdFilter):
            cached = TraceIdFilter(db, part)
            with self._lock:
                self._indexes[key] = cached
        if len(hashes) > FEW_HASHES:
            return hashes[cached.possible(db, hashes)]
        return hashes[[cached.may_contain(db, trace_hash) for trace_hash in hashes.tolist()]]

    def evict(self, path: Path) -> None:
        """Evict a file whose part ids changed, or that was deleted."""
        with self._lock:
            for key in [key for key in self._indexes if key[0] == path]:
                del self._indexes[key]
