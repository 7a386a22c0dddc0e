"""Sketches answer quantiles within their stated error, whatever the values and however they are merged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vantage.core.sketch import RELATIVE_ERROR, key_values, sketch_keys, sketch_quantile

TINY = float(np.finfo(np.float64).tiny)
POSITIVE = st.floats(min_value=TINY, allow_nan=False, allow_infinity=False)
ROUNDING = 1e-9


def sketch_of(values: list[float], p: float, *, pieces: int = 1) -> float:
    """The quantile by sketches of some pieces of the values, merged."""
    keys = sketch_keys(np.array(values))
    parts = [np.unique(keys[piece::pieces], return_counts=True) for piece in range(min(pieces, len(values)))]
    key = np.concatenate([part[0] for part in parts])
    count = np.concatenate([part[1] for part in parts])
    return float(sketch_quantile(np.zeros(len(key), np.int64), key, count, groups=1, p=p)[0])


def exact(values: list[float], p: float) -> float:
    """Numpy's linear quantile, which overflows where the interpolation does not."""
    ordered = sorted(values)
    index = p * (len(ordered) - 1)
    low = int(index)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] * (1 - (index - low)) + ordered[high] * (index - low)


@given(POSITIVE)
@example(1.7637650858193227e308)  # in the last bucket, whose end is beyond the largest float
def test_a_bucket_stands_for_its_values_within_the_error(value: float) -> None:
    for item in (value, -value):
        (recorded,) = key_values(sketch_keys(np.array([item])))
        assert abs(recorded - item) <= (RELATIVE_ERROR + ROUNDING) * abs(item)


def test_zero_of_either_sign_is_told_exactly() -> None:
    assert key_values(sketch_keys(np.array([0.0, -0.0]))).tolist() == [0.0, 0.0]


@given(st.lists(POSITIVE, min_size=1, max_size=60), st.floats(0, 1), st.integers(1, 5))
def test_a_quantile_of_values_of_one_sign_is_within_the_error(values: list[float], p: float, pieces: int) -> None:
    recorded, true = sketch_of(values, p, pieces=pieces), exact(values, p)
    assert abs(recorded - true) <= (RELATIVE_ERROR + ROUNDING) * true
    mirrored = sketch_of([-value for value in values], p)
    assert abs(mirrored - exact([-value for value in values], p)) <= (RELATIVE_ERROR + ROUNDING) * max(values)


@pytest.mark.parametrize("p", [0.0, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0])
def test_quantiles_of_many_latencies_are_within_the_error(p: float) -> None:
    values = np.random.default_rng(7).lognormal(3, 1, 100_000)
    keys, counts = np.unique(sketch_keys(values), return_counts=True)
    (recorded,) = sketch_quantile(np.zeros(len(keys), np.int64), keys, counts, groups=1, p=p)
    assert recorded == pytest.approx(np.quantile(values, p), rel=RELATIVE_ERROR)


def test_each_group_is_answered_for_itself_and_an_empty_one_is_nan() -> None:
    key = sketch_keys(np.array([1.0, 100.0, 10.0]))
    result = sketch_quantile(np.array([0, 2, 0]), key, np.array([1, 5, 1]), groups=3, p=1.0)
    assert result == pytest.approx([10.0, np.nan, 100.0], rel=RELATIVE_ERROR, nan_ok=True)
