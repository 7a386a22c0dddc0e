"""``/api/edges``: which service calls which."""

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
    """``start`` and ``end`` are those of the buckets that the range touches; ``omitted`` counts further edges, with
    fewer calls."""

    start: int
    end: int
    edges: list[EdgeOut]
    omitted: int


@get("/api/edges", summary="Service map", responses=problems(), tags=["traces"])
async def list_edges(
    context: NamedDependency[QueryContext],
    service: Annotated[
        str, Parameter(description="Only its callers and callees; all when absent.", max_length=255)
    ] = "",
    start: Start = "now-1h",
    end: End = "now",
) -> ServiceMapOut:
    """Return calls between services and to external callees, counted from spans, the most calls first."""
    in_range = time_range(start, end, now_ms=context.present().now_ms)
    service_map = await read_service_map(context, in_range, service=service)
    return ServiceMapOut(
        service_map.time_range.start_ms,
        service_map.time_range.end_ms,
        [
            EdgeOut(
                call.caller,
                call.callee,
                call.kind,
                call.calls,
                call.calls_per_s,
                call.error_ratio,
                call.mean_ms,
                call.max_ms,
            )
            for call in service_map.calls
        ],
        service_map.omitted,
    )


handlers = [list_edges]
