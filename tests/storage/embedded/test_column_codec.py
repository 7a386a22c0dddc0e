"""Columns come back bit by bit, and damage is an error of one kind."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vantage.core.int_packing import deltas, undelta, unzigzag, zigzag
from vantage.storage.embedded.format.column_codec import ColumnCodec

PACKER = ColumnCodec()
INT64 = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(10**9), 10**9).map(lambda number: number / 100),
    st.integers(-(2**60), 2**60).map(float),
    st.sampled_from([0.0, -0.0, 5e-324, 1.7976931348623157e308, 0.1, 1e15 + 0.3, 123456789.123456789]),
)
RUNS = st.lists(st.lists(FLOATS, min_size=1, max_size=12), min_size=1, max_size=8)


def laid(runs: list[list[Any]], dtype: Any = np.float64) -> tuple[Any, Any]:
    """Runs end to end, and the length of each."""
    return np.array(list(chain.from_iterable(runs)), dtype), np.array([len(run) for run in runs])


@given(st.lists(INT64, max_size=50))
def test_integers_are_decoded(numbers: list[int]) -> None:
    values = np.array(numbers, np.int64)
    assert PACKER.unpack_ints(PACKER.pack_ints(values)).tolist() == numbers


@given(st.lists(INT64, min_size=1, max_size=50), st.data())
def test_slices_of_integers_are_decoded(numbers: list[int], data: st.DataObject) -> None:
    rows = sorted(data.draw(st.sets(st.integers(0, len(numbers) - 1))))
    packed = PACKER.pack_ints(np.array(numbers, np.int64))
    assert PACKER.unpack_ints(packed, np.array(rows, np.int64)).tolist() == [numbers[row] for row in rows]


@given(RUNS)
def test_every_finite_float_comes_back_bit_by_bit(runs: list[list[float]]) -> None:
    values, counts = laid(runs)
    assert PACKER.unpack_floats(PACKER.pack_floats(values, counts), counts).tobytes() == values.tobytes()


@given(RUNS, st.data())
def test_the_floats_of_some_runs_come_back(runs: list[list[float]], data: st.DataObject) -> None:
    values, counts = laid(runs)
    expected = np.array(data.draw(st.lists(st.booleans(), min_size=len(runs), max_size=len(runs))))
    result = PACKER.unpack_floats(PACKER.pack_floats(values, counts), counts, expected)
    assert result.tobytes() == values[np.repeat(expected, counts)].tobytes()


def test_infinities_of_sums_that_overflowed_come_back() -> None:
    values, counts = np.array([np.inf, -np.inf, 1.0]), np.array([2, 1])
    assert PACKER.unpack_floats(PACKER.pack_floats(values, counts), counts).tobytes() == values.tobytes()


@given(st.lists(st.lists(INT64, min_size=1, max_size=9), min_size=1, max_size=5))
def test_steps_add_up_again_whatever_wraps_around(runs: list[list[int]]) -> None:
    values, counts = laid(runs, np.int64)
    first = np.array([run[0] for run in runs], np.int64)
    assert undelta(deltas(values, counts), first, counts).tolist() == values.tolist()


@given(st.lists(INT64, max_size=20))
def test_zigzag_comes_back(numbers: list[int]) -> None:
    values = np.array(numbers, np.int64)
    assert unzigzag(zigzag(values)).tolist() == numbers


def test_prices_take_far_less_than_eight_bytes() -> None:
    values = np.round(np.random.default_rng(1).lognormal(3, 1, 8192), 2)
    assert len(PACKER.pack_floats(values, np.array([8192]))) < 2.5 * 8192


@given(st.binary(max_size=200))
def test_bytes_that_are_no_column_are_a_value_error(body: bytes) -> None:
    for packed in (body, PACKER.pack(body)):
        for unpack in (PACKER.unpack_ints, lambda packed: PACKER.unpack_floats(packed, np.array([3, 2]))):
            try:
                unpack(packed)
            except ValueError:
                continue


def test_a_column_that_claims_to_be_huge_is_refused_before_it_is_unpacked() -> None:
    with pytest.raises(ValueError, match="impossible size"):
        PACKER.unpack(PACKER.pack(bytes(65 << 20)))
