"""A timeseries with the cache equals the one without it, for any query and any data but late samples."""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.samples import HOUR_MS, NOW_MS, MovedClock, a_series
from vantage.core.batch import build_batch
from vantage.core.errors import InputError
from vantage.core.sample import Kind
from vantage.core.series import Series
from vantage.core.timerange import TimeRange
from vantage.query import rollups, timeseries, timeseries_cache
from vantage.query.cache import SETTLE_MS_MIN, TTL_S
from vantage.query.context import QueryContext
from vantage.query.timeseries import AGGREGATIONS, Timeseries
from vantage.query.timeseries_query import Point, TimeseriesQuery
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.memory import MemoryStore
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.storage.ports import Selector, TelemetryStore
from vantage.telemetry import Telemetry
from vantage.vql.check import CheckedSelect
from vantage.vql.table import Table

STEP_MS = 60_000
SERIES = [
    a_series("api", metric, kind, tags={"route": route, "pod": pod})
    for metric, kind in (
        ("latency", Kind.HISTOGRAM),
        ("hits", Kind.COUNTER),
        ("level", Kind.GAUGE),
        ("total", Kind.CUMULATIVE),
    )
    for route in ("/a", "/b")
    for pod in ("1", "2")
]


class Both:
    """One store, queried with a cache and without one."""

    def __init__(self, store: TelemetryStore, clock: MovedClock) -> None:
        self.store, self.clock, self.telemetry = store, clock, Telemetry()
        metadata = MemoryMetadataStore(clock)
        self.cached = QueryContext(store, metadata, clock, self.telemetry, cache_nbytes_max=1 << 20)
        self.uncached = QueryContext(store, metadata, clock, Telemetry())

    async def ask(self, requested: TimeseriesQuery) -> tuple[Timeseries | str, Timeseries | str]:
        return await answer(self.cached, requested), await answer(self.uncached, requested)

    async def same(self, requested: TimeseriesQuery) -> Timeseries:
        ours, true = await self.ask(requested)
        assert ours == true
        assert repr(ours) == repr(true), "3 and 3.0 are two answers"
        assert isinstance(ours, Timeseries)
        return ours

    @property
    def hits(self) -> float:
        return self.telemetry.value("vantage_query_cache_hits_total")

    @property
    def context(self) -> float:
        """Queries that the cached side had to run."""
        counted = self.telemetry.registry.get_sample_value
        return counted("vantage_api_query_duration_seconds_count", {"query": "timeseries"}) or 0


async def answer(context: QueryContext, requested: TimeseriesQuery) -> Timeseries | str:
    try:
        return await timeseries.timeseries(context, requested)
    except InputError as refused:
        return str(refused)


@pytest.fixture
async def both() -> AsyncIterator[Both]:
    clock = MovedClock()
    async with MemoryStore(clock=clock) as store:
        yield Both(store, clock)


async def write(store: TelemetryStore, *rows: tuple[Series, int, float]) -> None:
    await store.write(build_batch(list(rows)))


# ---- any query


def some_rows(chance: random.Random, start_ms: int, end_ms: int, count: int) -> list[tuple[Series, int, float]]:
    """Quarters, whose sums are exact in any order. One series is sparse, so that its growth spans hours."""
    rows = []
    for _ in range(count):
        series = chance.choice(SERIES)
        if series.tags[0][1] == "2" and chance.random() < 0.9:
            continue
        rows.append((series, chance.randrange(start_ms, end_ms), chance.randrange(-40, 400) / 4))
    return rows


