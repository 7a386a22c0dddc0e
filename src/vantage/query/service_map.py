"""The service map: which service calls which, for the API and the pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vantage.core.timerange import TimeRange
from vantage.query.context import QueryContext
from vantage.storage.ports import EdgeKind, ServiceEdge, ServiceEdges

EDGES_MAX: Final = 500
RECENT_MS: Final = 900_000
RECENT_TTL_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class ServiceCall:
    """An edge in figures: a ratio from 0 to 1, durations in ms, ``calls_per_s`` over the map's range. ``is_known``: the
    callee is a service with stored spans."""

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
    """``calls``: up to EDGES_MAX, the busiest first; ``omitted`` counts the rest. ``time_range`` is that of the buckets
    they are counted in, up to now."""

    time_range: TimeRange
    calls: tuple[ServiceCall, ...]
    omitted: int

    def callers_of(self, service: str) -> tuple[ServiceCall, ...]:
        """Return the calls to a service."""
        return tuple(call for call in self.calls if call.callee == service)

    def callees_of(self, service: str) -> tuple[ServiceCall, ...]:
        """Return the calls that a service makes."""
        return tuple(call for call in self.calls if call.caller == service)


async def read_service_map(context: QueryContext, time_range: TimeRange, *, service: str = "") -> ServiceMap:
    """Return the edges of a range of whole buckets; with ``service``, those from or to it. Raises InputError for too
    many spans."""
    return await _aggregate_calls(context, await context.store.edges(time_range), time_range, service)


async def recent_service_map(context: QueryContext, *, service: str) -> ServiceMap:
    """Return the edges from or to a service in the last RECENT_MS. They may be RECENT_TTL_S old, since the pages of all
    services share them. Raises InputError for too many spans."""
    now_ms = context.present().now_ms + 1  # a span that starts this millisecond lies before the end
    time_range = TimeRange(now_ms - RECENT_MS, now_ms)
    edges = await context.cache.cached(("edges",), lambda: context.store.edges(time_range), ttl_s=RECENT_TTL_S)
    return await _aggregate_calls(context, edges, time_range, service)


async def _aggregate_calls(context: QueryContext, stored: ServiceEdges, wanted: TimeRange, service: str) -> ServiceMap:
    selected = [edge for edge in stored.edges if not service or service in (edge.caller, edge.callee)]
    known: set[str] = set()
    if any(edge.kind == "external" for edge in selected):
        known = {stats.service for stats in await context.store.services_with_spans()}
    selected.sort(key=lambda edge: (-edge.calls, edge.caller, edge.callee, edge.kind))
    # The last bucket is not over: nothing was called in what is left of it.
    end_ms = min(stored.time_range.end_ms, max(wanted.end_ms, context.present().now_ms))
    time_range = TimeRange(stored.time_range.start_ms, end_ms)
    seconds = (time_range.end_ms - time_range.start_ms) / 1000
    return ServiceMap(
        time_range,
        tuple(_calls(edge, seconds, is_known=edge.kind != "external" or edge.callee in known)
              for edge in selected[:EDGES_MAX]),
        max(0, len(selected) - EDGES_MAX),
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
