"""Judgement is the same from every store: each implementation of ``TelemetryStore`` runs it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.support.samples import HOUR_MS, NOW_MS, MovedClock, a_series, a_span
from vantage.analysis.compare import FIGURES, QUANTILES
from vantage.core.arrays import F64
from vantage.core.batch import Batch, build_batch
from vantage.core.sample import Kind
from vantage.core.sketch import RELATIVE_ERROR
from vantage.core.span import Span, SpanKind, SpanStatus
from vantage.core.timerange import TimeRange
from vantage.query import compared_data
from vantage.query.compare import ComparisonRequest, ComparisonResult, compare
from vantage.query.compared_data import Side
from vantage.query.context import QueryContext
from vantage.query.health import read_health
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.storage.ports import TelemetryStore
from vantage.telemetry import Telemetry

COUNT = 600
Request = tuple[int, float, str, bool]  # time, duration in ms, route, failed


def requests_of(version: str, length_ms: int) -> list[Request]:
    chance = np.random.default_rng(int(version))
    times = sorted((NOW_MS - 1 - chance.integers(0, length_ms, COUNT)).tolist())
    factor = 1.0 if version == "1" else 1.3
    return [
        (at_ms, float(chance.lognormal(4, 0.4)) * factor, str(chance.choice(["/a", "/b"])), bool(chance.random() < 0.1))
        for at_ms in times
    ]


def spans_of(version: str, requests: list[Request]) -> list[Span]:
    return [
        replace_span(
            a_span(f"t{version}{number}", "s", service="api", start_ms=at_ms, duration_ms=round(duration_ms, 3)),
            version,
            route,
            failed=failed,
        )
        for number, (at_ms, duration_ms, route, failed) in enumerate(requests)
    ]


def replace_span(span: Span, version: str, route: str, *, failed: bool) -> Span:
    status = SpanStatus.ERROR if failed else SpanStatus.OK
    attributes = {"http.route": route}
    values = {field: getattr(span, field) for field in span.__struct_fields__}
    changed = {"service_version": version, "status": status, "attributes": attributes, "kind": SpanKind.SERVER}
    return Span(**{**values, **changed})


class AnalysisContract:
    """What analysis promises of data in any store."""

    @pytest.mark.parametrize("read", ["one by one", "summed up", "rollups", "spans"])
    async def test_a_comparison_has_the_figures_of_its_samples(
        self, store: TelemetryStore, read: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        length_ms = 4 * HOUR_MS if read == "rollups" else HOUR_MS
        end_ms = NOW_MS if read != "rollups" else -(-NOW_MS // 300_000) * 300_000
        by_version = {version: requests_of(version, length_ms) for version in ("1", "2")}
        for version, requests in by_version.items():
            if read == "spans":
                await store.write(Batch(spans=tuple(spans_of(version, requests))))
                continue
            rows = []
            for at_ms, duration_ms, route, failed in requests:
                tags = {"http.route": route, "status": "503" if failed else "204"}
                series = a_series(
                    "api", "http.request.duration", Kind.HISTOGRAM, unit="s", tags=tags, service_version=version
                )
                rows.append((series, at_ms, duration_ms / 1000))
            await store.write(build_batch(rows))
        if read == "summed up":
            monkeypatch.setattr(compared_data, "EXACT_MAX", COUNT // 2)
        start_ms = end_ms - 5 * HOUR_MS if read == "rollups" else NOW_MS - length_ms
        result = await self.compared(store, TimeRange(start_ms, end_ms))
        (metric,), (sides,) = result.results, result.data
        assert metric.unit == "ms"
        assert result.verdict.word == "ROLLBACK"
        within = 1e-4 if read == "spans" else 1e-9
        approximate = within if read in ("one by one", "spans") else 2.5 * RELATIVE_ERROR
        for position, (version, figures) in enumerate(
            zip(("1", "2"), (metric.comparison.baseline, metric.comparison.candidate), strict=True)
        ):
            values, weights = self.weighted(by_version, version)
            assert figures.samples == COUNT
            assert figures.values["mean"] == pytest.approx(float((values * weights).sum()), rel=max(within, 1e-6))
            for name, p in zip(FIGURES[1:], QUANTILES, strict=True):
                low, high = (self.quantile(values, weights, p + off) for off in (-0.012, 0.012))
                assert low * (1 - approximate) <= figures.values[name] <= high * (1 + approximate)
            assert result.errors is not None
            assert result.errors.errors[position] == sum(request[3] for request in by_version[version])
            assert result.errors.requests[position] == COUNT
        assert {item.name for item in metric.comparison.strata} == {"/a", "/b"}
        rollups = "rollups of requests over 5 minutes, by endpoint"
        expected = {"one by one": "samples", "spans": "spans", "rollups": rollups}
        assert sides[0].read == expected.get(read, "samples, summed up by time and size of the value")

    async def test_health_is_the_same_from_every_store(self, store: TelemetryStore) -> None:
        start_ms = NOW_MS // 300_000 * 300_000 - 8 * HOUR_MS
        for status, number in (("200", 998.0), ("500", 2.0)):
            series = a_series("api", "http.requests", Kind.COUNTER, tags={"status": status})
            await store.write(build_batch([(series, start_ms + 300_000 * unit, number) for unit in range(96)]))
        clock = MovedClock()
        async with MemoryMetadataStore(clock) as metadata:
            context = QueryContext(store, metadata, clock, Telemetry())
            health = (await read_health(context, "api", window_ms=8 * HOUR_MS)).health
        scores = {factor.name: factor.score for factor in health.factors}
        assert scores == {"request_rate": None, "error_rate": 95, "response_time": None, "availability": 100}
        assert health.factor("error_rate").value == pytest.approx(0.2)
        assert (health.score, health.status) == (98, "HEALTHY")

    async def compared(self, store: TelemetryStore, time_range: TimeRange) -> ComparisonResult:
        clock = MovedClock()
        async with MemoryMetadataStore(clock) as metadata:
            context = QueryContext(store, metadata, clock, Telemetry())
            side = Side("api", time_range, version="1")
            return await compare(context, ComparisonRequest(side, replace(side, version="2")))

    def weighted(self, by_version: dict[str, list[Request]], version: str) -> tuple[F64, F64]:
        """Return the durations of a version, and their weights: the same mix of routes for both."""
        everything = [request[2] for requests in by_version.values() for request in requests]
        own = [request[2] for request in by_version[version]]
        share = {route: everything.count(route) / len(everything) / own.count(route) for route in ("/a", "/b")}
        rows = by_version[version]
        return np.array([row[1] for row in rows]), np.array([share[row[2]] for row in rows])

    def quantile(self, values: F64, weights: F64, p: float) -> float:
        order = np.argsort(values)
        reached = np.cumsum(weights[order])
        return float(values[order][min(int(np.searchsorted(reached, p)), len(values) - 1)])
