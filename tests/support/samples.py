"""Building blocks of tests: a clock that is moved by hand, series, batches, queries."""

from __future__ import annotations

from vantage.core.batch import Batch, build_batch
from vantage.core.sample import Kind
from vantage.core.series import Series, make_series
from vantage.core.span import Span, SpanKind, SpanStatus
from vantage.core.timerange import TimeRange
from vantage.vql.check import CheckedSelect, check
from vantage.vql.tree import And, Call, Column, Compare, Expr, Literal, Select, SelectItem, equals

NOW_MS = 1_795_000_000_000
HOUR_MS = 3_600_000


class MovedClock:
    """A clock that stands still until a test moves it."""

    def __init__(self, now_ms: int = NOW_MS) -> None:
        self.now = now_ms

    def now_ms(self) -> int:
        return self.now

    def monotonic_s(self) -> float:
        return self.now / 1000

    async def sleep(self, seconds: float) -> None:
        self.now += int(seconds * 1000)


def a_series(service: str = "api", metric: str = "m", kind: Kind = Kind.GAUGE, **other: object) -> Series:
    names = {"environment": "test", "unit": "", **other}
    return make_series(service=service, metric=metric, kind=kind, **names)  # type: ignore[arg-type]


def a_batch(*values: float, series: Series | None = None, batch_id: str = "", at_ms: int = NOW_MS - 1000) -> Batch:
    target = series or a_series()
    return build_batch([(target, at_ms + i, value) for i, value in enumerate(values)], batch_id=batch_id)


def a_span(
    trace_id: str = "t1", span_id: str = "s1", parent: str = "", *, service: str = "api", start_ms: int = NOW_MS - 1000,
    duration_ms: float = 10, name: str = "GET /", status: SpanStatus = SpanStatus.UNSET, **other: object,
) -> Span:  # fmt: skip
    return Span(
        trace_id,
        span_id,
        service,
        name,
        start_ms * 1_000_000,
        int(duration_ms * 1_000_000),
        parent_span_id=parent,
        kind=SpanKind.SERVER,
        status=status,
        environment="test",
        **other,  # type: ignore[arg-type]
    )


def last_hours(hours: float = 24) -> TimeRange:
    return TimeRange(NOW_MS - int(hours * HOUR_MS), NOW_MS + HOUR_MS)


def count_query(*conditions: Expr, group_by: tuple[Expr, ...] = ()) -> CheckedSelect:
    """Return a query of the number of samples and their sum, over all time."""
    select = Select(
        "metrics",
        (
            *(SelectItem(key, f"key{i}") for i, key in enumerate(group_by)),
            SelectItem(Call("count"), "n"),
            SelectItem(Call("sum", (Column("value"),)), "sum"),
        ),
        where=And((Compare(">=", Column("timestamp"), Literal(0)), *conditions)),
        group_by=group_by,
    )
    return check(select, now_ms=NOW_MS + HOUR_MS)


def of_service(name: str) -> Expr:
    return equals("service_name", name)
