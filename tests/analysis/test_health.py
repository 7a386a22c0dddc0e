"""The factors of health and their mean: the documented example, boundaries, and traffic that is bad or odd."""

from __future__ import annotations

import math
import os
import secrets
from typing import Any

import numpy as np
import pytest

from vantage.analysis.baseline import Baseline, median_spread
from vantage.analysis.health import (
    ABOVE_WORST_MAX,
    AVAILABILITY_POINTS,
    DEVIATION_POINTS,
    EQUAL_WEIGHTS,
    ERROR_POINTS,
    FACTORS,
    RISE_POINTS,
    Factor,
    Points,
    Units,
    Window,
    combine,
    interpolated,
    judge,
    parse_weights,
    rounded,
    status_of,
)
from vantage.core.errors import InputError

MINUTES = 15
RATE = Baseline(10.0, 0.5, 4, "hour of week")
P95 = Baseline(200.0, 10.0, 4, "hour of week")


def units(requests: list[float], failed: list[float] | None = None, *, late: int = 0) -> Units:
    counts = np.array(requests, np.float64)
    errors = np.array(failed or [0.0] * len(requests))
    with np.errstate(invalid="ignore"):
        return Units(60.0, counts, errors / counts, np.arange(len(counts)) < len(counts) - late)


def window(
    rate: float = 10.0, *, errors: float = 0.0, p95_ms: float | None = 200.0, parts: Units | None = None
) -> Window:
    seconds = MINUTES * 60.0
    requests = rate * seconds
    parts = parts or units([rate * 60] * MINUTES, [rate * 60 * errors] * MINUTES)
    return Window(seconds, requests, errors if requests else None, p95_ms if requests else None, requests, parts)


def factors(*scores: float | None, weights: tuple[float, ...] = (0.25,) * 4) -> list[Factor]:
    rows: Any = zip(FACTORS, scores, weights, strict=True)
    return [Factor(name, score, 0.0, weight, f"{name} {score}") for name, score, weight in rows]


def scores_of(*args: Any) -> dict[str, int | None]:
    return {factor.name: factor.score for factor in judge(*args).factors}


def test_the_example_of_the_documentation() -> None:
    measured = window(rate=5.8, errors=0.002, p95_ms=234.0)
    p95 = Baseline(191.8, 19.18, 4, "hour of week")
    health = judge(measured, Baseline(10.0, 1.0, 4, "hour of week"), p95)
    assert [factor.score for factor in health.factors] == [65, 95, 88, 100]
    assert [factor.value for factor in health.factors] == pytest.approx([5.8, 0.2, 234, 100])
    assert (health.score, health.status) == (87, "HEALTHY")
    assert health.reason == "5.8/s, 42 % fewer than usual at this hour of the week (10/s)."


def test_four_equal_weights_are_a_mean() -> None:
    health = combine(factors(65, 95, 88, 100))
    assert (health.score, health.status) == (87, "HEALTHY")


@pytest.mark.parametrize(
    ("points", "value", "score"),
    [
        (ERROR_POINTS, 0, 100),
        (ERROR_POINTS, 0.2, 95),
        (ERROR_POINTS, 1, 75),
        (ERROR_POINTS, 3, 50),
        (ERROR_POINTS, 5, 25),
        (ERROR_POINTS, 24.9, 0.125),
        (ERROR_POINTS, 25, 0),
        (ERROR_POINTS, 100, 0),
        (DEVIATION_POINTS, -5, 100),
        (DEVIATION_POINTS, 1, 100),
        (DEVIATION_POINTS, 1.01, 99.9),
        (DEVIATION_POINTS, 3.5, 75),
        (DEVIATION_POINTS, 7, 25),
        (DEVIATION_POINTS, 10, 0),
        (DEVIATION_POINTS, 1e300, 0),
        (RISE_POINTS, 3.5, 100),
        (RISE_POINTS, 35, 50),
        (RISE_POINTS, 1e9, 50),
        (AVAILABILITY_POINTS, 0, 0),
        (AVAILABILITY_POINTS, 50, 0),
        (AVAILABILITY_POINTS, 90, 50),
        (AVAILABILITY_POINTS, 99, 90),
        (AVAILABILITY_POINTS, 100, 100),
    ],
)
def test_scores_at_the_boundaries(points: Points, value: float, score: float) -> None:
    assert interpolated(value, points) == pytest.approx(score)


@pytest.mark.parametrize(
    ("score", "status"),
    [(100, "HEALTHY"), (80, "HEALTHY"), (79, "DEGRADED"), (50, "DEGRADED"), (49, "UNHEALTHY"), (0, "UNHEALTHY"),
     (None, "UNKNOWN")],
)  # fmt: skip
def test_statuses_at_the_boundaries(score: int | None, status: str) -> None:
    assert status_of(score) == status


