"""The data of one side of a comparison: observations of a metric with their strata, and which requests failed.

Where requests of hours are compared, rollups are read. Other data is read as samples: each on its own up to EXACT_MAX,
more of them summed up by time and size of the value.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from vantage.analysis.observations import Observations, Outcomes
from vantage.core.arrays import F64, I64
from vantage.core.errors import InputError
from vantage.core.red import KEPT_MS, RedLevel
from vantage.core.red_table import RedGroup, RedQuery, RedTable
from vantage.core.rollup import FIVE_MINUTES_MS, HOUR_MS
from vantage.core.sample import TAG_VERSION, Kind
from vantage.core.semconv import DURATION, METHOD_ATTRIBUTES, METHOD_TAGS, MS_PER_UNIT, ROUTE_ATTRIBUTES, ROUTE_TAGS
from vantage.core.sketch import RELATIVE_ERROR, key_values
from vantage.core.timerange import TimeRange
from vantage.query.context import QueryContext
from vantage.query.http_semconv import IS_ERROR, IS_SPAN_ERROR, IS_TAGGED, SPAN_MS, VALUE_MS, select_items
from vantage.query.vql_text import quoted, time_text
from vantage.storage.ports import SeriesInfo
from vantage.vql.tree import (
    And,
    Arithmetic,
    Call,
    Case,
    Column,
    Compare,
    Expr,
    Literal,
    Select,
    TableName,
    TagValue,
    equals,
)

EXACT_MAX: Final = 20_000  # samples of a side that are read one by one
CELLS_MAX: Final = 400_000  # rows of a side, of more samples
ROLLUP_RANGE_MS: Final = 2 * HOUR_MS
NAMED_SHARE: Final = 0.9  # of requests that must name their route, for rollups by route to be read
STEPS: Final = 240
BY_ROUTE: Final = "route"
UNMATCHED: Final = "none"
NO_ROUTE: Final = "(no route)"
_LOG_GAMMA: Final = math.log((1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR))
_SMALLEST: Final = 100_000  # larger than any key: what separates keys of negative values from those of positive ones
_OK, _FAILED = 1, 2
_VALUE: Final = Column("value")
QUOTED_EMPTY: Final = "''"


@dataclass(frozen=True, slots=True)
class Side:
    """What is compared: a service in a time, all of it or one version, every version but one, an environment, or
    series with some tags."""

    service: str
    time_range: TimeRange
    version: str = ""
    except_version: str = ""
    environment: str = ""
    tags: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        """Return the side in words, without its time."""
        parts = [self.service]
        parts += [self.version] if self.version else []
        parts += [f"without {self.except_version}"] if self.except_version else []
        parts += [f"in {self.environment}"] if self.environment else []
        parts += [f"{key}={value}" for key, value in self.tags]
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class SideData:
    """``strata`` are the names of the observations' and outcomes' strata. ``outcomes`` is None where nothing says which
    requests failed. ``read``: what was read; ``vql``: a query of the same samples; ``time_range``: the range that was
    read, which may be wider than wanted."""

    observations: Observations
    outcomes: Outcomes | None
    strata: tuple[str, ...]
    unit: str
    read: str
    vql: str
    time_range: TimeRange
    is_approximate: bool = False

    def renumbered(self, strata: Sequence[str]) -> SideData:
        """Return the same data whose strata are numbers of these names, which include its own."""
        number = {name: position for position, name in enumerate(strata)}
        of = np.array([number[name] for name in self.strata], np.int64)
        observations = replace(self.observations, stratum=of[self.observations.stratum])
        outcomes = None if self.outcomes is None else replace(self.outcomes, stratum=of[self.outcomes.stratum])
        return replace(self, observations=observations, outcomes=outcomes, strata=tuple(strata))


async def read_side(context: QueryContext, rollups: Rollups, side: Side, metric: str, *, match: str) -> SideData | None:
    """Read one side; None without data. ``match``: BY_ROUTE, UNMATCHED, or the key of a tag.

    Raises InputError naming ``metric_name`` for a kind of metric that has no single values, and what the store raises.
    """
    infos = [info for info in await context.store.list_series(service=side.service, metric=metric) if _fits(info, side)]
    is_requests = metric == DURATION
    if not infos and not is_requests:
        return None
    unit = _check_kind(metric, infos)
    data = None
    if is_requests and _has_rollups(side):
        data = await _from_rollups(context, rollups, side, infos, by_route=match == BY_ROUTE)
    if data is not None:
        return data if data.observations.value.size else None
    return await _from_rows(context, _Rows(side, metric, unit, infos, match))


def _fits(info: SeriesInfo, side: Side) -> bool:
    version = info.series.tag(TAG_VERSION)
    return (
        side.environment in ("", info.series.environment)
        and side.version in ("", version)
        and (not side.except_version or version != side.except_version)
    )


def _check_kind(metric: str, infos: Sequence[SeriesInfo]) -> str:
    """Return the metric's unit. Raises InputError."""
    kinds = {info.series.kind for info in infos}
    if Kind.CUMULATIVE in kinds:
        raise InputError(
            f"{metric} is a running total, whose values depend on when it was started: compare a histogram or a gauge",
            field="metric_name",
        )
    if Kind.COUNTER in kinds:
        raise InputError(
            f"{metric} counts events, which says how much traffic there was: compare a histogram or a gauge",
            field="metric_name",
        )
    if len(kinds) > 1:
        raise InputError(f"{metric} was sent as several kinds: {', '.join(sorted(kinds))}", field="metric_name")
    units = {info.series.unit for info in infos}
    if metric == DURATION:
        return "ms"
    if len(units) > 1:
        raise InputError(
            f"{metric} was sent in several units: {', '.join(unit or 'none' for unit in sorted(units))}",
            field="metric_name",
        )
    return next(iter(units), "")


