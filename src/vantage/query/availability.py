"""Objectives, heartbeats and HTTP checks as pages, rules and the API read them. Everything raises StoreUnavailable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from vantage.core.availability import StoredCheck, StoredHeartbeat
from vantage.core.errors import NotFoundError
from vantage.core.slo import StoredSlo
from vantage.query.context import QueryContext
from vantage.vql.tree import And, Call, Column, Compare, Literal, Select, SelectItem, TagValue, equals

CHECK_METRIC: Final = "check.up"
DAY_MS: Final = 86_400_000
UPTIME_TTL_S: Final = 30.0


async def list_slos(context: QueryContext) -> Sequence[StoredSlo]:
    """Return all objectives by name."""
    return await context.metadata.availability.slos()


async def find_slo(context: QueryContext, name: str) -> StoredSlo:
    """Return an objective. Raises NotFoundError."""
    for stored in await list_slos(context):
        if stored.slo.name == name:
            return stored
    raise NotFoundError("no SLO has this name", field="name")


async def list_heartbeats(context: QueryContext) -> Sequence[StoredHeartbeat]:
    """Return all heartbeats by name."""
    return await context.metadata.availability.heartbeats()


async def find_heartbeat(context: QueryContext, name: str) -> StoredHeartbeat:
    """Return a heartbeat. Raises NotFoundError."""
    for stored in await list_heartbeats(context):
        if stored.heartbeat.name == name:
            return stored
    raise NotFoundError("no heartbeat has this name", field="name")


async def list_checks(context: QueryContext) -> Sequence[StoredCheck]:
    """Return all checks by name."""
    return await context.metadata.availability.checks()


async def read_uptimes(context: QueryContext) -> Mapping[str, float]:
    """Return the share of runs of the last day that were up, from 0 to 1, of each check with any: from rollups, with
    one query for all. Raises what the store raises."""
    now_ms = context.present().now_ms

    async def load() -> Mapping[str, float]:
        check, time = TagValue("check"), Column("timestamp")
        where = And(
            (
                equals("metric_name", CHECK_METRIC),
                Compare(">=", time, Literal(now_ms - DAY_MS)),
                Compare("<=", time, Literal(now_ms)),
            )
        )
        up, runs = (Call("sum", (Column(name),)) for name in ("sum", "count"))
        items = (SelectItem(check, "check"), SelectItem(up, "up"), SelectItem(runs, "runs"))
        table = await context.select("uptimes", Select("rollups_5m", items, where=where, group_by=(check,)))
        return {name: total / count for name, total, count in table.rows() if count and total is not None}

    return await context.cache.cached(("uptimes",), load, ttl_s=UPTIME_TTL_S)


async def find_check(context: QueryContext, name: str) -> StoredCheck:
    """Return a check. Raises NotFoundError."""
    for stored in await list_checks(context):
        if stored.check.name == name:
            return stored
    raise NotFoundError("no check has this name", field="name")
