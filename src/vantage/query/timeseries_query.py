"""What a timeseries is asked for, and the points that come of it, whichever tier they are read from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from vantage.core.timerange import TimeRange
from vantage.vql.tree import And, Column, Compare, Expr, TagValue, equals
from vantage.vql.tree import Literal as Constant

BUCKETS_MAX: Final = 11_000
ROWS_MAX: Final = BUCKETS_MAX * 20
_COLUMNS: Final = frozenset({"environment", "metric_type", "unit"})
Tier = Literal["5m", "1h"]
Source = Tier | Literal["raw", "mixed"]


@dataclass(frozen=True, slots=True)
class TimeseriesQuery:
    """A question. ``step_ms`` of None: about 300 points. ``tags`` are pairs that must all hold, as ``where`` must, a
    condition on the samples."""

    service: str
    metric: str
    time_range: TimeRange
    agg: str = "avg"
    step_ms: int | None = None
    group_by: tuple[str, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    where: Expr | None = None


class Point(NamedTuple):
    """One bucket of one group. ``samples`` is how many it sums up."""

    group: tuple[str, ...]
    at_ms: int
    value: float | None
    samples: int


class PointRows(NamedTuple):
    rows: list[Point]
    source: Source
    truncated: bool


def group_by_exprs(asked: TimeseriesQuery) -> tuple[Expr, ...]:
    """What the answer is split by."""
    return tuple(_key(name) for name in asked.group_by)


def _key(name: str) -> Expr:
    return Column(name) if name in _COLUMNS else TagValue(name)


def series_filter(asked: TimeseriesQuery, start_ms: int, end_ms: int) -> Expr:
    """The series asked for, between two times."""
    return And(
        (
            equals("service_name", asked.service),
            equals("metric_name", asked.metric),
            *(Compare("=", _key(name), Constant(value)) for name, value in asked.tags),
            *([] if asked.where is None else [asked.where]),
            Compare(">=", Column("timestamp"), Constant(start_ms)),
            Compare("<", Column("timestamp"), Constant(end_ms)),
        )
    )