def _has_rollups(side: Side) -> bool:
    return side.time_range.length_ms >= ROLLUP_RANGE_MS and not side.environment and not side.tags


async def _from_rollups(
    context: QueryContext, rollups: Rollups, side: Side, infos: Sequence[SeriesInfo], *, by_route: bool
) -> SideData | None:
    """Return the data from rollups of requests, by route where they name routes; None where there are none."""
    recent = (
        side.time_range.start_ms - FIVE_MINUTES_MS >= context.present().now_ms - KEPT_MS["endpoint", FIVE_MINUTES_MS]
    )
    step_ms = FIVE_MINUTES_MS if recent else HOUR_MS
    aligned = side.time_range.aligned(step_ms)
    levels: tuple[RedLevel, ...] = ("endpoint", "service") if by_route else ("service",)
    for level in levels:
        table = await rollups.read(side.service, aligned, step_ms, level)
        if table is None:
            return None
        if level == "service" or await rollups.are_named(table, side, aligned, step_ms):
            return await asyncio.to_thread(_of_rollups, table, level, side, infos, aligned, step_ms)
    return None


class Rollups:
    """Reads rollups of requests for one comparison: both sides may be of one service and time, whose rows are the same
    but for their versions."""

    def __init__(self, context: QueryContext) -> None:
        self._context = context
        self._tables: dict[RedQuery, RedTable | None] = {}

    async def read(self, service: str, time_range: TimeRange, step_ms: int, level: RedLevel) -> RedTable | None:
        """Return the rows by version with their sketches; None where there are no rollups."""
        return await self._read(
            RedQuery(
                time_range,
                step_ms,
                level=level,
                services=frozenset({service}),
                quantiles=(0.5,),
                with_versions=True,
                with_cells=True,
            )
        )

    async def are_named(self, by_route: RedTable, side: Side, time_range: TimeRange, step_ms: int) -> bool:
        """Return whether nearly all requests of a side name their route."""
        query = RedQuery(time_range, step_ms, services=frozenset({side.service}), with_versions=True)
        total = await self._read(query)
        return total is not None and _wanted_requests(by_route, side) >= NAMED_SHARE * _wanted_requests(total, side)

    async def _read(self, query: RedQuery) -> RedTable | None:
        if query not in self._tables:
            self._tables[query] = await self._context.red(query)
        return self._tables[query]


