"""Forecasts: when a limit is crossed, with an interval that holds."""

from __future__ import annotations

import numpy as np
import pytest

from vantage.analysis.forecast import HOURS_MIN, Forecast, forecast
from vantage.core.rollup import HOUR_MS

START_MS = 1_700_438_400_000


def hours(count: int) -> np.ndarray:
    return START_MS + HOUR_MS * np.arange(count)


def predict(value: np.ndarray, *, limit: float, ahead: int = 24) -> Forecast:
    result = forecast(hours(len(value)), value, limit=limit, hours=ahead)
    assert result is not None
    return result


def test_a_line_crosses_where_it_does() -> None:
    result = predict(2.0 * np.arange(100), limit=208.5)
    assert result.slope_per_hour == pytest.approx(2.0)
    assert result.crossing_ms == START_MS + 105 * HOUR_MS
    assert result.earliest_ms == result.latest_ms == result.crossing_ms


def test_a_falling_line_crosses_from_above() -> None:
    assert predict(1000 - 3.0 * np.arange(100), limit=670).crossing_ms == START_MS + 110 * HOUR_MS


def test_a_limit_that_is_far_away_is_not_crossed() -> None:
    result = predict(2.0 * np.arange(100), limit=1e6)
    assert (result.crossing_ms, result.earliest_ms, result.latest_ms) == (None, None, None)


def test_a_daily_rhythm_is_not_a_trend() -> None:
    at = np.arange(14 * 24)
    result = predict(100 + 40 * np.sin(at * np.pi / 12), limit=150, ahead=48)
    assert result.crossing_ms is None
    assert np.abs(result.expected - (100 + 40 * np.sin(result.time_ms // HOUR_MS * np.pi / 12))).max() < 2


def test_a_rhythm_with_a_trend_crosses_at_its_peak() -> None:
    rng = np.random.default_rng(3)
    at = np.arange(14 * 24 + 72)
    value = 100 + 0.5 * at + 40 * np.sin(at * np.pi / 12) + rng.normal(0, 2, len(at))
    limit = 305.0
    result = forecast(hours(14 * 24), value[: 14 * 24], limit=limit, hours=72)
    assert result is not None
    assert result.earliest_ms is not None
    crossed = START_MS + (14 * 24 + int(np.flatnonzero(value[14 * 24 :] >= limit)[0])) * HOUR_MS
    assert result.earliest_ms <= crossed <= (result.latest_ms or crossed)


@pytest.mark.parametrize("kind", ["noise", "walk"])
def test_the_interval_holds_what_comes(kind: str) -> None:
    rng = np.random.default_rng(4)
    inside = []
    for _ in range(40):
        steps = rng.normal(size=14 * 24 + 24)
        value = np.cumsum(steps) if kind == "walk" else steps
        result = predict(value[: 14 * 24], limit=1e9)
        inside.append(np.mean((value[14 * 24 :] >= result.low) & (value[14 * 24 :] <= result.high)))
    assert np.mean(inside) > 0.8


def test_an_incident_does_not_bend_the_line() -> None:
    value = 2.0 * np.arange(200)
    value[100:130] = 5000
    assert predict(value, limit=440).crossing_ms == START_MS + 220 * HOUR_MS


@pytest.mark.parametrize(
    "value", [np.zeros(0), np.ones(HOURS_MIN - 1), np.full(50, np.nan), np.full(50, np.inf)], ids=str
)
def test_too_little_forecasts_nothing(value: np.ndarray) -> None:
    assert forecast(hours(len(value)), value, limit=1, hours=5) is None


def test_constants_gaps_and_negative_values() -> None:
    value = np.full(100, -5.0)
    value[20:60] = np.nan
    result = predict(value, limit=0)
    assert result.crossing_ms is None
    assert result.hours == 60
    assert (result.expected == -5).all()
