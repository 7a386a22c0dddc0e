"""What a rule says, as a sentence for people."""

from __future__ import annotations

from vantage.alerting.summary import value_text
from vantage.core.alert_rule import (
    AnomalyCondition,
    BurnRateCondition,
    CheckCondition,
    Condition,
    ForecastCondition,
    HealthCondition,
    HeartbeatCondition,
    MetricValue,
    NoDataCondition,
    Ratio,
    RequestValue,
    Rule,
    Threshold,
    Value,
)

_FIGURES = {"rate": "requests a second", "errors": "the share of failed requests"}
_UNITS = {"errors": "%", "p50": "ms", "p95": "ms", "p99": "ms", "rate": "/s"}


def rule_in_words(rule: Rule) -> str:
    """Return when a rule's alerts fire and when they are resolved, in one or two sentences."""
    text = f"Fires when {condition_in_words(rule.condition, rule.window)}"
    text += f" for {rule.hold}" if rule.hold_ms else ", at once"
    back = f"when it has been back for {rule.recover_for}" if rule.recover_ms else "as soon as it is back"
    return f"{text}. Resolved {back}."


def condition_in_words(condition: Condition, window: str) -> str:
    """Return a condition as part of a sentence."""
    match condition:
        case Threshold():
            return f"{_value(condition.value)} over {window} is {_limits(condition, _unit(condition.value))}"
        case Ratio():
            return f"{_value(condition.part)} divided by {_value(condition.total)} over {window} is " + _limits(
                condition, ""
            )
        case AnomalyCondition():
            mode = f" by the mode {condition.mode}" if condition.mode else ""
            direction = {"up": " and higher than expected", "down": " and lower than expected"}.get(
                condition.direction, ""
            )
            what = _watched(condition.figure, condition.metric, condition.service)
            text = f"{what} is unusual{mode}, with a score of {condition.score:g} or more{direction}"
            text += f" by {condition.change:.0%} or more" if condition.change else ""
            return f"{text}, {value_text(condition.errors, '%')} at least" if condition.errors else text
        case ForecastCondition():
            what = _watched(condition.figure, condition.metric, condition.service)
            sure = " for certain (95 %)" if condition.sure else ""
            return f"{what} is expected to cross {condition.limit:g} within {condition.hours} hours{sure}"
        case NoDataCondition():
            what = condition.metric or "data"
            return f"no {what} of {condition.service or 'a service'} has arrived for {condition.after}"
        case HealthCondition():
            return f"the health of {condition.service or 'a service'} is below {condition.below:g}"
        case BurnRateCondition():
            return f"the error budget of {condition.slo} burns too fast ({condition.speed})"
        case HeartbeatCondition():
            return f"the heartbeat {condition.name} is late" if condition.name else "a heartbeat is late"
        case CheckCondition():
            name = f"the check {condition.name}" if condition.name else "a check"
            return f"{name} has failed {condition.failures} times in a row"


def _limits(condition: Threshold | Ratio, unit: str) -> str:
    side, limit = ("above", condition.above) if condition.above is not None else ("below", condition.below)
    recover = f" (back at {value_text(condition.recover, unit)})" if condition.recover is not None else ""
    return f"{side} {value_text(limit, unit)}{recover}"


def _unit(value: Value) -> str:
    return _UNITS[value.figure] if isinstance(value, RequestValue) else ""


def _value(value: Value) -> str:
    if isinstance(value, MetricValue):
        by = f" by {', '.join(value.group_by)}" if value.group_by else ""
        only = f" with {', '.join(value.tags)}" if value.tags else ""
        return f"{value.agg} of {value.metric} of {value.service}{only}{by}"
    if isinstance(value, RequestValue):
        what = _FIGURES.get(value.figure, value.figure)
        return f"{what} of {'each endpoint of ' if value.by == 'endpoint' else ''}{value.service or 'a service'}"
    return "the value of a query"


def _watched(figure: str, metric: str, service: str) -> str:
    return f"{metric or _FIGURES.get(figure, figure)} of {service or 'a service'}"
