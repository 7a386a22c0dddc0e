"""``/health*`` and ``/metrics`` for load balancers, containers and Prometheus, without keys or rate limits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec

from vantage.core.errors import VantageError
from vantage.telemetry import CONTENT_TYPE
from vantage.web.process_metrics import ProcessMetrics

CHECK_TIMEOUT_S = 2.0


class DependencyOut(msgspec.Struct):
    """``status`` is ``up`` or ``down``; ``detail`` says why it is down."""

    status: str
    latency_ms: float
    detail: str = ""


class HealthOut(msgspec.Struct):
    """``status`` is ``up``, ``read_only`` (data is read, and nothing can be written), ``degraded`` (a dependency is
    down without which most requests are answered), ``down`` (a dependency is) or ``draining`` (about to stop).
    ``warnings`` tell what fails although data is read, such as sealing on a full disk."""

    status: str
    version: str
    role: str
    dependencies: dict[str, DependencyOut]
    warnings: list[str] = []


class LiveOut(msgspec.Struct):
    status: Annotated[str, msgspec.Meta(examples=["alive"])]


@dataclass(frozen=True, slots=True)
class HealthChecks:
    """Checks health with one ping per dependency; ``warnings`` returns what is wrong without being down, ``read_only``
    why nothing can be written although data is read, '' when it can, and ``spared`` the dependencies without which
    requests are answered now."""

    version: str
    role: str
    pings: dict[str, Callable[[], Awaitable[None]]]
    warnings: Callable[[], Sequence[str]] = tuple
    read_only: Callable[[], str] = str
    spared: Callable[[], Collection[str]] = tuple

    async def check(self, *, draining: bool) -> HealthOut:
        names = list(self.pings)
        results = await asyncio.gather(*(_ping(self.pings[name]) for name in names))
        down = {name for name, result in zip(names, results, strict=True) if result.status == "down"}
        usual = "read_only" if self.read_only() else "up"
        failing = "degraded" if down.issubset(self.spared()) else "down"
        status = "draining" if draining else failing if down else usual
        return HealthOut(status, self.version, self.role, dict(zip(names, results, strict=True)), list(self.warnings()))


async def _ping(ping: Callable[[], Awaitable[None]]) -> DependencyOut:
    started = time.perf_counter()
    detail = ""
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await ping()
    except TimeoutError:
        detail = f"no answer within {CHECK_TIMEOUT_S:g} s"
    except VantageError as error:
        detail = str(error)
    return DependencyOut("down" if detail else "up", round((time.perf_counter() - started) * 1000, 3), detail)


_UNHEALTHY = {
    503: ResponseSpec(HealthOut, generate_examples=False, description="A dependency is down, or Vantage stops.")
}


@get("/health", summary="Health with dependencies", responses=_UNHEALTHY, tags=["operations"])
async def health(request: Request[Any, Any, Any], health_checks: NamedDependency[HealthChecks]) -> Response[HealthOut]:
    """Return every dependency with its status and latency; 503 when one is down."""
    report = await health_checks.check(draining=request.app.state.authorizer.draining)
    return Response(report, status_code=503 if report.status in ("down", "degraded") else 200)


@get("/health/live", summary="Is the process alive?", tags=["operations"])
async def live() -> LiveOut:
    """Return 200 as long as the process responds."""
    return LiveOut("alive")


@get("/health/ready", summary="May requests be sent here?", responses=_UNHEALTHY, tags=["operations"])
async def ready(request: Request[Any, Any, Any], health_checks: NamedDependency[HealthChecks]) -> Response[HealthOut]:
    """Return 200 when every dependency is up that requests need, also where data can only be read; 503 before that, and
    once the process has been signalled to stop. Known keys need no metadata database."""
    report = await health_checks.check(draining=request.app.state.authorizer.draining)
    return Response(report, status_code=200 if report.status in ("up", "read_only", "degraded") else 503)


@get("/metrics", summary="Vantage's own metrics", media_type="text/plain", tags=["operations"])
async def metrics(process_metrics: NamedDependency[ProcessMetrics]) -> Response[bytes]:
    """Return Vantage's own metrics in the Prometheus text format, version 0.0.4."""
    return Response(await process_metrics.exposition(), headers={"content-type": CONTENT_TYPE})


handlers = [health, live, ready, metrics]
