"""``/api/services``."""

from __future__ import annotations

import msgspec
from litestar import get
from litestar.di import NamedDependency

from vantage.query import catalogue
from vantage.query.context import QueryContext
from vantage.web.api.params import problems


class ServiceOut(msgspec.Struct):
    """A monitored application. Times are epoch milliseconds; ``request_rate`` is per second over the last five
    minutes, null without request data."""

    name: str
    environments: list[str]
    versions: list[str]
    first_seen: int
    last_seen: int
    samples: int
    spans: int
    request_rate: float | None


class ServicesOut(msgspec.Struct):
    services: list[ServiceOut]


@get("/api/services", summary="Services", responses=problems(), tags=["catalogue"])
async def list_services(reads: NamedDependency[QueryContext]) -> ServicesOut:
    """Every service that samples or spans are kept of, by name."""
    return ServicesOut(
        [
            ServiceOut(
                one.name,
                list(one.environments),
                list(one.versions),
                one.first_ms,
                one.last_ms,
                one.samples,
                one.spans,
                one.request_rate_per_s,
            )
            for one in await catalogue.services(reads)
        ]
    )


handlers = [list_services]
