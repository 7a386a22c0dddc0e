"""Health of services: a window from rollups of requests, judged against the same hours of four weeks.

What is expected changes once an hour and is cached that long; a look reads the window alone, of all services at once.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np

from vantage.analysis.baseline import Baseline, hour_of_week_baseline
from vantage.analysis.health import EQUAL_WEIGHTS, FactorName, Health, Units, Window, judge
from vantage.core.arrays import F64, I64
from vantage.core.errors import InputError, NotFoundError
from vantage.core.red import KEPT_MS, MINUTE_MS
from vantage.core.red_table import RedQuery, RedTable
from vantage.core.rollup import FIVE_MINUTES_MS, HOUR_MS
from vantage.core.semconv import DURATION, REQUESTS
from vantage.core.timerange import TimeRange
from vantage.query.context import QueryContext
from vantage.query.http_semconv import pick_metrics, stats_of_rows

Weights = Mapping[FactorName, float]
Tier = Literal["1m", "5m", "1h"]
WINDOW_MS: Final = 900_000
WINDOW_MS_MIN: Final = 300_000
WINDOW_MS_MAX: Final = 7 * 86_400_000
BASELINE_DAYS: Final = 28
SETTLE_MS: Final = 60_000  # senders collect for a while: a unit that ended later may still receive requests
HISTORY_POINTS: Final = 100
HISTORY_POINTS_MAX: Final = 400
SHARED_SERVICES_MAX: Final = 200
UNITS_MAX: Final = 360  # of a window
TIERS: Final[Mapping[int, Tier]] = {MINUTE_MS: "1m", FIVE_MINUTES_MS: "5m", HOUR_MS: "1h"}
_P95: Final = (0.95,)
_METRICS: Final = {"requests": REQUESTS, "durations": DURATION, "spans": "spans"}
_DAY_MS: Final = 86_400_000
_HOURS_TTL_S: Final = 6 * 3600.0
_HOUR_NBYTES: Final = 24
_SERVICE_NBYTES: Final = 400


class Sources(NamedTuple):
    """What requests, failures and durations were counted from: a metric's name or ``spans``, '' for nothing."""

    requests: str = ""
    errors: str = ""
    durations: str = ""


@dataclass(frozen=True, slots=True)
class Hours:
    """Hours before a time, ascending: requests per second from the service's first full hour to its last one with
    requests, and the p95 in ms of the hours with durations."""

    time_ms: I64
    rate: F64
    p95_time_ms: I64
    p95_ms: F64

    def rate_at(self, at_ms: int) -> Baseline | None:
        return hour_of_week_baseline(self.time_ms, self.rate, at_ms)

    def p95_at(self, at_ms: int) -> Baseline | None:
        return hour_of_week_baseline(self.p95_time_ms, self.p95_ms, at_ms)


@dataclass(frozen=True, slots=True)
class ServiceHealth:
    """The health of a service over a range, and all that it was judged by. ``at_ms`` is the time that the baselines are
    of; ``window`` begins with the service's first data where that is in the range."""

    service: str
    environment: str
    time_range: TimeRange
    at_ms: int
    unit_ms: int
    health: Health
    window: Window
    sources: Sources
    hours: Hours


@dataclass(frozen=True, slots=True)
class HealthPoint:
    """The health of one step of a history."""

    start_ms: int
    health: Health


@dataclass(frozen=True, slots=True)
class _Traffic:
    """Requests of a service by bucket, dense: 0 where there are none. ``counted`` are those that say whether they
    failed, or may; ``p95_ms`` is NaN without durations, ``total_p95_ms`` that of all buckets."""

    sources: Sources
    requests: F64
    counted: F64
    errors: F64
    durations: F64
    p95_ms: F64
    total_p95_ms: float


@dataclass(frozen=True, slots=True)
class _Expected:
    """The hours before a time, and the baselines at it."""

    hours: Hours
    rate: Baseline | None
    p95: Baseline | None


