"""Requests, errors and durations (RED) of services, read by convention.

- Requests: the sum of the counter ``http.requests`` where a service sends it, else the number of observations of the
  histogram ``http.request.duration``.
- Errors: those whose tag ``status`` (or ``http.response.status_code``, ``status_code``) is 5xx, or whose tag ``error``
  is ``true``. When the counter carries none of these tags and the histogram does, the histogram tells the ratio.
- Durations: the values of the histogram, in ms whatever their unit.
- A service that sends neither is measured by its server spans; one without those by the samples it sends.

All services are read with few grouped queries; a bucket without data is None, never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from vantage.core.timerange import TimeRange, auto_step_ms
from vantage.query.reads import Reads
from vantage.vql.table import Table
from vantage.vql.tree import (
    And,
    Arithmetic,
    Call,
    Case,
    Column,
    Compare,
    Expr,
    In,
    Item,
    Like,
    Or,
    Select,
    TagValue,
    equals,
)
from vantage.vql.tree import Literal as Constant

REQUESTS: Final = "http.requests"
DURATION: Final = "http.request.duration"
STATUS_TAGS: Final = ("status", "http.response.status_code", "status_code")
ERROR_TAG: Final = "error"
ROWS_MAX: Final = 200_000  # services times buckets
Source = Literal["metrics", "spans", "samples"]
Points = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Buckets:
    """A range cut into steps. It starts on a whole step; the last bucket may be cut short by ``end_ms``."""

    start_ms: int
    end_ms: int
    step_ms: int

    @property
    def count(self) -> int:
        return -(-(self.end_ms - self.start_ms) // self.step_ms)

    def starts_ms(self) -> tuple[int, ...]:
        return tuple(range(self.start_ms, self.end_ms, self.step_ms))

    def seconds(self, position: int) -> float:
        """How much of a bucket has passed."""
        start_ms = self.start_ms + position * self.step_ms
        return (min(start_ms + self.step_ms, self.end_ms) - start_ms) / 1000


def buckets_of(time_range: TimeRange, *, points: int) -> Buckets:
    """At most ``points`` whole buckets (and the one under way), of a round step."""
    step_ms = auto_step_ms(time_range, points=points)
    return Buckets(time_range.start_ms // step_ms * step_ms, time_range.end_ms, step_ms)


@dataclass(frozen=True, slots=True)
class Red:
    """One service over a range. Counts are of the range; rates are per second, ratios from 0 to 1, durations ms.

    ``rate_per_s`` counts from the service's first data in the range, so that a service just started is not diluted.
    With source ``samples`` the rates are those of samples. ``p95_change``: the second half of the range against the
    first, 0.2 meaning 20 % slower. The tuples hold one value a bucket, None where there is nothing to tell.
    """

    source: Source
    requests: float
    rate_per_s: float
    error_ratio: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    p95_change: float | None
    rates_per_s: Points
    error_ratios: Points
    p50s_ms: Points
    p95s_ms: Points
    p99s_ms: Points


@dataclass(frozen=True, slots=True)
class Measured:
    """What one group of a query says. ``tagged``: how many of its rows say whether they are errors."""

    requests: float
    errors: float
    tagged: int
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    first_ms: int = 0
    p95_before_ms: float | None = None
    p95_after_ms: float | None = None

    @property
    def error_ratio(self) -> float | None:
        return min(1.0, self.errors / self.requests) if self.requests > 0 else None


_VALUE: Final = Column("value")
IS_ERROR: Final = Or(
    (*(Like(TagValue(tag), "5__") for tag in STATUS_TAGS), Compare("=", TagValue(ERROR_TAG), Constant("true")))
)
_IS_TAGGED: Final = Or(tuple(Compare("!=", TagValue(tag), Constant("")) for tag in (*STATUS_TAGS, ERROR_TAG)))
_VALUE_MS: Final = Case(
    (
        (equals("unit", "s"), Arithmetic("*", _VALUE, Constant(1000.0))),
        (equals("unit", "us"), Arithmetic("/", _VALUE, Constant(1000.0))),
        (equals("unit", "ns"), Arithmetic("/", _VALUE, Constant(1_000_000.0))),
    ),
    _VALUE,
)
_IS_TRAFFIC: Final = Or(
    (
        And((equals("metric_name", REQUESTS), equals("metric_type", "counter"))),
        And((equals("metric_name", DURATION), equals("metric_type", "histogram"))),
    )
)
_SPAN_MS: Final = Arithmetic("/", Column("duration_ns"), Constant(1_000_000.0))
_IS_SPAN_ERROR: Final = equals("status", "error")


def within(buckets: Buckets) -> tuple[Expr, Expr]:
    """The conditions on time."""
    return (
        Compare(">=", Column("timestamp"), Constant(buckets.start_ms)),
        Compare("<", Column("timestamp"), Constant(buckets.end_ms)),
    )


def metrics_query(buckets: Buckets, keys: Sequence[Expr], *, where: Sequence[Expr] = ()) -> Select:
    """The request metrics, grouped by ``keys``, which begin with the metric's name. Read it with ``measured``."""
    counts = (
        Call("sum", (_VALUE,)),
        Call("count"),
        Call("sumIf", (_VALUE, IS_ERROR)),
        Call("countIf", (IS_ERROR,)),
        Call("countIf", (_IS_TAGGED,)),
    )
    return Select(
        "metrics",
        _items((*keys, *counts, *_durations(_VALUE_MS, buckets))),
        where=And((_IS_TRAFFIC, *where, *within(buckets))),
        group_by=tuple(keys),
    )


