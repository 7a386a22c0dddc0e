"""An embedded store is copied to a ClickHouse server, compared, and put back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.clickhouse_server import ClickHouseServer, running_clickhouse
from tests.support.clickhouse_stores import server_store
from tests.support.samples import NOW_MS, MovedClock, a_batch, a_series, a_span
from tests.support.wait import until
from vantage.core.batch import Batch
from vantage.core.clock import SystemClock
from vantage.core.errors import BusyError, StartupError, StoreUnavailable
from vantage.core.exemplars import encode_exemplars
from vantage.core.rollup import HOUR_MS
from vantage.core.sample import Kind
from vantage.core.timerange import TimeRange
from vantage.storage.clickhouse.engine import Statement
from vantage.storage.clickhouse.store import ClickHouseStore
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.ports import Selector
from vantage.storage.promotion import serving
from vantage.storage.promotion.copy import Copier, hours_with_data, summarise
from vantage.storage.promotion.put_back import put_back
from vantage.storage.promotion.record import PromotionRecord, read_record, write_record
from vantage.telemetry import Telemetry

pytest.importorskip("clickhouse_driver", reason="pip install 'vantage[clickhouse]'")
ALL = TimeRange(0, NOW_MS + 24 * HOUR_MS)


class Killed(BaseException):
    """Ends a promotion as a kill would: nothing after it runs."""


@pytest.fixture(scope="module")
def server() -> Iterator[ClickHouseServer]:
    with running_clickhouse() as server:
        yield server


class Pair:
    """A folder and a database, opened for one run at a time, as processes would."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.clock = MovedClock()
        self.waits: list[str] = []

    def embedded(self) -> EmbeddedStore:
        return EmbeddedStore(self.folder, clock=self.clock, telemetry=Telemetry(), generation_samples_max=50)

    def clickhouse(self) -> ClickHouseStore:
        return server_store(self.url, self.folder / "clickhouse-server", clock=self.clock, telemetry=Telemetry())

    async def promote(self, *, on_insert: Any = None) -> PromotionRecord:
        async with self.embedded() as source, self.clickhouse() as target:
            if on_insert is not None:
                call_instead(target, on_insert)
            record = self.record()
            await self.copier(source, target, record).run()
            return record

    def record(self) -> PromotionRecord:
        return read_record(self.folder) or PromotionRecord(self.url, "test")

    def copier(self, source: EmbeddedStore, target: ClickHouseStore, record: PromotionRecord) -> Copier:
        return Copier(
            source,
            target,
            self.folder,
            record,
            clock=self.clock,
            oldest_ms=0,
            on_progress=lambda done, total: None,
            on_wait=self.waits.append,
        )

    async def write(self, *batches: Batch) -> None:
        async with self.embedded() as store:
            for batch in batches:
                await store.write(batch)
            await store.seal()

    async def assert_same(self) -> None:
        async with self.embedded() as source, self.clickhouse() as target:
            assert await summarise(target, ALL) == await summarise(source, ALL)
            for hour in await hours_with_data(source, oldest_ms=0):
                of_hour = TimeRange(hour * HOUR_MS, (hour + 1) * HOUR_MS)
                samples = (await summarise(source, of_hour)).samples
                assert await target.rolled_up(of_hour) == (samples, samples)
            ours = {info.series.id: info.samples for info in await source.list_series()}
            assert {info.series.id: info.samples for info in await target.list_series()} == ours


def call_instead(target: ClickHouseStore, on_insert: Any) -> None:
    insert = target.engine.insert
    target.engine.insert = lambda rows: on_insert(insert, rows)  # type: ignore[method-assign, assignment]


@pytest.fixture
def pair(server: ClickHouseServer, tmp_path: Path) -> Pair:
    return Pair(tmp_path / "data", server.new_database())


def history() -> list[Batch]:
    """Return batches of five hours: gauges, a histogram, equal samples, trace ids and spans."""
    batches = []
    for hour in range(5):
        at_ms = NOW_MS - hour * HOUR_MS - 1000
        batches.append(a_batch(1, 2, 3, hour, at_ms=at_ms, batch_id=f"b{hour}"))
        batches.append(a_batch(7, at_ms=at_ms))
        batches.append(a_batch(7, at_ms=at_ms))  # stored twice, as it was sent twice without an id
        batches.append(a_batch(0.5, 9.25, series=a_series("shop", "t", Kind.HISTOGRAM), at_ms=at_ms))
        traced = a_batch(4, 5, series=a_series("shop"), at_ms=at_ms)
        batches.append(
            Batch(
                traced.series,
                traced.index,
                traced.time_ms,
                traced.value,
                encode_exemplars([1], [f"{hour:032x}"], ["b" * 16]),
                spans=(a_span(f"{hour:032x}", "b" * 16, start_ms=at_ms, attributes={"k": "v", "a": "ü"}),),
            )
        )
    return batches