_NO_HOURS: Final = Hours(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64), np.empty(0))
_NOTHING: Final = _Expected(_NO_HOURS, None, None)


async def read_health(
    context: QueryContext,
    service: str,
    *,
    environment: str = "",
    end_ms: int | None = None,
    window_ms: int = WINDOW_MS,
    weights: Weights = EQUAL_WEIGHTS,
) -> ServiceHealth:
    """Return the health of a service in the ``window_ms`` before a time, now if none is given. Raises NotFoundError for
    a service that has sent nothing, InputError for a window outside its limits, and what the store raises."""
    first_ms = await _first_ms(context, service, environment)
    healths = await read_healths(
        context,
        {service: first_ms},
        environment=environment,
        end_ms=end_ms,
        window_ms=window_ms,
        weights=weights,
    )
    return healths[service]


async def read_healths(
    context: QueryContext,
    first_seen_ms: Mapping[str, int],
    *,
    environment: str = "",
    end_ms: int | None = None,
    window_ms: int = WINDOW_MS,
    weights: Weights = EQUAL_WEIGHTS,
) -> dict[str, ServiceHealth]:
    """Return the health of each service of ``first_seen_ms``, the times of their first data, as ``read_health``
    does."""
    if not WINDOW_MS_MIN <= window_ms <= WINDOW_MS_MAX:
        raise InputError("must last 5 minutes to 7 days", field="window")
    now_ms = context.present().now_ms
    end_ms = now_ms + 1 if end_ms is None else end_ms
    services = frozenset(first_seen_ms) if len(first_seen_ms) == 1 else None
    time_range, unit_ms, table = await _read_window(context, end_ms, window_ms, services, environment)
    at_ms = (time_range.start_ms + time_range.end_ms) // 2
    expected: Mapping[str, _Expected] = {}
    if table is not None:  # what is not summed up is no silence
        expected = await _expected(context, at_ms, frozenset(first_seen_ms), environment)

    def build() -> dict[str, ServiceHealth]:
        traffic = {} if table is None else _traffic(table, time_range, unit_ms)
        healths = {}
        for service, first_ms in first_seen_ms.items():
            of_service = traffic.get(service)
            before = expected.get(service, _NOTHING)
            p95_ms = of_service.total_p95_ms if of_service else math.nan
            window = _window(of_service, time_range, unit_ms, p95_ms=p95_ms, first_ms=first_ms, now_ms=now_ms)
            health = judge(window, before.rate, before.p95, weights)
            sources = of_service.sources if of_service else Sources()
            healths[service] = ServiceHealth(
                service, environment, time_range, at_ms, unit_ms, health, window, sources, before.hours
            )
        return healths

    return await asyncio.to_thread(build)


