"""What changed in a window, against the time before it or the same time of a day or a week before.

Of each service the requests, errors and p95 from rollups of requests, and its metrics from rollups of samples; of one
service also its routes, its versions, and its metrics by tag. Only complete buckets count.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, get_args

import numpy as np

from vantage.analysis.change import Shifts, joined, measure
from vantage.core.arrays import F64
from vantage.core.errors import InputError
from vantage.core.red import KEPT_MS, MINUTE_MS
from vantage.core.red_table import RedQuery, RedTable
from vantage.core.rollup import FIVE_MINUTES_MS, HOUR_MS
from vantage.core.sample import TAG_VERSION, Kind
from vantage.core.semconv import DURATION, REQUESTS, ROUTE_TAGS
from vantage.core.timerange import TimeRange
from vantage.query.catalogue import SELF
from vantage.query.context import QueryContext
from vantage.vql.tree import And, Call, Column, Compare, Expr, In, Not, Select, SelectItem, TableName, TagValue, equals
from vantage.vql.tree import Literal as Constant

Against = Literal["before", "day", "week"]
What = Literal["requests", "errors", "p95", "metric"]
AGAINST: Final[tuple[Against, ...]] = get_args(Against)
BUCKETS_MAX: Final = 48  # of the window
BUCKETS_MIN: Final = 3
BEFORE_MIN: Final = 24  # buckets before, and an hour: what is usual must be known
WINDOW_MS_MAX: Final = 31 * 86_400_000
CHANGES_MAX: Final = 50
ITEMS_MAX: Final = 5000
ROWS_MAX: Final = 200_000
TAG_KEYS_MAX: Final = 8
TAG_VALUES_MAX: Final = 100  # of a key: one with more is an id, and says nothing
STEPS_MS: Final = tuple(minutes * MINUTE_MS for minutes in (1, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440))
_METRICS: Final = {"requests": REQUESTS, "durations": DURATION, "spans": "spans"}
_SHIFT_MS: Final[Mapping[Against, int]] = {"before": 0, "day": 86_400_000, "week": 7 * 86_400_000}


class Item(NamedTuple):
    """What is compared: requests, errors (a ratio from 0 to 1) or p95 (in ms) of a service, or of its endpoint, or of
    its version, counted from a metric or from ``spans``; or a metric of a service, or of one value of its tag."""

    service: str
    what: What
    metric: str = ""
    kind: str = ""
    unit: str = ""
    tag: str = ""  # "route" and "version" for requests, errors and p95
    value: str = ""


@dataclass(frozen=True, slots=True)
class Scope:
    """A window in complete buckets of ``step_ms``, and what it is compared with."""

    window: TimeRange
    before: TimeRange
    step_ms: int


@dataclass(frozen=True, slots=True)
class Change:
    """An item that moved. Values are per second for requests and counters, means of buckets for gauges and histograms;
    ``before`` and ``after`` are means, None where there is nothing. ``delta`` to ``is_beyond_chance`` are those of
    ``analysis.change``. The points are those of the buckets, NaN for none."""

    item: Item
    scope: Scope
    before: float | None
    after: float | None
    delta: float
    relative: float
    effect: float
    p: float
    q: float
    is_beyond_chance: bool
    points_before: tuple[float, ...]
    points_after: tuple[float, ...]

    @property
    def growth(self) -> float | None:
        """Return the relative growth, 0.2 meaning 20 % more; None from nothing."""
        return self.after / self.before - 1 if self.before and self.after is not None else None


@dataclass(frozen=True, slots=True)
class Changes:
    """The items that moved most, CHANGES_MAX at most of ``listed``: of ``compared`` items ``moved`` did so beyond
    chance. ``requests`` is the scope of requests, errors and p95, ``metrics`` that of routes and metrics. ``notes`` say
    what was left out."""

    requests: Scope
    metrics: Scope
    changes: tuple[Change, ...]
    moved: int
    listed: int
    compared: int
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Side:
    """The values of one window by item and bucket, NaN for none."""

    time_range: TimeRange
    step_ms: int
    rows: dict[Item, F64] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return self.time_range.length_ms // self.step_ms

    def put(self, item: Item, at_ms: int, value: float) -> None:
        position = (at_ms - self.time_range.start_ms) // self.step_ms
        if 0 <= position < self.count:
            row = self.rows.get(item)
            if row is None:
                row = self.rows[item] = np.full(self.count, np.nan)
            row[position] = value


async def read_changes(
    context: QueryContext, selected: TimeRange, *, service: str = "", against: Against = "before"
) -> Changes:
    """Return what moved in a window; of one service in more detail. Raises InputError for a window that is too long or
    not over yet, and what the store raises."""
    now_ms = context.present().now_ms
    metrics = scope_of(selected, against, now_ms=now_ms, step_ms_min=FIVE_MINUTES_MS)
    requests = scope_of(selected, against, now_ms=now_ms, step_ms_min=MINUTE_MS)
    if requests.before.start_ms - MINUTE_MS < now_ms - KEPT_MS["service", MINUTE_MS]:
        requests = metrics
    notes: list[str] = []
    keys = await _tag_keys(context, service, notes) if service else ()
    pairs = []
    for scope in dict.fromkeys((requests, metrics)):
        sides = (_Side(scope.before, scope.step_ms), _Side(scope.window, scope.step_ms))
        pairs.append((scope, *sides))
        for side in sides:
            if scope == requests:
                await _read_requests(context, side, service, "", notes)
                if service:
                    await _read_requests(context, side, service, "version", notes)
            if scope == metrics:
                if service:
                    await _read_requests(context, side, service, "route", notes)
                for key in ("", *keys):
                    await _read_metrics(context, side, service, key, notes)
    return await asyncio.to_thread(_compare, requests, metrics, pairs, notes)


def scope_of(selected: TimeRange, against: Against, *, now_ms: int, step_ms_min: int) -> Scope:
    """Return the window in complete buckets, BUCKETS_MIN at least and BUCKETS_MAX about, and the time to compare it
    with: as long, BEFORE_MIN buckets and an hour at least. Raises InputError."""
    if selected.length_ms > WINDOW_MS_MAX:
        raise InputError(f"lies more than {WINDOW_MS_MAX // 86_400_000} days before end", field="start")
    steps_ms = (step for step in STEPS_MS if step >= step_ms_min and selected.length_ms <= BUCKETS_MAX * step)
    step_ms = next(steps_ms)
    end_ms = min(-(-selected.end_ms // step_ms) * step_ms, now_ms // step_ms * step_ms)
    start_ms = min(selected.start_ms // step_ms * step_ms, end_ms - BUCKETS_MIN * step_ms)
    if selected.start_ms >= now_ms:
        raise InputError("must lie before now", field="start")
    shift_ms = _SHIFT_MS[against]
    before_end_ms = end_ms - shift_ms if shift_ms else start_ms
    if before_end_ms > start_ms:
        raise InputError(f"lies more than a {against} before end: compare with an earlier time", field="start")
    before_start_ms = before_end_ms - max(end_ms - start_ms, BEFORE_MIN * step_ms, HOUR_MS)
    if before_start_ms < 0:
        raise InputError("has nothing before it", field="start")
    return Scope(TimeRange(start_ms, end_ms), TimeRange(before_start_ms, before_end_ms), step_ms)


async def _read_requests(context: QueryContext, side: _Side, service: str, tag: str, notes: list[str]) -> None:
    """Read the requests of services, or by version or by route."""
    table = await context.red(
        RedQuery(
            side.time_range,
            side.step_ms,
            level="endpoint" if tag == "route" else "service",
            services=frozenset({service}) if service else None,
            quantiles=(0.95,),
            with_versions=tag == "version",
        )
    )
    if table is None:
        what = f"{tag}s" if tag else "requests"
        _note(notes, f"{what} of that time are summed up by the hour alone: select two days or more to compare them")
    else:
        await asyncio.to_thread(_add_requests, side, table, tag, service)


def _add_requests(side: _Side, table: RedTable, tag: str, service: str) -> None:
    counters = {group.service for group in table.groups if group.source == "requests"}
    tagged = {
        (table.groups[number].service, table.groups[number].source)
        for number, count in zip(table.totals.group.tolist(), table.totals.tagged.tolist(), strict=True)
        if count
    }
    buckets = table.buckets
    columns = zip(
        buckets.group.tolist(), buckets.time_ms.tolist(), buckets.requests.tolist(), buckets.errors.tolist(),
        buckets.quantiles_ms[0].tolist(), strict=True,
    )  # fmt: skip
    for number, at_ms, requests, failed, p95_ms in columns:
        group = table.groups[number]
        value = group.version if tag == "version" else f"{group.method} {group.route}".strip() if tag else ""
        if group.source == "samples" or (group.service == SELF and service != SELF) or (tag and not value):
            continue
        about = {"service": group.service, "metric": _METRICS[group.source], "tag": tag, "value": value}
        counts_requests = group.source != "durations" or group.service not in counters
        # As http_semconv.pick_metrics: the counter's errors, unless the histogram alone says which requests failed.
        has_tags = {source for source in ("requests", "durations") if (group.service, source) in tagged}
        counts_errors = group.source == "durations" if has_tags == {"durations"} else counts_requests
        if counts_requests:
            side.put(Item(what="requests", **about), at_ms, requests * 1000 / side.step_ms)
        if counts_errors and requests > 0:
            side.put(Item(what="errors", **about), at_ms, min(1.0, failed / requests))
        if p95_ms == p95_ms:
            side.put(Item(what="p95", **about), at_ms, p95_ms)


async def _read_metrics(context: QueryContext, side: _Side, service: str, key: str, notes: list[str]) -> None:
    """Read the metrics of services, or by the values of one tag."""
    names = ("service_name", "metric_name", "metric_type", "unit")
    keys: tuple[Expr, ...] = tuple(Column(name) for name in names)
    keys += (TagValue(key),) if key else ()
    keys += (Call("toStartOfInterval", (Column("timestamp"), Constant(side.step_ms))),)
    items = (*keys, *(Call("sum", (Column(column),)) for column in ("count", "sum")))
    conditions: list[Expr] = [
        Compare(">=", Column("timestamp"), Constant(side.time_range.start_ms)),
        Compare("<", Column("timestamp"), Constant(side.time_range.end_ms)),
        equals("service_name", service) if service else Compare("!=", Column("service_name"), Constant(SELF)),
    ]
    if not key or key in (TAG_VERSION, *ROUTE_TAGS):  # of these metrics there are requests, errors and p95
        conditions.append(Not(In(Column("metric_name"), (REQUESTS, DURATION))))
    table: TableName = "rollups_1h" if side.step_ms % HOUR_MS == 0 else "rollups_5m"
    select = Select(
        table,
        tuple(SelectItem(expr, f"c{position}") for position, expr in enumerate(items)),
        where=And(tuple(conditions)),
        group_by=keys,
    )
    result = await context.select("changes", select, rows_max=ROWS_MAX)
    if result.truncated:
        _note(notes, f"only the first {ROWS_MAX} buckets of metrics were compared: select a service")

    def add() -> None:
        for row in result.rows():
            of_service, metric, kind, unit = row[:4]
            value, (at_ms, count, total) = (row[4] if key else ""), row[-3:]
            if kind == Kind.CUMULATIVE or (key and not value) or total is None or not count:
                continue
            item = Item(of_service, "metric", metric, kind, unit, key, value)
            side.put(item, at_ms, total * 1000 / side.step_ms if kind == Kind.COUNTER else total / count)

    await asyncio.to_thread(add)


async def _tag_keys(context: QueryContext, service: str, notes: list[str]) -> Sequence[str]:
    """Return the tags of a service to compare by: those of most series, but for ids."""
    infos = await context.store.list_series(service=service)

    def choose() -> tuple[list[str], list[str]]:
        values: dict[str, set[str]] = {}
        series: Counter[str] = Counter()
        for info in infos:
            for key, value in info.series.tags:
                values.setdefault(key, set()).add(value)
                series[key] += 1
        few = [key for key, _ in series.most_common() if len(values[key]) <= TAG_VALUES_MAX]
        return few[:TAG_KEYS_MAX], [key for key in series if key not in few[:TAG_KEYS_MAX]]

    chosen, omitted = await asyncio.to_thread(choose)
    if omitted:
        shown = ", ".join(sorted(omitted)[:5]) + (" …" if len(omitted) > 5 else "")
        _note(notes, f"not compared by tags with more than {TAG_VALUES_MAX} values, nor by more than {TAG_KEYS_MAX} "
                     f"tags: {shown}")  # fmt: skip
    return chosen


def _compare(requests: Scope, metrics: Scope, pairs: Sequence[tuple[Scope, _Side, _Side]], notes: list[str]) -> Changes:
    of_pairs = []
    for scope, before, after in pairs:
        items = list(dict.fromkeys([*before.rows, *after.rows]))
        if len(items) > ITEMS_MAX:
            _note(notes, f"{len(items) - ITEMS_MAX} of {len(items)} were not compared: select a service")
        items = items[:ITEMS_MAX]
        of_pairs.append((scope, items, _matrix(before, items), _matrix(after, items)))
    shifts = joined([measure(before, after) for _, _, before, after in of_pairs])
    rows = [
        (scope, item, before[row], after[row])
        for scope, items, before, after in of_pairs
        for row, item in enumerate(items)
    ]
    ranked = shifts.ranked()
    changes = []
    for row in ranked[:CHANGES_MAX].tolist():
        scope, item, before, after = rows[row]
        changes.append(_change(scope, item, before, after, shifts, row))
    compared = int((~np.isnan(shifts.p)).sum())
    moved = int(shifts.is_beyond_chance.sum())
    return Changes(requests, metrics, tuple(changes), moved, len(ranked), compared, tuple(notes))


def _matrix(side: _Side, items: Iterable[Item]) -> F64:
    rows = []
    for item in items:
        row = side.rows.get(item)
        row = np.full(side.count, np.nan) if row is None else row
        is_count = item.what == "requests" or item.kind == Kind.COUNTER
        rows.append(np.nan_to_num(row) if is_count else row)  # no requests are none, no temperature is unknown
    return np.array(rows).reshape(len(rows), side.count)


def _change(scope: Scope, item: Item, points_before: F64, points_after: F64, shifts: Shifts, row: int) -> Change:
    means = (float(shifts.before[row]), float(shifts.after[row]))
    before, after = (None if np.isnan(value) else value for value in means)
    return Change(
        item,
        scope,
        before,
        after,
        float(shifts.delta[row]),
        float(shifts.relative[row]),
        float(shifts.effect[row]),
        float(shifts.p[row]),
        float(shifts.q[row]),
        bool(shifts.is_beyond_chance[row]),
        tuple(points_before.tolist()),
        tuple(points_after.tolist()),
    )


def _note(notes: list[str], text: str) -> None:
    if text not in notes:
        notes.append(text)
