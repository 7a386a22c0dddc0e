"""Exemplars in segments: found by trace, and matched with their samples."""

from __future__ import annotations

import sqlite3
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.samples import NOW_MS
from vantage.core.exemplars import encode_exemplars
from vantage.core.idhash import concat_ids, decode_ids, encode_ids, hash_id
from vantage.core.sample_columns import SampleColumns
from vantage.storage.embedded.format.chunk import ChunkCodec
from vantage.storage.embedded.format.exemplars import (
    EXEMPLARS_MAX,
    UnmatchedExemplars,
    exemplar_blocks,
    exemplars_between,
    find_exemplars,
    sort_by_trace,
    trace_hashes,
    unpack_exemplars,
)
from vantage.storage.embedded.format.segment import EXEMPLAR
from vantage.storage.embedded.format.trace_id_index import HASH_MAX, truncate_hash

CODEC = ChunkCodec()
Row = tuple[str, str, int, int, float]
IDS = st.sampled_from(["", "t", "ab" * 16, "ab" * 15 + "ac", "x-1", "7" * 64])
ROWS = st.lists(
    st.tuples(IDS, st.sampled_from(["", "0f", "cd" * 8]), st.integers(0, 3), st.integers(NOW_MS, NOW_MS + 3),
              st.sampled_from([0.0, -0.0, 1.5, 5e-324, 1e300])),
    min_size=1, max_size=40,
)  # fmt: skip


def exemplar_samples(rows: list[Row]) -> SampleColumns:
    trace_id, span_id, slot, time_ms, value = zip(*rows, strict=True)
    exemplars = encode_exemplars(range(len(rows)), trace_id, span_id)
    return SampleColumns(np.array(slot, np.uint32), np.array(time_ms), np.array(value, np.float64), exemplars)


def rows_of(samples: SampleColumns) -> list[Row]:
    columns = (samples.slot.tolist(), samples.time_ms.tolist(), samples.value.tolist())
    ids = samples.exemplars
    return list(zip(decode_ids(ids.trace_id), decode_ids(ids.span_id), *columns, strict=True))


