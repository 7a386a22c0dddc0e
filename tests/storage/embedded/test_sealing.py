"""Sealing, merging and reopening change nothing that a query can see: the store beside its in-memory twin."""

from __future__ import annotations

import asyncio
import sqlite3
import struct
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from typing import Any

import pytest

from tests.support.random_batches import RandomBatches
from tests.support.samples import NOW_MS, MovedClock, a_batch, a_series, a_span, count_query, last_hours
from tests.support.wait import until
from vantage.core.batch import Batch
from vantage.core.rollup import FIVE_MINUTES_MS, HOUR_MS
from vantage.core.timerange import TimeRange
from vantage.storage.embedded.format.segment import TIERS
from vantage.storage.embedded.maintain import merge, seal_queue
from vantage.storage.embedded.maintain.seal import Sealer
from vantage.storage.embedded.maintain.worker import MaintenanceWorker
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.memory import MemoryStore
from vantage.storage.ports import Selector, SeriesInfo, TelemetryStore, TraceFilter
from vantage.vql.check import check
from vantage.vql.exec.budget import QueryBudget
from vantage.vql.tree import Call, Column, Compare, Expr, Literal, Select, SelectItem, TableName

Open = Callable[..., Any]


def few_parts(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Have so many parts merged at once, however busy the store is."""
    monkeypatch.setattr(merge, "PARTS_MIN", number)
    monkeypatch.setattr(merge, "PARTS_MIN_BUSY", number)


COUNT_ROWS = "SELECT count(*) FROM journal"
ALWAYS = Compare(">=", Column("timestamp"), Literal(0))


async def samples_of(store: TelemetryStore) -> Counter[tuple[Any, ...]]:
    """Return every sample with all its fields, floats as their bits."""
    names = ("service_name", "metric_name", "metric_type", "unit", "tags", "timestamp", "value", "trace_id", "span_id")
    select = Select("metrics", tuple(SelectItem(Column(name), name) for name in names), where=ALWAYS)
    table = await store.select(check(select, now_ms=NOW_MS + HOUR_MS, rows_max=10**7), deadline_s=30)
    return Counter(
        (service, metric, kind, unit, tuple(sorted(tags.items())), at_ms, struct.pack("<d", value), trace_id, span_id)
        for service, metric, kind, unit, tags, at_ms, value, trace_id, span_id in table.rows()
    )


async def spans_of(store: TelemetryStore) -> Counter[Any]:
    traces = await store.traces(TraceFilter(TimeRange(0, NOW_MS + HOUR_MS), limit=10_000))
    spans = [span for sample in traces for span in (await store.trace(sample.trace_id)).spans]
    return Counter((tuple(sorted(span.attributes.items())), *map(str, list(_fields(span)))) for span in spans)


def _fields(span: Any) -> list[Any]:
    return [getattr(span, name) for name in span.__struct_fields__ if name != "attributes"]


async def rollups_of(store: TelemetryStore, table: TableName) -> dict[Any, Any]:
    """Counts, sums and extremes by series and bucket."""
    keys: tuple[Expr, ...] = tuple(Column(name) for name in ("service_name", "metric_name", "tags", "timestamp"))
    columns = (("sum", "count"), ("sum", "sum"), ("min", "min"), ("max", "max"))
    calls: tuple[Expr, ...] = tuple(Call(function, (Column(column),)) for function, column in columns)
    items = tuple(SelectItem(expr, f"c{i}") for i, expr in enumerate((*keys, *calls)))
    select = Select(table, items, where=ALWAYS, group_by=keys)
    result = await store.select(check(select, now_ms=NOW_MS + HOUR_MS, rows_max=10**7), deadline_s=30)
    return {
        (sample, metric, str(sorted(tags.items())), at_ms): rest for sample, metric, tags, at_ms, *rest in result.rows()
    }


async def quantiles_of(store: TelemetryStore, p: float) -> dict[Any, Any]:
    keys = (Column("service_name"), Column("timestamp"))
    items = (*(SelectItem(key, f"k{i}") for i, key in enumerate(keys)), SelectItem(Call("sketchQuantile", (), p), "q"))
    select = Select("rollups_1h", items, where=ALWAYS, group_by=keys)
    result = await store.select(check(select, now_ms=NOW_MS + HOUR_MS, rows_max=10**6), deadline_s=30)
    return {(service, at_ms): value for service, at_ms, value in result.rows()}


def _stats(info: SeriesInfo) -> tuple[int, int, int, int]:
    return info.series.id, info.samples, info.first_ms, info.last_ms


async def assert_same(store: TelemetryStore, twin: TelemetryStore) -> None:
    assert await samples_of(store) == await samples_of(twin)
    assert await spans_of(store) == await spans_of(twin)
    tables: tuple[TableName, ...] = ("rollups_5m", "rollups_1h")
    for table in tables:
        ours, expected = await rollups_of(store, table), await rollups_of(twin, table)
        assert ours.keys() == expected.keys()
        for key, (count, total, least, most) in ours.items():
            assert (count, least, most) == (expected[key][0], expected[key][2], expected[key][3])
            largest = max(abs(least), abs(most))
            if largest < 1e300:  # else the order of additions decides whether the sum overflows
                assert total == pytest.approx(expected[key][1], abs=1e-9 * largest * count)
    assert await quantiles_of(store, 0.9) == pytest.approx(await quantiles_of(twin, 0.9), nan_ok=True)
    stats, twin_stats = await store.list_series(), await twin.list_series()
    assert set(map(_stats, stats)) == set(map(_stats, twin_stats))
    assert set(await store.services_with_spans()) == set(await twin.services_with_spans())
    wanted = TraceFilter(last_hours(24 * 30), limit=7, status="error")
    assert await store.traces(wanted) == await twin.traces(wanted)


@pytest.fixture
def seed() -> int:
    seed = time.time_ns() % 2**32
    print(f"seed {seed}")
    return seed


async def test_whatever_happens_below_queries_see_the_same(
    opened: Open, clock: MovedClock, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_parts(monkeypatch, 3)
    chance = RandomBatches(seed)
    async with MemoryStore(clock=clock) as twin:
        for _ in range(6):
            async with opened() as store:
                for _ in range(chance.random.randint(1, 8)):
                    batch = chance.batch()
                    await store.write(batch)
                    await twin.write(batch)
                    if chance.random.random() < 0.4:
                        await store.seal()
                await assert_same(store, twin)
        async with opened() as store:
            await store.seal()
            await merged(store)
            await assert_same(store, twin)
            for trace in await twin.traces(TraceFilter(TimeRange(0, NOW_MS + HOUR_MS), limit=40)):
                ours, expected = await store.trace(trace.trace_id), await twin.trace(trace.trace_id)
                assert Counter(map(_sample, ours.samples)) == Counter(map(_sample, expected.samples))
            wanted = Selector(service="svc1")
            deleted, twin_deleted = await store.delete(wanted), await twin.delete(wanted)
            assert (deleted.samples, deleted.spans, deleted.series) == (
                twin_deleted.samples, twin_deleted.spans, twin_deleted.series
            )  # fmt: skip
            await assert_same(store, twin)
        async with opened() as store:
            await assert_same(store, twin)


def _sample(sample: Any) -> tuple[Any, ...]:
    return sample.series.id, sample.time_ms, sample.value, sample.span_id


async def merged(store: EmbeddedStore) -> None:
    """Wait until there is nothing to merge or to delete."""
    await until(
        lambda: store._run_maintenance(
            lambda: store._merger.due(merge.PARTS_MIN) is None and not store._files._deletable
        )
    )


def chunks(store: EmbeddedStore) -> list[tuple[int, bytes]]:
    """Return the number of samples and the bytes of each chunk that counts."""
    (segment,) = store._snapshots.now.samples.values()
    body = "CAST(runs || times || vals AS BLOB)"
    query = f"SELECT samples, {body} FROM chunk WHERE part_id IN (SELECT id FROM part) ORDER BY id"
    with closing(sqlite3.connect(segment.path)) as db:
        return db.execute(query).fetchall()


async def test_full_chunks_are_merged_as_they_are_and_short_ones_packed_together(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_parts(monkeypatch, 4)
    async with opened() as store:
        for size in (6000, 7, 5000, 8):
            await store.write(a_batch(*map(float, range(size)), at_ms=NOW_MS - 100_000))
            await store.seal()
        before = dict(chunks(store))
        await merged(store)
        after = chunks(store)
        assert [samples for samples, _ in after] == [6000, 5000, 15]
        assert all(before[samples] == body for samples, body in after[:2])
        assert next(iter((await store.select(count_query(), deadline_s=5)).rows()))[0] == 11_015


async def test_what_is_deleted_leaves_full_chunks_too(opened: Open) -> None:
    async with opened() as store:
        for service in ("api", "shop"):
            series = a_series(service=service)
            await store.write(a_batch(*map(float, range(3000)), series=series, at_ms=NOW_MS - 100_000))
        await store.seal()
        assert [samples for samples, _ in chunks(store)] == [6000]
        await store.delete(Selector(service="shop"))
        assert [samples for samples, _ in chunks(store)] == [3000]


async def test_sealing_a_generation_empties_the_journal(opened: Open) -> None:
    async with opened() as store:
        for n in range(10):
            await store.write(a_batch(float(n)))
        await store.seal()
        assert store.unsealed_nbytes == 0
        await until(lambda: store._commits.run(lambda: store._journal.db.execute(COUNT_ROWS).fetchone() == (0,)))
    async with opened() as store:
        assert list((await store.select(count_query(), deadline_s=5)).rows()) == [(10, 45.0)]
        await store.write(a_batch(5.0))
    async with opened() as store:
        assert list((await store.select(count_query(), deadline_s=5)).rows()) == [(11, 50.0)], "numbers went back"


async def test_generations_close_by_themselves_when_they_are_full(opened: Open) -> None:
    async with opened(generation_samples_max=1000) as store:
        for n in range(30):
            await store.write(a_batch(*[float(n)] * 100))
        await until(lambda: not store._snapshots.now.sealing_generations)
        assert store._head.sample_count < 1000
        assert len(store._snapshots.now.samples) == 1
        assert list((await store.select(count_query(), deadline_s=5)).rows()) == [(3000, 100.0 * sum(range(30)))]


async def test_a_replay_seals_what_would_take_much_memory(
    opened: Open, monkeypatch: pytest.MonkeyPatch, clock: MovedClock, seed: int
) -> None:
    random = RandomBatches(seed)
    batches = [random.batch() for _ in range(40)]
    async with MemoryStore(clock=clock) as twin:
        async with opened() as store:
            for batch in batches:
                await store.write(batch)
                await twin.write(batch)
            await store.delete(Selector(service="svc1"))
            await twin.delete(Selector(service="svc1"))
            for batch in (random.batch() for _ in range(40)):
                await store.write(batch)
                await twin.write(batch)
        monkeypatch.setattr(seal_queue, "REPLAY_NBYTES_MAX", 1)
        monkeypatch.setattr(MaintenanceWorker, "start", lambda _worker: None)  # only the replay seals
        monkeypatch.setattr(MaintenanceWorker, "submit", _run_here)
        async with opened(generation_samples_max=100) as store:
            assert store._head.sample_count < 100
            assert not store._snapshots.now.sealing_generations
            assert store._snapshots.now.samples
            await assert_same(store, twin)
        async with opened() as store:
            await assert_same(store, twin)


def _run_here(_worker: MaintenanceWorker, job: Callable[[], Any]) -> Future[Any]:
    done: Future[Any] = Future()
    done.set_result(job())
    return done


async def test_a_replay_that_cannot_seal_reads_everything(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as store:
        for n in range(30):
            await store.write(a_batch(*[float(n)] * 100))
    monkeypatch.setattr(seal_queue, "REPLAY_NBYTES_MAX", 1)

    def fails(*_arguments: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(Sealer, "write", fails)
        async with opened(generation_samples_max=1000) as store:
            assert list((await store.select(count_query(), deadline_s=5)).rows()) == [(3000, 100.0 * sum(range(30)))]
            assert "cannot be sealed" in store.warnings()[0]
    async with opened(generation_samples_max=1000) as store:
        assert not store._snapshots.now.sealing_generations
        assert list((await store.select(count_query(), deadline_s=5)).rows()) == [(3000, 100.0 * sum(range(30)))]


async def test_a_generation_closes_when_it_is_old(opened: Open, clock: MovedClock) -> None:
    async with opened() as store:
        await store.write(a_batch(1.0))
        clock.now += 2 * HOUR_MS
        await until(lambda: store._snapshots.now.samples)
        assert store.unsealed_nbytes == 0


async def test_a_query_sees_everything_at_any_moment_of_seals_and_merges(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_parts(monkeypatch, 2)
    written = 0
    done = False

    async with opened(generation_samples_max=700) as store:

        async def write() -> None:
            nonlocal written, done
            for n in range(150):
                await store.write(
                    a_batch(*[1.0] * 50, series=a_series(tags={"n": str(n % 7)}), at_ms=NOW_MS - n * 1000)
                )
                written += 50
                await asyncio.sleep(0)
            done = True

        async def look() -> int:
            looks = 0
            while not done:
                least = written
                ((count, total),) = (await store.select(count_query(), deadline_s=10)).rows()
                assert least <= count <= written + 50, "a query saw too little or too much"
                assert (total or 0) == count
                looks += 1
            return looks

        _, looks, more = await asyncio.gather(write(), look(), look())
        assert looks + more > 5
        await store.seal()
        await merged(store)
        assert list((await store.select(count_query(), deadline_s=10)).rows()) == [(7500, 7500.0)]
        assert all(len(segment.parts) < 6 for tier in TIERS for segment in store._snapshots.now.of_tier(tier).values())


async def test_rollups_include_unsealed_data(opened: Open) -> None:
    at_ms = NOW_MS // HOUR_MS * HOUR_MS
    async with opened() as store:
        await store.write(a_batch(1.0, 2.0, at_ms=at_ms))
        await store.seal()
        await store.write(a_batch(5.0, at_ms=at_ms + 10))
        ((_, rows),) = (await rollups_of(store, "rollups_5m")).items()
        assert rows == [3, 8.0, 1.0, 5.0]


async def test_parts_record_their_size_and_times(opened: Open) -> None:
    async with opened() as store:
        await store.write(a_batch(1.0, 2.0, at_ms=NOW_MS - 5000))
        await store.seal()
        (segment,) = store._snapshots.now.samples.values()
        (part,) = segment.parts
        assert (part.samples, part.spans, part.first_ms, part.last_ms) == (2, 0, NOW_MS - 5000, NOW_MS - 4999)
        assert segment.path.stat().st_mode & 0o777 == 0o600
        assert FIVE_MINUTES_MS < HOUR_MS


async def test_a_reader_counts_the_spans_of_parts_that_were_merged_meanwhile(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_parts(monkeypatch, 3)
    async with opened() as store:
        for n in range(3):
            await store.write(Batch(spans=(a_span(f"t{n}"),)))
            await store.seal()
        with store._reader(QueryBudget(5)) as reader:
            await store.merge()
            assert all(len(segment.parts) == 1 for segment in store._snapshots.now.samples.values())
            totals = [total for counts in reader.span_reader.sealed_counts() for total, _, _ in counts.values()]
            assert sum(totals) == 3
