"""Comparisons: their figures are those of the observations, and their claims about chance hold in simulations."""

import math
import os
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats
from scipy.signal import lfilter

from vantage.analysis.compare import FIGURES, QUANTILES, compare_values
from vantage.analysis.compare_shares import check_share, compare_outcomes
from vantage.analysis.observations import Observations, Outcomes
from vantage.analysis.verdict import ALPHA, MetricResult, Stakes, judge
from vantage.core.arrays import F64, I64
from vantage.core.errors import InputError

LONG = bool(os.environ.get("VANTAGE_TEST_LONG"))
ROUNDS = 2000 if LONG else 120
WINDOW_MS = 3_600_000
Draw = Callable[[np.random.Generator, int], F64]


def correlated(chance: np.random.Generator, count: int, rho: float = 0.9) -> F64:
    shocks = chance.standard_normal(count + 200) * math.sqrt(1 - rho**2)
    return np.asarray(lfilter([1.0], [1.0, -rho], shocks))[200:]


def lognormal(chance: np.random.Generator, count: int) -> F64:
    return np.exp(5 + 0.5 * chance.standard_normal(count))


def with_slow_phases(chance: np.random.Generator, count: int) -> F64:
    return np.exp(5 + 0.35 * correlated(chance, count) + 0.35 * chance.standard_normal(count))


def heavy_tailed(chance: np.random.Generator, count: int) -> F64:
    return 50 * (1 + chance.pareto(3, count))


def bimodal(chance: np.random.Generator, count: int) -> F64:
    is_cached = chance.random(count) < 0.5
    return np.where(is_cached, chance.normal(20, 3, count), chance.normal(200, 30, count))


KINDS: dict[str, Draw] = {
    "independent": lognormal,
    "autocorrelated": with_slow_phases,
    "heavy": heavy_tailed,
    "bimodal": bimodal,
}


def observed(chance: np.random.Generator, values: F64, stratum: I64 | None = None) -> Observations:
    count = len(values)
    times = np.sort(chance.integers(0, WINDOW_MS, count))
    return Observations(
        times, values, np.ones(count, np.int64), np.zeros(count, np.int64) if stratum is None else stratum
    )


def in_binomial_interval(hits: int, rounds: int, rate: float) -> tuple[bool, bool]:
    """Return whether there are not too few and not too many hits for a rate, each at one in 2000."""
    low, high = stats.binom.ppf([0.0005, 0.9995], rounds, rate)
    return bool(hits >= low), bool(hits <= high)


@pytest.mark.parametrize("paired", [True, False], ids=["paired", "apart"])
@pytest.mark.parametrize("kind", KINDS)
def test_without_a_difference_alarms_and_intervals_are_wrong_as_often_as_stated(kind: str, *, paired: bool) -> None:
    seed = 11
    print("seed", seed)
    chance = np.random.default_rng(seed)
    false_alarms = dict.fromkeys(("ranks", "mean", "p50", "p95", "any"), 0)
    covered = dict.fromkeys(("mean", "p50", "p95"), 0)
    for _ in range(ROUNDS):
        sides = [observed(chance, KINDS[kind](chance, 1500)) for _ in range(2)]
        result = compare_values(sides[0], sides[1], ["all"], paired=paired)
        false_alarms["ranks"] += result.ranks.p_value < ALPHA
        verdict = judge([MetricResult("m", "ms", "lower", result)], None, stakes=Stakes())
        false_alarms["any"] += verdict.is_significant
        for name in covered:
            change = result.changes[name]
            false_alarms[name] += change.p_value < ALPHA
            assert change.low_pct is not None
            assert change.high_pct is not None
            covered[name] += change.low_pct <= 0 <= change.high_pct
    print(kind, "paired" if paired else "apart", false_alarms, covered)
    for name, hits in false_alarms.items():
        enough, few = in_binomial_interval(hits, ROUNDS, ALPHA)
        assert few, name
        assert enough or name != "ranks", name
    for name, hits in covered.items():
        lowest, _ = in_binomial_interval(hits, ROUNDS, 0.93)
        _, highest = in_binomial_interval(hits, ROUNDS, 0.97)
        assert lowest, name
        assert highest or name != "mean", name  # intervals of quantiles may be somewhat too wide


