"""Error budgets and burn rates of objectives, from rollups alone: long windows from hours, short ones from minutes.

A burn rate is the share of bad events divided by the share that the objective allows: at 1, the budget lasts exactly
for the objective's window. Rules want two windows at once, so that an alert is both significant and over soon after its
cause is: B. Beyer et al., The Site Reliability Workbook (2018), chapter 5, "Multiwindow, Multi-Burn-Rate Alerts".
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from vantage.alerting.observation import Observation
from vantage.core.alert_rule import BurnRateCondition
from vantage.core.arrays import F64
from vantage.core.errors import InputError
from vantage.core.red import MINUTE_MS
from vantage.core.red_table import RedQuery, RedTable
from vantage.core.rollup import FIVE_MINUTES_MS, HOUR_MS
from vantage.core.sketch import key_values
from vantage.core.slo import Slo
from vantage.core.timerange import TimeRange
from vantage.query.availability import CHECK_METRIC, find_check, find_slo
from vantage.query.context import QueryContext
from vantage.query.timeseries import timeseries
from vantage.query.timeseries_query import TimeseriesQuery

DAY_MS: Final = 24 * HOUR_MS
CHECK_DURATION: Final = "check.duration"
CHECK_SERVICE: Final = "checks"  # of a check that names no service
_Pair = tuple[float, int, int, str]
# Burn rate, long and short window, speed: 2 % and 5 % of a budget of 30 days in 1 and 6 hours, 10 % in 1 and 3 days.
PAIRS: Final[tuple[_Pair, ...]] = (
    (14.4, HOUR_MS, FIVE_MINUTES_MS, "page"),
    (6.0, 6 * HOUR_MS, 30 * MINUTE_MS, "page"),
    (3.0, DAY_MS, 2 * HOUR_MS, "ticket"),
    (1.0, 3 * DAY_MS, 6 * HOUR_MS, "ticket"),
)


@dataclass(frozen=True, slots=True)
class Events:
    """Numbers of events and of bad ones by bucket of ``step_ms`` from ``start_ms`` on."""

    start_ms: int
    step_ms: int
    total: F64
    bad: F64


@dataclass(frozen=True, slots=True)
class Burn:
    """How fast the budget burns over a pair of windows, as multiples of what would use it up exactly; None without
    events. ``holds``: both are at ``limit`` or above."""

    limit: float
    long_ms: int
    short_ms: int
    speed: str
    long: float | None
    short: float | None

    @property
    def holds(self) -> bool:
        return self.long is not None and self.short is not None and min(self.long, self.short) >= self.limit


@dataclass(frozen=True, slots=True)
class SloState:
    """``good`` is the share of good events in the objective's window, None without any; ``budget_left`` is the share
    of the budget that is not used: 1 at first, negative when the objective is missed. ``history`` are shares of the
    budget that were left at the end of each bucket from ``start_ms`` on."""

    slo: Slo
    good: float | None
    total: float
    bad: float
    budget_left: float
    burns: tuple[Burn, ...]
    start_ms: int
    step_ms: int
    history: Sequence[float]


async def read_slo(context: QueryContext, slo: Slo, *, at_ms: int) -> SloState:
    """Return the state of an objective. Raises InputError, and what the stores raise."""
    end_ms = -(-(at_ms + 1) // HOUR_MS) * HOUR_MS
    events = await read_events(context, slo, TimeRange(end_ms - slo.window_ms, end_ms), HOUR_MS)
    total, bad = float(events.total.sum()), float(events.bad.sum())
    burns = await read_burns(context, slo, at_ms=at_ms)
    used = np.cumsum(events.bad) / (slo.budget * total) if total else np.zeros(len(events.total))
    return SloState(
        slo,
        1 - bad / total if total else None,
        total,
        bad,
        1 - (bad / total / slo.budget if total else 0.0),
        tuple(burns),
        events.start_ms,
        events.step_ms,
        (1 - used).tolist(),
    )


async def read_burns(context: QueryContext, slo: Slo, *, at_ms: int, speed: str = "") -> list[Burn]:
    """Return the burn rates of the pairs of windows: all of them, or those of one speed."""
    burns = []
    for limit, long_ms, short_ms, of_speed in PAIRS:
        if speed in ("", of_speed):
            rates = [await _burn_rate(context, slo, at_ms, length_ms) for length_ms in (long_ms, short_ms)]
            burns.append(Burn(limit, long_ms, short_ms, of_speed, *rates))
    return burns


async def _burn_rate(context: QueryContext, slo: Slo, at_ms: int, length_ms: int) -> float | None:
    """Return the burn rate over a window, of complete buckets and the newest."""
    is_long = length_ms > 6 * HOUR_MS
    step_ms = HOUR_MS if is_long else FIVE_MINUTES_MS if slo.endpoint or length_ms > HOUR_MS else MINUTE_MS
    end_ms = -(-(at_ms + 1) // step_ms) * step_ms
    start_ms = end_ms - max(length_ms, step_ms)
    if at_ms + 1 - (end_ms - step_ms) < step_ms // 2:  # of a bucket that has just begun there is little
        start_ms -= step_ms
    events = await read_events(context, slo, TimeRange(start_ms, end_ms), step_ms)
    total = float(events.total.sum())
    return float(events.bad.sum()) / total / slo.budget if total else None


async def read_events(context: QueryContext, slo: Slo, time_range: TimeRange, step_ms: int) -> Events:
    """Return the events of an objective by bucket, from rollups. Raises InputError where there are none to read."""
    if slo.kind == "check":
        return await _of_check(context, slo, time_range, step_ms)
    query = RedQuery(
        time_range,
        step_ms,
        "endpoint" if slo.endpoint else "service",
        frozenset({slo.service}),
        quantiles=(0.5,) if slo.kind == "latency" else (),
        with_cells=slo.kind == "latency",
    )
    table = await context.red(query)
    if table is None:
        raise InputError(
            f"the requests of {slo.service} are not summed up yet for {slo.days} days: look again in a while",
            field="slo",
        )
    return await asyncio.to_thread(_events, table, slo, time_range, step_ms)


def _events(table: RedTable, slo: Slo, time_range: TimeRange, step_ms: int) -> Events:
    size = -(-time_range.length_ms // step_ms)
    total, bad = np.zeros(size), np.zeros(size)
    source = _source(table, slo)
    wanted = np.array(
        [
            group.source == source
            and (not slo.endpoint or slo.endpoint in (group.route, f"{group.method} {group.route}".strip()))
            for group in table.groups
        ],
        np.bool_,
    )
    rows = np.flatnonzero(wanted[table.buckets.group]) if len(table.groups) else np.zeros(0, np.int64)
    position = (table.buckets.time_ms[rows] - time_range.start_ms) // step_ms
    if slo.kind == "errors":
        np.add.at(total, position, table.buckets.requests[rows])
        np.add.at(bad, position, np.minimum(table.buckets.errors[rows], table.buckets.requests[rows]))
        return Events(time_range.start_ms, step_ms, total, bad)
    assert slo.threshold_ms is not None
    cells, position_of = table.cells, np.full(len(table.buckets.group), -1)
    position_of[rows] = position
    at = position_of[cells.row] if len(cells.row) else np.zeros(0, np.int64)
    counted = np.flatnonzero(at >= 0)
    is_slow = key_values(cells.key[counted]) > slo.threshold_ms
    np.add.at(total, at[counted], cells.count[counted].astype(np.float64))
    np.add.at(bad, at[counted], np.where(is_slow, cells.count[counted], 0).astype(np.float64))
    return Events(time_range.start_ms, step_ms, total, bad)


def _source(table: RedTable, slo: Slo) -> str:
    """Return what the events are counted from: durations for latency; requests, else durations, for errors; spans where
    a service sends no metrics."""
    sources = {group.source for group in table.groups}
    order = ("durations", "spans") if slo.kind == "latency" else ("requests", "durations", "spans")
    return next((source for source in order if source in sources), "")


async def _of_check(context: QueryContext, slo: Slo, time_range: TimeRange, step_ms: int) -> Events:
    check = (await find_check(context, slo.check)).check
    size = -(-time_range.length_ms // step_ms)
    columns = []
    for agg in ("count", "sum"):
        query = TimeseriesQuery(
            check.service or CHECK_SERVICE,
            CHECK_METRIC,
            time_range,
            agg,
            step_ms,
            tags=(("check", slo.check),),
        )
        groups = (await timeseries(context, query)).groups
        points = list(groups[0].points[:size]) if groups else []
        values = [0.0 if value is None else value for value in points]
        columns.append(np.array(values + [0.0] * (size - len(values)), np.float64))
    total, good = columns
    return Events(time_range.start_ms, step_ms, total, np.maximum(0.0, total - good))


async def observe_burn_rate(context: QueryContext, condition: BurnRateCondition, *, at_ms: int) -> list[Observation]:
    """Return what a rule says about its objective: the pair of windows that burns most. Raises InputError for one that
    does not exist."""
    slo = (await find_slo(context, condition.slo)).slo
    burns = await read_burns(context, slo, at_ms=at_ms, speed=condition.speed)
    known = [burn for burn in burns if burn.long is not None and burn.short is not None]
    entity = {"slo": slo.name} | ({"service": slo.service} if slo.service else {})
    if not known:
        return [Observation(entity, slo.service, None, holds=False, recovered=False, text=f"{slo.name}: no requests")]
    worst = max(known, key=lambda burn: min(burn.long or 0.0, burn.short or 0.0) / burn.limit)
    rate = min(worst.long or 0.0, worst.short or 0.0)
    holds = any(burn.holds for burn in known)
    exhausted = slo.days * 24 / worst.long if worst.long else math.inf
    text = (
        f"{slo.name}: the budget of {slo.days} days burns {worst.long:.1f} times too fast over {_length(worst.long_ms)}"
    )
    text += f" and {worst.short:.1f} times over {_length(worst.short_ms)}"
    text += f"; it would last {exhausted:.0f} h" if holds and math.isfinite(exhausted) else ""
    return [Observation(entity, slo.service, rate, holds, not holds, 1, "", text)]


def _length(length_ms: int) -> str:
    if length_ms % DAY_MS == 0:
        return f"{length_ms // DAY_MS} d"
    return f"{length_ms // HOUR_MS} h" if length_ms % HOUR_MS == 0 else f"{length_ms // MINUTE_MS} min"
