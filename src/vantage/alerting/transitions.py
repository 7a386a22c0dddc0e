"""The life of an alert, as a pure function: what an observation makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from vantage.alerting.observation import Observation
from vantage.alerting.summary import summary
from vantage.core.alert import EVALUATOR, Alert, State
from vantage.core.alert_rule import Rule

NO_DATA_MS: Final = 86_400_000  # an alert without data for so long is resolved
VALUE_EVERY_MS: Final = 60_000  # so often the value of an open alert is stored


def advance(rule: Rule, alert: Alert | None, seen: Observation | None, *, at_ms: int) -> Alert | None:
    """Return an alert as it is after an observation; None for none, and the same object where nothing has changed.

    ``alert`` is the one of the rule and the entity that is open or waits to recover, None without any; ``seen`` is None
    where the condition has no data of the entity. A new alert has the id 0. A pending one that has not come true is
    returned in the state ``ok``: it is to be removed.
    """
    if alert is not None and alert.since_ms > at_ms:  # a clock that was ahead has been set right
        alert = replace(alert, since_ms=at_ms, begun_ms=min(alert.begun_ms, at_ms), recovering_ms=None)
    if seen is None or (seen.value is None and not seen.recovered):
        return None if alert is None else _without_data(alert, at_ms)
    enough = seen.samples >= rule.samples_min
    holds, recovered = seen.holds and enough, seen.recovered and enough
    if alert is None:
        return _begun(rule, seen, at_ms) if holds else None
    if not alert.is_open:
        return replace(alert, waits_for_ok=False) if recovered else alert
    if alert.state is State.PENDING:
        return _of_pending(rule, alert, seen, holds=holds, at_ms=at_ms)
    if recovered:
        return _recovering(rule, alert, seen, at_ms)
    if alert.state is State.NO_DATA:
        state = State.FIRING
        return replace(_with_value(rule, alert, seen), state=state, since_ms=at_ms, recovering_ms=None, actor=EVALUATOR)
    if alert.recovering_ms is not None:
        return replace(_with_value(rule, alert, seen), recovering_ms=None)
    return alert


def refreshed(rule: Rule, alert: Alert, seen: Observation | None) -> Alert:
    """Return an open alert with its newest value and sentence."""
    return alert if seen is None or seen.value is None or not alert.is_open else _with_value(rule, alert, seen)


def _begun(rule: Rule, seen: Observation, at_ms: int) -> Alert:
    fires = rule.hold_ms == 0
    return Alert(
        0,
        rule.name,
        dict(seen.entity),
        seen.service,
        rule.severity,
        State.FIRING if fires else State.PENDING,
        since_ms=at_ms,
        begun_ms=at_ms,
        fired_ms=at_ms if fires else None,
        value=seen.value,
        unit=seen.unit,
        text=_text(rule, seen),
        labels=_labels(rule),
    )


def _of_pending(rule: Rule, alert: Alert, seen: Observation, *, holds: bool, at_ms: int) -> Alert:
    if not holds:
        return replace(alert, state=State.OK, since_ms=at_ms)
    if at_ms - alert.begun_ms < rule.hold_ms:
        return alert
    fired = _with_value(rule, alert, seen)
    return replace(fired, state=State.FIRING, since_ms=at_ms, fired_ms=at_ms, severity=rule.severity)


def _recovering(rule: Rule, alert: Alert, seen: Observation, at_ms: int) -> Alert:
    since_ms = at_ms if alert.recovering_ms is None else alert.recovering_ms
    if at_ms - since_ms < rule.recover_ms:
        if alert.recovering_ms is not None:
            return alert
        return replace(_with_value(rule, alert, seen), recovering_ms=since_ms)
    ended = _with_value(rule, alert, seen)
    return replace(
        ended, state=State.RESOLVED, since_ms=at_ms, ended_ms=at_ms, recovering_ms=None, actor=EVALUATOR, note=""
    )


def _without_data(alert: Alert, at_ms: int) -> Alert:
    if not alert.is_open:
        return alert
    if alert.state is State.PENDING:
        return replace(alert, state=State.OK, since_ms=at_ms)
    if alert.state in (State.NO_DATA, State.ACKNOWLEDGED):  # somebody works on it: without data it is still theirs
        if at_ms - alert.since_ms < NO_DATA_MS:
            return alert
        return replace(alert, state=State.RESOLVED, since_ms=at_ms, ended_ms=at_ms, actor=EVALUATOR)
    return replace(alert, state=State.NO_DATA, since_ms=at_ms, recovering_ms=None, actor=EVALUATOR)


def _with_value(rule: Rule, alert: Alert, seen: Observation) -> Alert:
    if seen.value is None:
        return replace(alert, text=_text(rule, seen))
    return replace(alert, value=seen.value, unit=seen.unit, text=_text(rule, seen))


def _text(rule: Rule, seen: Observation) -> str:
    return summary(rule, seen.entity, seen.value, seen.unit, seen.text)


def _labels(rule: Rule) -> Mapping[str, str]:
    return {"owner": rule.owner, **rule.labels} if rule.owner else dict(rule.labels)
