"""Backtests: the same alerts as an evaluation at those times would have made."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.context_writes import write_batch
from tests.support.pages import page_context
from tests.support.samples import NOW_MS, MovedClock, a_series
from vantage.alerting.backtest import RANGE_MS_MAX, Backtest, backtest, with_threshold
from vantage.alerting.evaluate import AlertEvaluator
from vantage.core.alert import State
from vantage.core.alert_rule import (
    AnomalyCondition,
    Condition,
    ForecastCondition,
    HealthCondition,
    MetricValue,
    NoDataCondition,
    Ratio,
    RequestValue,
    Rule,
    Threshold,
    VqlValue,
)
from vantage.core.anomaly import Anomaly
from vantage.core.batch import build_batch
from vantage.core.errors import InputError
from vantage.core.sample import Kind
from vantage.core.timerange import TimeRange
from vantage.core.turns import Turns
from vantage.query.context import QueryContext

MINUTE_MS = 60_000
STEP_MS = 5 * MINUTE_MS
START_MS = NOW_MS // STEP_MS * STEP_MS - 48 * STEP_MS  # four hours before now
RANGE = TimeRange(START_MS, START_MS + 48 * STEP_MS)
HIGH = range(10, 16)  # the buckets of 5 minutes in which something is wrong
QUICK: dict[str, Any] = {"hold": "0s", "recover_for": "0s", "every": "5m"}


@pytest.fixture
async def context() -> AsyncIterator[QueryContext]:
    async with page_context() as context:
        rows = []
        for bucket in range(48):
            wrong = bucket in HIGH
            for number in range(30):
                at_ms = START_MS + bucket * STEP_MS + number * 10_000
                rows.append((a_series("shop", "queue", tags={"queue": "mail"}), at_ms, 90.0 if wrong else 10.0))
                rows.append((a_series("shop", "queue", tags={"queue": "print"}), at_ms, 5.0))
                rows.append((a_series("shop", "places"), at_ms, 100.0))
                tags = {"http.route": "/a", "status": "500" if wrong and number < 10 else "200"}
                durations = a_series("shop", "http.request.duration", Kind.HISTOGRAM, unit="ms", tags=tags)
                rows.append((durations, at_ms, 800.0 if wrong else 50.0))
                if not wrong:
                    rows.append((a_series("pay", "beat"), at_ms, 1.0))
        await write_batch(context, build_batch(rows))
        yield context


BY_QUEUE = ("queue",)
GAUGE = MetricValue("shop", "queue", group_by=BY_QUEUE)
VQL = (
    "SELECT service_name, tags['queue'] AS queue, avg(value) AS v FROM metrics WHERE metric_name = 'queue' "
    "GROUP BY service_name, queue"
)


@pytest.mark.parametrize(
    "condition",
    [
        Threshold(GAUGE, above=50),
        Threshold(RequestValue("p95"), above=500),
        Threshold(RequestValue("errors", "shop"), above=0.2),
        Threshold(RequestValue("p95", "shop", by="endpoint"), above=500),
        Threshold(VqlValue(VQL), above=50),
        Ratio(GAUGE, MetricValue("shop", "places"), above=0.5),
        NoDataCondition("pay"),
    ],
)
async def test_a_rule_fires_when_it_would_have(context: QueryContext, condition: Condition) -> None:
    result = await backtest(context, Rule("r", condition, **QUICK), RANGE)
    (firing,) = result.firings
    first = (firing.start_ms - START_MS) / STEP_MS
    last = ((firing.end_ms or 0) - START_MS) / STEP_MS
    delay = 1 if isinstance(condition, NoDataCondition) else 0
    assert 10 <= first - delay <= 11.5, first
    assert 16 <= last <= 17.5, last
    assert firing.peak > 0
    assert result.evaluations == 48
    assert firing.text


@pytest.mark.parametrize("condition", [Threshold(GAUGE, above=50), Threshold(RequestValue("p95"), above=500)])
async def test_a_backtest_agrees_with_evaluation(condition: Condition) -> None:
    """The same data, evaluated as it arrives."""
    rule = Rule("r", condition, hold="10m", recover_for="10m", every="5m", window="5m")
    async with page_context() as context:
        clock = context.clock
        assert isinstance(clock, MovedClock)
        await context.metadata.alerts.save_rule(rule, actor="test")  # type: ignore[attr-defined]
        process = AlertEvaluator(context, context.metadata, turns=Turns(), default_rules=())  # type: ignore[arg-type]
        for bucket in range(40):
            clock.now = START_MS + (bucket + 1) * STEP_MS - 1
            wrong, start_ms = bucket in (*HIGH, 25, 30, 31), START_MS + bucket * STEP_MS
            series = a_series("shop", "http.request.duration", Kind.HISTOGRAM, unit="ms", tags={"status": "200"})
            rows = [(series, start_ms + n * 10_000, 800.0 if wrong else 50.0) for n in range(30)]
            rows += [(a_series("shop", "queue", tags={"queue": "mail"}), start_ms + 299_000, 90.0 if wrong else 10.0)]
            await write_batch(context, build_batch(rows))
            await process.evaluate()
        result = await backtest(context, rule, TimeRange(START_MS, START_MS + 40 * STEP_MS))
        alerts = await context.metadata.alerts.alerts(states=[State.RESOLVED, State.FIRING])
        lived = [((alert.fired_ms or 0) // STEP_MS, (alert.ended_ms or 0) // STEP_MS) for alert in reversed(alerts)]
        fired = [((item.start_ms - 1) // STEP_MS, ((item.end_ms or 0) - 1) // STEP_MS) for item in result.firings]
        assert fired == lived
        assert len(lived) == 1


async def test_anomalies_fire_as_they_were_noticed(context: QueryContext) -> None:
    start_ms = START_MS + 10 * STEP_MS
    anomaly = Anomaly(
        "shop", "p95", "", start_ms, start_ms + 6 * STEP_MS, 2.0, 800.0, 50.0, 40.0, 60.0, "seasonal", "ms", "text"
    )
    await context.metadata.record_anomalies([anomaly], since_ms=0)  # type: ignore[attr-defined]
    result = await backtest(context, Rule("r", AnomalyCondition("p95", change=1.0), **QUICK), RANGE)
    assert [(item.service, item.start_ms, item.end_ms) for item in result.firings] == [
        ("shop", start_ms + STEP_MS, start_ms + 7 * STEP_MS)
    ]
    assert (await backtest(context, Rule("r", AnomalyCondition("p95", change=20.0), **QUICK), RANGE)).firings == ()


async def test_what_still_fires_has_no_end(context: QueryContext) -> None:
    result = await backtest(
        context, Rule("r", Threshold(GAUGE, above=50), **QUICK), TimeRange(START_MS, START_MS + 14 * STEP_MS)
    )
    assert [firing.end_ms for firing in result.firings] == [None]


async def test_health_is_evaluated_step_by_step(context: QueryContext) -> None:
    result = await backtest(context, Rule("r", HealthCondition(below=60), hold="0s", every="30m"), RANGE)
    assert result.evaluations == 8
    assert [firing.service for firing in result.firings] == ["shop"]


async def test_another_threshold_moves_its_recovery_too() -> None:
    rule = with_threshold(Rule("r", Threshold(RequestValue("p95"), above=100, recover=80)), 200)
    assert rule.condition == Threshold(RequestValue("p95"), above=200, recover=160)
    with pytest.raises(InputError, match="no threshold"):
        with_threshold(Rule("r", NoDataCondition()), 1)


@pytest.mark.parametrize(
    ("condition", "time_range", "field"),
    [
        (Threshold(GAUGE, above=1), TimeRange(NOW_MS - RANGE_MS_MAX - 1, NOW_MS), "start"),
        (ForecastCondition("shop", "p95", 1.0), RANGE, "condition.kind"),
        (AnomalyCondition("p95", mode="sigma"), RANGE, "condition.mode"),
    ],
)
async def test_what_cannot_be_backtested_is_refused(
    context: QueryContext, condition: Condition, time_range: TimeRange, field: str
) -> None:
    with pytest.raises(InputError) as caught:
        await backtest(context, Rule("r", condition), time_range)
    assert caught.value.field == field


def spent(result: Backtest) -> int:
    return sum((firing.end_ms or result.time_range.end_ms) - firing.start_ms for firing in result.firings)


async def test_a_longer_time_fires_less(context: QueryContext) -> None:
    short = await backtest(context, Rule("r", Threshold(GAUGE, above=50), **QUICK), RANGE)
    long = await backtest(context, Rule("r", Threshold(GAUGE, above=50), **{**QUICK, "hold": "10m"}), RANGE)
    longest = await backtest(context, Rule("r", Threshold(GAUGE, above=50), **{**QUICK, "hold": "1h"}), RANGE)
    assert spent(short) > spent(long) > spent(longest) == 0
