"""Edges that are counted in the background, and what an earlier version did not write: in the process, on a server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest

from tests.support.calls import SERVICES, figures, random_calls
from tests.support.clickhouse_server import ClickHouseServer, running_clickhouse
from tests.support.clickhouse_stores import copy_tables, store_of
from tests.support.red_traffic import assert_same_red, traffic
from tests.support.samples import HOUR_MS, NOW_MS, MovedClock, a_batch
from vantage.core.batch import Batch
from vantage.core.errors import StoreUnavailable
from vantage.core.red_table import RedQuery
from vantage.core.span import Span
from vantage.core.timerange import TimeRange
from vantage.storage.clickhouse.edges import EdgeTable
from vantage.storage.clickhouse.engine import Insert, Statement
from vantage.storage.clickhouse.store import ClickHouseStore
from vantage.storage.memory import MemoryStore
from vantage.storage.ports import RetentionPolicy, Selector
from vantage.telemetry import Telemetry

pytest.importorskip("chdb", reason="pip install 'vantage[chdb]'")

DAY_MS = 24 * HOUR_MS
Opened = Callable[[], ClickHouseStore]
WIDE = (300_000, HOUR_MS)  # rows of a minute expire by the clock of the server
RANGES = (TimeRange(NOW_MS - HOUR_MS, NOW_MS), TimeRange(NOW_MS - 7 * DAY_MS, NOW_MS))


@pytest.fixture(scope="module")
def server() -> Iterator[ClickHouseServer]:
    with running_clickhouse() as server:
        yield server


@pytest.fixture(params=["chdb", "server"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "chdb":
        return "chdb:///"
    pytest.importorskip("clickhouse_driver", reason="pip install 'vantage[clickhouse]'")
    server: ClickHouseServer = request.getfixturevalue("server")
    return server.new_database()


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
def opened(url: str, tmp_path: Path, clock: MovedClock) -> Opened:
    """Each call is a store on the same folder and database, to be entered."""
    if url == "chdb:///":
        copy_tables(tmp_path / "ch")
    return lambda: store_of(url, tmp_path / "ch", clock=clock, telemetry=Telemetry())


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[TimeRange]:
    """The ranges whose spans were joined since the list was cleared."""
    ranges: list[TimeRange] = []
    join = EdgeTable._join

    def recorded(self: EdgeTable, time_range: TimeRange, keys: Any) -> Any:
        ranges.append(time_range)
        return join(self, time_range, keys)

    monkeypatch.setattr(EdgeTable, "_join", recorded)
    return ranges


async def write_both(store: ClickHouseStore, expected: MemoryStore, spans: list[Span]) -> None:
    for target in (store, expected):
        await target.write(Batch(spans=tuple(spans)))


async def assert_same(store: ClickHouseStore, expected: MemoryStore, **how: bool) -> None:
    for time_range in RANGES:
        ours, wanted = [await target.edges(time_range) for target in (store, expected)]
        assert ours.time_range == wanted.time_range
        assert figures(ours, **how) == figures(wanted, **how)


async def keep_up(store: ClickHouseStore) -> None:
    while await store.keep_up():
        pass


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_happens_edges_are_those_of_the_spans(
    opened: Opened, clock: MovedClock, joined: list[TimeRange], seed: int
) -> None:
    expected = MemoryStore(clock=clock)
    pieces = list(random_calls(seed))
    async with opened() as store:
        for number, spans in enumerate(pieces[:6]):
            await write_both(store, expected, spans)
            if number % 2:
                await keep_up(store)
            await assert_same(store, expected)
        clock.now += HOUR_MS
        await keep_up(store)
        joined.clear()
        await assert_same(store, expected)
        assert joined == [], "everything is counted"
        await write_both(store, expected, pieces[6])  # an hour late
        await assert_same(store, expected)
        assert joined, "what is new is joined at once"
    async with opened() as store:
        await keep_up(store)
        for target in (store, expected):
            await target.delete(Selector(service=SERVICES[seed]))
        # The callers of what is deleted are no calls to external services: their spans may have been counted as calls.
        await assert_same(store, expected, external=False)
        await write_both(store, expected, pieces[7])
        await assert_same(store, expected, external=False)
        await keep_up(store)
        for target in (store, expected):
            await target.delete(Selector(environment="test"))
        await assert_same(store, expected, external=False)


async def test_a_count_that_is_cut_short_is_made_again(
    opened: Opened, clock: MovedClock, joined: list[TimeRange]
) -> None:
    expected = MemoryStore(clock=clock)
    pieces = list(random_calls(4))
    async with opened() as store:
        for spans in pieces[:9]:
            await write_both(store, expected, spans)
        clock.now += HOUR_MS
        complete = store.engine.insert

        def dying(insert: Insert) -> None:
            if insert.table == "edge_buckets":
                raise StoreUnavailable("killed")
            complete(insert)

        for _ in range(2):
            store.engine.insert = dying  # type: ignore[method-assign]
            with pytest.raises(StoreUnavailable):
                await store.keep_up()
            store.engine.insert = complete  # type: ignore[method-assign]
            await assert_same(store, expected)
            await keep_up(store)
            await write_both(store, expected, pieces[9])
    async with opened() as store:
        await keep_up(store)
        joined.clear()
        await assert_same(store, expected)
        assert not joined


async def test_two_processes_that_count_at_once_count_once(
    server: ClickHouseServer, tmp_path: Path, clock: MovedClock, joined: list[TimeRange]
) -> None:
    pytest.importorskip("clickhouse_driver", reason="pip install 'vantage[clickhouse]'")
    url, expected = server.new_database(), MemoryStore(clock=clock)
    async with (
        store_of(url, tmp_path / "a", clock=clock, telemetry=Telemetry()) as store,
        store_of(url, tmp_path / "b", clock=clock, telemetry=Telemetry()) as other,
    ):
        for spans in random_calls(5):
            await write_both(store, expected, spans)
        clock.now += HOUR_MS
        everything = TimeRange(NOW_MS - DAY_MS, clock.now)
        buckets = EdgeTable._buckets

        def at_the_same_time(self: EdgeTable, time_range: TimeRange) -> Any:
            result = buckets(self, time_range)
            EdgeTable._buckets = buckets  # type: ignore[method-assign]
            other._edges.count_again(time_range, clock=clock)
            return result

        EdgeTable._buckets = at_the_same_time  # type: ignore[method-assign]
        try:
            assert store._edges.count_again(everything, clock=clock)
        finally:
            EdgeTable._buckets = buckets  # type: ignore[method-assign]
        joined.clear()
        await assert_same(store, expected)
        assert not joined


async def test_edges_stay_when_spans_have_expired_by_size_and_not_by_age(opened: Opened, clock: MovedClock) -> None:
    expected = MemoryStore(clock=clock)
    async with opened() as store:
        for spans in random_calls(6):
            await write_both(store, expected, spans)
        clock.now += HOUR_MS
        await keep_up(store)
        for table in ("spans", "span_services"):
            await run(store, f"ALTER TABLE {table} DELETE WHERE 1 SETTINGS mutations_sync = 1")
        await store._in_thread(lambda: store._deleter._note_raw_since(clock.now))
        await store.expire(RetentionPolicy())
        assert await store.services_with_spans() == []
        await assert_same(store, expected)
        await keep_up(store)
        await assert_same(store, expected)
        clock.now += 60 * DAY_MS
        await store.expire(RetentionPolicy(days=30))
        assert (await store.edges(RANGES[1])).edges == ()


# --- what an earlier version did not write ---


async def forget(store: ClickHouseStore) -> None:
    """Make the tables what an earlier version would have left, with data up to now."""
    for table in ("red_1m", "red_5m", "red_1h", "span_buckets", "edges_5m", "edge_buckets", "span_services"):
        await run(store, f"TRUNCATE TABLE {table}")
    for what in ("red", "edges"):
        await run(store, f"INSERT INTO filled_since SELECT '{what}', {store.newest_ms()}")
    await run(store, "ALTER TABLE filled_since DELETE WHERE since_ms = 0 SETTINGS mutations_sync = 1")


async def run(store: ClickHouseStore, text: str) -> None:
    await store._in_thread(lambda: store.engine.run(Statement(text)))


async def test_what_an_earlier_version_wrote_is_filled_in(
    opened: Opened, clock: MovedClock, joined: list[TimeRange]
) -> None:
    expected = MemoryStore(clock=clock)
    query = RedQuery(TimeRange(NOW_MS // HOUR_MS * HOUR_MS - DAY_MS, NOW_MS), HOUR_MS)
    async with opened() as store:
        for seed in range(3):
            for target in (store, expected):
                await target.write(traffic(seed, hours=4))
        for spans in list(random_calls(7))[:8]:
            await write_both(store, expected, spans)
        await forget(store)
    async with opened() as store:
        assert await store.red(query, deadline_s=10) is None
        await assert_same(store, expected)
        for target in (store, expected):  # by this version, of an hour that is not filled in
            await target.write(traffic(9, hours=2))
        steps = 0
        while await store.keep_up():
            steps += 1
            if steps == 2:  # while it is filled in
                for target in (store, expected):
                    await target.write(traffic(10, hours=3))
                    await target.delete(Selector(service="shop"))
        assert steps > 5
        await assert_same_red(store, expected, steps_ms=WIDE)
        clock.now += HOUR_MS
        await keep_up(store)
        joined.clear()
        await assert_same(store, expected, external=False)
        assert not joined
        assert sorted(map(astuple, await store.services_with_spans())) == sorted(
            map(astuple, await expected.services_with_spans())
        )
    async with opened() as store:
        assert await store.keep_up() is False
        await assert_same_red(store, expected, steps_ms=WIDE)


async def test_minutes_are_filled_in_too(opened: Opened, clock: MovedClock) -> None:
    clock.now = int(time.time() * 1000)
    expected = MemoryStore(clock=clock)
    async with opened() as store:
        for target in (store, expected):
            await target.write(traffic(1, end_ms=clock.now, hours=3))
        await forget(store)
    async with opened() as store:
        await keep_up(store)
        await assert_same_red(store, expected, now_ms=clock.now)


@pytest.mark.parametrize("stop_at", ["red_1m", "red_5m", "filled_since"])
async def test_filling_in_that_is_interrupted_counts_nothing_twice(
    opened: Opened, clock: MovedClock, stop_at: str
) -> None:
    expected = MemoryStore(clock=clock)
    async with opened() as store:
        for target in (store, expected):
            await target.write(traffic(1, hours=2))
        await forget(store)
    async with opened() as store:
        complete, run_statement = store.engine.insert, store.engine.run

        def dying_insert(insert: Insert) -> None:
            complete(insert)
            if insert.table == stop_at:
                raise StoreUnavailable("killed")

        def dying_run(statement: Statement, *arguments: Any, **named: Any) -> Any:
            if statement.text.startswith("INSERT INTO filled_since") and stop_at == "filled_since":
                raise StoreUnavailable("killed")
            return run_statement(statement, *arguments, **named)

        store.engine.insert = dying_insert  # type: ignore[method-assign]
        store.engine.run = dying_run  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailable):
            await keep_up(store)
    async with opened() as store:
        await keep_up(store)
        await assert_same_red(store, expected, steps_ms=WIDE)


async def test_an_hour_that_is_written_to_meanwhile_is_added_up_again(opened: Opened, clock: MovedClock) -> None:
    expected = MemoryStore(clock=clock)
    async with opened() as store:
        for target in (store, expected):
            await target.write(traffic(1, hours=1))
        await forget(store)
    async with opened() as store:
        prepare, times = store._upkeep._filler.prepare, 0

        def prepare_and_be_late(*arguments: Any, **named: Any) -> Any:
            nonlocal times
            times += 1
            return prepare(*arguments, **named)

        store._upkeep._filler.prepare = prepare_and_be_late  # type: ignore[method-assign]
        between = store._upkeep._between_commits

        async def after_another_commit(job: Any) -> Any:
            if times == 1:
                for target in (store, expected):
                    await target.write(traffic(2, hours=1))
            return await between(job)

        store._upkeep._between_commits = after_another_commit
        await keep_up(store)
        assert times > 2
        await assert_same_red(store, expected, steps_ms=WIDE)


async def test_a_new_store_has_nothing_to_fill_in(opened: Opened) -> None:
    async with opened() as store:
        await store.write(a_batch(1.0))
        assert await store.keep_up() is False
