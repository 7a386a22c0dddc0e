"""The size of the tables on disk, by metric and service."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, Literal

from vantage.core.timerange import TimeRange
from vantage.storage.clickhouse.engine import Engine, QueryResult, Statement
from vantage.storage.ports import AgedBytes, Usage, UsageRow

# The tables of each kind of data.
KINDS: Final = {
    "samples": ("samples", "exemplars"),
    "rollups": ("rollups_5m", "rollups_1h", "red_1m", "red_5m", "red_1h", "span_buckets", "edges_5m", "edge_buckets"),
    "spans": ("spans", "span_times", "span_services"),
    "series": ("series",),
    "batch ids": ("batch_ids",),
}


def read_usage(engine: Engine, *, raw_since_ms: int) -> Usage:
    """Read usage. Bytes are shares by the number of rows, since the engine knows only the size of complete columns."""
    files = _files(engine)
    by_metric = engine.run(
        Statement(
            "SELECT service_name, metric_name, "
            "toInt64(sumIf(count, toUnixTimestamp64Milli(timestamp) >= {since:Int64})) AS samples, "
            "toInt64(count()) AS rollups, toInt64(uniqExact(series_id)) AS series "
            "FROM rollups_1h GROUP BY service_name, metric_name",
            {"since": raw_since_ms},
        )
    )
    by_service = engine.run(
        Statement("SELECT service_name, toInt64(count()) AS spans FROM spans GROUP BY service_name")
    )
    rows = [
        *_share_bytes(by_metric, "samples", "samples", files["samples"]),
        *_share_bytes(by_metric, "rollups", "rollups", files["rollups"]),
        *_share_bytes(by_service, "spans", "spans", files["spans"]),
    ]
    rows.sort(key=lambda row: (-row.nbytes, row.service, row.metric, row.tier))
    return Usage(tuple(rows), files, 0, raw_since_ms, _damaged(engine), tuple(_aged(engine)))


def _aged(engine: Engine) -> list[AgedBytes]:
    """Return the bytes of each month: the tables that age are partitioned by it."""
    result = engine.run(
        Statement(
            "SELECT toInt64(toUInt32OrZero(partition)) AS month, toInt64(sum(bytes_on_disk)) AS nbytes "
            "FROM system.parts WHERE database = currentDatabase() AND active AND length(partition) = 6 "
            "GROUP BY month ORDER BY month"
        )
    )
    months = zip(result.to_list("month"), result.to_list("nbytes"), strict=True)
    return [AgedBytes(_month_range(month), nbytes, is_whole=False) for month, nbytes in months if month]


def _month_range(month: int) -> TimeRange:
    """Return the range of a month such as 202611."""
    year, number = divmod(month, 100)
    starts = [datetime(year + (number + add) // 12, (number + add) % 12 + 1, 1, tzinfo=UTC) for add in (-1, 0)]
    return TimeRange(*(int(start.timestamp() * 1000) for start in starts))


def _share_bytes(
    result: QueryResult, tier: Literal["samples", "rollups", "spans"], weight: str, nbytes: int
) -> list[UsageRow]:
    weights = result.to_list(weight)
    total = max(1, sum(weights))
    services = result.to_list("service_name")
    metrics = result.to_list("metric_name") if tier != "spans" else [""] * len(services)
    series = result.to_list("series") if tier != "spans" else [0] * len(services)
    return [
        UsageRow(service, metric, tier, nbytes * rows // total, 0 if tier == "rollups" else rows, count)
        for service, metric, rows, count in zip(services, metrics, weights, series, strict=True)
        if rows
    ]


def _files(engine: Engine) -> Mapping[str, int]:
    result = engine.run(
        Statement(
            "SELECT table, toInt64(sum(bytes_on_disk)) AS nbytes FROM system.parts "
            "WHERE database = currentDatabase() AND active GROUP BY table"
        )
    )
    sizes = dict(zip(result.to_list("table"), result.to_list("nbytes"), strict=True))
    return {kind: sum(sizes.get(table, 0) for table in tables) for kind, tables in KINDS.items()}


def _damaged(engine: Engine) -> tuple[str, ...]:
    """Return the broken parts that the engine has detached."""
    result = engine.run(
        Statement(
            "SELECT concat(table, '/', name) AS part FROM system.detached_parts "
            "WHERE database = currentDatabase() AND reason != '' ORDER BY part"
        )
    )
    return tuple(result.to_list("part"))
