"""Counts and durations of requests by route, for Prometheus and for self-telemetry."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final

from vantage.core.clock import Clock
from vantage.telemetry import Telemetry

ROUTES_MAX: Final = 200
DURATIONS_MAX: Final = 5
DRAIN_INTERVAL_S: Final = 60.0


@dataclass(slots=True)
class RouteCount:
    """Requests of one route, method and status since the last ``drain``; ``durations_ms`` is a random sample."""

    count: int = 0
    durations_ms: list[float] = field(default_factory=list)


class RequestMetrics:
    """Counts requests. Routes are templates, never raw paths, so their number is bounded by the code."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._routes: dict[tuple[str, str, int], RouteCount] = {}
        self._random = random.Random(0)

    def record(self, route: str, method: str, status: int, took_ms: float) -> None:
        key = (route, method, status)
        counted = self._routes.get(key)
        if counted is None:
            if len(self._routes) >= ROUTES_MAX:
                return
            counted = self._routes[key] = RouteCount()
        counted.count += 1
        if len(counted.durations_ms) < DURATIONS_MAX:
            counted.durations_ms.append(took_ms)
        else:  # reservoir sampling: Vitter (1985), algorithm R
            index = int(self._random.random() * counted.count)
            if index < DURATIONS_MAX:
                counted.durations_ms[index] = took_ms

    def drain(self) -> dict[tuple[str, str, int], RouteCount]:
        """Return the counts since the last call."""
        routes, self._routes = self._routes, {}
        for (route, method, status), counted in routes.items():
            self._telemetry.http_requests.labels(route, method, str(status)).inc(counted.count)
        return routes


class RequestMetricsLoop:
    """Drains the counts once a minute, where no self-telemetry does."""

    name = "request metrics"

    def __init__(self, requests: RequestMetrics, clock: Clock) -> None:
        self._requests = requests
        self._clock = clock

    async def run(self) -> None:
        while True:
            await self._clock.sleep(DRAIN_INTERVAL_S)
            self._requests.drain()
