"""Effects of changes between two windows: known values, bad values, and how often chance is taken for a change."""

from __future__ import annotations

import os
import secrets

import numpy as np
import pytest
from scipy import stats

from vantage.analysis.change import EFFECT_MIN, adjusted, cliffs_delta, measure, t_test_p
from vantage.core.arrays import F64

NAN = float("nan")


def row(*values: float) -> F64:
    return np.array([values], np.float64)


@pytest.mark.parametrize(
    ("before", "after", "delta"),
    [
        ((1, 2, 3), (4, 5, 6), 1.0),
        ((4, 5, 6), (1, 2, 3), -1.0),
        ((1, 2, 3), (1, 2, 3), 0.0),
        ((1, 1, 1), (1, 1, 2), 1 / 3),
        ((1, NAN, 2), (NAN, 3, NAN), 1.0),
        ((NAN, NAN), (1, 2), 0.0),
    ],
    ids=["above", "below", "same", "ties", "gaps", "nothing"],
)
def test_cliffs_delta(before: tuple[float, ...], after: tuple[float, ...], delta: float) -> None:
    assert cliffs_delta(row(*before), row(*after))[0] == pytest.approx(delta)


def test_cliffs_delta_of_many_items_is_that_of_each() -> None:
    rng = np.random.default_rng(1)
    before, after = rng.normal(size=(3000, 30)), rng.normal(0.5, 1, (3000, 40))
    together = cliffs_delta(before, after)
    alone = [cliffs_delta(before[i : i + 1], after[i : i + 1])[0] for i in (0, 1499, 2999)]
    assert together[[0, 1499, 2999]] == pytest.approx(alone)


def test_the_t_test_agrees_with_scipy_where_buckets_do_not_resemble_the_next() -> None:
    before, after = row(1, 3, 1, 3, 1, 3, 1), row(4, 2, 4, 2.5, 4)
    expected = stats.ttest_ind(before[0], after[0], equal_var=True).pvalue
    assert t_test_p(before, after)[0] == pytest.approx(expected)


def test_an_incident_that_fills_a_part_of_the_window_is_seen_and_a_single_error_is_none() -> None:
    rng = np.random.default_rng(4)
    before, after = rng.binomial(300, 0.005, (28, 60)) / 300, rng.binomial(300, 0.005, (28, 10)) / 300
    after[0, 3:7] = 0.2
    assert measure(before, after).ranked().tolist()[0] == 0
    assert measure(before, after).is_beyond_chance[0]
    assert not measure(np.zeros((1, 24)), row(0, 0.01, 0)).is_beyond_chance[0]


def test_buckets_that_resemble_the_next_say_less() -> None:
    steady = row(*np.linspace(0, 10, 20)), row(*np.linspace(10, 20, 20))
    mixed = tuple(side[:, np.random.default_rng(2).permutation(20)] for side in steady)
    assert t_test_p(*steady)[0] > 10 * t_test_p(*mixed)[0]


@pytest.mark.parametrize(
    ("p", "q"),
    [
        ((0.01, 0.04, 0.03), (0.03, 0.04, 0.04)),
        ((0.5,), (0.5,)),
        ((1.0, 1.0), (1.0, 1.0)),
        ((0.01, NAN), (0.01, NAN)),
        ((), ()),
    ],
    ids=["three", "one", "certain", "unknown", "none"],
)
def test_benjamini_and_hochberg(p: tuple[float, ...], q: tuple[float, ...]) -> None:
    assert adjusted(np.array(p, np.float64)) == pytest.approx(np.array(q, np.float64), nan_ok=True)


def test_the_effect_is_how_surely_times_how_far() -> None:
    before, after = np.tile([9.0, 10, 11] * 4, (3, 1)), np.tile([19.0, 20, 21], (3, 1))
    after[1] = [10.4, 10.5, 10.6]
    after[2] = [9.0, 10, 11]
    shifts = measure(before, after)
    assert shifts.relative == pytest.approx([1 / 3, 0.5 / 20.5, 0])
    assert shifts.effect == pytest.approx([1 / 3, 0.5 / 20.5 / 3, 0])
    assert shifts.ranked().tolist() == [0]
    assert (shifts.before[0], shifts.after[0]) == (10, 20)


def test_what_came_and_what_went_are_changes_of_their_own() -> None:
    nothing = [NAN] * 4
    shifts = measure(np.array([nothing, [1.0, 2, 3, 4], nothing]), np.array([[5.0, 6, 7, 8], nothing, nothing]))
    assert shifts.delta.tolist() == [1, -1, 0]
    assert shifts.effect.tolist() == [1, 1, 0]
    assert sorted(shifts.ranked().tolist()) == [0, 1]


def test_too_few_values_are_not_judged() -> None:
    shifts = measure(row(1, 1, 1, 1), row(9, 9, NAN, NAN))
    assert np.isnan(shifts.p[0])
    assert shifts.ranked().size == 0


def test_constants_and_zeros() -> None:
    before = np.array([[5.0] * 12, [0.0] * 12, [0.0] * 12, [5.0] * 12])
    after = np.array([[5.0] * 3, [0.0] * 3, [4.0] * 3, [5.1] * 3])
    shifts = measure(before, after)
    assert shifts.p[:2].tolist() == [1, 1]
    assert shifts.ranked().tolist() == [2]
    assert shifts.effect[3] < EFFECT_MIN


def test_enormous_values_have_an_answer() -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        shifts = measure(row(*[1e300, -1e300] * 6), row(1e308, 1e308, 1e308))
    assert 0 <= shifts.effect[0] <= 1


def test_a_large_effect_that_may_be_chance_comes_last() -> None:
    rng = np.random.default_rng(3)
    calm, wild = 100 + rng.normal(0, 1, 15), np.exp(rng.normal(0, 2, 15))
    wild[12:] = [0.5, 40.0, 60.0]
    calm[12:] += 15
    shifts = measure(np.array([wild[:12], calm[:12]]), np.array([wild[12:], calm[12:]]))
    assert shifts.effect[0] > shifts.effect[1]
    assert shifts.is_beyond_chance.tolist() == [False, True]
    assert shifts.ranked().tolist() == [1, 0]


def test_nothing_to_compare() -> None:
    assert measure(np.empty((0, 12)), np.empty((0, 3))).ranked().size == 0


@pytest.mark.parametrize(("correlation", "alarms_max"), [(0.0, 8), (0.3, 22)], ids=["independent", "correlated"])
def test_chance_is_seldom_taken_for_a_change_and_changes_are_seen(correlation: float, alarms_max: int) -> None:
    """Of 60 windows with 80 items in which nothing changes few list anything; items that double are nearly all seen."""
    seed = int(os.environ.get("VANTAGE_TEST_SEED", secrets.randbits(32)))
    print(f"VANTAGE_TEST_SEED={seed}")
    rng = np.random.default_rng(seed)
    alarms, hits = 0, 0
    for _ in range(60):
        noise = rng.normal(0, 1, (80, 48))
        for at in range(1, 48):
            noise[:, at] = correlation * noise[:, at - 1] + (1 - correlation**2) ** 0.5 * noise[:, at]
        values = 100 * np.exp(0.2 * noise)
        alarms += bool(measure(values[:, :24], values[:, 24:]).is_beyond_chance.any())
        values[:10, 24:] *= 2
        hits += int(measure(values[:, :24], values[:, 24:]).is_beyond_chance[:10].sum())
    assert alarms <= alarms_max
    assert hits >= 600 * 0.95
