"""``/api/storage``: storage usage and growth."""

from __future__ import annotations

from typing import Literal

import msgspec
from litestar import get
from litestar.di import NamedDependency

from vantage.query.context import QueryContext
from vantage.query.storage_report import read_storage_report
from vantage.web.api.params import problems


class UsageOut(msgspec.Struct):
    """Bytes of one metric of a service in a tier; spans have no metric. ``items`` are stored samples or spans."""

    service: str
    metric: str
    tier: Literal["samples", "rollups", "spans"]
    bytes: int
    items: int
    series: int


class GrowingOut(msgspec.Struct):
    """A series and its samples of the last 24 hours; ``bytes`` is null while nothing of its metric is sealed."""

    service: str
    environment: str
    metric: str
    tags: dict[str, str]
    samples: int
    bytes: int | None


class NewSeriesOut(msgspec.Struct):
    """A metric and the number of its series that were first seen in the last 24 hours."""

    service: str
    metric: str
    series: int
    new: int


class StorageOut(msgspec.Struct):
    """``files`` are bytes on disk by kind, ``memory`` those not sealed yet (estimated). ``raw_since``: samples before
    this time have expired by size (0: none have). ``damaged`` names unreadable files that were quarantined."""

    files: dict[str, int]
    memory: int
    raw_since: int
    damaged: list[str]
    usage: list[UsageOut]
    growing: list[GrowingOut]
    new_series: list[NewSeriesOut]


@get("/api/storage", summary="Storage usage", responses=problems(), tags=["operations"])
async def get_storage(context: NamedDependency[QueryContext]) -> StorageOut:
    """Return bytes on disk by service, metric and tier, the largest first, and what grows fastest."""
    report = await read_storage_report(context)
    usage = report.usage
    return StorageOut(
        dict(usage.files),
        usage.memory_nbytes,
        usage.raw_since_ms,
        list(usage.damaged),
        [UsageOut(row.service, row.metric, row.tier, row.nbytes, row.items, row.series) for row in usage.rows],
        [
            GrowingOut(row.service, row.environment, row.metric, row.tags, row.samples, row.nbytes)
            for row in report.growing
        ],
        [NewSeriesOut(row.service, row.metric, row.series, row.new) for row in report.new_series],
    )


handlers = [get_storage]