def _of_rollups(
    table: RedTable, level: RedLevel, side: Side, infos: Sequence[SeriesInfo], aligned: TimeRange, step_ms: int
) -> SideData:
    wanted = np.array([_is_wanted(group, side) for group in table.groups], np.bool_)
    names = tuple(dict.fromkeys(_stratum(group) for group in table.groups)) or ("",)
    stratum_of = np.array([names.index(_stratum(group)) for group in table.groups], np.int64)
    rows = table.buckets
    source = "spans" if any(group.source == "spans" for group in table.groups) else "durations"
    is_source = np.array([group.source == source for group in table.groups], np.bool_) & wanted
    middle = key_values(table.cells.key)
    size = len(rows.group)
    by_cells = np.bincount(table.cells.row, middle * table.cells.count, size)
    factor = np.divide(rows.sum_ms, by_cells, out=np.ones(size), where=(by_cells > 0) & (rows.sum_ms > 0))
    cells = np.flatnonzero(is_source[rows.group[table.cells.row]]) if size else np.empty(0, np.int64)
    row = table.cells.row[cells]
    observations = Observations(
        rows.time_ms[row], middle[cells] * factor[row], table.cells.count[cells], stratum_of[rows.group[row]]
    )
    width = "5 minutes" if step_ms == FIVE_MINUTES_MS else "an hour"
    return SideData(
        observations,
        _outcomes_of_rollups(table, wanted, stratum_of),
        names,
        "ms",
        f"rollups of requests over {width}, by {level}",
        _vql(_Rows(replace(side, time_range=aligned), DURATION, "ms", infos, BY_ROUTE), spans=source == "spans"),
        aligned,
        is_approximate=True,
    )


def _is_wanted(group: RedGroup, side: Side) -> bool:
    return side.version in ("", group.version) and (not side.except_version or group.version != side.except_version)


def _wanted_requests(table: RedTable, side: Side) -> float:
    wanted = np.array([_is_wanted(group, side) for group in table.groups], np.bool_)
    return float(table.totals.requests[wanted[table.totals.group]].sum()) if len(wanted) else 0.0


def _stratum(group: RedGroup) -> str:
    return f"{group.method} {group.route}".strip()


def _outcomes_of_rollups(table: RedTable, wanted: Any, stratum_of: I64) -> Outcomes | None:
    """Return the outcomes by the first source that says which requests failed."""
    for source in ("requests", "durations", "spans"):
        of_source = np.array([group.source == source for group in table.groups], np.bool_) & wanted
        rows = np.flatnonzero(of_source[table.buckets.group]) if len(of_source) else np.empty(0, np.int64)
        if rows.size and table.buckets.tagged[rows].sum():
            stratum = stratum_of[table.buckets.group[rows]]
            return Outcomes(
                table.buckets.time_ms[rows], table.buckets.requests[rows], table.buckets.errors[rows], stratum
            )
    return None


@dataclass(frozen=True, slots=True)
class _Rows:
    """What to read as single samples."""

    side: Side
    metric: str
    unit: str
    infos: Sequence[SeriesInfo]
    match: str

    @property
    def is_requests(self) -> bool:
        return self.metric == DURATION


