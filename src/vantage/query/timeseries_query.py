"""A timeseries query and the points it returns, whatever tier they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from vantage.core.timerange import TimeRange
from vantage.storage.ports import SeriesInfo, possible_pairs
from vantage.vql.tree import And, Column, Compare, Expr, In, Or, TagValue, equals
from vantage.vql.tree import Literal as Constant

BUCKETS_MAX: Final = 11_000
ROWS_MAX: Final = BUCKETS_MAX * 20
SERIES_KEYS: Final = frozenset({"environment", "metric_type", "unit"})
Tier = Literal["5m", "1h"]
Source = Tier | Literal["raw", "mixed"]


@dataclass(frozen=True, slots=True)
class TimeseriesQuery:
    """One metric of a service over time. ``step_ms`` None: about 300 points. All of ``tags`` must match, and so must
    ``where``, a condition on the samples."""

    service: str
    metric: str
    time_range: TimeRange
    agg: str = "avg"
    step_ms: int | None = None
    group_by: tuple[str, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    where: Expr | None = None


class Point(NamedTuple):
    """One bucket of one group, computed from ``samples`` samples."""

    group: tuple[str, ...]
    at_ms: int
    value: float | None
    samples: int


class PointRows(NamedTuple):
    rows: list[Point]
    source: Source
    truncated: bool


def group_by_exprs(query: TimeseriesQuery) -> tuple[Expr, ...]:
    """Return the expressions that the result is grouped by."""
    return tuple(_key(name) for name in query.group_by)


def _key(name: str) -> Expr:
    return Column(name) if name in SERIES_KEYS else TagValue(name)


def _tag_condition(name: str, value: str) -> Expr:
    """Return the condition for ``name:value``: a key may contain colons, and a tag may be named like a field."""
    conditions = [Compare("=", TagValue(key), Constant(text)) for key, text in possible_pairs(name, value)]
    if name in SERIES_KEYS:
        conditions.append(Compare("=", Column(name), Constant(value)))
    return Or(tuple(conditions)) if len(conditions) > 1 else conditions[0]


def key_warnings(query: TimeseriesQuery, infos: Sequence[SeriesInfo]) -> list[str]:
    """Return what a user should know about the keys that a query groups by."""
    keys = {key for info in infos for key, _ in info.series.tags}
    warnings = []
    for name in query.group_by:
        if name in SERIES_KEYS and name in keys:
            warnings.append(f"{name!r} is that of the series: in VQL, tags['{name}'] is the tag of that name")
        elif infos and name not in SERIES_KEYS and name not in keys:
            warnings.append(f"no series of this metric has the tag {name!r}")
    return warnings


def series_filter(query: TimeseriesQuery, start_ms: int, end_ms: int, *, services: Sequence[str] = ()) -> Expr:
    """Return the condition for the series of a query between two times; of ``services`` in place of its own, if
    given."""
    return And(
        (
            In(Column("service_name"), tuple(services)) if services else equals("service_name", query.service),
            equals("metric_name", query.metric),
            *(_tag_condition(name, value) for name, value in query.tags),
            *([] if query.where is None else [query.where]),
            Compare(">=", Column("timestamp"), Constant(start_ms)),
            Compare("<", Column("timestamp"), Constant(end_ms)),
        )
    )
