"""The cache of chunk indexes: bounded by bytes, the least recently used evicted first, emptied by file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.samples import NOW_MS
from vantage.storage.embedded.format.chunk import ChunkCodec
from vantage.storage.embedded.read.chunk_index import ChunkIndexCache, make_index

CODEC = ChunkCodec()
SERIES = 10
DIRECTORY = CODEC.pack_samples(
    np.arange(SERIES, dtype=np.uint32), np.full(SERIES, NOW_MS, np.int64), np.ones(SERIES)
).runs
INDEX_NBYTES = make_index([(1, DIRECTORY)], CODEC).size
A, B = Path("a.samples.db"), Path("b.samples.db")


class Parts:
    """Ten parts of one chunk each, and the parts whose directories were read, in order."""

    def __init__(self) -> None:
        self.read: list[int] = []
        self._db = sqlite3.connect(":memory:")
        self._db.execute("CREATE TABLE chunk (id INTEGER, part_id INTEGER, runs BLOB)")
        self._db.executemany("INSERT INTO chunk VALUES (?, ?, ?)", [(part, part, DIRECTORY) for part in range(10)])

    def get(self, cache: ChunkIndexCache, path: Path, part: int) -> None:
        statements: list[str] = []
        self._db.set_trace_callback(statements.append)
        index = cache.get(path, self._db, part, CODEC)
        self._db.set_trace_callback(None)
        assert index.chunk_id.tolist() == [part]
        self.read += [part] * len(statements)

    def close(self) -> None:
        self._db.close()


@pytest.fixture
def parts() -> Iterator[Parts]:
    parts = Parts()
    yield parts
    parts.close()


def test_a_directory_is_read_once(parts: Parts) -> None:
    cache = ChunkIndexCache()
    for part in (1, 2, 1, 2):
        parts.get(cache, A, part)
    assert parts.read == [1, 2]
    assert cache.nbytes == 2 * INDEX_NBYTES


def test_the_least_recently_used_is_evicted_first(parts: Parts) -> None:
    cache = ChunkIndexCache(nbytes_max=2 * INDEX_NBYTES)
    for part in (1, 2, 1, 3, 1, 2):
        parts.get(cache, A, part)
    assert parts.read == [1, 2, 3, 2]
    assert cache.nbytes == 2 * INDEX_NBYTES


def test_an_index_that_is_larger_than_the_cache_is_cached_alone(parts: Parts) -> None:
    cache = ChunkIndexCache(nbytes_max=INDEX_NBYTES - 1)
    for part in (1, 1, 2, 2, 1):
        parts.get(cache, A, part)
    assert parts.read == [1, 2, 1]


def test_a_file_is_evicted_and_no_other(parts: Parts) -> None:
    cache = ChunkIndexCache()
    for path in (A, B):
        parts.get(cache, path, 1)
    cache.evict(A)
    assert cache.nbytes == INDEX_NBYTES
    parts.get(cache, B, 1)
    assert parts.read == [1, 1]
    parts.get(cache, A, 1)
    assert parts.read == [1, 1, 1]