def test_ten_percent_are_seen_nine_times_in_ten_in_two_thousand_samples() -> None:
    seed = 12
    print("seed", seed)
    chance = np.random.default_rng(seed)
    seen = covered = 0
    for _ in range(ROUNDS):
        baseline, candidate = (observed(chance, lognormal(chance, 2000) * factor) for factor in (1.0, 1.1))
        result = compare_values(baseline, candidate, ["all"], paired=True)
        verdict = judge([MetricResult("m", "ms", "lower", result)], None, stakes=Stakes())
        seen += verdict.word == "ROLLBACK"
        change = result.changes["mean"]
        assert change.low_pct is not None
        assert change.high_pct is not None
        covered += change.low_pct <= 10 <= change.high_pct
    assert seen >= 0.9 * ROUNDS
    assert all(in_binomial_interval(covered, ROUNDS, 0.95))


def test_twenty_looks_raise_no_more_false_alarms_than_one_may() -> None:
    seed = 13
    print("seed", seed)
    chance = np.random.default_rng(seed)
    rounds = 400 if LONG else 40
    alarms = naive = 0
    for _ in range(rounds):
        sides = [observed(chance, lognormal(chance, 1500)) for _ in range(2)]
        by_looks = by_tests = False
        for look in range(1, 21):
            until = WINDOW_MS * look // 20
            seen = [side.take(np.flatnonzero(side.time_ms < until)) for side in sides]
            results = [MetricResult("m", "ms", "lower", compare_values(seen[0], seen[1], ["all"], paired=True))]
            by_looks |= judge(results, None, stakes=Stakes(share=look / 20)).is_significant
            by_tests |= judge(results, None, stakes=Stakes()).is_significant
        alarms += by_looks
        naive += by_tests
    print("alarms", alarms, "of", rounds, "- with plain tests", naive)
    assert in_binomial_interval(alarms, rounds, ALPHA)[1]
    assert naive > alarms


