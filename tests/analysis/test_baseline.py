"""What is expected of an hour, from hours before."""

from __future__ import annotations

import numpy as np
import pytest

from vantage.analysis.baseline import Baseline, hour_of_week_baseline, median_spread
from vantage.core.rollup import HOUR_MS

MONDAY_MS = 1_700_438_400_000  # 2023-11-20 00:00 UTC
WEEK_MS = 168 * HOUR_MS
DAY_MS = 24 * HOUR_MS


def hours_before(at_ms: int, count: int) -> np.ndarray:
    return at_ms - HOUR_MS * np.arange(count, 0, -1)


def baseline(time_ms: np.ndarray, value: np.ndarray, at_ms: int) -> Baseline:
    result = hour_of_week_baseline(time_ms, value, at_ms)
    assert result is not None
    return result


def test_the_same_hour_of_earlier_weeks_counts() -> None:
    at_ms = MONDAY_MS + 9 * HOUR_MS + 1234
    time_ms = hours_before(MONDAY_MS + 9 * HOUR_MS, 5 * 168)
    value = np.where((time_ms - MONDAY_MS) // HOUR_MS % 168 == 9, 500.0, 10.0)
    assert baseline(time_ms, value, at_ms) == Baseline(500.0, 0.0, 5, "hour of week")


@pytest.mark.parametrize(
    ("hours", "level", "samples"),
    [
        (4 * 168, "hour of week", 4),
        (4 * 168 - 1, "hour of day", 27),
        (4 * 24, "hour of day", 4),
        (4 * 24 - 1, "all hours", 95),
        (4, "all hours", 4),
    ],
)
def test_too_little_falls_back(hours: int, level: str, samples: int) -> None:
    result = baseline(hours_before(MONDAY_MS, hours), np.ones(hours), MONDAY_MS)
    assert (result.level, result.samples) == (level, samples)


@pytest.mark.parametrize("hours", [0, 1, 3])
def test_hardly_any_hours_expect_nothing(hours: int) -> None:
    assert hour_of_week_baseline(hours_before(MONDAY_MS, hours), np.ones(hours), MONDAY_MS) is None


def test_an_incident_moves_neither_median_nor_spread_much() -> None:
    rng = np.random.default_rng(1)
    time_ms = hours_before(MONDAY_MS, 8 * 168)
    value = 100 + rng.normal(0, 5, len(time_ms))
    before = baseline(time_ms, value, MONDAY_MS)
    value[(time_ms >= MONDAY_MS - WEEK_MS - 2 * HOUR_MS) & (time_ms < MONDAY_MS - WEEK_MS + 2 * HOUR_MS)] = 1e9
    after = baseline(time_ms, value, MONDAY_MS)
    assert abs(after.expected - before.expected) < 5
    assert after.spread < 20


def test_hours_weigh_alike_however_many_values_they_have() -> None:
    time_ms = np.repeat(MONDAY_MS - DAY_MS * np.arange(1, 6), [1, 1, 1, 1, 100])
    value = np.repeat([10.0, 11.0, 12.0, 13.0, 900.0], [1, 1, 1, 1, 100])
    assert baseline(time_ms, value, MONDAY_MS).expected == 12.0


def test_order_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    time_ms = hours_before(MONDAY_MS, 200)
    value = rng.normal(size=200)
    order = rng.permutation(200)
    assert baseline(time_ms[order], value[order], MONDAY_MS) == baseline(time_ms, value, MONDAY_MS)


def test_what_is_not_finite_or_not_before_does_not_count() -> None:
    time_ms = hours_before(MONDAY_MS, 10)
    value = np.array([np.nan, np.inf, -np.inf, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    later = np.array([MONDAY_MS, MONDAY_MS + 1, MONDAY_MS + DAY_MS])
    result = baseline(np.append(time_ms, later), np.append(value, [1e6, 1e6, 1e6]), MONDAY_MS)
    assert (result.expected, result.samples) == (4.0, 7)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 9, 10, 40])
def test_the_spread_of_few_normal_values_is_right_on_average(count: int) -> None:
    rng = np.random.default_rng(count)
    spreads = [median_spread(rng.normal(50, 3, count))[1] for _ in range(4000)]
    assert np.mean(spreads) == pytest.approx(3, rel=0.06)


def test_negative_and_enormous_values_are_values() -> None:
    value = np.array([-1e308, -1e308, -1e308, -1e308])
    assert baseline(hours_before(MONDAY_MS, 4), value, MONDAY_MS).expected == -1e308
