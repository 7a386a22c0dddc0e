"""What the tables take on the disk, shared out by metric and service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from vantage.storage.clickhouse.engine import Engine, QueryResult, Statement
from vantage.storage.ports import Usage, UsageRow

# The tables of each kind of data.
KINDS: Final = {
    "samples": ("samples", "exemplars"),
    "rollups": ("rollups_5m", "rollups_1h"),
    "spans": ("spans", "span_times"),
    "series": ("series",),
    "batch ids": ("batch_ids",),
}


def read_usage(engine: Engine, *, raw_since_ms: int) -> Usage:
    """Bytes are shares by the number of rows: of columns sorted together the engine knows only the whole."""
    files = _files(engine)
    by_metric = engine.run(
        Statement(
            "SELECT service_name, metric_name, "
            "toInt64(sumIf(count, toUnixTimestamp64Milli(timestamp) >= {since:Int64})) AS samples, "
            "toInt64(count()) AS rolled, toInt64(uniqExact(series_id)) AS series "
            "FROM rollups_1h GROUP BY service_name, metric_name",
            {"since": raw_since_ms},
        )
    )
    by_service = engine.run(Statement("SELECT service_name, toInt64(count()) AS held FROM spans GROUP BY service_name"))
    rows = [
        *_shared(by_metric, "samples", "samples", files["samples"]),
        *_shared(by_metric, "rollups", "rolled", files["rollups"]),
        *_shared(by_service, "spans", "held", files["spans"]),
    ]
    rows.sort(key=lambda row: (-row.nbytes, row.service, row.metric, row.tier))
    return Usage(tuple(rows), files, 0, raw_since_ms, _damaged(engine))


def _shared(
    found: QueryResult, tier: Literal["samples", "rollups", "spans"], weight: str, nbytes: int
) -> list[UsageRow]:
    weights = found.to_list(weight)
    total = max(1, sum(weights))
    services = found.to_list("service_name")
    metrics = found.to_list("metric_name") if tier != "spans" else [""] * len(services)
    series = found.to_list("series") if tier != "spans" else [0] * len(services)
    return [
        UsageRow(service, metric, tier, nbytes * held // total, 0 if tier == "rollups" else held, count)
        for service, metric, held, count in zip(services, metrics, weights, series, strict=True)
        if held
    ]


def _files(engine: Engine) -> Mapping[str, int]:
    found = engine.run(
        Statement(
            "SELECT table, toInt64(sum(bytes_on_disk)) AS nbytes FROM system.parts "
            "WHERE database = currentDatabase() AND active GROUP BY table"
        )
    )
    held = dict(zip(found.to_list("table"), found.to_list("nbytes"), strict=True))
    return {kind: sum(held.get(table, 0) for table in tables) for kind, tables in KINDS.items()}


def _damaged(engine: Engine) -> tuple[str, ...]:
    """Parts that the engine found broken and put aside."""
    found = engine.run(
        Statement(
            "SELECT concat(table, '/', name) AS part FROM system.detached_parts "
            "WHERE database = currentDatabase() AND reason != '' ORDER BY part"
        )
    )
    return tuple(found.to_list("part"))
