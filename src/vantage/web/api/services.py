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
async def list_services(context: NamedDependency[QueryContext]) -> ServicesOut:
    """List every service that has samples or spans, by name."""
    return ServicesOut(
        [
            ServiceOut(
                service.name,
                list(service.environments),
                list(service.versions),
                service.first_ms,
                service.last_ms,
                service.samples,
                service.spans,
                service.request_rate_per_s,
            )
            for service in await catalogue.services(context)
        ]
    )


handlers = [list_services]
