"""A filter of trace ids: what a part has is never missed, and nearly nothing else is looked for in it."""

from __future__ import annotations

import sqlite3
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from vantage.storage.embedded.format.segment import SAMPLES, SegmentWriter
from vantage.storage.embedded.format.trace_id_filter import SLICE_IDS, TraceIdFilter, may_contain, pack_filter
from vantage.storage.embedded.format.trace_id_index import HASH_MAX, Entry

RANDOM = np.random.default_rng(3)


def slices_of(hashes: np.ndarray) -> list[Entry]:
    return list(pack_filter(hashes))


@pytest.mark.parametrize("count", [0, 1, 2, 1000, SLICE_IDS + 1, 5 * SLICE_IDS])
def test_every_id_is_known_and_few_others_are(count: int) -> None:
    hashes = RANDOM.integers(0, HASH_MAX, count)
    others = np.setdiff1d(RANDOM.integers(0, HASH_MAX, 20_000), hashes)
    false_matches = 0
    entries = slices_of(hashes)
    for low, high, _, body in entries:
        own = hashes[(hashes >= low) & (hashes <= high)]
        assert may_contain(body, own).all()
        false_matches += int(np.count_nonzero(may_contain(body, others[(others >= low) & (others <= high)])))
    assert false_matches <= 0.02 * len(others)
    assert sum(len(body) for *_, body in entries) <= 1.25 * count + 16 * len(entries)


def test_slices_follow_each_other_and_cover_every_hash() -> None:
    entries = slices_of(RANDOM.integers(0, HASH_MAX, 3 * SLICE_IDS))
    assert len(entries) == 4
    assert entries[0][0] == 0
    assert entries[-1][1] == HASH_MAX - 1
    assert all(before[1] + 1 == after[0] for before, after in pairwise(entries))


@pytest.fixture
def writer(tmp_path: Path) -> SegmentWriter:
    return SegmentWriter(tmp_path / "2026-W47.samples.db", SAMPLES)


def stored(writer: SegmentWriter, part: int, hashes: np.ndarray) -> sqlite3.Connection:
    for entry in pack_filter(hashes):
        writer.db.execute("INSERT INTO id_index VALUES (NULL, ?, 'filter', ?, ?, ?, ?)", (part, *entry))
    return writer.db


def test_a_slice_is_read_once(writer: SegmentWriter) -> None:
    hashes = RANDOM.integers(0, HASH_MAX, 2 * SLICE_IDS)
    db = stored(writer, 7, hashes)
    read: list[str] = []
    ids = TraceIdFilter(db, 7)
    db.set_trace_callback(read.append)
    assert all(ids.may_contain(db, trace_hash) for trace_hash in hashes[:100].tolist())
    assert len(read) == 2
    db.set_trace_callback(None)
    writer.close()


def test_a_part_without_a_filter_or_with_a_damaged_one_may_have_every_id(writer: SegmentWriter) -> None:
    db = stored(writer, 7, np.array([1]))
    assert not TraceIdFilter(db, 7).may_contain(db, HASH_MAX // 3)
    assert TraceIdFilter(db, 8).may_contain(db, HASH_MAX // 3)
    db.execute("UPDATE id_index SET crc = crc + 1")
    assert TraceIdFilter(db, 7).may_contain(db, HASH_MAX // 3)
    writer.close()


def test_one_hash_is_looked_up_as_many_are(writer: SegmentWriter) -> None:
    hashes = RANDOM.integers(0, HASH_MAX, 5000)
    db = stored(writer, 7, hashes[::2])
    ids = TraceIdFilter(db, 7)
    ((*_, body),) = pack_filter(hashes[::2])
    assert [ids.may_contain(db, trace_hash) for trace_hash in hashes.tolist()] == may_contain(body, hashes).tolist()
    writer.close()
