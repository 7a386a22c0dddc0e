"""Objectives, heartbeats and HTTP checks as pages, rules and the API read them. Everything raises StoreUnavailable."""

from __future__ import annotations

from collections.abc import Sequence

from vantage.core.availability import StoredCheck, StoredHeartbeat
from vantage.core.errors import NotFoundError
from vantage.core.slo import StoredSlo
from vantage.query.context import QueryContext


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


async def find_check(context: QueryContext, name: str) -> StoredCheck:
    """Return a check. Raises NotFoundError."""
    for stored in await list_checks(context):
        if stored.check.name == name:
            return stored
    raise NotFoundError("no check has this name", field="name")
