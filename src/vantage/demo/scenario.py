"""The scenario of the demo: the traffic of the shop at any time, the same for the same seed and start."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from vantage.core.arrays import F64, I64, Mask
from vantage.demo.shop import (
    CATALOG,
    CHECKOUT,
    HOPS_A_JOURNEY,
    INSTANCES,
    JOURNEYS,
    PAYMENTS,
    SERVICES,
    Call,
    Service,
)
from vantage.demo.traffic import Origin, Recorded, SeriesName, Traffic

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000
DEPLOYED_BEFORE_MS: Final = 50 * MINUTE_MS
BURST_BEFORE_MS: Final = 25 * MINUTE_MS
BURST_EVERY_MS: Final = 40 * MINUTE_MS
BURST_MS: Final = 3 * MINUTE_MS
BURST_ERROR_SHARE: Final = 0.7
SLOWER_BY: Final = 3.0  # factor on the own time of checkout's next version
RATE_MEAN: Final = 38.0  # requests a second, all services together
ERROR_SHARE: Final = 0.002
TRACED_SHARE: Final = 0.04
TRACED_ERROR_SHARE: Final = 0.3
NETWORK_MS: Final = 0.6
FULL_DENSITY_MS: Final = 20 * MINUTE_MS
THIN_DENSITY: Final = 0.12  # of the requests of older hours, for a history of six hours
GAUGE_STEP_MS: Final = 10_000
# Each window of history counts its requests once, so its length must divide the steps of the charts that show it, or
# they are uneven. By age; beyond that, the first length with at most WINDOWS_OLD_MAX windows.
WINDOWS_MS: Final = ((20 * MINUTE_MS, 5_000), (HOUR_MS, 15_000))
WINDOWS_OLD_MS: Final = (MINUTE_MS, 5 * MINUTE_MS, 15 * MINUTE_MS)
WINDOWS_OLD_MAX: Final = 1440

REQUESTS: Final = "http.requests"
DURATION: Final = "http.request.duration"
BY_NAME: Final = {service.name: service for service in SERVICES}

Rng = np.random.Generator
Bools = Mask


@dataclass(slots=True)
class _Hop:
    """All requests of a window at one step of a journey, as columns; row i of each hop belongs to journey i."""

    call: Call
    start_ms: F64
    own_ms: F64
    total_ms: F64
    status: I64
    instance: I64
    calls: list[_Hop] = field(default_factory=list)


class Scenario:
    """The traffic of the shop. Pure: a window depends on the seed, the start of the demo and the window alone.

    History ends and live traffic begins at ``start_ms``; the incidents are near it.
    """

    def __init__(self, *, seed: int, start_ms: int, history_hours: float = 6) -> None:
        self._seed = seed
        self.start_ms = start_ms
        self.history_start_ms = start_ms - int(history_hours * HOUR_MS)
        self.deployed_ms = start_ms - DEPLOYED_BEFORE_MS
        self.burst_ms = start_ms - BURST_BEFORE_MS
        self._thin = THIN_DENSITY * min(1.0, 5 / max(history_hours - 1, 0.1))
        # The number of windows and of gauge samples does not depend on the length of the history.
        fitting = (length for length in WINDOWS_OLD_MS if history_hours * HOUR_MS <= WINDOWS_OLD_MAX * length)
        self._window_old_ms = next(fitting, WINDOWS_OLD_MS[-1])
        self._gauge_step_ms = max(3, round(history_hours / 2)) * GAUGE_STEP_MS

    def rate(self, time_ms: int) -> float:
        """Return requests per second of all services: 20 at night and at weekends, up to 60 in the afternoon."""
        moment = datetime.fromtimestamp(time_ms / 1000, UTC)
        hour = moment.hour + moment.minute / 60 + moment.second / 3600
        weekday = 0.9 if moment.weekday() >= 5 else 1.04
        ripple = 0.05 * math.sin(time_ms / 97_000) + 0.04 * math.sin(time_ms / 31_000)
        return RATE_MEAN * weekday * (1 + 0.34 * math.cos(2 * math.pi * (hour - 15) / 24) + ripple)

    def density(self, time_ms: int) -> float:
        """Return the share of requests whose duration is sampled: all recent ones, few of the older hours. All
        requests are counted."""
        age_ms = self.start_ms - time_ms
        if age_ms <= FULL_DENSITY_MS:
            return 1.0
        return max(self._thin, 1.0 - (age_ms - FULL_DENSITY_MS) / FULL_DENSITY_MS * (1 - self._thin))

    def windows(self, start_ms: int, end_ms: int) -> Iterator[tuple[int, int]]:
        """Yield the windows of a part of the history, the oldest first."""
        while start_ms < end_ms:
            age_ms = self.start_ms - start_ms
            length_ms = next((length for age, length in WINDOWS_MS if age_ms <= age), self._window_old_ms)
            yield start_ms, min(start_ms + length_ms, end_ms)
            start_ms += length_ms

    def traffic(self, start_ms: int, end_ms: int, *, into: Traffic | None = None) -> Traffic:
        """Return the traffic from ``start_ms`` to ``end_ms`` (exclusive), added to ``into`` when given."""
        traffic = Traffic() if into is None else into
        rng = np.random.default_rng((self._seed, self.start_ms, start_ms))
        density = self.density(start_ms)
        journeys = self.rate(start_ms) / HOPS_A_JOURNEY * (end_ms - start_ms) / 1000
        for share, call in JOURNEYS:
            count = int(rng.poisson(journeys * share))
            if count:
                starts = np.sort(rng.uniform(start_ms, end_ms, count))
                hop = self._visit(call, starts, rng)
                self._record(traffic, hop, rng.random(count) < density, end_ms=end_ms, rng=rng)
        step_ms = GAUGE_STEP_MS if start_ms >= self.start_ms else self._gauge_step_ms
        for time_ms in range(-(-start_ms // step_ms) * step_ms, end_ms, step_ms):
            self._gauges(traffic, time_ms, rng)
        return traffic

    def _failing(self, times_ms: F64) -> Bools:
        since: F64 = times_ms - self.burst_ms
        failing: Bools = (since >= 0) & (since % BURST_EVERY_MS < BURST_MS)
        return failing

    def _origin(self, service: Service, instance: int, time_ms: float) -> Origin:
        is_next = service.version_next and time_ms >= self.deployed_ms
        return Origin(service.name, service.version_next if is_next else service.version, instance)

    def _visit(self, call: Call, start_ms: F64, rng: Rng) -> _Hop:
        count = len(start_ms)
        own_ms = call.median_ms * rng.lognormal(0, call.sigma, count)
        luck = rng.random(count)
        status = np.full(count, call.success, np.int64)
        status[luck < call.client_error_share] = call.client_error
        status[luck > 1 - ERROR_SHARE] = 500
        if call.service == CHECKOUT:
            own_ms = np.where(start_ms >= self.deployed_ms, own_ms * SLOWER_BY, own_ms)
        if call.service == PAYMENTS:
            broken = self._failing(start_ms) & (rng.random(count) < BURST_ERROR_SHARE)
            status[broken] = 503
            own_ms = np.where(broken, own_ms * 1.6, own_ms)
        hop = _Hop(call, start_ms, own_ms, own_ms, status, rng.integers(INSTANCES[0], INSTANCES[-1] + 1, count))
        at_ms = start_ms + 0.6 * own_ms
        for inner in call.calls:
            called = self._visit(inner, at_ms + NETWORK_MS, rng)
            at_ms = called.start_ms + called.total_ms + NETWORK_MS
            hop.calls.append(called)
            if not inner.spare:
                status[called.status >= 500] = 502
        hop.total_ms = at_ms + 0.4 * own_ms - start_ms
        return hop

    def _record(self, traffic: Traffic, root: _Hop, sampled: Bools, *, end_ms: int, rng: Rng) -> None:
        chance = rng.random(len(root.start_ms))
        traced = np.flatnonzero(sampled & (chance < np.where(root.status >= 500, TRACED_ERROR_SHARE, TRACED_SHARE)))
        traces = {int(row): rng.bytes(16).hex() for row in traced}
        self._record_hop(traffic, root, sampled, traces, dict.fromkeys(traces, ""), end_ms=end_ms, rng=rng)

    def _record_hop(
        self,
        traffic: Traffic,
        hop: _Hop,
        sampled: Bools,
        traces: dict[int, str],
        parents: dict[int, str],
        *,
        end_ms: int,
        rng: Rng,
    ) -> None:
        """Record the count of a hop, the durations of its ``sampled`` rows, the spans of its traced rows, and the same
        for the calls it makes."""
        call = hop.call
        service = BY_NAME[call.service]
        span_ids = {row: rng.bytes(8).hex() for row in traces}
        for row, trace_id in traces.items():
            recorded = traffic.of(self._origin(service, int(hop.instance[row]), hop.start_ms[row]))
            recorded.spans.append(_server_span(hop, row, trace_id, span_ids[row], parents[row]))
            if call.query:
                recorded.spans.append(_query_span(hop, row, trace_id, rng.bytes(8).hex(), span_ids[row]))
        for called in hop.calls:
            client_ids = {row: rng.bytes(8).hex() for row in traces}
            for row, trace_id in traces.items():
                recorded = traffic.of(self._origin(service, int(hop.instance[row]), hop.start_ms[row]))
                recorded.spans.append(_client_span(called, row, trace_id, client_ids[row], span_ids[row]))
            self._record_hop(traffic, called, sampled, traces, client_ids, end_ms=end_ms, rng=rng)
        # A request is recorded when it ends; one that ends after the window is recorded at its end.
        times = np.minimum(hop.start_ms + hop.total_ms, end_ms - 1).astype(np.int64)
        is_next = (hop.start_ms >= self.deployed_ms) if service.version_next else np.zeros(len(times), np.bool_)
        groups = (hop.status * 2 + is_next) * 4 + hop.instance
        for group in np.unique(groups).tolist():
            rows = np.flatnonzero(groups == group)
            status, instance = int(hop.status[rows[0]]), int(hop.instance[rows[0]])
            recorded = traffic.of(self._origin(service, instance, hop.start_ms[rows[0]]))
            tags = (("endpoint", call.route), ("method", call.method), ("status", str(status)))
            _increment(recorded, SeriesName(REQUESTS, "counter", "{request}", tags), end_ms - 1, len(rows))
            if (call.service, call.route, status) == (CHECKOUT, "/orders", 201):
                _increment(recorded, SeriesName("orders.placed", "counter", "{order}"), end_ms - 1, len(rows))
            rows = rows[sampled[rows]]
            if not len(rows):
                continue
            column = recorded.column(SeriesName(DURATION, "histogram", "ms", tags))
            base = len(column.times_ms)
            column.times_ms += times[rows].tolist()
            column.values += np.round(hop.total_ms[rows], 3).tolist()
            column.links += [
                (base + position, traces[row], span_ids[row])
                for position, row in enumerate(rows.tolist())
                if row in traces
            ]

    def _gauges(self, traffic: Traffic, time_ms: int, rng: Rng) -> None:
        load = self.rate(time_ms) / (RATE_MEAN * 1.4)
        failing = bool(self._failing(np.array([float(time_ms)]))[0])
        since_deployed_ms = time_ms - self.deployed_ms
        for service in SERVICES:
            for instance in INSTANCES:
                recorded = traffic.of(self._origin(service, instance, time_ms))
                cpu = service.cpu_percent * load * rng.normal(1, 0.06) + (instance - 1)
                swing = math.sin(time_ms / (900_000 + 170_000 * instance) + len(service.name))
                rss_mib = service.rss_mib * (1 + 0.05 * swing + rng.normal(0, 0.004))
                if service.version_next and since_deployed_ms >= 0:
                    cpu *= 1.5
                    rss_mib *= 1.15
                _add(
                    recorded,
                    SeriesName("process.cpu.percent", "gauge", "%"),
                    time_ms,
                    round(min(max(cpu, 0.5), 100), 2),
                )
                _add(recorded, SeriesName("process.memory.rss", "gauge", "By"), time_ms, int(rss_mib * (1 << 20)))
                if service.name == PAYMENTS:
                    depth = int(rng.poisson(180 if failing else 4 * load + 1))
                    _add(recorded, SeriesName("payments.queue.depth", "gauge", "{charge}"), time_ms, depth)
                if service.name == CATALOG:
                    ratio = min(0.995, max(0.5, 0.93 + 0.02 * swing + rng.normal(0, 0.01)))
                    _add(recorded, SeriesName("catalog.cache.hit_ratio", "gauge", "1"), time_ms, round(ratio, 4))


def _add(recorded: Recorded, name: SeriesName, time_ms: int, value: float) -> None:
    column = recorded.column(name)
    column.times_ms.append(time_ms)
    column.values.append(float(value))


def _increment(recorded: Recorded, name: SeriesName, time_ms: int, by: int) -> None:
    """Add to a counter; at the same time to the same sample."""
    column = recorded.column(name)
    if column.times_ms[-1:] == [time_ms]:
        column.values[-1] += by
    else:
        _add(recorded, name, time_ms, by)


def _span(name: str, kind: str, start_ms: float, length_ms: float, status: int, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "start_ns": int(start_ms * 1000) * 1000,
        "duration_ns": int(length_ms * 1_000_000),
        "status": "error" if status >= 500 else "unset",
        **more,
    }


def _http(call: Call, status: int, **more: str) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "http.request.method": call.method,
        "http.route": call.route,
        "http.response.status_code": status,
        **more,
    }
    return attributes | {"error.type": str(status)} if status >= 500 else attributes


def _server_span(hop: _Hop, row: int, trace_id: str, span_id: str, parent: str) -> dict[str, Any]:
    call, status = hop.call, int(hop.status[row])
    name = f"{call.method} {call.route}"
    ids = {"trace_id": trace_id, "span_id": span_id, "parent_span_id": parent}
    attributes = _http(call, status)
    return _span(name, "server", hop.start_ms[row], hop.total_ms[row], status, attributes=attributes, **ids)


def _client_span(called: _Hop, row: int, trace_id: str, span_id: str, parent: str) -> dict[str, Any]:
    call, status = called.call, int(called.status[row])
    name = f"{call.method} {call.service}"
    ids = {"trace_id": trace_id, "span_id": span_id, "parent_span_id": parent}
    start_ms, length_ms = called.start_ms[row] - NETWORK_MS, called.total_ms[row] + 2 * NETWORK_MS
    attributes = _http(call, status, **{"server.address": call.service})
    return _span(name, "client", start_ms, length_ms, status, attributes=attributes, **ids)


def _query_span(hop: _Hop, row: int, trace_id: str, span_id: str, parent: str) -> dict[str, Any]:
    ids = {"trace_id": trace_id, "span_id": span_id, "parent_span_id": parent}
    attributes = {"db.system.name": "postgresql", "db.query.summary": hop.call.query}
    start_ms, length_ms = hop.start_ms[row] + 0.1 * hop.own_ms[row], 0.45 * hop.own_ms[row]
    return _span(hop.call.query, "client", start_ms, length_ms, 0, attributes=attributes, **ids)