def spans_query(buckets: Buckets, keys: Sequence[Expr], *, where: Sequence[Expr] = ()) -> Select:
    """The server spans, grouped by ``keys``. Read it with ``measured``."""
    counts = (Call("count"), Call("countIf", (_IS_SPAN_ERROR,)))
    return Select(
        "spans",
        _items((*keys, *counts, *_durations(_SPAN_MS, buckets))),
        where=And((equals("kind", "server"), *where, *within(buckets))),
        group_by=tuple(keys),
    )


def _durations(value_ms: Expr, buckets: Buckets) -> tuple[Expr, ...]:
    middle = Constant((buckets.start_ms + buckets.end_ms) // 2)
    before = Case(((Compare("<", Column("timestamp"), middle), value_ms),), Constant(None))
    after = Case(((Compare(">=", Column("timestamp"), middle), value_ms),), Constant(None))
    quantiles = tuple(Call("quantile", (value_ms,), p) for p in (0.5, 0.95, 0.99))
    halves = tuple(Call("quantile", (half,), 0.95) for half in (before, after))
    return (*quantiles, Call("min", (Column("timestamp"),)), *halves)


def _items(exprs: Sequence[Expr]) -> tuple[Item, ...]:
    return tuple(Item(expr, f"c{position}") for position, expr in enumerate(exprs))


def measured(query: Select, table: Table) -> dict[tuple[Any, ...], Measured]:
    """Groups by their keys."""
    keys = len(query.group_by)
    read = _of_spans if query.table == "spans" else _of_metrics
    return {row[:keys]: read(row[0], row[keys:]) for row in table.rows()}


def _of_metrics(metric: str, row: Sequence[Any]) -> Measured:
    total, count, error_total, error_count, tagged, *durations = row
    if metric == REQUESTS:
        return Measured(total or 0.0, error_total or 0.0, tagged, first_ms=durations[3])
    return Measured(count, error_count, tagged, *durations)


def _of_spans(_: object, row: Sequence[Any]) -> Measured:
    count, errors, *durations = row
    return Measured(count, errors, count, *durations)


async def read_red(reads: Reads, buckets: Buckets, *, services: Sequence[str]) -> dict[str, Red]:
    """RED of each of ``services`` that has data in the range."""
    found = await _from_metrics(reads, buckets, services)
    if left := [name for name in services if name not in found]:
        found |= await _from_spans(reads, buckets, left)
    if left := [name for name in services if name not in found]:
        found |= await _from_samples(reads, buckets, left)
    return found


def _bucket(buckets: Buckets) -> Expr:
    return Call("toStartOfInterval", (Column("timestamp"), Constant(buckets.step_ms)))


async def _measure(reads: Reads, name: str, query: Select) -> dict[tuple[Any, ...], Measured]:
    return measured(query, await reads.select(name, query, rows_max=ROWS_MAX))


async def _from_metrics(reads: Reads, buckets: Buckets, services: Sequence[str]) -> dict[str, Red]:
    keys = (Column("metric_name"), Column("service_name"))
    chosen = (In(Column("service_name"), tuple(services)),)
    whole = await _measure(reads, "red", metrics_query(buckets, keys, where=chosen))
    if not whole:
        return {}
    query = metrics_query(buckets, (*keys, _bucket(buckets)), where=chosen)
    parts = _by_service(await _measure(reads, "red_buckets", query), keys=2)
    found = {}
    for service in {key[1] for key in whole}:
        counted = {metric: one for metric in (REQUESTS, DURATION) if (one := whole.get((metric, service)))}
        requests, errors = sources(counted)
        found[service] = _red(
            buckets,
            "metrics",
            (counted[requests], counted[errors], counted.get(DURATION)),
            (parts.get((requests, service), {}), parts.get((errors, service), {}), parts.get((DURATION, service), {})),
        )
    return found


def sources(counted: dict[str, Measured]) -> tuple[str, str]:
    """Which metric tells the number of requests, and which the share of errors."""
    requests = REQUESTS if REQUESTS in counted else DURATION
    tagged = next((metric for metric in (requests, DURATION) if metric in counted and counted[metric].tagged), requests)
    return requests, tagged


async def _from_spans(reads: Reads, buckets: Buckets, services: Sequence[str]) -> dict[str, Red]:
    keys = (Column("service_name"),)
    chosen = (In(Column("service_name"), tuple(services)),)
    whole = await _measure(reads, "red", spans_query(buckets, keys, where=chosen))
    if not whole:
        return {}
    query = spans_query(buckets, (*keys, _bucket(buckets)), where=chosen)
    parts = _by_service(await _measure(reads, "red_buckets", query), keys=1)
    return {key[0]: _red(buckets, "spans", (one,) * 3, (parts[key],) * 3) for key, one in whole.items()}


async def _from_samples(reads: Reads, buckets: Buckets, services: Sequence[str]) -> dict[str, Red]:
    keys = (Column("service_name"), _bucket(buckets))
    items = _items((*keys, Call("count"), Call("min", (Column("timestamp"),))))
    where = And((In(Column("service_name"), tuple(services)), *within(buckets)))
    table = await reads.select("red_samples", Select("metrics", items, where=where, group_by=keys), rows_max=ROWS_MAX)
    parts = _by_service({row[:2]: Measured(row[2], 0, 0, first_ms=row[3]) for row in table.rows()}, keys=1)
    found = {}
    for key, held in parts.items():
        whole = Measured(
            sum(one.requests for one in held.values()), 0, 0, first_ms=min(m.first_ms for m in held.values())
        )
        found[key[0]] = _red(buckets, "samples", (whole, None, None), (held, {}, {}))
    return found


def _by_service(groups: dict[tuple[Any, ...], Measured], *, keys: int) -> dict[tuple[Any, ...], dict[int, Measured]]:
    """Groups whose last key is the bucket, as buckets by the other keys."""
    found: dict[tuple[Any, ...], dict[int, Measured]] = {}
    for key, one in groups.items():
        found.setdefault(key[:keys], {})[key[keys]] = one
    return found


def rate_per_s(one: Measured, buckets: Buckets) -> float:
    """Requests a second since the first of them, but over no less than a step."""
    return one.requests * 1000 / max(buckets.end_ms - one.first_ms, buckets.step_ms)


def change(before: float | None, after: float | None) -> float | None:
    """Relative growth, None when either side is missing or the first is 0."""
    return after / before - 1 if before and after is not None else None


def _red(
    buckets: Buckets,
    source: Source,
    whole: tuple[Measured, Measured | None, Measured | None],
    parts: tuple[dict[int, Measured], dict[int, Measured], dict[int, Measured]],
) -> Red:
    requests, errors, durations = whole
    durations = durations or Measured(0, 0, 0)

    def points(which: int, get: Callable[[Measured], float | None]) -> Points:
        held = parts[which]
        return tuple(get(one) if (one := held.get(at)) else None for at in buckets.starts_ms())

    # A rate over the first moments of a bucket is noise: the newest bucket counts once a quarter of it has passed.
    shortest_s = buckets.step_ms / 4000
    counts = points(0, lambda one: one.requests)
    rates = (
        None if count is None or (passed_s := buckets.seconds(i)) < shortest_s else count / passed_s
        for i, count in enumerate(counts)
    )
    return Red(
        source=source,
        requests=requests.requests,
        rate_per_s=rate_per_s(requests, buckets),
        error_ratio=errors.error_ratio if errors else None,
        p50_ms=durations.p50_ms,
        p95_ms=durations.p95_ms,
        p99_ms=durations.p99_ms,
        p95_change=change(durations.p95_before_ms, durations.p95_after_ms),
        rates_per_s=tuple(rates),
        error_ratios=points(1, lambda one: one.error_ratio),
        p50s_ms=points(2, lambda one: one.p50_ms),
        p95s_ms=points(2, lambda one: one.p95_ms),
        p99s_ms=points(2, lambda one: one.p99_ms),
    )
