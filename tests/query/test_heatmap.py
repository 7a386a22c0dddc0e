"""The heatmap: every request is in one cell, the one of its time and duration."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vantage.core.sketch import sketch_keys
from vantage.query.heatmap import BANDS_MAX, LEVELS_MAX, ROWS_MAX, Heatmap, build_heatmap, color_levels
from vantage.query.http_semconv import Buckets
from vantage.query.red import DurationCells

BUCKETS = Buckets(600_000, 1_150_000, 60_000)


def heatmap_of(durations_ms: list[float], positions: list[int]) -> Heatmap:
    keys = sketch_keys(np.array(durations_ms))
    return build_heatmap(DurationCells(np.array(positions), keys, np.ones(len(keys), np.int64)), BUCKETS)


@given(
    st.lists(st.tuples(st.floats(0.001, 600_000_000), st.integers(0, BUCKETS.count - 1)), min_size=1, max_size=60),
)
def test_each_request_is_in_the_cell_of_its_time_and_duration(requests: list[tuple[float, int]]) -> None:
    durations_ms, positions = ([*column] for column in zip(*requests, strict=True))
    heatmap = heatmap_of(durations_ms, positions)
    assert heatmap.counts.shape == (len(heatmap.edges_ms) - 1, BUCKETS.count)
    assert len(heatmap.counts) <= ROWS_MAX
    expected = np.zeros_like(heatmap.counts)
    for duration_ms, position in requests:
        # A duration at an edge may be in either row, as far as floats can tell.
        rows = [
            row
            for row in range(len(expected))
            if heatmap.edges_ms[row] * (1 - 1e-9) < duration_ms <= heatmap.edges_ms[row + 1] * (1 + 1e-9)
        ]
        assert rows
        expected[rows[0], position] += 1
    if all(
        not np.isclose(duration_ms, heatmap.edges_ms, rtol=1e-8).any() for duration_ms in durations_ms
    ):  # none at an edge
        assert (heatmap.counts == expected).all()
    assert heatmap.requests == len(requests)


@given(st.lists(st.floats(0.01, 100_000), min_size=1, max_size=40))
def test_bands_cover_every_request_without_a_gap(durations_ms: list[float]) -> None:
    heatmap = heatmap_of(durations_ms, [0] * len(durations_ms))
    bands = heatmap.bands()
    assert len(bands) <= BANDS_MAX
    assert sum(band.requests for band in bands) == len(durations_ms)
    assert sum(band.share for band in bands) == pytest.approx(1)
    assert all(earlier.high_ms == later.low_ms for earlier, later in pairwise(bands))


def test_rows_stay_where_they_are_when_other_durations_are_there_too() -> None:
    few, more = heatmap_of([10.0, 20.0], [0, 1]), heatmap_of([10.0, 15.0, 20.0], [0, 1, 2])
    assert few.edges_ms.tolist() == more.edges_ms.tolist()


def test_what_lasts_no_time_or_a_month_is_shown_at_the_ends() -> None:
    heatmap = heatmap_of([0.0, -1.0, 5.0, 2_600_000_000.0], [0, 0, 1, 2])
    assert heatmap.counts[0, 0] == 2
    assert heatmap.counts[-1, 2] == 1


@pytest.mark.parametrize(
    ("largest", "levels"),
    [(1, (1,)), (4, (1, 2)), (7, (1, 3)), (49, (1, 5, 10, 20, 30)), (3600, (1, 100, 400, 900, 2000))],
)
def test_levels_are_round_numbers_from_one_on(largest: int, levels: tuple[int, ...]) -> None:
    assert color_levels(largest) == levels


@given(st.integers(1, 10**12))
def test_levels_ascend_up_to_the_largest(largest: int) -> None:
    levels = color_levels(largest)
    assert levels[0] == 1
    assert levels[-1] <= largest
    assert len(levels) <= LEVELS_MAX
    assert all(later > earlier for earlier, later in pairwise(levels))
