"""Chunks, partials, indexes of ids and weeks: what is written is read."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.samples import NOW_MS
from vantage.core.exemplars import encode_exemplars
from vantage.core.idhash import decode_ids, hash_id
from vantage.core.rollup import HOUR_MS, rollup_samples, with_sketches
from vantage.core.sample_columns import SampleColumns
from vantage.storage.embedded.format.chunk import (
    CHUNK_SAMPLES_MAX,
    ChunkCodec,
    checksum,
    chunk_bounds,
)
from vantage.storage.embedded.format.column_codec import ColumnCodec
from vantage.storage.embedded.format.trace_id_index import ENTRIES_MAX, pack_index, truncate_hash
from vantage.storage.embedded.format.week import WEEK_MS, parse_week, week_name, week_of, week_range
from vantage.storage.embedded.maintain.sort import in_storage_order

CODEC = ChunkCodec()


def some_samples(series: int, each: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(series * each)
    slot = np.repeat(np.arange(series, dtype=np.uint32) * 7, each)
    time_ms = NOW_MS + np.sort(random.integers(0, 10**7, (series, each)), axis=1).ravel()
    return slot, time_ms, np.round(random.random(series * each), 3)


def test_a_chunk_is_decoded_completely_and_by_runs() -> None:
    slot, time_ms, value = some_samples(5, 40)
    chunk = CODEC.pack_samples(slot, time_ms, value)
    runs = CODEC.unpack_runs(chunk.runs)
    assert checksum(chunk.runs, chunk.times, chunk.vals) == chunk.crc
    assert (chunk.first_ms, chunk.last_ms, chunk.samples) == (time_ms.min(), time_ms.max(), 200)
    assert CODEC.unpack_times(chunk.times, runs).tolist() == time_ms.tolist()
    assert CODEC.unpack_values(chunk.vals, runs).tobytes() == value.tobytes()
    wanted = np.array([False, True, False, False, True])
    rows = runs.rows_of(wanted)
    assert CODEC.unpack_times(chunk.times, runs, wanted).tolist() == time_ms[rows].tolist()
    assert CODEC.unpack_values(chunk.vals, runs, wanted).tobytes() == value[rows].tobytes()


def test_partials_come_back_with_their_sketches() -> None:
    slot, time_ms, value = some_samples(4, 300)
    hours = with_sketches(
        rollup_samples(slot, time_ms, value, width_ms=HOUR_MS), slot, time_ms, value, width_ms=HOUR_MS
    )
    chunk = CODEC.pack_partials(hours, width_ms=HOUR_MS)
    runs = CODEC.unpack_runs(chunk.runs)
    columns = frozenset({"sum", "min", "max", "sketches"})
    for wanted in (None, np.array([True, False, True, False])):
        rows = np.arange(len(hours)) if wanted is None else runs.rows_of(wanted)
        partials = CODEC.unpack_partials(chunk.parts[1:], runs, width_ms=HOUR_MS, columns=columns, wanted=wanted)
        expected = hours.take(rows)
        for name in ("slot", "time_ms", "count", "sum", "min", "max"):
            assert getattr(partials, name).tobytes() == getattr(expected, name).tobytes(), name
        for name in ("row", "key", "count"):
            assert getattr(partials.sketches, name).tolist() == getattr(expected.sketches, name).tolist()
    bare = CODEC.unpack_partials(chunk.parts[1:], runs, width_ms=HOUR_MS, columns=frozenset({"sum"}))
    assert np.isnan(bare.min).all()
    assert len(bare.sketches.key) == 0


@given(st.lists(st.integers(1, 9000), min_size=1, max_size=12))
def test_cuts_cover_every_row_once_and_no_chunk_is_too_large(counts: list[int]) -> None:
    slot = np.repeat(np.arange(len(counts), dtype=np.uint32), counts)
    result = list(chunk_bounds(slot, CHUNK_SAMPLES_MAX))
    assert result[0][0] == 0
    assert result[-1][1] == len(slot)
    assert [end for _, end in result[:-1]] == [start for start, _ in result[1:]]
    assert all(0 < end - start <= CHUNK_SAMPLES_MAX for start, end in result)


def test_samples_are_stored_by_time_range_and_within_by_series() -> None:
    slot, time_ms, value = some_samples(20, 5000)
    mixed = np.random.default_rng(3).permutation(len(slot))
    linked = range(0, len(slot), 100)
    ids = tuple(str(value[mixed[row]]) for row in linked)
    links = encode_exemplars(linked, ids, ("",) * len(ids))
    sample_columns = SampleColumns(slot[mixed], time_ms[mixed], value[mixed], links)
    result = list(in_storage_order(sample_columns, np.arange(200)[::-1]))
    assert len(result) > 5
    ends = [(sample.time_ms.min(), sample.time_ms.max()) for sample in result]
    assert all(before[1] <= after[0] for before, after in pairwise(ends))
    for sample in result:
        order = np.lexsort((sample.time_ms, -sample.slot.astype(np.int64)))
        assert order.tolist() == list(range(len(order)))
        values = [str(sample.value[row]) for row in sample.exemplars.position.tolist()]
        assert values == decode_ids(sample.exemplars.trace_id), "a link went to another sample"
    rows = sorted(zip(*(np.concatenate([getattr(sample, name) for sample in result]).tolist()
                        for name in ("slot", "time_ms", "value")), strict=True))  # fmt: skip
    assert rows == sorted(zip(slot.tolist(), time_ms.tolist(), value.tolist(), strict=True))
    assert sum(len(sample.exemplars) for sample in result) == 1000


def test_few_samples_are_one_stretch() -> None:
    slot, time_ms, value = some_samples(1, 5000)
    assert len(list(in_storage_order(SampleColumns(slot, time_ms, value), np.zeros(1, np.int64)))) == 1


def test_every_id_of_an_index_is_found_where_it_is() -> None:
    ids = [f"{n:032x}" for n in range(ENTRIES_MAX + 500)]
    stored = truncate_hash(np.array([hash_id(item) for item in ids], np.uint64))
    rows = pack_index(ColumnCodec(), stored, np.arange(len(ids)) // 100, np.arange(len(ids)) % 100)
    assert len(rows) == 2
    assert all(low <= high for low, high, _, _ in rows)
    assert rows[0][1] <= rows[1][0]


@given(st.integers(946_684_800_000, 4_000_000_000_000))
def test_a_week_contains_its_time_and_has_its_iso_8601_name(at_ms: int) -> None:
    week = week_of(at_ms)
    bounds = week_range(week)
    assert bounds.start_ms <= at_ms < bounds.end_ms
    assert bounds.length_ms == WEEK_MS
    year, number, _ = datetime.fromtimestamp(at_ms / 1000, UTC).isocalendar()
    assert week_name(week) == f"{year:04d}-W{number:02d}"
    assert parse_week(week_name(week)) == week


def test_a_name_that_is_no_week_is_a_value_error() -> None:
    for name in ("2026-47", "2026-W60", "x"):
        with pytest.raises(ValueError, match=r"."):
            parse_week(name)
