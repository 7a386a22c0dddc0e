"""Ranges of messages on a server: written again by any process they are stored once, whatever was cut short."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.clickhouse_server import ClickHouseServer, running_clickhouse
from tests.support.clickhouse_stores import server_store
from tests.support.samples import HOUR_MS, NOW_MS, MovedClock, a_batch, a_series, a_span, count_query
from vantage.core.batch import Batch, build_batch
from vantage.core.errors import StoreUnavailable
from vantage.storage.clickhouse.engine import Insert
from vantage.storage.clickhouse.store import ClickHouseStore
from vantage.storage.ports import Selector, StreamBatch
from vantage.telemetry import Telemetry

pytest.importorskip("clickhouse_driver", reason="pip install 'vantage[clickhouse]'")

Opened = Callable[[], ClickHouseStore]


@pytest.fixture(scope="module")
def server() -> Iterator[ClickHouseServer]:
    with running_clickhouse() as server:
        yield server


@pytest.fixture
def opened(server: ClickHouseServer) -> Opened:
    """Each call is a store of another process on the same database, to be entered."""
    url = server.new_database()
    return lambda: server_store(url, None, clock=MovedClock(), telemetry=Telemetry())


def a_range(first: int = 0, count: int = 3) -> list[StreamBatch]:
    """Messages of two months, with spans and new series."""
    result = []
    for offset in range(first, first + count):
        series = a_series(tags={"n": str(offset)})
        batch = build_batch([(series, NOW_MS, 1.0), (series, NOW_MS - 40 * 24 * HOUR_MS, 2.0)])
        batch = Batch(
            batch.series, batch.index, batch.time_ms, batch.value, spans=(a_span(f"t{offset}"),), batch_id=f"b{offset}"
        )
        result.append(StreamBatch(batch, 4, offset, NOW_MS + offset))
    return result


async def counts(store: ClickHouseStore) -> list[int]:
    (row,) = (await store.select(count_query(), deadline_s=30)).rows()
    spans = sum(stats.spans for stats in await store.services_with_spans())
    series = await store.list_series()
    return [int(str(row[0])), spans, sum(info.samples for info in series), len(series)]


async def test_a_range_written_again_is_stored_once(opened: Opened) -> None:
    async with opened() as store, opened() as other:
        for writer in (store, store, other):
            await writer.write_range(a_range(), token="topic/4/0-2", until_s=float("inf"))
        assert await counts(store) == [6, 3, 6, 3]
        await other.write_range(a_range(3), token="topic/4/3-5", until_s=float("inf"))
        assert await counts(store) == [12, 6, 12, 6]


@pytest.mark.parametrize("inserted", [0, 1, 2, 3])
async def test_a_range_that_was_cut_short_is_completed_by_another_process(opened: Opened, inserted: int) -> None:
    async with opened() as store, opened() as other:
        complete, left = store.engine.insert, [None] * inserted

        def failing(insert: Insert) -> None:
            if not left:
                raise StoreUnavailable("killed")
            left.pop()
            complete(insert)

        store.engine.insert = failing  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailable):
            await store.write_range(a_range(), token="topic/4/0-2", until_s=float("inf"))
        await other.write_range(a_range(), token="topic/4/0-2", until_s=float("inf"))
        assert await counts(other) == [6, 3, 6, 3]


async def test_a_range_does_not_take_its_own_batches_for_repeats(opened: Opened) -> None:
    async with opened() as store:
        ids = [f"b{offset}" for offset in range(6)]

        async def before(**position: int) -> set[str]:
            return await store.batch_ids_before(ids, **position, since_ms=NOW_MS - HOUR_MS)

        assert await before(partition=4, offset=3) == set()
        await store.write_range(a_range(0), token="topic/4/0-2", until_s=float("inf"))
        await store.write_range(a_range(3), token="topic/4/3-5", until_s=float("inf"))
        assert await before(partition=4, offset=3) == {"b0", "b1", "b2"}
        assert await before(partition=4, offset=0) == set()
        assert await before(partition=1, offset=0) == set(ids)
        assert await store.batch_ids_before(ids, partition=1, offset=0, since_ms=NOW_MS + 4) == {"b4", "b5"}


async def test_ids_of_any_text_are_found(opened: Opened) -> None:
    ids = ["it's", "a,b", "a\nb", "ü🙂", "\\x41", *(f"{number:064d}" for number in range(2500))]
    async with opened() as store:
        messages = [StreamBatch(a_batch(1.0, batch_id=name), 4, number, NOW_MS) for number, name in enumerate(ids)]
        await store.write_range(messages, token="t1", until_s=float("inf"))
        stored = await store.batch_ids_before([*ids, "a", "b", "A"], partition=4, offset=9999, since_ms=0)
        assert stored == set(ids)


async def test_a_series_of_another_process_is_found_and_not_written_again(opened: Opened) -> None:
    async with opened() as store, opened() as reader:
        await store.write_range(a_range(), token="t1", until_s=float("inf"))
        assert [info.series.tags for info in await reader.list_series()] != []
        written: list[str] = []
        complete = reader.engine.insert

        def recorded(insert: Insert) -> None:
            written.append(insert.table)
            complete(insert)

        reader.engine.insert = recorded  # type: ignore[method-assign]
        batch = a_batch(1.0, series=a_series(tags={"n": "0"}), batch_id="b9")
        await reader.write_range([StreamBatch(batch, 4, 9, NOW_MS)], token="t2", until_s=float("inf"))
        assert written == ["samples", "red_1m", "red_5m", "batch_ids"]


async def test_a_series_that_another_process_deleted_is_written_again(opened: Opened) -> None:
    batch = a_batch(1.0, series=a_series("gone", tags={"k": "v"}))
    async with opened() as store, opened() as other:
        await store.write_range([StreamBatch(batch, 0, 0, NOW_MS)], token="t1", until_s=float("inf"))
        await other.delete(Selector(service="gone"))
        await store._writer.run(store._series_table.refresh)
        await store.write_range([StreamBatch(batch, 0, 1, NOW_MS)], token="t2", until_s=float("inf"))
        assert [info.series.tags for info in await other.list_series()] == [(("k", "v"),)]


async def test_a_batch_id_that_another_process_stored_is_a_repeat(server: ClickHouseServer, tmp_path: Path) -> None:
    url = server.new_database()

    def opened(name: str) -> ClickHouseStore:
        return server_store(url, tmp_path / name, clock=MovedClock(), telemetry=Telemetry())

    async with opened("a") as store, opened("b") as other:
        assert await store.write(a_batch(1.0, batch_id="b1")) is True
        assert await other.write(a_batch(1.0, batch_id="b1")) is False
        assert await other.write(a_batch(1.0, batch_id="b2")) is True
        assert (await counts(store))[0] == 2