async def _from_rows(context: QueryContext, wanted: _Rows) -> SideData | None:
    spans = not wanted.infos
    if spans and not any(stats.service == wanted.side.service for stats in await context.store.services_with_spans()):
        return None
    value, strata, outcome = _expressions(wanted, spans=spans)
    table: TableName = "spans" if spans else "metrics"
    where = _where(wanted, spans=spans)
    number = await context.select("compare_count", Select(table, select_items((Call("count"),)), where=where))
    total = next(number.rows(), (0,))[0]
    if not total:
        return None
    is_exact = total <= EXACT_MAX
    if is_exact:
        items = (Column("timestamp"), value, outcome, *strata)
        query = Select(table, select_items(items), where=where)
    else:
        range_ms = wanted.side.time_range.length_ms
        bucket = Call("toStartOfInterval", (Column("timestamp"), Literal(max(1000, range_ms // STEPS), "interval")))
        keys = (bucket, _key(value), outcome, *strata)
        query = Select(table, select_items((*keys, Call("count"), Call("sum", (value,)))), where=where, group_by=keys)
    read = await context.select("compare", query, rows_max=EXACT_MAX if is_exact else CELLS_MAX)
    if read.truncated:
        raise InputError(
            f"has {total} samples that differ too much to be summed up: shorten the time, or match by none",
            field="match",
        )
    data = await asyncio.to_thread(_of_rows, list(read.data), wanted, is_exact=is_exact, strata=len(strata))
    kind = "spans" if spans else "samples"
    return replace(
        data,
        unit=wanted.unit,
        read=kind if is_exact else f"{kind}, summed up by time and size of the value",
        vql=_vql(wanted, spans=spans),
        is_approximate=not is_exact,
    )


def _of_rows(columns: list[list[Any]], wanted: _Rows, *, is_exact: bool, strata: int) -> SideData:
    time_ms = np.array(columns[0], np.int64)
    if is_exact:
        value, outcome = np.array(columns[1], np.float64), np.array(columns[2], np.int64)
        names, count = columns[3 : 3 + strata], np.ones(len(time_ms), np.int64)
    else:
        outcome, names = np.array(columns[2], np.int64), columns[3 : 3 + strata]
        count = np.array(columns[-2], np.int64)
        value = np.array(columns[-1], np.float64) / count
    labels = [" ".join(filter(None, parts)) or NO_ROUTE for parts in zip(*names, strict=True)] if names else []
    known = tuple(dict.fromkeys(labels)) or ("",)
    number = {label: position for position, label in enumerate(known)}
    stratum = np.array([number[label] for label in labels] or [0] * len(time_ms), np.int64)
    valid = np.isfinite(value)
    order = np.flatnonzero(valid)[np.argsort(time_ms[valid], kind="stable")]
    observations = Observations(time_ms[order], value[order], count[order], stratum[order])
    outcomes = None
    if wanted.is_requests and (outcome > 0).any():
        failed: F64 = np.where(outcome == _FAILED, count, 0).astype(np.float64)
        outcomes = Outcomes(time_ms, count.astype(np.float64), failed, stratum)
    return SideData(observations, outcomes, known, "", "", "", wanted.side.time_range)


def _expressions(wanted: _Rows, *, spans: bool) -> tuple[Expr, tuple[Expr, ...], Expr]:
    """Return the expressions of the value, the strata and the outcome."""
    if spans:
        outcome: Expr = Case(((IS_SPAN_ERROR, Literal(_FAILED)),), Literal(_OK))
        routes: tuple[Expr, ...] = (
            _first_of(METHOD_ATTRIBUTES, Literal("")),
            _first_of(ROUTE_ATTRIBUTES, Column("name")),
        )
        return SPAN_MS, _strata(wanted, routes), outcome
    if not wanted.is_requests:
        return _VALUE, _strata(wanted, ()), Literal(0)
    outcome = Case(((IS_ERROR, Literal(_FAILED)), (IS_TAGGED, Literal(_OK))), Literal(0))
    named = _named_tags(wanted)
    routes = tuple(_first_of(of_tags, Literal("")) for of_tags in named if of_tags) if named[1] else ()
    return VALUE_MS, _strata(wanted, routes), outcome


def _strata(wanted: _Rows, routes: tuple[Expr, ...]) -> tuple[Expr, ...]:
    if wanted.match == BY_ROUTE:
        return routes
    return () if wanted.match == UNMATCHED else (TagValue(wanted.match),)


def _first_of(tags: Sequence[str], default: Expr) -> Expr:
    values = [TagValue(key) for key in tags]
    return Case(tuple((Compare("!=", value, Literal("")), value) for value in values), default)


def _key(value: Expr) -> Expr:
    """Return the number of the bucket of DDSketch that a value falls into, for negative values and zero too."""

    def size(of: Expr) -> Expr:
        return Call("floor", (Arithmetic("/", Call("log", (of,)), Literal(_LOG_GAMMA)),))

    negative = Arithmetic("-", Literal(-float(_SMALLEST)), size(Call("abs", (value,))))
    return Case(
        ((Compare(">", value, Literal(0.0)), size(value)), (Compare("<", value, Literal(0.0)), negative)),
        Literal(float(_SMALLEST)),
    )


def _where(wanted: _Rows, *, spans: bool) -> Expr:
    side = wanted.side
    conditions: list[Expr] = [equals("service_name", side.service)]
    version: Expr = Column("service_version") if spans else TagValue(TAG_VERSION)
    if spans:
        conditions.append(equals("kind", "server"))
        conditions += [Compare("=", TagValue(key), Literal(text)) for key, text in side.tags]
    else:
        conditions.append(equals("metric_name", wanted.metric))
        conditions += [Compare("=", TagValue(key), Literal(text)) for key, text in side.tags]
    conditions += [Compare("=", version, Literal(side.version))] if side.version else []
    conditions += [Compare("!=", version, Literal(side.except_version))] if side.except_version else []
    conditions += [equals("environment", side.environment)] if side.environment else []
    conditions += [
        Compare(">=", Column("timestamp"), Literal(side.time_range.start_ms)),
        Compare("<", Column("timestamp"), Literal(side.time_range.end_ms)),
    ]
    return And(tuple(conditions))


def _vql(wanted: _Rows, *, spans: bool) -> str:
    """Return the text of a query of the same samples, with what they are matched by as ``route``."""
    side = wanted.side
    version = "service_version" if spans else f"tags[{quoted(TAG_VERSION)}]"
    conditions = [f"service_name = {quoted(side.service)}"]
    conditions += ["kind = 'server'"] if spans else [f"metric_name = {quoted(wanted.metric)}"]
    column = "attributes" if spans else "tags"
    conditions += [f"{column}[{quoted(key)}] = {quoted(text)}" for key, text in side.tags]
    conditions += [f"{version} = {quoted(side.version)}"] if side.version else []
    conditions += [f"{version} != {quoted(side.except_version)}"] if side.except_version else []
    conditions += [f"environment = {quoted(side.environment)}"] if side.environment else []
    conditions += [f"timestamp >= {time_text(side.time_range.start_ms)}"]
    conditions += [f"timestamp < {time_text(side.time_range.end_ms)}"]
    table = "spans" if spans else "metrics"
    all_of = "\n    AND ".join(conditions)
    items = f"timestamp, {_value_text(wanted, spans=spans)} AS value, {_route_text(wanted, spans=spans)} AS route"
    return f"SELECT {items}\nFROM {table}\nWHERE\n    {all_of}\nORDER BY timestamp"


def _value_text(wanted: _Rows, *, spans: bool) -> str:
    if spans:
        return "duration_ns / 1000000"
    if not wanted.is_requests or {info.series.unit for info in wanted.infos}.isdisjoint(MS_PER_UNIT):
        return "value"
    text = "value"
    for unit, factor in MS_PER_UNIT.items():
        text = f"if(unit = '{unit}', value * {factor:.10g}, {text})"
    return text


def _route_text(wanted: _Rows, *, spans: bool) -> str:
    column = "attributes" if spans else "tags"

    def first_of(keys: Sequence[str], default: str) -> str:
        text = default
        for key in reversed(keys):
            value = f"{column}[{quoted(key)}]"
            text = value if text == QUOTED_EMPTY else f"if({value} != '', {value}, {text})"
        return text

    if wanted.match not in (BY_ROUTE, UNMATCHED):
        return first_of([wanted.match], QUOTED_EMPTY)
    if wanted.match == UNMATCHED or not wanted.is_requests:
        return QUOTED_EMPTY
    if spans:
        return f"concat({first_of(METHOD_ATTRIBUTES, QUOTED_EMPTY)}, ' ', {first_of(ROUTE_ATTRIBUTES, 'name')})"
    methods, routes = _named_tags(wanted)
    if not routes:
        return QUOTED_EMPTY
    return f"concat({first_of(methods, QUOTED_EMPTY)}, ' ', {first_of(routes, QUOTED_EMPTY)})"


def _named_tags(wanted: _Rows) -> tuple[list[str], list[str]]:
    """Return the tags of the metric that name methods and routes."""
    tags = {key for info in wanted.infos for key, _ in info.series.tags}
    return [tag for tag in METHOD_TAGS if tag in tags], [tag for tag in ROUTE_TAGS if tag in tags]
