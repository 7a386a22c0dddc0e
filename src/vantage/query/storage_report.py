"""How much space the store takes, and which series grow fastest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vantage.core.rollup import HOUR_MS
from vantage.query.context import QueryContext
from vantage.storage.ports import Usage
from vantage.vql.tree import Call, Column, Compare, Expr, Literal, Order, Select, SelectItem

GROWTH_MS: Final = 24 * HOUR_MS
GROWING_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class GrowingSeries:
    """A series and its samples of the last 24 hours. ``nbytes`` estimates their size from the metric's bytes per
    sample; None while nothing of the metric is sealed."""

    service: str
    environment: str
    metric: str
    tags: dict[str, str]
    samples: int
    nbytes: int | None


@dataclass(frozen=True, slots=True)
class NewSeries:
    """A metric, and how many of its series were first seen in the last 24 hours."""

    service: str
    metric: str
    series: int
    new: int


@dataclass(frozen=True, slots=True)
class StorageReport:
    usage: Usage
    growing: list[GrowingSeries]
    new_series: list[NewSeries]


async def read_storage_report(context: QueryContext) -> StorageReport:
    """Read usage by service, metric and tier, the fastest growing series, and the metrics that gain most series."""
    usage = await context.store.usage()
    return StorageReport(usage, await _growing(context, usage), await _new_series(context))


async def _growing(context: QueryContext, usage: Usage) -> list[GrowingSeries]:
    keys: tuple[Expr, ...] = tuple(Column(name) for name in ("service_name", "environment", "metric_name", "tags"))
    count = Call("sum", (Column("count"),))
    select = Select(
        "rollups_1h",
        tuple(SelectItem(expr, f"c{i}") for i, expr in enumerate((*keys, count))),
        where=Compare(">=", Column("timestamp"), Literal(context.clock.now_ms() - GROWTH_MS)),
        group_by=keys,
        order_by=(Order(count, descending=True),),
        limit=GROWING_MAX,
    )
    table = await context.select("storage", select)
    sizes = {
        (row.service, row.metric): row.nbytes / row.items for row in usage.rows if row.tier == "samples" and row.items
    }
    return [
        GrowingSeries(
            service, environment, metric, tags, round(samples),
            round(samples * sizes[service, metric]) if (service, metric) in sizes else None,
        )
        for service, environment, metric, tags, samples in table.rows()
    ]  # fmt: skip


async def _new_series(context: QueryContext) -> list[NewSeries]:
    since_ms = context.clock.now_ms() - GROWTH_MS
    counts: dict[tuple[str, str], list[int]] = {}
    for info in await context.store.list_series():
        count = counts.setdefault((info.series.service, info.series.metric), [0, 0])
        count[0] += 1
        count[1] += info.first_ms >= since_ms
    rows = [NewSeries(*key, series, new) for key, (series, new) in counts.items() if new]
    return sorted(rows, key=lambda row: (-row.new, row.service, row.metric))[:GROWING_MAX]
