"""Timeseries from rollups are those from samples: exactly, and for quantiles within the stated error."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.samples import HOUR_MS, NOW_MS, MovedClock, a_series
from vantage.core.batch import build_batch
from vantage.core.sample import Kind
from vantage.core.sketch import RELATIVE_ERROR
from vantage.core.timerange import TimeRange
from vantage.query import rollups, timeseries
from vantage.query.context import QueryContext
from vantage.query.timeseries import Timeseries
from vantage.query.timeseries_query import TimeseriesQuery
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.storage.ports import TelemetryStore
from vantage.telemetry import Telemetry

START_MS = (NOW_MS - 30 * HOUR_MS) // HOUR_MS * HOUR_MS
EXACT = ("avg", "min", "max", "sum", "count", "rate")


async def filled(store: TelemetryStore, *, sealed: bool) -> None:
    """Thirty hours of three metrics, late samples among them; the last hours stay in the head."""
    chance = random.Random(11)
    kinds = {"latency": Kind.HISTOGRAM, "hits": Kind.COUNTER, "level": Kind.GAUGE}
    series = [
        a_series("api", metric, kind, tags={"route": route, "pod": pod}, unit="ms" if kind is Kind.HISTOGRAM else "")
        for metric, kind in kinds.items()
        for route in ("/a", "/b")
        for pod in ("1", "2")
    ]
    for hour in range(30):
        rows = []
        for item in series:
            for _ in range(chance.randint(0, 40)):
                at_ms = START_MS + hour * HOUR_MS + chance.randrange(HOUR_MS) - chance.choice([0, 0, 0, 5 * HOUR_MS])
                rows.append((item, at_ms, round(chance.lognormvariate(3, 1), 2)))
        await store.write(build_batch(rows))
        if sealed and hour in (6, 13, 20, 27):
            await store.seal()  # type: ignore[attr-defined]


@pytest.fixture
async def context(tmp_path: Path) -> AsyncIterator[QueryContext]:
    clock = MovedClock()
    async with EmbeddedStore(tmp_path, clock=clock, telemetry=Telemetry()) as store:
        await filled(store, sealed=True)
        yield QueryContext(store, MemoryMetadataStore(clock), clock, Telemetry())


async def both(
    context: QueryContext, monkeypatch: pytest.MonkeyPatch, requested: TimeseriesQuery, *, tier: str | None = None
) -> tuple[Timeseries, Timeseries]:
    """The answer as it comes (or from ``tier``), and that from samples."""
    if tier:
        monkeypatch.setattr(timeseries, "choose_tier", lambda *_: tier)
    ours = await timeseries.timeseries(context, requested)
    monkeypatch.setattr(timeseries, "choose_tier", lambda *_: None)
    raw = await timeseries.timeseries(context, requested)
    monkeypatch.setattr(timeseries, "choose_tier", rollups.choose_tier)
    assert (raw.source, raw.approximate) == ("raw", False)
    return ours, raw


def assert_near(ours: Timeseries, raw: Timeseries, rel: float) -> int:
    """Points compared."""
    assert [group.tags for group in ours.groups] == [group.tags for group in raw.groups]
    compared = 0
    for item, other in zip(ours.groups, raw.groups, strict=True):
        assert [point is None for point in item.points] == [point is None for point in other.points]
        for own, true in zip(item.points, other.points, strict=True):
            if own is not None:
                assert own == pytest.approx(true, rel=rel)
                compared += 1
    return compared


@pytest.mark.parametrize("agg", EXACT)
@pytest.mark.parametrize(
    ("step_ms", "end_ms", "source"),
    [
        (300_000, START_MS + 10 * HOUR_MS, "5m"),
        (900_000, START_MS + 10 * HOUR_MS + 123_456, "5m mixed"),
        (HOUR_MS, START_MS + 20 * HOUR_MS, "1h"),
        (2 * HOUR_MS, START_MS + 29 * HOUR_MS + 1_234_567, "mixed"),
        (HOUR_MS, NOW_MS, "1h mixed"),
    ],
)
async def test_rollups_give_what_samples_give(
    context: QueryContext, monkeypatch: pytest.MonkeyPatch, agg: str, step_ms: int, end_ms: int, source: str
) -> None:
    for metric in ("latency", "hits", "level"):
        if agg == "rate" and metric == "level":
            continue
        for group_by in ((), ("route",), ("route", "pod")):
            query = TimeseriesQuery("api", metric, TimeRange(START_MS, end_ms), agg, step_ms, group_by)
            ours, raw = await both(context, monkeypatch, query)
            assert ours.source in source.split()
            assert not ours.approximate
            assert assert_near(ours, raw, 1e-9) > 4


@pytest.mark.parametrize("agg", ["p50", "p75", "p90", "p95", "p99"])
@pytest.mark.parametrize("step_ms", [HOUR_MS, 6 * HOUR_MS])
async def test_quantiles_from_sketches_are_within_the_stated_error(
    context: QueryContext, monkeypatch: pytest.MonkeyPatch, agg: str, step_ms: int
) -> None:
    query = TimeseriesQuery("api", "latency", TimeRange(START_MS, START_MS + 24 * HOUR_MS), agg, step_ms, ("route",))
    ours, raw = await both(context, monkeypatch, query, tier="1h")
    assert (ours.source, ours.approximate) == ("1h", True)
    assert assert_near(ours, raw, RELATIVE_ERROR) > 4


async def test_few_samples_give_exact_quantiles_and_many_those_of_sketches(
    context: QueryContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = TimeseriesQuery("api", "latency", TimeRange(START_MS, START_MS + 24 * HOUR_MS), "p95", HOUR_MS)
    exact = await timeseries.timeseries(context, query)
    assert (exact.source, exact.approximate) == ("raw", False)
    monkeypatch.setattr(rollups, "SAMPLES_READ_MAX", 100)
    sketched = await timeseries.timeseries(context, query)
    assert (sketched.source, sketched.approximate) == ("1h", True)
    finer = await timeseries.timeseries(context, TimeseriesQuery("api", "latency", query.time_range, "p95", 300_000))
    assert finer.source == "raw", "sketches are kept of hours alone"


@pytest.mark.parametrize(
    ("metric", "agg", "step_ms"),
    [("latency", "last", HOUR_MS), ("level", "p95", HOUR_MS), ("level", "avg", 60_000), ("level", "avg", 420_000)],
)
async def test_aggregates_that_rollups_lack_are_read_from_samples(
    context: QueryContext, metric: str, agg: str, step_ms: int
) -> None:
    query = TimeseriesQuery("api", metric, TimeRange(START_MS, START_MS + 24 * HOUR_MS), agg, step_ms)
    result = await timeseries.timeseries(context, query)
    assert (result.source, result.approximate) == ("raw", False)


async def test_tags_choose_series_of_rollups_too(context: QueryContext, monkeypatch: pytest.MonkeyPatch) -> None:
    time_range = TimeRange(START_MS, START_MS + 24 * HOUR_MS)
    query = TimeseriesQuery("api", "hits", time_range, "sum", HOUR_MS, ("pod",), (("route", "/a"),))
    ours, raw = await both(context, monkeypatch, query)
    assert ours.source == "1h"
    assert_near(ours, raw, 1e-9)
