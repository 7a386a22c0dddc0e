"""Who calls whom, as the API and the pages tell it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vantage.core.timerange import TimeRange
from vantage.query.context import QueryContext
from vantage.storage.ports import EdgeKind, ServiceEdge

EDGES_MAX: Final = 500
RECENT_MS: Final = 900_000
RECENT_TTL_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class ServiceCall:
    """An edge in figures: a ratio from 0 to 1, durations in ms, ``calls_per_s`` over the whole range. ``is_known``: the
    callee is a service that spans are kept of."""

    caller: str
    callee: str
    kind: EdgeKind
    is_known: bool
    calls: int
    calls_per_s: float
    error_ratio: float
    mean_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class ServiceMap:
    """``calls``: the busiest first, at most EDGES_MAX; ``left_out`` are beyond that."""

    calls: tuple[ServiceCall, ...]
    omitted: int

    def callers_of(self, service: str) -> tuple[ServiceCall, ...]:
        """Those that call a service."""
        return tuple(one for one in self.calls if one.callee == service)

    def callees_of(self, service: str) -> tuple[ServiceCall, ...]:
        """Those that a service calls."""
        return tuple(one for one in self.calls if one.caller == service)


async def read_service_map(reads: QueryContext, time_range: TimeRange, *, service: str = "") -> ServiceMap:
    """The edges in a range; with ``service``, those that begin or end there. Raises InputError for too many spans."""
    return await _aggregate_calls(reads, await reads.store.edges(time_range), time_range, service)


async def recent_service_map(reads: QueryContext, *, service: str) -> ServiceMap:
    """Those of a service over the last LATELY_MS, up to LATELY_AGE_S_MAX old: the pages of all services share them.
    Raises InputError for too many spans."""
    now_ms = reads.clock.now_ms() + 1  # a span that starts this millisecond lies before the end
    time_range = TimeRange(now_ms - RECENT_MS, now_ms)
    found = await reads.lately(("edges",), lambda: reads.store.edges(time_range), age_s_max=RECENT_TTL_S)
    return await _aggregate_calls(reads, found, time_range, service)


async def _aggregate_calls(
    reads: QueryContext, edges: Sequence[ServiceEdge], time_range: TimeRange, service: str
) -> ServiceMap:
    found = [edge for edge in edges if not service or service in (edge.caller, edge.callee)]
    known: set[str] = set()
    if any(edge.kind == "external" for edge in found):
        known = {one.service for one in await reads.store.services_with_spans()}
    found.sort(key=lambda edge: (-edge.calls, edge.caller, edge.callee, edge.kind))
    seconds = (time_range.end_ms - time_range.start_ms) / 1000
    return ServiceMap(
        tuple(_calls(edge, seconds, is_known=edge.kind != "external" or edge.callee in known)
              for edge in found[:EDGES_MAX]),
        max(0, len(found) - EDGES_MAX),
    )  # fmt: skip


def _calls(edge: ServiceEdge, seconds: float, *, is_known: bool) -> ServiceCall:
    return ServiceCall(
        edge.caller,
        edge.callee,
        edge.kind,
        is_known,
        edge.calls,
        edge.calls / seconds,
        edge.errors / edge.calls,
        edge.duration_ns_sum / edge.calls / 1e6,
        edge.duration_ns_max / 1e6,
    )