async def _read_window(
    context: QueryContext, end_ms: int, window_ms: int, services: frozenset[str] | None, environment: str
) -> tuple[TimeRange, int, RedTable | None]:
    """Return a window that begins with a unit, the unit, and what is in it: of the shortest units there are. A store
    may lack minutes a little earlier than others, or a week that an earlier version wrote."""
    unit_ms = unit_of(end_ms - window_ms, window_ms, now_ms=context.present().now_ms)
    while True:
        time_range = TimeRange(max(0, end_ms - window_ms) // unit_ms * unit_ms, max(end_ms, unit_ms))
        query = RedQuery(
            time_range,
            unit_ms,
            services=services,
            environment=environment,
            quantiles=_P95,
            with_bucket_quantiles=False,
        )
        table = await context.red(query)
        wider_ms = next((unit for unit in TIERS if unit > unit_ms), None)
        if table is not None or wider_ms is None:
            return time_range, unit_ms, table
        unit_ms = wider_ms


async def read_history(
    context: QueryContext,
    service: str,
    time_range: TimeRange,
    step_ms: int,
    *,
    environment: str = "",
    weights: Weights = EQUAL_WEIGHTS,
) -> list[HealthPoint]:
    """Return the health of each step of a range, from the step that contains its start. Each is judged by what was
    known before it. Raises as ``read_health``; InputError, too, for a step that is no multiple of 5 minutes, or that
    makes more than HISTORY_POINTS_MAX points."""
    if step_ms < WINDOW_MS_MIN or step_ms % FIVE_MINUTES_MS or step_ms > WINDOW_MS_MAX:
        raise InputError("must be a multiple of 5 minutes, of 7 days at most", field="step")
    if time_range.length_ms > HISTORY_POINTS_MAX * step_ms:
        raise InputError(f"makes more than {HISTORY_POINTS_MAX} points: take a longer one", field="step")
    first_ms = await _first_ms(context, service, environment)
    now_ms = context.present().now_ms
    start_ms = time_range.start_ms // step_ms * step_ms
    aligned = TimeRange(start_ms, min(-(-time_range.end_ms // step_ms) * step_ms, max(now_ms, start_ms) + 1))
    unit_ms = unit_of(aligned.start_ms, step_ms, now_ms=now_ms)
    if step_ms % unit_ms:
        raise InputError("must be a multiple of 1h for a time so long ago", field="step")
    services = frozenset({service})
    queries = (
        RedQuery(aligned, step_ms, services=services, environment=environment, quantiles=_P95),
        RedQuery(aligned, unit_ms, services=services, environment=environment),
    )
    by_step, by_unit = [await context.red(query) for query in queries]
    hours = _NO_HOURS
    if by_step is not None and by_unit is not None:
        hours = (await _expected(context, aligned.end_ms, services, environment)).get(service, _NOTHING).hours

    def build() -> list[HealthPoint]:
        steps = _traffic(by_step, aligned, step_ms).get(service) if by_step is not None else None
        units = _traffic(by_unit, aligned, unit_ms).get(service) if by_unit is not None else None
        points = []
        expected: dict[int, tuple[Baseline | None, Baseline | None]] = {}
        for position, at_ms in enumerate(range(aligned.start_ms, aligned.end_ms, step_ms)):
            step = TimeRange(at_ms, min(at_ms + step_ms, aligned.end_ms))
            middle_ms = (step.start_ms + step.end_ms) // 2
            if (hour := middle_ms // HOUR_MS) not in expected:
                expected[hour] = hours.rate_at(middle_ms), hours.p95_at(middle_ms)
            p95_ms = float(steps.p95_ms[position]) if steps else math.nan
            first = position * (step_ms // unit_ms)
            window = _window(units, step, unit_ms, first=first, p95_ms=p95_ms, first_ms=first_ms, now_ms=now_ms)
            points.append(HealthPoint(at_ms, judge(window, *expected[hour], weights)))
        return points

    return await asyncio.to_thread(build)


def unit_of(start_ms: int, window_ms: int, *, now_ms: int) -> int:
    """Return the shortest unit of which rollups are there since a time, and of which the window has at most UNITS_MAX
    and a whole number."""
    for unit_ms in (MINUTE_MS, FIVE_MINUTES_MS):
        is_there = start_ms - HOUR_MS >= now_ms - KEPT_MS["service", unit_ms]
        if is_there and window_ms <= UNITS_MAX * unit_ms:
            return unit_ms
    return HOUR_MS


async def _first_ms(context: QueryContext, service: str, environment: str) -> int:
    infos = await context.store.services(service=service)
    times = [info.first_ms for info in infos if environment in ("", info.environment)]
    if not times:
        where = f" in the environment {environment[:80]!r}" if environment and infos else ""
        field = "environment" if where else "service"
        raise NotFoundError(f"no service {service[:80]!r} has sent anything{where}", field=field)
    return min(times)


def _traffic(table: RedTable, time_range: TimeRange, step_ms: int) -> dict[str, _Traffic]:
    """Return the requests of each service by bucket of the range."""
    rows_of: dict[str, dict[str, int]] = {}
    for row, number in enumerate(table.totals.group.tolist()):
        group = table.groups[number]
        if group.source != "samples":
            rows_of.setdefault(group.service, {})[_METRICS[group.source]] = row
    starts = np.searchsorted(table.buckets.group, np.arange(len(table.groups) + 1)).tolist()
    count = -(-time_range.length_ms // step_ms)

    def dense(values: F64, row: int | None, empty: float = 0.0) -> F64:
        result = np.full(count, empty)
        if row is not None:
            number = int(table.totals.group[row])
            rows = slice(starts[number], starts[number + 1])
            result[(table.buckets.time_ms[rows] - time_range.start_ms) // step_ms] = values[rows]
        return result

    buckets, totals = table.buckets, table.totals
    quantiles = _P95[: len(totals.quantiles_ms)]
    traffic = {}
    for service, rows in rows_of.items():
        stats = {metric: stats_of_rows(totals, number, quantiles) for metric, number in rows.items()}
        requests, errors = ("spans", "spans") if "spans" in rows else pick_metrics(stats)
        durations = next((metric for metric in ("spans", DURATION) if metric in rows), "")
        timed = rows.get(durations)
        traffic[service] = _Traffic(
            Sources(requests, errors, durations),
            dense(buckets.requests, rows[requests]),
            dense(buckets.requests, rows[errors]),
            dense(buckets.errors, rows[errors]),
            dense(buckets.requests, timed),
            dense(buckets.quantiles_ms[0], timed, np.nan) if buckets.quantiles_ms else np.full(count, np.nan),
            float(totals.quantiles_ms[0][timed]) if timed is not None and totals.quantiles_ms else math.nan,
        )
    return traffic


def _window(
    traffic: _Traffic | None,
    time_range: TimeRange,
    unit_ms: int,
    *,
    first: int = 0,
    p95_ms: float,
    first_ms: int,
    now_ms: int,
) -> Window:
    """Return what was measured in a range, whose first unit is number ``first`` of the traffic, since ``first_ms``."""
    count = -(-time_range.length_ms // unit_ms)
    empty = np.zeros(count)
    rows = slice(first, first + count)
    requests, counted, errors, durations = (
        (empty, empty, empty, empty)
        if traffic is None
        else (traffic.requests[rows], traffic.counted[rows], traffic.errors[rows], traffic.durations[rows])
    )
    ends_ms = time_range.start_ms + unit_ms * np.arange(1, count + 1)
    there = slice(max(0, (first_ms - time_range.start_ms) // unit_ms), None)  # from the unit of the first data on
    start_ms = min(max(time_range.start_ms, first_ms // unit_ms * unit_ms), time_range.end_ms - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        error_ratio = np.minimum(errors / counted, 1.0)
    units = Units(
        unit_ms / 1000,
        requests[there],
        error_ratio[there],
        (ends_ms <= min(time_range.end_ms, now_ms - SETTLE_MS))[there],
    )
    total = float(counted.sum())
    return Window(
        max(time_range.end_ms - start_ms, MINUTE_MS) / 1000,
        float(requests.sum()),
        min(1.0, float(errors.sum()) / total) if total > 0 else None,
        None if math.isnan(p95_ms) else p95_ms,
        float(durations.sum()),
        units,
    )


async def _expected(
    context: QueryContext, at_ms: int, services: frozenset[str], environment: str
) -> Mapping[str, _Expected]:
    """Return what is expected at a time, of each service that has requests in the hours before.

    Of up to SHARED_SERVICES_MAX services the days of all are read and cached together: a store reads those of one in
    little less time. The days that were read stay cached where the caller gives up.
    """
    infos = await context.store.services()
    count = len({info.service for info in infos})
    names = services if count > SHARED_SERVICES_MAX else None
    at_hour_ms = at_ms // HOUR_MS * HOUR_MS
    oldest_ms = max(
        at_hour_ms // _DAY_MS * _DAY_MS - BASELINE_DAYS * _DAY_MS, min((info.first_ms for info in infos), default=0)
    )
    days = range(oldest_ms // _DAY_MS * _DAY_MS, at_hour_ms, _DAY_MS)

    async def load() -> Mapping[str, _Expected]:
        parts = [await _day(context, day_ms, at_hour_ms, names, environment, count) for day_ms in days]
        return await asyncio.to_thread(_joined, parts, at_ms)

    key = ("health baselines", at_hour_ms, names, environment)
    nbytes = (len(services) if names else count) * (2 * _HOUR_NBYTES * 24 * len(days) + _SERVICE_NBYTES)
    return await context.cache.cached(key, load, ttl_s=HOUR_MS / 1000, nbytes=nbytes, data_end_ms=at_hour_ms)


_Day = Mapping[str, tuple[I64, F64, F64]]  # by service: hours with data, requests in them, and their p95 in ms


async def _day(
    context: QueryContext,
    day_ms: int,
    at_hour_ms: int,
    services: frozenset[str] | None,
    environment: str,
    count: int,
) -> _Day:
    time_range = TimeRange(day_ms, min(day_ms + _DAY_MS, at_hour_ms))
    query = RedQuery(time_range, HOUR_MS, services=services, environment=environment, quantiles=_P95)

    async def load() -> _Day:
        # Past the context's own cache, which would take every sketch of four weeks.
        table = await context.store.red(query, deadline_s=context.timeout_s)
        return {} if table is None else await asyncio.to_thread(_hours_of_day, table, time_range)

    nbytes = (len(services) if services else count) * (_HOUR_NBYTES * 24 + _SERVICE_NBYTES)
    return await context.cache.cached(
        ("health day", query), load, ttl_s=_HOURS_TTL_S, nbytes=nbytes, data_end_ms=time_range.end_ms
    )


def _hours_of_day(table: RedTable, time_range: TimeRange) -> _Day:
    hours: dict[str, tuple[I64, F64, F64]] = {}
    for service, traffic in _traffic(table, time_range, HOUR_MS).items():
        rows = np.flatnonzero((traffic.requests > 0) | ~np.isnan(traffic.p95_ms))
        hours[service] = time_range.start_ms + rows * HOUR_MS, traffic.requests[rows], traffic.p95_ms[rows]
    return hours


def _joined(parts: Iterable[_Day], at_ms: int) -> Mapping[str, _Expected]:
    """Return hours of days that follow each other, and the baselines of them.

    Between a service's first full hour and its last one with requests, an hour without any counts as 0: nights may be
    quiet, but an outage that lasts is no baseline.
    """
    columns: dict[str, list[tuple[I64, F64, F64]]] = {}
    for part in parts:
        for service, of_day in part.items():
            columns.setdefault(service, []).append(of_day)
    joined = {}
    for service, days in columns.items():
        time_ms, requests, p95_ms = (np.concatenate(column) for column in zip(*days, strict=True))
        busy = np.flatnonzero(requests > 0)
        first_ms, last_ms = (int(time_ms[busy[0]]), int(time_ms[busy[-1]])) if busy.size else (0, -1)
        every_ms = np.arange(first_ms + HOUR_MS, last_ms + 1, HOUR_MS)  # the first hour was not a full one
        rate = np.zeros(len(every_ms))
        within = busy[1:]
        rate[(time_ms[within] - first_ms) // HOUR_MS - 1] = requests[within] * 1000 / HOUR_MS
        timed = ~np.isnan(p95_ms)
        hours = Hours(every_ms, rate, time_ms[timed], p95_ms[timed])
        joined[service] = _Expected(hours, hours.rate_at(at_ms), hours.p95_at(at_ms))
    return joined
