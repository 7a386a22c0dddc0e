"""Exports of the embedded store: from segments, generations and head alike, and in nobody's way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.telemetry_contract import ALWAYS, contents
from tests.storage.embedded.test_sealing import few_parts, merged
from tests.support.random_batches import RandomBatches
from tests.support.samples import NOW_MS, MovedClock, a_batch, a_series, count_query
from tests.support.wait import until
from vantage.core.errors import BusyError, StoreUnavailable
from vantage.storage.embedded.queries import EXPORTS_MAX, QUERY_THREADS
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.ports import RetentionPolicy, Selector
from vantage.telemetry import Telemetry

Open = Callable[..., Any]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    @asynccontextmanager
    async def open_store(**options: Any) -> AsyncIterator[EmbeddedStore]:
        async with EmbeddedStore(tmp_path / "data", clock=MovedClock(), telemetry=Telemetry(), **options) as store:
            yield store

    return open_store


async def test_what_is_sealed_merged_and_written_since_comes_out_as_it_went_in(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_parts(monkeypatch, 2)
    chance = RandomBatches(23)
    batches = [chance.batch() for _ in range(40)]
    async with opened() as store:
        for n, batch in enumerate(batches):
            await store.write(batch)
            if n % 6 == 5:
                await store.seal()
        await merged(store)
        exported = [batch async for batch in store.export(Selector(), ALWAYS)]
    assert contents(exported) == contents(batches)


async def test_an_export_goes_on_with_what_it_began_with_while_everything_is_sealed_merged_and_deleted(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_parts(monkeypatch, 2)
    chance = RandomBatches(29)
    batches = [chance.batch() for _ in range(20)]
    async with opened() as store:
        for n, batch in enumerate(batches):
            await store.write(batch)
            if n % 4 == 3:
                await store.seal()
        export = store.export(Selector(), ALWAYS)
        exported = [await anext(export)]
        for _ in range(6):
            await store.write(chance.batch())
            await store.seal()
        await until(lambda: store._run_maintenance(lambda: store._merger.due(2) is None))
        exported += [batch async for batch in export]
        assert contents(exported) == contents(batches)
        await merged(store)
        assert not store._snapshots._pins, "its snapshot is unpinned"


async def test_waiting_exports_use_no_thread_and_one_too_many_is_busy(opened: Open) -> None:
    assert EXPORTS_MAX >= QUERY_THREADS, "else this would not tell"
    async with opened() as store:
        await store.write(a_batch(*map(float, range(50_000)), at_ms=NOW_MS - 100_000))
        exports = [store.export(Selector(), ALWAYS) for _ in range(EXPORTS_MAX)]
        for export in exports:
            await anext(export)
        ((count, _),) = (await store.select(count_query(), deadline_s=5)).rows()
        assert count == 50_000
        with pytest.raises(BusyError):
            await anext(store.export(Selector(), ALWAYS))
        for export in exports:
            await export.aclose()
        async with aclosing(store.export(Selector(), ALWAYS)) as export:
            assert (await anext(export)).samples


async def test_an_export_that_is_cancelled_while_it_reads_releases_its_snapshot(opened: Open) -> None:
    async with opened() as store:
        await store.write(a_batch(*map(float, range(50_000)), at_ms=NOW_MS - 100_000))

        async def read() -> None:
            async with aclosing(store.export(Selector(), ALWAYS)) as export:
                async for _ in export:
                    pass

        for wait_s in (0.0, 0.001, 0.002, 0.005, 0.01):
            task = asyncio.create_task(read())
            await asyncio.sleep(wait_s)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert not store._snapshots._pins
            assert store._exports == 0


async def test_an_export_ends_with_the_store(opened: Open) -> None:
    async with opened() as store:
        await store.write(a_batch(*map(float, range(50_000)), at_ms=NOW_MS - 100_000))
        export = store.export(Selector(), ALWAYS)
        await anext(export)
    with pytest.raises(StoreUnavailable):
        async for _ in export:
            pass
    with pytest.raises(StoreUnavailable):
        await anext(store.export(Selector(), ALWAYS))


async def test_expired_data_is_not_exported(opened: Open) -> None:
    day_ms = 86_400_000
    async with opened() as store:
        await store.write(a_batch(1.0, series=a_series("old"), at_ms=NOW_MS - 20 * day_ms))
        await store.write(a_batch(2.0))
        await store.seal()
        await store.expire(RetentionPolicy(days=10))
        exported = [batch async for batch in store.export(Selector(), ALWAYS)]
        assert contents(exported) == contents([a_batch(2.0)])
