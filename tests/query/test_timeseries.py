"""One metric over time, the same on both stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.samples import NOW_MS, MovedClock, a_series
from vantage.core.batch import build_batch
from vantage.core.errors import InputError
from vantage.core.sample import Kind
from vantage.core.series import Series
from vantage.core.timerange import TimeRange
from vantage.query.context import QueryContext
from vantage.query.timeseries import AGGREGATIONS, GROUPS_MAX, Timeseries, timeseries
from vantage.query.timeseries_query import BUCKETS_MAX, TimeseriesQuery
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.memory import MemoryStore
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.storage.ports import TelemetryStore
from vantage.telemetry import Telemetry

STEP_MS = 10_000
START_MS = (NOW_MS - 100_000) // STEP_MS * STEP_MS
THREE_BUCKETS = TimeRange(START_MS, START_MS + 3 * STEP_MS)
VALUES = [[3.0, 1.0, 2.0], [], [10.0]]  # of three buckets; the middle one is empty


@pytest.fixture(params=["memory", "embedded"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[TelemetryStore]:
    clock = MovedClock()
    made: Any = (
        MemoryStore(clock=clock)
        if request.param == "memory"
        else EmbeddedStore(tmp_path / "data", clock=clock, telemetry=Telemetry())
    )
    async with made as store:
        yield store


async def write(store: TelemetryStore, series: Series, buckets: list[list[float]]) -> None:
    rows = [
        (series, START_MS + i * STEP_MS + index * 1000, value)
        for i, values in enumerate(buckets)
        for index, value in enumerate(values)
    ]
    await store.write(build_batch(rows))


async def ask(
    store: TelemetryStore, agg: str = "avg", time_range: TimeRange = THREE_BUCKETS, **other: Any
) -> Timeseries:
    clock = MovedClock()
    context = QueryContext(store, MemoryMetadataStore(clock), clock, Telemetry())
    named = {"service": "api", "metric": "m", "step_ms": STEP_MS, **other}
    return await timeseries(context, TimeseriesQuery(time_range=time_range, agg=agg, **named))


async def points(store: TelemetryStore, agg: str, **other: Any) -> list[float | None]:
    (group,) = (await ask(store, agg, **other)).groups
    return group.points


@pytest.mark.parametrize(
    ("agg", "first", "last"),
    [
        ("avg", 2.0, 10.0),
        ("min", 1.0, 10.0),
        ("max", 3.0, 10.0),
        ("sum", 6.0, 10.0),
        ("count", 3, 1),
        ("last", 2.0, 10.0),
        *((f"p{p}", float(np.quantile([1.0, 2.0, 3.0], p / 100)), 10.0) for p in (50, 75, 90, 95, 99)),
    ],
)
async def test_every_aggregation_has_a_value_per_bucket_and_null_for_empty_ones(
    store: TelemetryStore, agg: str, first: float, last: float
) -> None:
    await write(store, a_series(unit="ms"), VALUES)
    assert await points(store, agg) == [pytest.approx(first), None, pytest.approx(last)]
    assert (await ask(store, agg)).unit == ("" if agg == "count" else "ms")


def test_every_aggregation_is_tested() -> None:
    assert set(AGGREGATIONS) == {"avg", "min", "max", "sum", "count", "last", "rate", "p50", "p75", "p90", "p95", "p99"}


@pytest.mark.parametrize(("kind", "rates"), [(Kind.COUNTER, [0.6, None, 1.0]), (Kind.HISTOGRAM, [0.3, None, 0.1])])
async def test_the_rate_of_a_counter_adds_up_and_that_of_a_histogram_counts(
    store: TelemetryStore, kind: Kind, rates: list[float | None]
) -> None:
    await write(store, a_series(kind=kind), VALUES)
    assert await points(store, "rate") == [pytest.approx(rate) if rate else None for rate in rates]
    assert (await ask(store, "rate")).unit == "1/s"


async def test_the_rate_of_a_running_total_is_its_growth_through_resets(store: TelemetryStore) -> None:
    await write(store, a_series(kind=Kind.CUMULATIVE), [[100.0, 110.0], [130.0, 5.0], [25.0]])
    assert await points(store, "rate") == [pytest.approx(1.0), pytest.approx(2.5), pytest.approx(2.0)]


async def test_each_running_total_grows_for_itself(store: TelemetryStore) -> None:
    for instance, first in (("i1", 1000.0), ("i2", 0.0)):
        series = a_series(kind=Kind.CUMULATIVE, instance=instance)
        await write(store, series, [[first, first + 10], [first + 30], []])
    assert await points(store, "rate") == [pytest.approx(2.0), pytest.approx(4.0), None]


async def test_the_first_bucket_of_a_running_total_looks_back(store: TelemetryStore) -> None:
    await write(store, a_series(kind=Kind.CUMULATIVE), [[100.0], [150.0], [160.0]])
    later = TimeRange(START_MS + STEP_MS, START_MS + 3 * STEP_MS)
    assert await points(store, "rate", time_range=later) == [pytest.approx(5.0), pytest.approx(1.0)]


@pytest.mark.parametrize("kind", [Kind.COUNTER, Kind.CUMULATIVE])
async def test_the_rate_of_a_bucket_that_is_not_over_is_that_of_the_time_passed(
    store: TelemetryStore, kind: Kind
) -> None:
    series = a_series(kind=kind)
    step_ms = 12_000
    start_ms = NOW_MS // step_ms * step_ms
    passed_ms = NOW_MS - start_ms
    assert 1000 < passed_ms < step_ms
    values = (12.0, 20.0) if kind is Kind.COUNTER else (0.0, 12.0, 32.0)
    times = (start_ms - 1000, start_ms) if kind is Kind.COUNTER else (start_ms - 2000, start_ms - 1000, start_ms)
    await store.write(build_batch(list(zip([series] * len(values), times, values, strict=True))))
    rates = await points(store, "rate", step_ms=step_ms, time_range=TimeRange(start_ms - step_ms, NOW_MS))
    assert rates == [pytest.approx(1.0), pytest.approx(20_000 / passed_ms)]


async def test_a_gauge_has_no_rate(store: TelemetryStore) -> None:
    await write(store, a_series(kind=Kind.GAUGE), VALUES)
    with pytest.raises(InputError, match="gauge has no rate") as refused:
        await ask(store, "rate")
    assert refused.value.field == "agg"


async def test_a_running_total_without_rate_has_a_warning(store: TelemetryStore) -> None:
    await write(store, a_series(kind=Kind.CUMULATIVE), VALUES)
    assert any("agg=rate" in warning for warning in (await ask(store, "avg")).warnings)
    assert not (await ask(store, "last")).warnings


async def test_an_unknown_metric_has_no_series_and_a_warning(store: TelemetryStore) -> None:
    result = await ask(store)
    assert (result.groups, len(result.warnings)) == ([], 1)


# ---- groups and filters


@pytest.fixture
async def shop(store: TelemetryStore) -> TelemetryStore:
    for method, status, environment, value in (
        ("GET", "200", "prod", 1.0),
        ("GET", "500", "prod", 2.0),
        ("POST", "200", "prod", 4.0),
        ("GET", "200", "dev", 8.0),
    ):
        await write(store, a_series(environment=environment, tags={"method": method, "status": status}), [[value]])
    await write(store, a_series(environment="prod"), [[16.0]])
    await write(store, a_series(metric="other"), [[32.0]])
    await write(store, a_series(service="else"), [[64.0]])
    return store


@pytest.mark.parametrize(
    ("group_by", "tags", "sums"),
    [
        ((), (), {(): 31.0}),
        (("method",), (), {("",): 16.0, ("GET",): 11.0, ("POST",): 4.0}),
        (("method", "status"), (), {("", ""): 16, ("GET", "200"): 9, ("GET", "500"): 2, ("POST", "200"): 4}),
        (("environment",), (), {("prod",): 23.0, ("dev",): 8.0}),
        (("absent",), (), {("",): 31.0}),
        ((), (("method", "GET"),), {(): 11.0}),
        ((), (("method", "GET"), ("status", "200")), {(): 9.0}),
        ((), (("environment", "dev"),), {(): 8.0}),
        (("status",), (("method", "GET"), ("environment", "prod")), {("200",): 1.0, ("500",): 2.0}),
        ((), (("method", "PUT"),), {}),
    ],
)
async def test_groups_and_tags(
    shop: TelemetryStore,
    group_by: tuple[str, ...],
    tags: tuple[tuple[str, str], ...],
    sums: dict[tuple[str, ...], float],
) -> None:
    result = await ask(shop, "sum", group_by=group_by, tags=tags)
    assert {tuple(group.tags.values()): group.points[0] for group in result.groups} == sums
    assert all(tuple(group.tags) == group_by for group in result.groups)


async def test_of_very_many_groups_those_with_the_most_samples_are_returned(store: TelemetryStore) -> None:
    for i in range(GROUPS_MAX + 5):
        await write(store, a_series(tags={"n": f"{i:03}"}), [[1.0] * (1 if i < 5 else 2)])
    result = await ask(store, group_by=("n",))
    assert [group.tags["n"] for group in result.groups] == [f"{i:03}" for i in range(5, GROUPS_MAX + 5)]
    assert any(str(GROUPS_MAX) in warning for warning in result.warnings)


async def test_of_groups_with_equally_many_samples_the_first_by_name_are_returned(
    store: TelemetryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vantage.query.timeseries.GROUPS_MAX", 2)
    for name in ("c", "b", "a"):
        await write(store, a_series(tags={"n": name}), VALUES)
    assert [group.tags["n"] for group in (await ask(store, group_by=("n",))).groups] == ["a", "b"]


# ---- steps


@pytest.mark.parametrize(
    ("hours", "step_s"), [(0.05, 1), (0.5, 10), (1, 15), (6, 120), (24, 300), (24 * 7, 3600), (24 * 365, 0)]
)
async def test_an_automatic_step_makes_about_three_hundred_points(
    store: TelemetryStore, hours: float, step_s: int
) -> None:
    result = await ask(store, step_ms=None, time_range=TimeRange(NOW_MS - int(hours * 3_600_000), NOW_MS))
    assert 100 <= result.time_range.length_ms / result.step_ms <= 301
    if hours <= 1:
        assert result.step_ms == step_s * 1000


async def test_the_result_covers_the_range_in_complete_steps(store: TelemetryStore) -> None:
    await write(store, a_series(), VALUES)
    result = await ask(store, time_range=TimeRange(START_MS + 1, START_MS + STEP_MS + 1))
    assert (result.time_range.start_ms, result.time_range.end_ms) == (START_MS, START_MS + 2 * STEP_MS)


@pytest.mark.parametrize(
    ("requested", "field"),
    [
        ({"step_ms": 1, "time_range": TimeRange(0, BUCKETS_MAX + 1)}, "step"),
        ({"step_ms": 10**18}, "step"),
        ({"agg": "mode"}, "agg"),
        ({"agg": "p42"}, "agg"),
        ({"group_by": tuple("abcdef")}, "group_by"),
    ],
)
async def test_what_cannot_be_answered_names_its_parameter(
    store: TelemetryStore, requested: dict[str, Any], field: str
) -> None:
    with pytest.raises(InputError) as refused:
        await ask(store, **requested)
    assert refused.value.field == field


async def test_the_largest_allowed_number_of_buckets_is_returned(store: TelemetryStore) -> None:
    await write(store, a_series(), VALUES)
    result = await ask(store, step_ms=1000, time_range=TimeRange(START_MS, START_MS + BUCKETS_MAX * 1000))
    assert len(result.groups[0].points) == BUCKETS_MAX


async def test_several_units_and_kinds_of_one_name_are_warned_about(store: TelemetryStore) -> None:
    await write(store, a_series(unit="ms"), [[1.0, 2.0]])
    await write(store, a_series(unit="s", kind=Kind.HISTOGRAM), [[1.0]])
    result = await ask(store)
    assert result.unit == "ms"
    assert {"kinds" in warning or "units" in warning for warning in result.warnings} == {True}
    assert len(result.warnings) == 2