async def test_everything_is_copied_and_the_same(pair: Pair) -> None:
    await pair.write(*history())
    record = await pair.promote()
    assert len(record.hours) == record.hours_total == 5
    await pair.assert_same()


@pytest.mark.parametrize("arrived", [False, True])
@pytest.mark.parametrize("kill_at", [0, 1, 3, 7])
async def test_a_killed_copy_is_continued_without_loss_or_doubling(pair: Pair, kill_at: int, *, arrived: bool) -> None:
    await pair.write(*history())
    inserts = 0

    def kill(insert: Any, rows: Any) -> None:
        nonlocal inserts
        if arrived or inserts < kill_at:
            insert(rows)  # of the last one this process never learns it
        if inserts == kill_at:
            raise Killed
        inserts += 1

    with pytest.raises(Killed):
        await pair.promote(on_insert=kill)
    await pair.promote()
    await pair.assert_same()
    async with pair.clickhouse() as target:  # the summary counts a span once, however often it is stored
        stored = target.engine.run(Statement("SELECT toInt64(count()) AS spans FROM spans")).to_list("spans")
    assert stored == [5]


async def test_late_data_and_deletions_between_two_runs_reach_the_server(pair: Pair) -> None:
    await pair.write(*history())
    await pair.promote()
    await pair.write(
        a_batch(42, at_ms=NOW_MS - 3 * HOUR_MS), Batch(spans=(a_span("f" * 32, start_ms=NOW_MS - 2 * HOUR_MS),))
    )
    async with pair.embedded() as store:
        await store.delete(Selector(service="shop"))
    await pair.promote()
    await pair.assert_same()


async def test_a_batch_that_is_sent_again_after_the_switch_is_not_stored_twice(pair: Pair) -> None:
    await pair.write(*history())
    await pair.promote()
    async with pair.clickhouse() as target:
        assert not await target.write(a_batch(1, 2, 3, 0, at_ms=NOW_MS - 1000, batch_id="b0"))
    await pair.assert_same()


async def test_a_server_that_is_away_is_waited_for(pair: Pair) -> None:
    await pair.write(*history())
    failures = iter([StoreUnavailable("ClickHouse does not answer")] * 3)

    def fail(insert: Any, rows: Any) -> None:
        insert(rows)
        for error in failures:
            raise error

    await pair.promote(on_insert=fail)
    assert pair.waits == ["ClickHouse does not answer"] * 3
    await pair.assert_same()


async def test_a_difference_stops_the_promotion(pair: Pair) -> None:
    await pair.write(*history())

    def lose(insert: Any, rows: Any) -> None:
        if rows.table != "spans":
            insert(rows)

    with pytest.raises(StartupError, match=r"differs, and nothing is switched: 10 samples and 1 spans here, 10 and 0"):
        await pair.promote(on_insert=lose)


async def test_what_the_server_accepted_is_put_back_once(pair: Pair) -> None:
    await pair.write(*history())
    record = await pair.promote()
    async with pair.clickhouse() as target:
        await target.write(a_batch(8, 8, at_ms=NOW_MS + 5))
        await target.write(a_batch(1, at_ms=NOW_MS - 2 * HOUR_MS))
        await target.write(a_batch(7, at_ms=NOW_MS - 1000))  # a third equal sample
        await target.write(Batch(spans=(a_span("e" * 32, start_ms=NOW_MS),)))
    for expected in (5, 0):
        async with pair.clickhouse() as target, pair.embedded() as folder:
            written, extra = await put_back(target, folder, record, oldest_ms=0, on_progress=lambda done, total: None)
            assert (written, extra) == (expected, 0)
    await pair.assert_same()