def a_question(chance: random.Random, now_ms: int) -> TimeseriesQuery:
    step_ms = chance.choice([None, 7_000, STEP_MS, 300_000, 900_000, HOUR_MS])
    length_ms = chance.choice([HOUR_MS, 6 * HOUR_MS])
    # Windows that move with the time, and ranges that stand still; the ends of both lie within buckets, or do not.
    end_ms = chance.choice([now_ms + 1, NOW_MS - HOUR_MS, NOW_MS // HOUR_MS * HOUR_MS, now_ms + HOUR_MS])
    return TimeseriesQuery(
        "api",
        chance.choice(["latency", "hits", "level", "total"]),
        TimeRange(end_ms - length_ms, end_ms),
        chance.choice(AGGREGATIONS),
        step_ms,
        chance.choice([(), ("route",), ("route", "pod"), ("environment",)]),
        chance.choice([(), (), (("pod", "1"),)]),
    )


@pytest.mark.parametrize("seed", range(12))
async def test_the_answer_is_the_one_without_a_cache(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance, clock = random.Random(seed), MovedClock(NOW_MS - 4321)
    if seed % 4 == 1:  # so that answers are cut off
        for module in (rollups, timeseries_cache, timeseries):
            monkeypatch.setattr(module, "ROWS_MAX", 150)
    if seed % 4 == 2:  # so that groups are omitted, including ties
        monkeypatch.setattr(timeseries, "GROUPS_MAX", 3)
    if seed % 4 == 3:  # so that quantiles come from sketches
        monkeypatch.setattr(rollups, "SAMPLES_READ_MAX", 20)
    answers: Counter[str] = Counter()
    async with EmbeddedStore(tmp_path, clock=clock, telemetry=Telemetry()) as store:
        both = Both(store, clock)
        await write(store, *some_rows(chance, clock.now - 8 * HOUR_MS, clock.now - HOUR_MS, 2000))
        await store.seal()
        await write(store, *some_rows(chance, clock.now - HOUR_MS, clock.now, 300))
        pool = [chance.getrandbits(32) for _ in range(20)]
        for _ in range(100):
            ours, true = await both.ask(a_question(random.Random(chance.choice(pool)), clock.now))
            assert repr(ours) == repr(true), f"seed {seed}"
            if isinstance(ours, Timeseries):
                answers.update([ours.source, *("cut" for reported in ours.warnings if "more points" in reported)])
            clock.now += chance.choice([0, 0, 1000, 17_000, 60_000])
            newest_ms = clock.now - SETTLE_MS_MIN
            await write(store, *some_rows(chance, newest_ms, clock.now + 60_000, chance.randrange(1, 20)))
            if chance.random() < 0.05:
                await store.seal()
    assert both.hits > 10
    assert answers["raw"] > 1
    assert answers["mixed"] + answers["5m"] + answers["1h"] > 1
    assert bool(answers["cut"]) == (seed % 4 == 1)


# ---- what is read again, and what is not


def asked_of(length_ms: int, end_ms: int, agg: str = "count", **other: Any) -> TimeseriesQuery:
    return TimeseriesQuery("api", "m", TimeRange(end_ms - length_ms, end_ms), agg, STEP_MS, **other)


async def test_a_window_that_moves_on_finds_the_buckets_it_shares(both: Both) -> None:
    series = a_series()
    for i in range(10):
        await write(both.store, (series, both.clock.now - 1, float(i)))
        await both.same(asked_of(HOUR_MS, both.clock.now))
        both.clock.now += 20_000
    assert both.hits == 9


async def test_a_window_that_moves_back_finds_what_lies_before(both: Both) -> None:
    series, end_ms = a_series(), NOW_MS // HOUR_MS * HOUR_MS - HOUR_MS // 4
    await write(both.store, *((series, end_ms - i * STEP_MS, 1.0) for i in range(120)))
    for back_ms in (0, 5 * STEP_MS, 10 * STEP_MS, 0):
        result = await both.same(asked_of(HOUR_MS, end_ms - back_ms))
        assert result.groups[0].points == [1] * 60


async def test_a_metric_that_turns_out_to_be_of_another_kind_is_another_question(both: Both) -> None:
    kinds = [a_series(kind=kind) for kind in (Kind.COUNTER, Kind.HISTOGRAM)]
    for series, values in zip(kinds, ((60.0, 60.0), (600.0,)), strict=True):
        await write(both.store, *((series, NOW_MS - HOUR_MS // 2, value) for value in values))
    query = asked_of(HOUR_MS, NOW_MS, "rate")
    await both.same(query)
    await write(both.store, *((kinds[1], NOW_MS - 1, 600.0) for _ in range(5)))
    await both.same(query)


async def test_a_range_that_is_settled_is_not_read_again(both: Both) -> None:
    await write(both.store, (a_series(), NOW_MS - HOUR_MS, 1.0))
    complete = asked_of(HOUR_MS, NOW_MS // STEP_MS * STEP_MS - 600_000)
    await both.same(complete)
    assert both.context == 1
    assert (await both.same(complete)).groups[0].points.count(1) == 1
    assert both.context == 1


@pytest.mark.parametrize(
    "other",
    [
        {"service": "other"},
        {"metric": "other"},
        {"agg": "max"},
        {"step_ms": 30_000},
        {"group_by": ("pod",)},
        {"tags": (("pod", "1"),)},
        {"time_range": TimeRange(NOW_MS - 2 * HOUR_MS, NOW_MS)},
    ],
)
async def test_another_question_has_another_answer(both: Both, other: dict[str, Any]) -> None:
    for service, metric, pod in (("api", "m", "1"), ("api", "m", "2"), ("other", "m", "1"), ("api", "other", "1")):
        series = a_series(service, metric, tags={"pod": pod})
        await write(both.store, *((series, NOW_MS - HOUR_MS // 2 - i, float(i)) for i in range(len(service + metric))))
    first: dict[str, Any] = {
        "service": "api",
        "metric": "m",
        "time_range": TimeRange(NOW_MS - HOUR_MS, NOW_MS),
        "agg": "sum",
        "step_ms": STEP_MS,
    }
    await both.same(TimeseriesQuery(**first))
    await both.same(TimeseriesQuery(**{**first, **other}))
    assert both.hits == 0
    await both.same(TimeseriesQuery(**first))
    assert both.hits == 1


async def test_an_automatic_and_an_equal_explicit_step_share_a_cache_entry(both: Both) -> None:
    await write(both.store, (a_series(), NOW_MS - HOUR_MS // 2, 1.0))
    chosen = await both.same(TimeseriesQuery("api", "m", TimeRange(NOW_MS - HOUR_MS, NOW_MS)))
    await both.same(TimeseriesQuery("api", "m", TimeRange(NOW_MS - HOUR_MS, NOW_MS), step_ms=chosen.step_ms))
    assert both.hits == 1


async def test_the_newest_window_is_always_read(both: Both) -> None:
    """Two minutes, and two steps where those are longer."""
    series = a_series()
    await write(both.store, (series, NOW_MS - 3 * HOUR_MS, 1.0))
    for step_ms in (1000, 10 * STEP_MS):
        query = TimeseriesQuery("api", "m", TimeRange(NOW_MS - 3 * HOUR_MS, NOW_MS), "count", step_ms)
        await both.same(query)
        for back_ms in (1, 1000, max(2 * step_ms, SETTLE_MS_MIN)):
            await write(both.store, (series, NOW_MS - back_ms, 1.0))
            await both.same(query)
    assert both.hits == 6


async def test_points_that_grow_beyond_the_limit_are_cut_off_as_ever(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (timeseries_cache, timeseries):
        monkeypatch.setattr(module, "ROWS_MAX", 30)
    series = a_series()
    await write(both.store, *((series, NOW_MS - (i + 5) * STEP_MS, 1.0) for i in range(30)))
    query = asked_of(HOUR_MS, NOW_MS)
    assert not (await both.same(query)).warnings
    await write(both.store, (series, NOW_MS - STEP_MS, 1.0))
    assert (await both.same(query)).warnings
    assert both.hits == 1


@pytest.mark.parametrize(("old", "sources"), [(True, ["5m", "mixed"]), (False, ["5m", "raw"])])
async def test_the_source_is_that_of_an_uncached_read(both: Both, sources: list[str], *, old: bool) -> None:
    series, end_ms = a_series(), NOW_MS // 300_000 * 300_000 + 150_000
    both.clock.now = end_ms
    await write(both.store, (series, end_ms - (HOUR_MS if old else 3 * HOUR_MS), 1.0))
    query = TimeseriesQuery("api", "m", TimeRange(end_ms - 2 * HOUR_MS, end_ms), "sum", 300_000)
    result = [(await both.same(query)).source]
    await write(both.store, (series, end_ms - 1, 1.0))
    result.append((await both.same(query)).source)
    assert result == sources
    assert both.hits == 1
    # Once all of it is old, its end is read from samples as before; if it ends with a step, only from rollups.
    both.clock.now += HOUR_MS
    await both.same(query)
    await both.same(TimeseriesQuery("api", "m", TimeRange(end_ms - 2 * HOUR_MS, end_ms - 150_000), "sum", 300_000))


async def test_a_late_sample_may_be_missing_for_five_minutes_and_no_longer(both: Both) -> None:
    query = asked_of(HOUR_MS, NOW_MS)
    await write(both.store, (a_series(), NOW_MS - HOUR_MS // 2, 1.0))
    await both.same(query)
    await write(both.store, (a_series(), NOW_MS - HOUR_MS // 2, 2.0))
    both.clock.now += int(TTL_S * 1000) - 1
    ours, true = await both.ask(query)
    assert ours != true
    both.clock.now += 1
    await both.same(query)


async def test_series_that_are_new_and_history_that_is_sent_now_are_seen_at_once(both: Both) -> None:
    query = asked_of(HOUR_MS, NOW_MS)
    assert not (await both.same(query)).groups
    for series, back_ms in ((a_series(), HOUR_MS // 2), (a_series(instance="i2"), HOUR_MS // 3), (a_series(), HOUR_MS)):
        await write(both.store, (series, NOW_MS - back_ms, 1.0))
        await both.same(query)


async def test_growth_over_a_long_pause_uses_the_distant_previous_sample(both: Both) -> None:
    total = a_series(kind=Kind.CUMULATIVE)
    await write(both.store, (total, NOW_MS - HOUR_MS // 2, 100.0))
    query = asked_of(HOUR_MS, NOW_MS + 1, "rate")
    await both.same(query)
    await write(both.store, (total, NOW_MS - 1, 160.0))
    result = await both.same(query)
    passed_ms = NOW_MS - NOW_MS // STEP_MS * STEP_MS  # of the bucket that is not over
    assert result.groups[0].points[-1] == pytest.approx(60_000 / passed_ms)


async def test_growth_in_a_final_range_is_cached(both: Both) -> None:
    total = a_series(kind=Kind.CUMULATIVE)
    await write(both.store, *((total, NOW_MS - i * STEP_MS, -60.0 * i) for i in range(60)))
    query = asked_of(HOUR_MS // 2, NOW_MS - HOUR_MS // 4 - 7, "rate")
    for _ in range(2):
        assert (await both.same(query)).groups[0].points.count(1.0) > 20
    assert (both.hits, both.context) == (1, 1)


async def test_warnings_come_with_cached_points(both: Both) -> None:
    await write(both.store, (a_series(kind=Kind.CUMULATIVE), NOW_MS - HOUR_MS // 2, 1.0))
    query = asked_of(HOUR_MS, NOW_MS // STEP_MS * STEP_MS - 600_000, "avg")
    for _ in range(2):
        assert any("running total" in reported for reported in (await both.same(query)).warnings)
    assert both.hits == 1


async def test_a_result_computed_while_data_was_deleted_is_not_cached(both: Both) -> None:
    await write(both.store, (a_series(), NOW_MS - HOUR_MS // 2, 1.0))
    stored, go_on = asyncio.Event(), asyncio.Event()
    select = both.store.select

    async def slow(query: CheckedSelect, *, deadline_s: float) -> Table:
        result = await select(query, deadline_s=deadline_s)
        stored.set()
        await go_on.wait()
        return result

    both.store.select = slow  # type: ignore[method-assign]
    under_way = asyncio.create_task(timeseries.timeseries(both.cached, asked_of(HOUR_MS, NOW_MS)))
    await stored.wait()
    await both.store.delete(Selector("api"))
    both.cached.cache.clear()
    go_on.set()
    assert (await under_way).groups
    assert not (await both.same(asked_of(HOUR_MS, NOW_MS))).groups


async def test_the_estimated_size_of_points_is_about_right() -> None:
    rows = [Point((f"/route/{i % 20}", "GET"), NOW_MS + i, i / 3, 5000 + i) for i in range(1000)]
    texts = {id(text): sys.getsizeof(text) for row in rows for text in row.group}
    true = sum(sys.getsizeof(row) + sum(map(sys.getsizeof, row)) + 8 for row in rows) + sum(texts.values())
    assert true <= timeseries_cache._nbytes(rows) * 1.5
    assert timeseries_cache._nbytes(rows) <= true * 1.5