def many(count: int, *, a_trace: int) -> list[Row]:
    random = np.random.default_rng(count)
    values = np.round(random.random(count) * 900, 2).tolist()
    return [
        (f"{hash_id(str(i // a_trace)):032x}", f"{i:016x}", i % 50, NOW_MS + i // a_trace, values[i])
        for i in range(count)
    ]


def written(rows: list[Row], part: int = 1) -> sqlite3.Connection:
    db = sqlite3.connect(":memory:")
    db.executescript(EXEMPLAR)
    for _, block in exemplar_blocks(CODEC, sort_by_trace(exemplar_samples(rows))):
        db.execute("INSERT INTO exemplar VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)", (part, *block.columns))
    return db


def truncated_hash(trace_id: str) -> int:
    return int(truncate_hash(np.array([hash_id(trace_id)], np.uint64))[0])


def exactly(rows: list[Row]) -> Counter[str]:
    """Sort rows by their text, which distinguishes 0.0 and -0.0."""
    return Counter(map(repr, rows))


@given(ROWS)
def test_a_block_is_decoded_completely(rows: list[Row]) -> None:
    ((sample, block),) = exemplar_blocks(CODEC, sort_by_trace(exemplar_samples(rows)))
    assert exactly(rows_of(sample)) == exactly(rows)
    result = unpack_exemplars(CODEC, *block.columns[2:])
    assert list(map(repr, rows_of(result))) == list(map(repr, rows_of(sample)))
    assert (block.low, block.high) == (trace_hashes(result).min(), trace_hashes(result).max())


def test_a_flipped_bit_is_a_value_error() -> None:
    ((_, block),) = exemplar_blocks(CODEC, sort_by_trace(exemplar_samples(many(5, a_trace=2))))
    for name in ("ids", "body"):
        plain: bytes = getattr(block, name)
        for index in range(len(plain)):
            flipped = bytearray(plain)
            flipped[index] ^= 1
            changed: dict[str, Any] = {name: bytes(flipped)}
            with pytest.raises(ValueError, match=r"."):
                unpack_exemplars(CODEC, *replace(block, **changed).columns[2:])


@pytest.mark.parametrize("a_trace", [1, 4, 3 * EXEMPLARS_MAX])
def test_every_trace_is_found_with_all_its_links_over_many_blocks(a_trace: int) -> None:
    rows = many(5 * EXEMPLARS_MAX, a_trace=a_trace)
    db = written(rows)
    for trace_id in {row[0] for row in rows[:: max(1, a_trace // 2)]} if a_trace > 4 else {rows[0][0], rows[7777][0]}:
        result = find_exemplars(db, CODEC, part=1, trace_id=trace_id, trace_hash=truncated_hash(trace_id))
        assert exactly([row for samples in result for row in rows_of(samples)]) == exactly(
            [row for row in rows if row[0] == trace_id]
        )
    assert list(find_exemplars(db, CODEC, part=1, trace_id="none", trace_hash=truncated_hash("none"))) == []
    assert list(find_exemplars(db, CODEC, part=2, trace_id=rows[0][0], trace_hash=truncated_hash(rows[0][0]))) == []


@pytest.mark.parametrize("shares", [1, 3, 7])
def test_shares_of_the_hashes_contain_every_exemplar_once(shares: int) -> None:
    rows = many(3 * EXEMPLARS_MAX, a_trace=4)
    db = written(rows)
    ends = [HASH_MAX * number // shares for number in range(shares + 1)]
    result = [
        row
        for low, high in pairwise(ends)
        for sample in exemplars_between(db, CODEC, part=1, low=low, high=high)
        for row in rows_of(sample)
    ]
    assert exactly(result) == exactly(rows)


@given(ROWS, st.lists(st.booleans(), min_size=60, max_size=60), st.integers(1, 4))
def test_samples_claim_their_links_each_once_however_they_come(rows: list[Row], more: list[bool], chunks: int) -> None:
    """Equal samples with and without exemplars, in chunks of any kind: no exemplar is lost, doubled or moved."""
    samples = [row[2:] for row in rows] + [row[2:] for row, again in zip(rows, more, strict=False) if again]
    samples.sort(key=lambda sample: (sample[0] % 2, hash(sample)))
    half = len(rows) // 2
    unclaimed = UnmatchedExemplars([exemplar_samples(sample) for sample in (rows[:half], rows[half:]) if sample])
    claimed: list[Row] = []
    for part in range(chunks):
        subset = samples[part::chunks]
        if not subset:
            continue
        slot, time_ms, value = zip(*subset, strict=True)
        result = unclaimed.claim(np.array(slot, np.uint32), np.array(time_ms), np.array(value))
        position = result.position.tolist()
        assert position == sorted(set(position))
        ids = zip(decode_ids(result.trace_id), decode_ids(result.span_id), strict=True)
        claimed += [(*pair, *subset[row]) for row, pair in zip(position, ids, strict=True)]
    assert exactly(claimed) == exactly(rows)
    assert unclaimed.left == 0


def test_exemplars_without_a_sample_stay_unmatched() -> None:
    rows = many(10, a_trace=2)
    unclaimed = UnmatchedExemplars([exemplar_samples(rows)])
    assert len(unclaimed.claim(np.array([0], np.uint32), np.array([NOW_MS]), np.array([-1.0]))) == 0
    assert len(unclaimed.claim(np.array([rows[3][2]], np.uint32), np.array([rows[3][3]]), np.array([rows[3][4]]))) == 1
    assert unclaimed.left == 9
    assert len(UnmatchedExemplars(()).claim(np.array([0], np.uint32), np.array([NOW_MS]), np.array([1.0]))) == 0


@given(st.lists(st.lists(IDS, max_size=5), min_size=1, max_size=4))
def test_ids_of_any_width_are_laid_end_to_end(parts: list[list[str]]) -> None:
    assert decode_ids(concat_ids([encode_ids(part) for part in parts])) == [item for part in parts for item in part]