@pytest.mark.parametrize(("score", "nearest"), [(86.5, 87), (87.49, 87), (0.5, 1), (79.5 - 1e-12, 80), (0.0, 0)])
def test_halves_are_rounded_up(score: float, nearest: int) -> None:
    assert rounded(score) == nearest


def test_a_factor_without_a_score_leaves_its_weight_to_the_others() -> None:
    assert combine(factors(None, 90, None, 60)).score == 75
    assert combine(factors(None, 90, 10, 60, weights=(0.5, 0.4, 0.0, 0.1))).score == 84


def test_without_any_factor_it_is_unknown() -> None:
    health = combine(factors(None, None, None, None))
    assert (health.score, health.status) == (None, "UNKNOWN")
    assert combine(factors(90, 90, 90, 90, weights=(0.0,) * 4)).status == "UNKNOWN"


def test_good_factors_hide_no_outage() -> None:
    assert combine(factors(100, 0, 100, 100)).score == ABOVE_WORST_MAX
    assert combine(factors(100, 100, 0, 100)).score == 75  # slow is not down
    assert combine(factors(100, 0, 100, 100, weights=(0.5, 0.0, 0.5, 0.0))).score == 100


def test_all_errors_is_unhealthy() -> None:
    health = judge(window(errors=1.0), RATE, P95)
    assert (health.score, health.status) == (40, "UNHEALTHY")
    assert health.factor("availability").value == 0
    assert health.reason == "100 % of 9k requests failed."


def test_silence_where_traffic_is_expected_is_an_outage() -> None:
    health = judge(window(rate=0.0), RATE, P95)
    assert [factor.score for factor in health.factors] == [0, None, None, 0]
    assert (health.score, health.status) == (0, "UNHEALTHY")
    assert health.reason == "No requests at all, where 10/s is usual at this hour of the week."


def test_a_quiet_night_is_normal() -> None:
    health = judge(window(rate=0.0), Baseline(0.0, 0.0, 4, "hour of week"), P95)
    assert [factor.score for factor in health.factors] == [100, None, None, None]
    assert health.status == "HEALTHY"
    assert health.reason == "No requests, as is usual at this hour of the week (0/s)."


def test_silence_of_a_bursty_service_is_no_outage() -> None:
    bursty = Baseline(10.0, 8.0, 28, "hour of day")
    assert scores_of(window(rate=0.0), bursty, P95) == {
        "request_rate": 98, "error_rate": None, "response_time": None, "availability": None,
    }  # fmt: skip


def test_a_few_requests_expected_and_none_received_is_chance() -> None:
    rare = Baseline(6.9 / 900, 0.0, 4, "hour of week")
    assert scores_of(window(rate=0.0), rare, None)["request_rate"] == 84
    often = Baseline(7.1 / 900, 0.0, 4, "hour of week")
    assert scores_of(window(rate=0.0), often, None)["request_rate"] == 0


def test_a_drop_is_worse_than_a_rise() -> None:
    assert scores_of(window(rate=4.0), RATE, P95)["request_rate"] == 39
    assert scores_of(window(rate=16.0), RATE, P95)["request_rate"] == 96
    assert scores_of(window(rate=1000.0), RATE, P95)["request_rate"] == 50


def test_traffic_at_a_quiet_hour_is_a_rise() -> None:
    assert scores_of(window(rate=1.0), Baseline(0.0, 0.0, 4, "hour of week"), P95)["request_rate"] == 50


def test_without_a_baseline_only_what_needs_none_counts() -> None:
    health = judge(window(errors=0.01), None, None)
    assert [factor.score for factor in health.factors] == [None, 75, None, 100]
    assert health.factor("request_rate").sentence == (
        "10/s; no baseline yet, which takes 4 full hours with requests."
    )  # fmt: skip
    assert judge(window(rate=0.0), None, None).status == "UNKNOWN"


def test_faster_is_as_good_as_usual() -> None:
    assert scores_of(window(p95_ms=20.0), RATE, P95)["response_time"] == 100


def test_a_wide_spread_forgives() -> None:
    measured = window(p95_ms=400.0)
    assert scores_of(measured, RATE, Baseline(200.0, 10.0, 4, "hour of week"))["response_time"] == 0
    assert scores_of(measured, RATE, Baseline(200.0, 200.0, 4, "hour of week"))["response_time"] == 100