def test_a_running_comparison_sees_a_clear_difference_before_its_end() -> None:
    chance = np.random.default_rng(14)
    baseline, candidate = (observed(chance, lognormal(chance, 2000) * factor) for factor in (1.0, 1.3))
    half = [side.take(np.flatnonzero(side.time_ms < WINDOW_MS // 2)) for side in (baseline, candidate)]
    results = [MetricResult("m", "ms", "lower", compare_values(half[0], half[1], ["all"], paired=True))]
    assert judge(results, None, stakes=Stakes(share=0.5)).word == "ROLLBACK"


def test_a_change_of_traffic_is_not_taken_for_a_change_of_speed() -> None:
    """Simpson's paradox: every route becomes slower, and the mean faster, since more traffic is of the fast route."""
    chance = np.random.default_rng(15)
    sides = []
    for share_of_fast, factor in ((0.3, 1.0), (0.8, 1.15)):
        stratum = (chance.random(4000) > share_of_fast).astype(np.int64)
        values = np.exp(0.3 * chance.standard_normal(4000)) * np.where(stratum == 0, 20, 200) * factor
        sides.append(observed(chance, values, stratum))
    result = compare_values(sides[0], sides[1], ["fast", "slow"], paired=True)
    assert result.plain_means[1] < result.plain_means[0]
    change = result.changes["mean"]
    assert change.low_pct is not None
    assert change.high_pct is not None
    assert change.low_pct < 15 < change.high_pct
    assert judge([MetricResult("m", "ms", "lower", result)], None, stakes=Stakes()).word == "ROLLBACK"
    mixed = [Observations(side.time_ms, side.value, side.count, np.zeros(4000, np.int64)) for side in sides]
    plain = compare_values(mixed[0], mixed[1], ["all"], paired=True)
    assert judge([MetricResult("m", "ms", "lower", plain)], None, stakes=Stakes()).word == "DEPLOY"


def test_strata_of_one_side_are_left_out_and_counted() -> None:
    chance = np.random.default_rng(16)
    baseline = observed(chance, lognormal(chance, 1000), chance.integers(0, 2, 1000))
    candidate = observed(chance, lognormal(chance, 1000), np.where(chance.random(1000) < 0.25, 2, 0))
    result = compare_values(baseline, candidate, ["both", "old", "new"], paired=True)
    assert result.unmatched == pytest.approx(((baseline.stratum == 1).mean(), (candidate.stratum == 2).mean()))
    assert [item.name for item in result.strata] == ["both"]
    assert result.baseline.values["mean"] == pytest.approx(baseline.value[baseline.stratum == 0].mean())


def test_figures_of_single_samples_are_those_of_numpy() -> None:
    chance = np.random.default_rng(17)
    values = [lognormal(chance, 731), lognormal(chance, 412)]
    result = compare_values(observed(chance, values[0]), observed(chance, values[1]), ["all"], paired=False)
    for side, figures in zip(values, (result.baseline, result.candidate), strict=True):
        expected = [side.mean(), *np.quantile(side, QUANTILES)]
        assert [figures.values[name] for name in FIGURES] == pytest.approx(expected)


def test_counted_observations_are_as_many_single_ones() -> None:
    chance = np.random.default_rng(18)
    sides = []
    for _ in range(2):
        times, count = np.sort(chance.integers(0, WINDOW_MS, 300)), chance.integers(1, 6, 300)
        sides.append(Observations(times, lognormal(chance, 300).round(), count, chance.integers(0, 3, 300)))
    single = []
    for side in sides:
        rows = np.repeat(np.arange(300), side.count)
        single.append(
            Observations(side.time_ms[rows], side.value[rows], np.ones(len(rows), np.int64), side.stratum[rows])
        )
    names = ["a", "b", "c"]
    counted, expected = (compare_values(pair[0], pair[1], names, paired=True) for pair in (sides, single))
    for name in FIGURES:
        assert counted.changes[name].pct == pytest.approx(expected.changes[name].pct)
    assert counted.ranks.superiority == pytest.approx(expected.ranks.superiority)
    assert counted.ranks.p_value == pytest.approx(expected.ranks.p_value, abs=0.01)


def test_ranks_are_mann_and_whitneys() -> None:
    chance = np.random.default_rng(19)
    baseline, candidate = (observed(chance, lognormal(chance, count).round(-1)) for count in (900, 1100))
    result = compare_values(baseline, candidate, ["all"], paired=False)
    test = stats.mannwhitneyu(baseline.value, candidate.value)
    assert result.ranks.superiority == pytest.approx(test.statistic / (900 * 1100))
    assert result.ranks.p_value == pytest.approx(test.pvalue, abs=0.15)


def test_intervals_are_those_of_a_block_bootstrap() -> None:
    """The same interval by resampling blocks of 60 batches with 2000 draws: close to ours, and far from one that takes
    samples as independent."""
    chance = np.random.default_rng(20)
    baseline, candidate = (observed(chance, with_slow_phases(chance, 4000)) for _ in range(2))
    change = compare_values(baseline, candidate, ["all"], paired=False).changes["mean"]
    blocks = [side.value.reshape(-1, 100) for side in (baseline, candidate)]
    draws = [side[chance.integers(0, len(side), (2000, len(side)))].mean(axis=(1, 2)) for side in blocks]
    low, high = np.quantile(draws[1] - draws[0], [0.025, 0.975])
    naive = 1.96 * math.sqrt(baseline.value.var() / 4000 + candidate.value.var() / 4000)
    assert (change.high - change.low) == pytest.approx(high - low, rel=0.35)
    assert (change.high - change.low) / 2 > 1.5 * naive


def test_constants_do_not_differ_from_themselves() -> None:
    chance = np.random.default_rng(21)
    sides = [observed(chance, np.full(200, 7.0)) for _ in range(2)]
    result = compare_values(sides[0], sides[1], ["all"], paired=True)
    assert [result.changes[name].pct for name in FIGURES] == [pytest.approx(0)] * len(FIGURES)
    assert result.ranks.p_value == 1
    assert judge([MetricResult("m", "ms", "lower", result)], None, stakes=Stakes()).word == "DEPLOY"


def test_constants_that_differ_do() -> None:
    chance = np.random.default_rng(22)
    sides = [observed(chance, np.full(200, value)) for value in (7.0, 9.0)]
    result = compare_values(sides[0], sides[1], ["all"], paired=True)
    assert result.ranks.superiority == 0
    assert judge([MetricResult("m", "ms", "lower", result)], None, stakes=Stakes()).word == "ROLLBACK"


def test_negative_values_have_a_difference_and_no_percentage() -> None:
    chance = np.random.default_rng(23)
    sides = [observed(chance, chance.normal(mean, 5, 500)) for mean in (-20.0, -30.0)]
    result = compare_values(sides[0], sides[1], ["all"], paired=True)
    change = result.changes["mean"]
    assert (change.pct, change.low_pct) == (None, None)
    assert change.low < -10 < change.high
    verdict = judge([MetricResult("balance", "", "lower", result)], None, stakes=Stakes())
    assert verdict.word == "DEPLOY"
    assert "mean of balance 10" in verdict.reason


@pytest.mark.parametrize(("baseline", "candidate"), [(1, 500), (500, 1), (29, 500), (0, 500)])
def test_too_few_samples_are_insufficient(baseline: int, candidate: int) -> None:
    chance = np.random.default_rng(24)
    sides = [observed(chance, lognormal(chance, count)) for count in (baseline, candidate)]
    if min(baseline, candidate) < 5:
        with pytest.raises(InputError, match="at least 5"):
            compare_values(sides[0], sides[1], ["all"], paired=True)
        return
    result = compare_values(sides[0], sides[1], ["all"], paired=True)
    verdict = judge([MetricResult("m", "ms", "lower", result)], None, stakes=Stakes())
    assert (verdict.word, verdict.p_value) == ("INSUFFICIENT DATA", None)
    assert "29 samples" in verdict.reason


def test_samples_that_are_one_phase_are_insufficient() -> None:
    chance = np.random.default_rng(25)
    sides = [observed(chance, np.linspace(100, 200, 400) + 10 * side) for side in range(2)]
    result = compare_values(sides[0], sides[1], ["all"], paired=False)
    assert judge([MetricResult("m", "ms", "lower", result)], None, stakes=Stakes()).word == "INSUFFICIENT DATA"


def test_samples_of_one_moment_count_as_independent() -> None:
    chance = np.random.default_rng(26)
    values = [np.sort(lognormal(chance, 400)) for _ in range(2)]
    sides = [Observations(np.full(400, 5), side, np.ones(400, np.int64), np.zeros(400, np.int64)) for side in values]
    result = compare_values(sides[0], sides[1], ["all"], paired=True)
    assert not result.is_ordered
    expected = stats.ttest_ind(np.log(values[0]), np.log(values[1])).pvalue
    assert result.changes["mean"].p_value == pytest.approx(expected, abs=0.3)


def test_ten_thousand_routes_are_compared_and_the_heaviest_shown() -> None:
    chance = np.random.default_rng(27)
    sides = [observed(chance, lognormal(chance, 200_000), chance.integers(0, 10_000, 200_000)) for _ in range(2)]
    result = compare_values(sides[0], sides[1], [f"/{number}" for number in range(10_000)], paired=True)
    assert len(result.strata) == 50
    assert len(result.strata) + result.strata_omitted <= 10_000
    assert result.changes["mean"].p_value > 0.001


def outcomes(chance: np.random.Generator, rate: float, count: int = 400) -> Outcomes:
    requests = chance.integers(5, 20, count).astype(np.float64)
    errors = chance.binomial(requests.astype(np.int64), rate).astype(np.float64)
    return Outcomes(np.sort(chance.integers(0, WINDOW_MS, count)), requests, errors, np.zeros(count, np.int64))


def test_error_rates_are_covered_as_stated() -> None:
    seed = 28
    print("seed", seed)
    chance = np.random.default_rng(seed)
    covered = alarms = 0
    for _ in range(ROUNDS):
        result = compare_outcomes(outcomes(chance, 0.02), outcomes(chance, 0.02), 1, paired=True)
        assert result is not None
        covered += result.change.low <= 0 <= result.change.high
        alarms += result.change.p_value < ALPHA
    assert in_binomial_interval(covered, ROUNDS, 0.95)[0]
    assert in_binomial_interval(alarms, ROUNDS, ALPHA)[1]


def test_no_errors_do_not_mean_that_there_can_be_none() -> None:
    chance = np.random.default_rng(29)
    few = compare_outcomes(outcomes(chance, 0.0, 20), outcomes(chance, 0.0, 20), 1, paired=True)
    many = compare_outcomes(outcomes(chance, 0.0, 2000), outcomes(chance, 0.0, 2000), 1, paired=True)
    assert few is not None
    assert many is not None
    assert few.change.high > 5 * many.change.high > 0


def test_all_errors_are_an_error_rate_of_one() -> None:
    chance = np.random.default_rng(30)
    result = compare_outcomes(outcomes(chance, 0.0), outcomes(chance, 1.0), 1, paired=True)
    assert result is not None
    assert result.ratios == pytest.approx((0, 1))
    assert result.change.p_value < 0.001


def test_a_share_of_the_traffic_that_is_not_the_expected_one_is_seen() -> None:
    seed = 31
    print("seed", seed)
    chance = np.random.default_rng(seed)
    alarms = 0
    for _ in range(ROUNDS):
        number = chance.binomial(4000, 0.1)
        sides = [observed(chance, np.ones(count)) for count in (4000 - number, number)]
        alarms += check_share(sides[0], sides[1], expected=0.1).p_value < ALPHA
    assert in_binomial_interval(alarms, ROUNDS, ALPHA)[1]
    sides = [observed(chance, np.ones(count)) for count in (3500, 500)]
    assert check_share(sides[0], sides[1], expected=0.1).p_value < 0.01
