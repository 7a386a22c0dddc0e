"""``/api/edges``: who calls whom."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.params import Parameter

from vantage.query.context import QueryContext
from vantage.query.service_map import read_service_map
from vantage.web.api.params import End, Start, problems, time_range


class EdgeOut(msgspec.Struct):
    """One caller and one callee. ``call_rate`` is per second of the range, ``error_ratio`` from 0 to 1; durations are
    milliseconds."""

    caller: str
    callee: str
    kind: Literal["call", "message", "external"]
    calls: int
    call_rate: float
    error_ratio: float
    duration_mean: float
    duration_max: float


class ServiceMapOut(msgspec.Struct):
    """``omitted``: how many further edges there are, of fewer calls."""

    start: int
    end: int
    edges: list[EdgeOut]
    omitted: int


@get("/api/edges", summary="Who calls whom", responses=problems(), tags=["traces"])
async def list_edges(
    context: NamedDependency[QueryContext],
    service: Annotated[
        str, Parameter(description="Only its callers and callees; all when absent.", max_length=255)
    ] = "",
    start: Start = "now-1h",
    end: End = "now",
) -> ServiceMapOut:
    """The services and others that call each other, told from spans; the most calls first."""
    asked = time_range(start, end, now_ms=context.clock.now_ms())
    found = await read_service_map(context, asked, service=service)
    return ServiceMapOut(
        asked.start_ms,
        asked.end_ms,
        [
            EdgeOut(
                one.caller,
                one.callee,
                one.kind,
                one.calls,
                one.calls_per_s,
                one.error_ratio,
                one.mean_ms,
                one.max_ms,
            )
            for one in found.calls
        ],
        found.omitted,
    )


handlers = [list_edges]
