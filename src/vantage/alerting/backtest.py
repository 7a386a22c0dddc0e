"""Backtests: how often, and when, a rule would have fired in the past.

A rule goes through the same judgement and transitions as when it is evaluated, at fewer times: once a window, or as
often as ``EVALUATIONS_MAX`` allows. What is kept ready (rollups, anomalies) is read once for the complete range; other
values are read at each of those times.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np

from vantage.alerting.observation import Observation
from vantage.alerting.observe import judged, observe, ratios
from vantage.alerting.reading import Lasting, Reading
from vantage.alerting.transitions import advance
from vantage.alerting.values import ENTITIES_MAX, FIGURE_UNITS, Measured, tag_pairs
from vantage.alerting.watched import anomaly_sentence, is_meant
from vantage.core.alert import Alert, State, entity_key
from vantage.core.alert_rule import (
    AnomalyCondition,
    CheckCondition,
    ForecastCondition,
    HeartbeatCondition,
    MetricValue,
    NoDataCondition,
    Ratio,
    RequestValue,
    Rule,
    Threshold,
    Value,
    VqlValue,
)
from vantage.core.errors import InputError
from vantage.core.red import MINUTE_MS
from vantage.core.rollup import FIVE_MINUTES_MS
from vantage.core.sample import OVERFLOW
from vantage.core.timerange import TimeRange, parse_duration_ms
from vantage.query.anomalies import LIST_MAX
from vantage.query.anomaly_points import SeriesKey, read_points
from vantage.query.catalogue import SELF
from vantage.query.context import QueryContext
from vantage.query.http_semconv import QUANTILES_ALL, Buckets
from vantage.query.red import RedStats, read_red
from vantage.query.timeseries import timeseries
from vantage.query.timeseries_query import TimeseriesQuery
from vantage.vql.text.compile import compile_condition
from vantage.vql.tree import And, Call, Column, Compare, Literal, Select, SelectItem

RANGE_MS_MAX: Final = 31 * 86_400_000
EVALUATIONS_MAX: Final = 4500  # from what is read once: 15 days of 5 minutes
READS_MAX: Final = 300  # evaluations that read for themselves
FIRINGS_MAX: Final = 1000
ROWS_MAX: Final = 500_000
DAY_MS: Final = 86_400_000
Seen = AsyncIterator[tuple[int, Sequence[Observation]]]


@dataclass(frozen=True, slots=True)
class Firing:
    """A time for which an alert would have fired: until ``end_ms``, None if it still did at the end. ``peak`` is the
    value farthest beyond the limit, and ``text`` the sentence of the alert when it fired."""

    entity: Mapping[str, str]
    service: str
    start_ms: int
    end_ms: int | None
    peak: float
    unit: str
    text: str


@dataclass(frozen=True, slots=True)
class Backtest:
    """``firings`` in order of their start, FIRINGS_MAX at most (``omitted`` more); ``evaluations`` is how often the
    rule was evaluated, every ``step_ms``; ``notes`` say what differs from an evaluation as data arrives."""

    time_range: TimeRange
    firings: tuple[Firing, ...]
    omitted: int
    evaluations: int
    step_ms: int
    entities: int
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Lives:
    """The alerts of a rule as time passes."""

    rule: Rule
    alerts: dict[str, Alert] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    firings: list[Firing] = field(default_factory=list)
    entities: set[str] = field(default_factory=set)

    def take(self, at_ms: int, observations: Iterable[Observation]) -> None:
        seen = {entity_key(item.entity): item for item in observations}
        self.entities |= seen.keys()
        for key in {*seen, *self.alerts}:
            before, item = self.alerts.get(key), seen.get(key)
            after = advance(self.rule, before, item, at_ms=at_ms)
            if after is None or after.state is State.OK:
                self.alerts.pop(key, None)
                continue
            if after.fired_ms is not None and (before is None or before.fired_ms is None):
                self.peaks[key], self.texts[key] = after.value or 0.0, after.text
            if item is not None and item.value is not None and key in self.peaks and item.holds:
                farther = min if _is_below(self.rule) else max
                self.peaks[key] = farther(self.peaks[key], item.value)
            if after.state is State.RESOLVED:
                self._end(key, after, at_ms)
                self.alerts.pop(key, None)
            else:
                self.alerts[key] = after

    def finish(self) -> None:
        for key, alert in list(self.alerts.items()):
            if alert.fired_ms is not None:
                self._end(key, alert, None)

    def _end(self, key: str, alert: Alert, end_ms: int | None) -> None:
        assert alert.fired_ms is not None
        peak, text = self.peaks.pop(key), self.texts.pop(key)
        self.firings.append(Firing(alert.entity, alert.service, alert.fired_ms, end_ms, peak, alert.unit, text))


def _is_below(rule: Rule) -> bool:
    return isinstance(rule.condition, (Threshold, Ratio)) and rule.condition.below is not None


async def backtest(context: QueryContext, rule: Rule, time_range: TimeRange) -> Backtest:
    """Return when a rule would have fired in a range of at most 31 days. Raises InputError for a longer one, for a
    condition that has no past, and what the stores raise."""
    if time_range.length_ms > RANGE_MS_MAX:
        raise InputError("lies more than 31 days before end", field="start")
    condition, notes = rule.condition, [""]
    match condition:
        case Threshold() | Ratio() if not _reads_each_time(condition):
            step_ms, seen = _of_values(context, rule, condition, time_range)
        case AnomalyCondition():
            step_ms, seen = FIVE_MINUTES_MS, _of_anomalies(context, condition, time_range)
            notes.append("anomalies are those that were noticed as data arrived, with what is stored of them")
        case NoDataCondition():
            step_ms, seen = FIVE_MINUTES_MS, _of_silence(context, condition, time_range)
        case ForecastCondition() | HeartbeatCondition() | CheckCondition():
            raise InputError("has no past that could be evaluated again", field="condition.kind")
        case _:
            step_ms = max(rule.every_ms, -(-time_range.length_ms // READS_MAX))
            seen = _step_by_step(context, rule, time_range, step_ms)
    if step_ms > rule.every_ms:
        notes.append(f"evaluated every {step_ms // 1000} s instead of every {rule.every}")
    lives, evaluations = _Lives(rule), 0
    async for at_ms, observations in seen:
        lives.take(at_ms, observations)
        evaluations += 1
        if evaluations % 50 == 0:
            await asyncio.sleep(0)
        if len(lives.entities) > ENTITIES_MAX * 4:
            raise InputError(f"yields more than {ENTITIES_MAX * 4} entities over the range", field="condition")
    lives.finish()
    firings = sorted(lives.firings, key=lambda firing: (firing.start_ms, entity_key(firing.entity)))
    return Backtest(
        time_range,
        tuple(firings[:FIRINGS_MAX]),
        max(0, len(firings) - FIRINGS_MAX),
        evaluations,
        step_ms,
        len(lives.entities),
        tuple(notes[1:]),
    )


def _reads_each_time(condition: Threshold | Ratio) -> bool:
    values: tuple[Value, ...]
    values = (condition.value,) if isinstance(condition, Threshold) else (condition.part, condition.total)
    return any(
        isinstance(value, VqlValue) or (isinstance(value, RequestValue) and value.by == "endpoint") for value in values
    )


async def _step_by_step(context: QueryContext, rule: Rule, time_range: TimeRange, step_ms: int) -> Seen:
    lasting = Lasting()
    for at_ms in range(time_range.start_ms + step_ms, time_range.end_ms + 1, step_ms):
        reading = Reading(context, at_ms=at_ms, rules=[rule], lasting=lasting)
        try:
            yield at_ms, await observe(reading, rule)
        finally:
            reading.close()


def _of_values(
    context: QueryContext, rule: Rule, condition: Threshold | Ratio, time_range: TimeRange
) -> tuple[int, Seen]:
    """Return values of windows that follow each other."""
    step_ms = max(rule.window_ms, -(-time_range.length_ms // EVALUATIONS_MAX))
    is_recent = time_range.length_ms <= DAY_MS
    unit_ms = MINUTE_MS if is_recent else FIVE_MINUTES_MS
    step_ms = -(-step_ms // unit_ms) * unit_ms

    async def seen() -> Seen:
        if isinstance(condition, Threshold):
            by_bucket = await _buckets_of(context, condition.value, time_range, step_ms)
        else:
            parts = await _buckets_of(context, condition.part, time_range, step_ms)
            totals = await _buckets_of(context, condition.total, time_range, step_ms)
            by_bucket = {at: ratios(items, totals.get(at, [])) for at, items in parts.items()}
        aligned = time_range.aligned(step_ms)
        for at_ms in range(aligned.start_ms, aligned.end_ms, step_ms):
            if at_ms < time_range.end_ms:
                yield at_ms + step_ms, [judged(item, condition, rule.window) for item in by_bucket.get(at_ms, ())]

    return step_ms, seen()


async def _buckets_of(
    context: QueryContext, value: Value, time_range: TimeRange, step_ms: int
) -> dict[int, list[Measured]]:
    if isinstance(value, MetricValue):
        return await _metric_buckets(context, value, time_range, step_ms)
    assert isinstance(value, RequestValue)
    aligned = time_range.aligned(step_ms)
    first = await Reading(context, at_ms=time_range.end_ms).first_seen_ms()
    services = {name: at for name, at in first.items() if name not in (SELF, OVERFLOW)}
    if value.service:
        services = {name: at for name, at in services.items() if name == value.service}
    if not services:
        return {}
    buckets = Buckets(aligned.start_ms, min(aligned.end_ms, context.present().now_ms + 1), step_ms)
    red = await read_red(context, buckets, services=services, quantiles=QUANTILES_ALL)
    by_bucket: dict[int, list[Measured]] = {}
    for service, stats in red.items():
        for position, number in enumerate(_of_buckets(stats, value)):
            requests = (stats.rates_per_s[position] or 0.0) * buckets.seconds(position)
            if number is not None:
                item = Measured({"service": service}, service, number, round(requests), FIGURE_UNITS[value.figure])
                by_bucket.setdefault(aligned.start_ms + position * step_ms, []).append(item)
    return by_bucket


def _of_buckets(stats: RedStats, value: RequestValue) -> Sequence[float | None]:
    if stats.source == "samples":
        return ()
    return {
        "rate": stats.rates_per_s,
        "errors": stats.error_ratios,
        "p50": stats.p50s_ms,
        "p95": stats.p95s_ms,
        "p99": stats.p99s_ms,
    }[value.figure]


async def _metric_buckets(
    context: QueryContext, value: MetricValue, time_range: TimeRange, step_ms: int
) -> dict[int, list[Measured]]:
    where = None
    if value.where.strip():
        where = await asyncio.to_thread(compile_condition, value.where, now_ms=time_range.end_ms)
    query = TimeseriesQuery(
        value.service,
        value.metric,
        time_range,
        value.agg,
        step_ms=step_ms,
        group_by=value.group_by,
        tags=tag_pairs(value),
        where=where,
    )
    result = await timeseries(context, query)
    by_bucket: dict[int, list[Measured]] = {}
    for group in result.groups:
        entity = {"service": value.service, **{name: group.tags[name] for name in value.group_by}}
        for position, number in enumerate(group.points):
            if number is not None:
                item = Measured(entity, value.service, number, 1 << 30, result.unit)
                by_bucket.setdefault(result.time_range.start_ms + position * step_ms, []).append(item)
    return by_bucket


async def _of_anomalies(context: QueryContext, condition: AnomalyCondition, time_range: TimeRange) -> Seen:
    """Yield, for each bucket of 5 minutes, what an evaluation at its end would have said."""
    if condition.mode:
        raise InputError("can be backtested in the server's own mode alone", field="condition.mode")
    aligned = time_range.aligned(FIVE_MINUTES_MS)
    rows = await context.metadata.anomalies(service=condition.service, time_range=aligned, limit=LIST_MAX)
    first = await Reading(context, at_ms=time_range.end_ms).first_seen_ms()
    services = {name: at for name, at in first.items() if condition.service in ("", name)}
    only = SeriesKey(condition.service, condition.figure, condition.metric) if condition.service else None
    points, units = await read_points(context, aligned, services=services, key=only)
    if condition.figure == "metric":
        unit = units[condition.metric].unit if condition.metric in units else ""
    else:
        unit = FIGURE_UNITS[condition.figure]
    series = {
        key.service: values
        for key, values in points.items()
        if (key.figure, key.metric) == (condition.figure, condition.metric)
    }
    meant = [row for row in rows if (row.figure, row.metric) == (condition.figure, condition.metric)]
    for position, at_ms in enumerate(range(aligned.start_ms, aligned.end_ms, FIVE_MINUTES_MS)):
        observations = []
        for service, values in series.items():
            number = float(values[position]) if position < len(values) else math.nan
            if math.isnan(number):
                continue
            now = [row for row in meant if row.service == service and row.start_ms <= at_ms < row.end_ms]
            row = max(now, key=lambda item: item.score, default=None)
            holds = row is not None and is_meant(condition, row, number)
            text = f"{service}: {anomaly_sentence(condition, row, number, unit)}"
            observations.append(
                Observation({"service": service}, service, number, holds, not holds, 1 << 30, unit, text)
            )
        yield at_ms + FIVE_MINUTES_MS, observations


async def _of_silence(context: QueryContext, condition: NoDataCondition, time_range: TimeRange) -> Seen:
    """Yield, for each bucket of 5 minutes, how long services, or a metric, have been silent at its end."""
    after_ms = parse_duration_ms(condition.after, field="condition.after")
    aligned = time_range.aligned(FIVE_MINUTES_MS)
    start_ms = aligned.start_ms - DAY_MS
    service, time = Column("service_name"), Column("timestamp")
    where = [Compare(">=", time, Literal(start_ms)), Compare("<", time, Literal(aligned.end_ms))]
    if condition.service:
        where.append(Compare("=", service, Literal(condition.service)))
    if condition.metric:
        where.append(Compare("=", Column("metric_name"), Literal(condition.metric)))
    items = (SelectItem(service, "s"), SelectItem(time, "t"), SelectItem(Call("sum", (Column("count"),)), "n"))
    select = Select("rollups_5m", items, where=And(tuple(where)), group_by=(service, time))
    table = await context.select("backtest", select, rows_max=ROWS_MAX)
    if table.truncated:
        raise InputError("has too much data for a backtest: choose one service, or a shorter range", field="start")
    times: dict[str, list[int]] = {}
    for name, at_ms, _ in table.rows():
        if name not in (SELF, OVERFLOW):
            times.setdefault(name, []).append(at_ms + FIVE_MINUTES_MS)
    ends = {name: np.array(sorted(values)) for name, values in times.items()}
    for at_ms in range(aligned.start_ms + FIVE_MINUTES_MS, aligned.end_ms + 1, FIVE_MINUTES_MS):
        observations = []
        for name, values in ends.items():
            before = int(np.searchsorted(values, at_ms, side="right"))
            silent_ms = at_ms - int(values[before - 1]) if before else DAY_MS + 1
            if silent_ms <= DAY_MS:
                entity = {"service": name} | ({"metric": condition.metric} if condition.metric else {})
                holds = silent_ms >= after_ms
                text = f"{name} has sent nothing for {silent_ms // MINUTE_MS} min"
                observations.append(Observation(entity, name, float(silent_ms), holds, not holds, 1, "ms", text))
        yield at_ms, observations


def with_threshold(rule: Rule, limit: float) -> Rule:
    """Return a rule with another limit. Its recovery threshold moves in proportion."""
    condition = rule.condition
    if not isinstance(condition, (Threshold, Ratio)):
        raise InputError("has no threshold", field="condition.kind")
    side = "above" if condition.above is not None else "below"
    before = condition.above if condition.above is not None else condition.below
    recover = condition.recover
    if recover is not None and before:
        recover = recover * limit / before
    return replace_condition(rule, **{side: limit, "recover": recover})


def replace_condition(rule: Rule, **changes: float | str | None) -> Rule:
    """Return a rule with other fields in its condition."""
    return msgspec.structs.replace(rule, condition=msgspec.structs.replace(rule.condition, **changes))
