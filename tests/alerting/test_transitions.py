"""The life of an alert, observation by observation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vantage.alerting.observation import Observation
from vantage.alerting.transitions import NO_DATA_MS, advance, refreshed
from vantage.core.alert import EVALUATOR, Alert, State
from vantage.core.alert_rule import RequestValue, Rule, Severity, Threshold

AT_MS = 1_800_000_000_000
MINUTE_MS = 60_000


def a_rule(**fields: Any) -> Rule:
    given = {"hold": "2m", "recover_for": "5m", "severity": Severity.CRITICAL, **fields}
    return Rule("slow", Threshold(RequestValue("p95"), above=500.0, recover=400.0), **given)


def seen(value: float | None, samples: int = 100) -> Observation:
    holds, recovered = value is not None and value > 500, value is not None and value <= 400
    return Observation({"service": "api"}, "api", value, holds, recovered, samples, "ms", f"api: p95 {value} ms")


def lived(rule: Rule, *steps: tuple[float, Observation | None], alert: Alert | None = None) -> list[Alert | None]:
    """Return the alert after each step: minutes from the start, and what was seen then."""
    states = []
    for minute, observation in steps:
        after = advance(rule, alert, observation, at_ms=AT_MS + int(minute * MINUTE_MS))
        if after is not None and after is not alert:
            after = replace(after, id=1, revision=(alert.revision + 1) if alert else 1)
        alert = after
        states.append(alert)
        if alert is not None and alert.state is State.OK:
            alert = None
    return states


def names(alerts: list[Alert | None]) -> list[str]:
    return ["" if alert is None else str(alert.state) for alert in alerts]


def test_an_alert_fires_after_its_time_and_is_resolved_after_it_has_recovered() -> None:
    states = lived(
        a_rule(), (0, seen(450)), (1, seen(600)), (2, seen(600)), (3, seen(700)), (4, seen(450)), (5, seen(300)),
        (9.9, seen(300)), (10, seen(300)),
    )  # fmt: skip
    assert names(states) == ["", "pending", "pending", "firing", "firing", "firing", "firing", "resolved"]
    fired, ended = states[3], states[7]
    assert fired is not None
    assert ended is not None
    assert (fired.begun_ms, fired.fired_ms) == (AT_MS + MINUTE_MS, AT_MS + 3 * MINUTE_MS)
    assert (ended.ended_ms, ended.value, ended.text) == (AT_MS + 10 * MINUTE_MS, 300, "api: p95 300 ms")


def test_a_condition_that_stops_holding_before_its_time_leaves_nothing() -> None:
    assert names(lived(a_rule(), (0, seen(600)), (1, seen(450)), (2, seen(600)))) == ["pending", "ok", "pending"]
    assert names(lived(a_rule(), (0, seen(600)), (1, None))) == ["pending", "ok"]


def test_what_goes_back_and_forth_between_the_limits_stays_one_alert() -> None:
    steps = [(minute, seen(600 if minute % 4 else 300)) for minute in range(1, 40)]
    states = lived(a_rule(), *steps)
    assert set(names(states)[3:]) == {"firing"}


def test_without_a_time_an_alert_fires_at_once() -> None:
    assert names(lived(a_rule(hold="0s", recover_for="0s"), (0, seen(600)), (1, seen(300)))) == ["firing", "resolved"]


def test_few_samples_neither_fire_nor_resolve() -> None:
    rule = a_rule(hold="0s", recover_for="0s", samples_min=20)
    assert names(lived(rule, (0, seen(900, 19)))) == [""]
    assert names(lived(rule, (0, seen(900, 20)), (1, seen(100, 19)), (2, seen(100, 20)))) == [
        "firing", "firing", "resolved"
    ]  # fmt: skip


def test_an_alert_without_data_is_no_data_until_there_is_some_or_a_day_has_passed() -> None:
    rule = a_rule(hold="0s", recover_for="0s")
    assert names(lived(rule, (0, seen(600)), (1, None), (2, seen(None)), (3, seen(600)))) == [
        "firing", "no data", "no data", "firing"
    ]  # fmt: skip
    assert names(lived(rule, (0, seen(600)), (1, None), (2, seen(100)))) == ["firing", "no data", "resolved"]
    day = NO_DATA_MS / MINUTE_MS
    states = lived(rule, (0, seen(600)), (1, None), (day, None), (day + 1, None))
    assert names(states) == ["firing", "no data", "no data", "resolved"]


def test_an_acknowledged_alert_stays_so_until_it_has_recovered() -> None:
    rule = a_rule(hold="0s", recover_for="1m")
    (fired,) = lived(rule, (0, seen(600)))
    assert fired is not None
    acknowledged = replace(fired, state=State.ACKNOWLEDGED, actor="ann", note="on it")
    states = lived(rule, (1, seen(700)), (2, seen(300)), (3, seen(300)), alert=acknowledged)
    assert names(states) == ["acknowledged", "acknowledged", "resolved"]
    assert states[2] is not None
    assert (states[2].actor, states[2].note) == (EVALUATOR, "")


def test_an_acknowledged_alert_without_data_stays_acknowledged_for_a_day() -> None:
    rule = a_rule(hold="0s", recover_for="0s")
    (fired,) = lived(rule, (0, seen(600)))
    assert fired is not None
    acknowledged = replace(fired, state=State.ACKNOWLEDGED, actor="ann", note="on it")
    assert names(lived(rule, (1, None), (2, seen(700)), (3, seen(300)), alert=acknowledged)) == [
        "acknowledged", "acknowledged", "resolved"
    ]  # fmt: skip
    assert names(lived(rule, (1, None), (NO_DATA_MS / MINUTE_MS, None), alert=acknowledged)) == [
        "acknowledged", "resolved"
    ]  # fmt: skip


def test_what_somebody_resolved_fires_again_only_after_it_has_recovered() -> None:
    rule = a_rule(hold="0s")
    (fired,) = lived(rule, (0, seen(600)))
    assert fired is not None
    ended = replace(fired, state=State.RESOLVED, ended_ms=AT_MS, waits_for_ok=True)
    states = lived(rule, (1, seen(600)), (2, seen(450)), (3, None), (4, seen(300)), alert=ended)
    assert [alert is not None and alert.waits_for_ok for alert in states] == [True, True, True, False]


def test_nothing_changed_is_the_same_object() -> None:
    rule = a_rule(hold="0s")
    (fired,) = lived(rule, (0, seen(600)))
    assert advance(rule, fired, seen(700), at_ms=AT_MS + 1) is fired
    assert fired is not None
    assert refreshed(rule, fired, seen(700)).value == 700
    assert refreshed(rule, fired, None) is fired


def test_a_clock_that_was_ahead_and_is_set_right_delays_nothing() -> None:
    rule = a_rule()
    states = lived(rule, (600, seen(600)), (0, seen(600)), (2, seen(600)))
    assert names(states) == ["pending", "pending", "firing"]


@pytest.mark.parametrize("minutes", [2, 60 * 24 * 400])
def test_a_clock_that_jumps_ahead_fires_what_holds_and_no_more(minutes: int) -> None:
    assert names(lived(a_rule(), (0, seen(600)), (minutes, seen(600)))) == ["pending", "firing"]


def test_the_summary_of_a_rule_is_the_text_of_its_alerts() -> None:
    rule = a_rule(
        hold="0s", summary="{{ service }} at {{value}} ({{ labels.team }}, {{ nothing }})", labels={"team": "a"}
    )
    (fired,) = lived(rule, (0, seen(612.5)))
    assert fired is not None
    assert fired.text == "api at 613 ms (a, {{ nothing }})"
    assert fired.labels == {"team": "a"}
