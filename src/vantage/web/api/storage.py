"""``/api/storage``: what is kept, and what it takes."""

from __future__ import annotations

from typing import Literal

import msgspec
from litestar import get
from litestar.di import NamedDependency

from vantage.query.context import QueryContext
from vantage.query.storage_report import read_storage_report
from vantage.web.api.params import problems


class UsageOut(msgspec.Struct):
    """What one metric of a service takes in a tier; its spans have no metric. ``items`` are samples or spans held."""

    service: str
    metric: str
    tier: Literal["samples", "rollups", "spans"]
    bytes: int
    items: int
    series: int


class GrowingOut(msgspec.Struct):
    """A series by what it sent in the last 24 hours; ``bytes`` is null while nothing of its metric is sealed."""

    service: str
    environment: str
    metric: str
    tags: dict[str, str]
    samples: int
    bytes: int | None


class NewSeriesOut(msgspec.Struct):
    """A metric by how many of its series were first seen in the last 24 hours."""

    service: str
    metric: str
    series: int
    new: int


class StorageOut(msgspec.Struct):
    """``files`` are bytes on disk by kind, ``memory`` those not sealed yet (estimated). ``raw_since``: samples before
    this time have left by size (0: none have). ``damaged`` names files that could not be read and were put aside."""

    files: dict[str, int]
    memory: int
    raw_since: int
    damaged: list[str]
    usage: list[UsageOut]
    growing: list[GrowingOut]
    new_series: list[NewSeriesOut]


@get("/api/storage", summary="What is kept, and what it takes", responses=problems(), tags=["operations"])
async def get_storage(reads: NamedDependency[QueryContext]) -> StorageOut:
    """Bytes on disk by service, metric and tier, the largest first, and what grows fastest."""
    found = await read_storage_report(reads)
    usage = found.usage
    return StorageOut(
        dict(usage.files),
        usage.memory_nbytes,
        usage.raw_since_ms,
        list(usage.damaged),
        [UsageOut(row.service, row.metric, row.tier, row.nbytes, row.items, row.series) for row in usage.rows],
        [
            GrowingOut(one.service, one.environment, one.metric, one.tags, one.samples, one.nbytes)
            for one in found.growing
        ],
        [NewSeriesOut(one.service, one.metric, one.series, one.new) for one in found.new_series],
    )


handlers = [get_storage]