def test_a_p95_of_few_requests_is_unsure() -> None:
    few = Window(900.0, 4, 0.0, 400.0, 4, units([1, 1, 1, 1]))
    assert scores_of(few, None, P95)["response_time"] == 100
    many = Window(900.0, 400, 0.0, 400.0, 400, units([100] * 4))
    assert scores_of(many, None, P95)["response_time"] == 0


def test_constants_do_not_divide_by_nothing() -> None:
    still = Baseline(0.0, 0.0, 4, "all hours")
    assert scores_of(window(p95_ms=0.0), still, still)["response_time"] == 100
    assert scores_of(window(p95_ms=11.0), still, still)["response_time"] == 0
    enormous = Baseline(1e308, 1e308, 4, "all hours")
    for factor in judge(window(p95_ms=1e308), enormous, enormous).factors:
        assert factor.score is None or 0 <= factor.score <= 100
        assert "nan" not in factor.sentence


@pytest.mark.parametrize(
    ("failed", "sentence", "status"),
    [(0.0, "The only request was answered.", "HEALTHY"), (1.0, "The only request failed.", "UNHEALTHY")],
)
def test_one_request(failed: float, sentence: str, status: str) -> None:
    health = judge(Window(60.0, 1, failed, 5.0, 1, units([1], [failed])), None, None)
    assert (health.factor("error_rate").sentence, health.status) == (sentence, status)
    assert health.factor("availability").value == 100 * (1 - failed)


def test_minutes_that_count() -> None:
    minutes = units([600, 0, 600, 600, 0], [0, 0, 301, 300, 0], late=1)
    factor = judge(window(parts=minutes), RATE, P95).factor("availability")
    assert factor.value == 50  # the last one may still receive requests
    assert factor.sentence == "Available in 2 of 4 minutes: 1 without requests and 1 in which most failed."
    rare = Baseline(0.01, 0.0, 4, "hour of week")
    assert judge(window(parts=minutes), rare, P95).factor("availability").value == pytest.approx(200 / 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (0.25, 0.25, 0.25, 0.25)),
        ("error_rate:3,availability:1", (0, 0.75, 0, 0.25)),
        (" response_time : 2 ", (0, 0, 1, 0)),
    ],
    ids=["equal", "two", "one"],
)
def test_weights(text: str, expected: tuple[float, ...]) -> None:
    assert tuple(parse_weights(text)[name] for name in FACTORS) == expected
    assert sum(EQUAL_WEIGHTS.values()) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("speed:1", "has no factor 'speed'"),
        ("error_rate", "'' is not a weight"),
        ("error_rate:x", "'x' is not a weight"),
        ("error_rate:-1", "'-1' is not a weight"),
        ("error_rate:nan", "'nan' is not a weight"),
        ("error_rate:1e400", "'1e400' is not a weight"),
        ("error_rate:0", "must name a factor that counts"),
        (",", "has no factor ''"),
    ],
)
def test_weights_that_are_none(text: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        parse_weights(text)
    assert caught.value.field == "weights"


def test_usual_traffic_is_healthy_and_incidents_are_not() -> None:
    """Of services whose hours vary as those of real ones, at most 1 in 50 looks degraded without a reason."""
    seed = int(os.environ.get("VANTAGE_TEST_SEED", secrets.randbits(32)))
    print(f"VANTAGE_TEST_SEED={seed}")
    rng = np.random.default_rng(seed)
    alarms = 0
    for _ in range(300):
        rate, p95_ms = rng.uniform(0.05, 50), rng.uniform(5, 2000)
        rates, p95s_ms = rate * rng.lognormal(0, 0.1, 4), p95_ms * rng.lognormal(0, 0.08, 4)
        usual = [Baseline(*median_spread(values), 4, "hour of week") for values in (rates, p95s_ms)]
        counts = rng.poisson(rate * rng.lognormal(0, 0.1) * 60, MINUTES).astype(np.float64)
        total = float(counts.sum())
        if not total:
            continue
        seen_ms = p95_ms * rng.lognormal(0, 0.08) * rng.lognormal(0, 2 / math.sqrt(total))
        minutes = units(counts.tolist())
        measured = Window(900.0, total, 0.001, seen_ms, total, minutes)
        health = judge(measured, usual[0], usual[1])
        assert all(factor.score is None or 0 <= factor.score <= 100 for factor in health.factors)
        alarms += health.status != "HEALTHY"
        failing = units(counts.tolist(), (counts * 0.6).tolist())
        broken = judge(Window(900.0, total, 0.6, seen_ms, total, failing), usual[0], usual[1])
        assert broken.status == "UNHEALTHY"
    assert alarms <= 6