def later() -> list[Batch]:
    """Return what comes while a copy is made: new and late samples, a third equal one, and spans."""
    return [
        a_batch(10, 11, at_ms=NOW_MS + 1000),
        a_batch(7, at_ms=NOW_MS - 1000),
        a_batch(12, at_ms=NOW_MS - 2 * HOUR_MS, series=a_series("new")),
        Batch(spans=(a_span("d" * 32, start_ms=NOW_MS - HOUR_MS),)),
        a_batch(13, at_ms=NOW_MS - 40 * HOUR_MS),
    ]


async def test_what_is_written_meanwhile_is_appended(pair: Pair) -> None:
    await pair.write(*history())
    async with pair.embedded() as source, pair.clickhouse() as target:
        source.touched.follow()
        record = pair.record()
        copier = pair.copier(source, target, record)
        await copier.copy_hours()
        for batch in later():
            await source.write(batch)
            minutes = source.touched.take()
            assert minutes
            for time_range in serving.ranges_of(minutes):
                await copier.append(time_range)
                await copier.append(time_range)  # finds nothing more
        await copier.check_rollups()
        copier.finish()
    await pair.assert_same()
    async with pair.clickhouse() as target, pair.embedded() as folder:  # the record knows what is there
        assert await put_back(target, folder, record, oldest_ms=0, on_progress=lambda done, total: None) == (0, 0)


async def test_an_hour_with_deleted_data_is_copied_again(pair: Pair) -> None:
    await pair.write(*history())
    async with pair.embedded() as source, pair.clickhouse() as target:
        copier = pair.copier(source, target, pair.record())
        await copier.copy_hours()
        await source.delete(Selector(service="shop"))
        for hour in await hours_with_data(target, oldest_ms=0):
            await copier.append(TimeRange(hour * HOUR_MS, (hour + 1) * HOUR_MS))
        copier.finish()
    await pair.assert_same()


async def test_a_kill_while_it_appends_lets_the_hour_be_copied_again(pair: Pair) -> None:
    await pair.write(*history())

    def kill(insert: Any, rows: Any) -> None:
        insert(rows)
        raise Killed

    with pytest.raises(Killed):
        async with pair.embedded() as source, pair.clickhouse() as target:
            copier = pair.copier(source, target, pair.record())
            await copier.copy_hours()
            await source.write(a_batch(10, 11, at_ms=NOW_MS - 1))
            call_instead(target, kill)
            await copier.append(TimeRange((NOW_MS - 1) // HOUR_MS * HOUR_MS, NOW_MS + HOUR_MS))
    assert len(pair.record().hours) == 4
    await pair.promote()
    await pair.assert_same()


async def test_writes_do_not_wait_for_a_server_that_is_away_at_the_switch(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pair.write(*history())
    monkeypatch.setattr(serving, "PAUSED_S_MAX", 0.3)
    monkeypatch.setattr(serving, "RETRY_S", 2.0)
    is_away, restarts = True, 0

    def restart() -> None:
        nonlocal restarts
        restarts += 1

    async with pair.embedded() as source:

        def fail_while_paused(insert: Any, rows: Any) -> None:
            if is_away and source._paused:
                raise StoreUnavailable("ClickHouse does not answer")
            insert(rows)

        def open_target(_url: str) -> ClickHouseStore:
            target = pair.clickhouse()
            call_instead(target, fail_while_paused)
            return target

        promotion = serving.ServingPromotion(
            source,
            pair.folder,
            open_target=open_target,
            clock=SystemClock(),
            retention_days=None,
            restart=restart,
        )
        running = asyncio.create_task(promotion.run())
        try:
            await promotion.start(pair.url)
            await until(lambda: "last minutes" in promotion.progress().problem)
            await until(lambda: not source._paused)
            is_away = False
            await source.write(a_batch(5, at_ms=NOW_MS, batch_id="later"))
            await until(lambda: restarts)
        finally:
            running.cancel()
        assert restarts == 1
        assert promotion.progress().phase == "switched"
        with pytest.raises(BusyError):
            await source.write(a_batch(6))
    record = read_record(pair.folder)
    assert record is not None
    assert record.phase == "switched"
    await pair.assert_same()


def test_the_record_is_read_back_and_is_the_owners_alone(tmp_path: Path) -> None:
    write_record(tmp_path, PromotionRecord("clickhouse://u:secret@h/d", "id", "switched"))
    record = read_record(tmp_path)
    assert record is not None
    assert (record.url, record.phase) == ("clickhouse://u:secret@h/d", "switched")
    assert (tmp_path / "promotion.json").stat().st_mode & 0o777 == 0o600
