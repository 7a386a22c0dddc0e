"""What each kind of condition says about its entities, at one time of the data's clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, assert_never

from vantage.alerting.checks import observe_checks
from vantage.alerting.heartbeats import observe_heartbeats
from vantage.alerting.observation import Observation
from vantage.alerting.reading import Reading
from vantage.alerting.slo import observe_burn_rate
from vantage.alerting.summary import value_text
from vantage.alerting.values import ENTITIES_MAX, Measured, read_values
from vantage.alerting.watched import observe_anomalies, observe_forecast
from vantage.core.alert import entity_key
from vantage.core.alert_rule import (
    AnomalyCondition,
    BurnRateCondition,
    CheckCondition,
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
from vantage.core.errors import InputError
from vantage.core.number_format import duration_ms
from vantage.core.sample import OVERFLOW
from vantage.core.timerange import parse_duration_ms
from vantage.query.catalogue import SELF
from vantage.query.health import read_healths

REMEMBERED_MS: Final = 86_400_000  # so long after its last data a service is missed
HEALTH_TTL_MS: Final = 60_000  # a score is of 5 minutes at least, and its baselines of weeks
FORGOTTEN_MS: Final = 2 * REMEMBERED_MS
_FIGURE_NAMES: Final = {"rate": "requests", "errors": "failed requests", "p50": "p50", "p95": "p95", "p99": "p99"}


async def observe(reading: Reading, rule: Rule) -> list[Observation]:
    """Return what a rule's condition says about each of its entities at ``reading.at_ms``. Raises InputError naming
    what is wrong with the condition, and what the stores raise."""
    condition = rule.condition
    match condition:
        case Threshold():
            measured = await read_values(reading, condition.value, rule.window_ms)
            return [judged(item, condition, rule.window) for item in measured]
        case Ratio():
            return await _ratios(reading, rule, condition)
        case AnomalyCondition():
            observations = await observe_anomalies(reading, condition)
        case ForecastCondition():
            observations = await observe_forecast(reading, condition)
        case NoDataCondition():
            observations = await _missing(reading, condition)
        case HealthCondition():
            observations = await _healths(reading, condition, rule.window_ms)
        case BurnRateCondition():
            observations = await observe_burn_rate(reading.context, condition, at_ms=reading.at_ms)
        case HeartbeatCondition():
            observations = await observe_heartbeats(reading.context, condition, now_ms=reading.context.clock.now_ms())
        case CheckCondition():
            observations = await observe_checks(reading.context, condition)
        case _:
            assert_never(condition)
    if len(observations) > ENTITIES_MAX:
        raise InputError(f"yields {len(observations)} entities, at most {ENTITIES_MAX} are allowed", field="condition")
    return observations


def judge(value: float, condition: Threshold | Ratio) -> tuple[bool, bool]:
    """Return whether a condition holds of a value, and whether it has recovered."""
    if condition.above is not None:
        back = condition.above if condition.recover is None else condition.recover
        return value > condition.above, value <= back
    assert condition.below is not None
    back = condition.below if condition.recover is None else condition.recover
    return value < condition.below, value >= back


def describe(value: Value) -> str:
    """Return what a value is of, for people."""
    if isinstance(value, MetricValue):
        return f"{value.agg} of {value.metric}"
    return _FIGURE_NAMES[value.figure] if isinstance(value, RequestValue) else "The value"


def judged(item: Measured, condition: Threshold | Ratio, window: str) -> Observation:
    """Return what a condition says about a value of a window."""
    if isinstance(condition, Threshold):
        of = describe(condition.value)
    else:
        of = f"{describe(condition.part)} by {describe(condition.total)}"
    holds, recovered = judge(item.value, condition)
    side, limit = ("above", condition.above) if condition.above is not None else ("below", condition.below)
    text = f"{of} over {window}: {value_text(item.value, item.unit)}"
    text += f", {side} {value_text(limit, item.unit)}" if holds else ""
    if names := [part for name, part in item.entity.items() if name != "service"]:
        text = f"{', '.join(names)}: {text}"
    if item.service:
        text = f"{item.service}: {text}"
    return Observation(item.entity, item.service, item.value, holds, recovered, item.samples, item.unit, text)


async def _ratios(reading: Reading, rule: Rule, condition: Ratio) -> list[Observation]:
    parts = await read_values(reading, condition.part, rule.window_ms)
    totals = await read_values(reading, condition.total, rule.window_ms)
    return [judged(item, condition, rule.window) for item in ratios(parts, totals)]


def ratios(parts: Iterable[Measured], totals: Iterable[Measured]) -> list[Measured]:
    """Return the quotient of values that belong together: those with the same entity, or else a total of the same
    service, or the only one there is. What has no total, or one of 0, has no value."""
    totals = list(totals)
    by_entity = {entity_key(item.entity): item for item in totals}
    by_service = {item.service: item for item in totals if set(item.entity) <= {"service"}}
    quotients = []
    for part in parts:
        total = by_entity.get(entity_key(part.entity)) or by_service.get(part.service)
        total = total or (totals[0] if len(totals) == 1 and set(totals[0].entity) <= {"service"} else None)
        if total is not None and total.value:
            unit = part.unit if part.unit == "%" else ""
            quotients.append(Measured(part.entity, part.service, part.value / total.value, total.samples, unit))
    return quotients


async def _missing(reading: Reading, condition: NoDataCondition) -> list[Observation]:
    """Return whether services, or a metric, have sent data. Where nothing at all arrives, it is Vantage's own fault or
    everybody's: one alert, not one of each."""
    after_ms = parse_duration_ms(condition.after, field="condition.after")
    last: Mapping[str, int]
    newest_ms = max((await reading.last_seen_ms()).values(), default=0)
    if newest_ms and reading.at_ms - newest_ms >= after_ms:
        text = f"Nothing has arrived of any service for {duration_ms(reading.at_ms - newest_ms)}"
        return [Observation({}, "", float(reading.at_ms - newest_ms), True, False, 1, "ms", text)]
    everything = Observation({}, "", 0.0, False, True, 1, "ms", "Data arrives")
    if condition.metric:
        value = MetricValue(condition.service, condition.metric)
        infos = await reading.context.store.list_series(service=value.service, metric=value.metric)
        last = {condition.service: max(info.last_ms for info in infos)} if infos else {}
    else:
        seen = await reading.last_seen_ms()
        wanted = {condition.service} if condition.service else seen.keys() - {SELF, OVERFLOW}
        last = {name: at for name, at in seen.items() if name in wanted}
    observations = [everything]
    for service, last_ms in sorted(last.items()):
        silent_ms = reading.at_ms - last_ms
        if silent_ms > FORGOTTEN_MS:
            continue
        entity = {"service": service} | ({"metric": condition.metric} if condition.metric else {})
        if silent_ms > REMEMBERED_MS:  # it was taken out of service: what fires of it ends
            text = f"{service} has sent nothing for {duration_ms(silent_ms)} and is not expected to"
            observations.append(Observation(entity, service, None, False, True, 1, "ms", text))
            continue
        of = f"{service}: {condition.metric}" if condition.metric else service
        text = f"{of} has sent nothing for {duration_ms(max(0, silent_ms))}"
        holds = silent_ms >= after_ms
        observations.append(Observation(entity, service, float(silent_ms), holds, not holds, 1, "ms", text))
    return observations


async def _healths(reading: Reading, condition: HealthCondition, window_ms: int) -> list[Observation]:
    window_ms = max(window_ms, 300_000)

    async def load() -> Mapping[str, tuple[int | None, str]]:
        first = {name: at for name, at in (await reading.first_seen_ms()).items() if name not in (SELF, OVERFLOW)}
        if not first:
            return {}
        healths = await read_healths(reading.context, first, end_ms=reading.at_ms + 1, window_ms=window_ms)
        return {name: (item.health.score, item.health.reason) for name, item in healths.items()}

    recover = condition.below if condition.recover is None else condition.recover
    observations = []
    scores = await reading.lasting.cached(("health", window_ms), load, now_ms=reading.at_ms, ttl_ms=HEALTH_TTL_MS)
    for service, (score, text) in sorted(scores.items()):
        if condition.service not in ("", service):
            continue
        value = None if score is None else float(score)
        observations.append(
            Observation(
                {"service": service},
                service,
                value,
                value is not None and value < condition.below,
                value is not None and value >= recover,
                1,
                "",
                f"{service}: health {'unknown' if score is None else score}. {text}".strip(),
            )
        )
    return observations
