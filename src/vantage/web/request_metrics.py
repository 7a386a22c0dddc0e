"""What requests took, by route: for Prometheus, and for Vantage's watch over itself."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final

from vantage.telemetry import Telemetry

ROUTES_MAX: Final = 200
DURATIONS_MAX: Final = 5


@dataclass(slots=True)
class RouteCount:
    """Requests of one route, method and status since the last ``drain``; ``durations_ms`` is a random few of them."""

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
        held = self._routes.get(key)
        if held is None:
            if len(self._routes) >= ROUTES_MAX:
                return
            held = self._routes[key] = RouteCount()
        held.count += 1
        if len(held.durations_ms) < DURATIONS_MAX:
            held.durations_ms.append(took_ms)
        else:  # reservoir sampling: Vitter (1985), algorithm R
            place = int(self._random.random() * held.count)
            if place < DURATIONS_MAX:
                held.durations_ms[place] = took_ms

    def drain(self) -> dict[tuple[str, str, int], RouteCount]:
        """What was counted since the last call."""
        taken, self._routes = self._routes, {}
        for (route, method, status), held in taken.items():
            self._telemetry.http_requests.labels(route, method, str(status)).inc(held.count)
        return taken
