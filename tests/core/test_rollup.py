"""Rollups sum up what is there, in any order of pieces."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vantage.core.rollup import (
    FIVE_MINUTES_MS,
    HOUR_MS,
    NO_PARTIALS,
    Partials,
    concat_partials,
    rollup_partials,
    rollup_samples,
    with_sketches,
)
from vantage.core.sketch import sketch_quantile

SAMPLES = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3 * HOUR_MS), st.integers(-10_000, 10_000)), min_size=1, max_size=80
)


def columns(rows: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    slot, time_ms, value = (np.array(column) for column in zip(*sorted(rows), strict=True))
    return slot.astype(np.uint32), time_ms.astype(np.int64), value / 100


def as_dict(partials: Partials) -> dict[tuple[int, int], list[float]]:
    rows = zip(*(getattr(partials, name).tolist() for name in ("slot", "time_ms", "count", "sum", "min", "max")),
               strict=True)  # fmt: skip
    return {(slot, at_ms): rest for slot, at_ms, *rest in rows}


@given(SAMPLES)
def test_each_bucket_tells_count_sum_and_extremes(rows: list[tuple[int, int, int]]) -> None:
    slot, time_ms, value = columns(rows)
    result = as_dict(rollup_samples(slot, time_ms, value, width_ms=FIVE_MINUTES_MS))
    for (item, at_ms), (count, total, least, most) in result.items():
        stored = value[(slot == item) & (time_ms // FIVE_MINUTES_MS * FIVE_MINUTES_MS == at_ms)]
        assert (count, least, most) == (len(stored), stored.min(), stored.max())
        assert total == pytest.approx(stored.sum(), abs=1e-9)
    assert sum(row[0] for row in result.values()) == len(rows)


@given(SAMPLES)
def test_hours_are_the_same_from_samples_and_from_five_minutes(rows: list[tuple[int, int, int]]) -> None:
    slot, time_ms, value = columns(rows)
    short = rollup_samples(slot, time_ms, value, width_ms=FIVE_MINUTES_MS)
    straight, by_steps = (
        as_dict(item)
        for item in (rollup_samples(slot, time_ms, value, width_ms=HOUR_MS), rollup_partials(short, width_ms=HOUR_MS))
    )
    assert straight.keys() == by_steps.keys()
    for key, row in straight.items():
        assert by_steps[key] == pytest.approx(row, abs=1e-9)


def test_a_sum_of_decimals_is_the_decimal() -> None:
    values = np.array([0.1] * 10 + [0.2])
    result = rollup_samples(np.zeros(11, np.uint32), np.arange(11), values, width_ms=HOUR_MS)
    assert result.sum.tolist() == [1.2]
    odd = np.array([1 / 3, 1 / 7])
    assert rollup_samples(np.zeros(2, np.uint32), np.arange(2), odd, width_ms=HOUR_MS).sum.tolist() == [odd.sum()]


def test_sketches_belong_to_their_rows_also_when_rows_are_taken_and_joined() -> None:
    slot = np.repeat(np.arange(3, dtype=np.uint32), 100)
    time_ms, value = np.tile(np.arange(100) * 60_000, 3), np.repeat([1.0, 10.0, 100.0], 100)
    hours = with_sketches(
        rollup_samples(slot, time_ms, value, width_ms=HOUR_MS), slot, time_ms, value, width_ms=HOUR_MS
    )
    sample = concat_partials([hours.take(np.flatnonzero(hours.slot == 2)), hours.take(np.flatnonzero(hours.slot == 0))])
    result = sketch_quantile(sample.sketches.row, sample.sketches.key, sample.sketches.count, groups=len(sample), p=0.5)
    assert result == pytest.approx([100.0, 100.0, 1.0, 1.0], rel=0.01)


def test_nothing_rolls_up_to_nothing() -> None:
    nothing = np.empty(0, np.int64)
    assert len(rollup_samples(nothing.astype(np.uint32), nothing, nothing.astype(float), width_ms=HOUR_MS)) == 0
    assert len(rollup_partials(NO_PARTIALS, width_ms=HOUR_MS)) == 0
    assert len(concat_partials([])) == 0
