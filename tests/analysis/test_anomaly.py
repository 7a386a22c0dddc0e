"""Detectors: what they raise, what they do not, and what they take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import pytest

from vantage.analysis.anomaly import (
    SILENT_POINTS,
    WARM_POINTS,
    WINDOW_POINTS,
    Mode,
    SeasonalDetector,
    new_detector,
)

MODES: tuple[Mode, ...] = get_args(Mode)
STEP_MS = 300_000
START_MS = 1_700_438_400_000
DAY = 288
WEEK = 7 * DAY


@dataclass(frozen=True, slots=True)
class Run:
    """Arrays by point and series."""

    score: np.ndarray
    alarm: np.ndarray
    expected: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def alarms(self, series: int = 0) -> list[int]:
        return np.flatnonzero(self.alarm[:, series]).tolist()


def run(values: np.ndarray, mode: Mode = "seasonal", *, range_min: float = 0.0) -> Run:
    """Run a detector over values by point, or by point and series."""
    values = values.reshape(len(values), -1)
    detector = new_detector(mode, values.shape[1])
    for series in range(values.shape[1]):
        detector.set_range_min(series, range_min)
    time_ms = START_MS + STEP_MS * np.arange(len(values))
    steps = [detector.step(np.full(values.shape[1], at), value) for at, value in zip(time_ms, values, strict=True)]
    return Run(*(np.array([getattr(step, name) for step in steps]) for name in Run.__slots__))


def daily(points: int, rng: np.random.Generator, *, level: float = 100, swing: float = 40) -> np.ndarray:
    return level + swing * np.sin(2 * np.pi * np.arange(points) / DAY) + rng.normal(0, level * 0.03, points)


def autoregressive(points: int, phi: float, rng: np.random.Generator, *, series: int) -> np.ndarray:
    values = np.empty((points, series))
    values[0] = rng.normal(size=series) / np.sqrt(1 - phi * phi)
    for i in range(1, points):
        values[i] = phi * values[i - 1] + rng.normal(size=series)
    return values


INCIDENTS = (  # the first point, the number of points, and what it does to the values
    ("a peak", WEEK + 100, 12, lambda v: v * 3),
    ("an outage", WEEK + DAY + 150, 18, lambda v: v * 0),
    ("noise", WEEK + 3 * DAY + 40, 24, lambda v: v + np.resize([90, -90], len(v))),
    ("night like day", WEEK + 4 * DAY + 190, 36, lambda v: np.full(len(v), 160.0)),
    ("a step", WEEK + 6 * DAY + 20, 30, lambda v: v + 120),
)


def compressed_fortnight(seed: int) -> np.ndarray:
    """A week of a daily rhythm, and a second one with five incidents."""
    values = daily(2 * WEEK, np.random.default_rng(seed))
    for _, first, length, change in INCIDENTS:
        values[first : first + length] = change(values[first : first + length])
    return values


def detections(alarms: Sequence[int]) -> tuple[int, int, list[int]]:
    """Return the number of incidents with an alarm, of false alarms, and the delays in points."""
    delays, false = [], 0
    for _, first, length, _ in INCIDENTS:
        inside = [at for at in alarms if first <= at < first + length + 12]
        if inside:
            delays.append(inside[0] - first)
    for at in alarms:
        if at >= WEEK and not any(first <= at < first + length + 144 for _, first, length, _ in INCIDENTS):
            false += 1
    return len(delays), false, delays


@pytest.mark.parametrize("seed", [11, 12])
def test_five_incidents_are_noticed_sooner_and_with_fewer_false_alarms_than_by_the_plain_rule(seed: int) -> None:
    values = compressed_fortnight(seed)
    ours = detections(run(values).alarms())
    plain = detections(run(values, "sigma").alarms())
    print(f"seed {seed}: seasonal {ours}, sigma {plain} (incidents, false alarms, delays in points)")
    assert ours[0] == 5
    assert ours[1] == 0
    assert max(ours[2]) <= 9  # points of 5 minutes
    assert plain[0] < 5


@pytest.mark.parametrize("phi", [0.0, 0.9, 0.999])
def test_stationary_noise_of_any_autocorrelation_hardly_alarms_after_a_week(phi: float) -> None:
    seed = 20 + int(phi * 1000)
    values = autoregressive(3 * WEEK, phi, np.random.default_rng(seed), series=12)
    alarms = run(values).alarm[WEEK:].sum()
    rate = alarms / (12 * 14)
    print(f"seed {seed}, phi {phi}: {rate:.3f} false alarms a series-day")
    assert rate <= 0.2


@pytest.mark.parametrize("mode", MODES)
def test_it_says_nothing_before_it_has_warmed_up(mode: Mode) -> None:
    values = np.random.default_rng(5).normal(size=WARM_POINTS)
    values[50] = 1e6
    result = run(values, mode)
    assert not result.score.any()
    assert not result.alarm.any()


@pytest.mark.parametrize("mode", MODES)
def test_one_incident_is_one_alarm(mode: Mode) -> None:
    values = 100 + np.random.default_rng(6).normal(0, 1, 4 * DAY)
    values[3 * DAY : 3 * DAY + SILENT_POINTS] += 300
    assert len([at for at in run(values, mode).alarms() if 3 * DAY <= at < 3 * DAY + SILENT_POINTS]) == 1


@pytest.mark.parametrize("mode", MODES)
def test_constants_never_alarm_and_their_change_does(mode: Mode) -> None:
    values = np.full(4 * DAY, 0.1 + 0.2)
    values[2 * DAY :: 7] = 0.3  # the same number, but for its rounding
    values[3 * DAY + 5 :] = 2.0
    alarms = run(values, mode, range_min=0.01).alarms()
    if mode == "seasonal":
        assert alarms == [3 * DAY + 5]
    else:
        assert 3 * DAY + 5 in alarms


def test_what_happens_within_the_least_range_is_not_unusual() -> None:
    values = np.full(4 * DAY, 0.0)
    values[3 * DAY :] = 0.001
    assert run(values, range_min=0.05).alarms() == []
    assert run(values).alarms() == [3 * DAY]


@pytest.mark.parametrize("mode", MODES)
def test_gaps_change_nothing(mode: Mode) -> None:
    rng = np.random.default_rng(7)
    values = daily(10 * DAY, rng)
    values[3 * DAY : 3 * DAY + 200] = np.nan
    values[5 * DAY] = np.inf
    values[5 * DAY + 1] = -np.inf
    result = run(values, mode)
    assert not result.score[~np.isfinite(values)].any()
    assert np.isfinite(result.score).all()
    if mode == "seasonal":
        assert result.alarms() == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scale", [1e-300, 1e25, 1e300, -1e9])
def test_values_of_any_size_are_judged(mode: Mode, scale: float) -> None:
    values = scale * daily(3 * DAY, np.random.default_rng(8))
    values[-1] *= 5
    result = run(values, mode)
    assert np.isfinite(result.score).all()
    if mode == "seasonal" and 1e-30 < abs(scale) < 1e27:
        assert result.score[-1, 0] > 1


def test_a_large_offset_does_not_hide_small_changes() -> None:
    values = 1e9 + daily(4 * DAY, np.random.default_rng(9))
    values[-3:] += 400_000
    assert run(values).alarms() == [4 * DAY - 3]


def test_series_do_not_influence_each_other() -> None:
    rng = np.random.default_rng(10)
    values = np.stack([daily(4 * DAY, rng), rng.normal(size=4 * DAY), np.zeros(4 * DAY)], axis=1)
    values[-20:, 1] += 50
    values[700:720, 0] = np.nan
    together = run(values)
    for series in range(3):
        alone = run(values[:, series])
        assert np.array_equal(together.score[:, series], alone.score[:, 0])
        assert np.array_equal(together.expected[:, series], alone.expected[:, 0], equal_nan=True)


def test_series_that_are_added_later_start_cold_and_change_no_others() -> None:
    rng = np.random.default_rng(11)
    values = rng.normal(size=(3 * DAY, 2))
    detector = SeasonalDetector(1)
    scores = []
    for i, value in enumerate(values):
        if i == DAY:
            detector.grow(2)
        at = np.full(detector.series, START_MS + STEP_MS * i)
        scores.append(detector.step(at, value[: detector.series]).score)
    assert [score[0] for score in scores] == run(values[:, 0]).score[:, 0].tolist()
    assert [score[1] for score in scores[DAY:]] == run(values[DAY:, 1]).score[:, 0].tolist()


@pytest.mark.parametrize("mode", MODES)
def test_the_state_does_not_grow_with_time(mode: Mode) -> None:
    detector = new_detector(mode, 50)
    before = detector.nbytes
    rng = np.random.default_rng(12)
    for i in range(DAY):
        detector.step(np.full(50, START_MS + STEP_MS * i), rng.normal(size=50))
    assert detector.nbytes == before
    assert before / 50 < 17_000


def test_the_band_of_a_daily_rhythm_follows_it() -> None:
    values = daily(2 * WEEK, np.random.default_rng(13))
    result = run(values)
    inside = (values >= result.low[:, 0]) & (values <= result.high[:, 0])
    assert inside[WEEK:].mean() > 0.97
    # Narrower than what a band around the mean would need.
    assert np.median((result.high - result.low)[WEEK:]) < 80


def test_weekends_are_found_in_the_data() -> None:
    rng = np.random.default_rng(14)
    at = np.arange(5 * WEEK)
    is_weekend = at // DAY % 7 >= 5
    values = np.where(is_weekend, 20.0, 100.0) + rng.normal(0, 2, len(at))
    result = run(values)
    last = result.expected[4 * WEEK + DAY :, 0]
    apart = np.abs(last - np.where(is_weekend, 20.0, 100.0)[4 * WEEK + DAY :])
    assert np.median(apart) < 3
    assert np.mean(apart < 10) > 0.9


def test_an_incident_of_hours_moves_the_band_of_the_next_days_little() -> None:
    values = daily(2 * WEEK, np.random.default_rng(15))
    before = run(values)
    values[WEEK : WEEK + 60] = 5000
    after = run(values)
    apart = np.abs(after.expected - before.expected)[WEEK + DAY :, 0]
    assert np.nanmax(apart) < 10


def test_a_trend_is_followed() -> None:
    rng = np.random.default_rng(16)
    values = np.arange(2 * WEEK) * 0.05 + rng.normal(0, 1, 2 * WEEK)
    result = run(values)
    inside = (values >= result.low[:, 0]) & (values <= result.high[:, 0])
    assert inside[WEEK:].mean() > 0.7


def test_the_evidence_adds_up_to_the_score() -> None:
    rng = np.random.default_rng(17)
    detector = SeasonalDetector(2)
    for i in range(2 * DAY):
        value = rng.normal(size=2)
        value[1] += 20 * (i == 2 * DAY - 1)
        step = detector.step(np.full(2, START_MS + STEP_MS * i), value)
    assert step.score[1] > 1
    evidence = detector.evidence(1)
    assert sum(pair.share for pair in evidence) == pytest.approx(step.score[1])
    for pair in evidence:
        apart = (np.array(pair.state) - np.array(pair.nearest)) / np.array(pair.range)
        assert np.hypot(*apart) == pytest.approx(pair.distance, rel=1e-4, abs=1e-6)
    assert detector.evidence(0) == ()


def test_the_window_modes_are_their_formulas() -> None:
    rng = np.random.default_rng(18)
    values = rng.normal(50, 4, WINDOW_POINTS + 24)
    at = WINDOW_POINTS + 12
    window = values[at - WINDOW_POINTS : at]
    sigma, robust = run(values, "sigma"), run(values, "robust")
    assert sigma.score[at, 0] == pytest.approx(abs(values[at] - window.mean()) / (3 * window.std()))
    spread = 1.4826 * np.median(np.abs(window - np.median(window)))
    assert robust.score[at, 0] == pytest.approx(abs(values[at] - np.median(window)) / (3 * spread))
    assert robust.high[at, 0] == pytest.approx(np.median(window) + 2 * spread)
