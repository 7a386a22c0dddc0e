"""Listing the latest or the slowest spans of a service: the same as in memory, and few blocks are read for it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.samples import NOW_MS, MovedClock
from tests.support.spans import many_spans
from vantage.core.batch import Batch
from vantage.core.timerange import TimeRange
from vantage.storage.embedded.format import part_writer
from vantage.storage.embedded.maintain import merge
from vantage.storage.embedded.offline.folder_reader import ReadOnlyFolder
from vantage.storage.embedded.offline.verify import verify_segments
from vantage.storage.embedded.read import span_search
from vantage.storage.embedded.read.spans import SpanReader
from vantage.storage.memory import MemoryStore
from vantage.storage.ports import Selector, SpanFilter, SpanList, TelemetryReader

Open = Callable[..., Any]
RANGES = (TimeRange(0, NOW_MS), TimeRange(NOW_MS - 3_597_000, NOW_MS - 3_593_000))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_writer, "SPAN_BLOCK_ROWS", 50)


@pytest.fixture
def read_blocks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    read: list[int] = []
    original = SpanReader._read_sealed_block

    def counted(self: SpanReader, segment: Any, block_id: int, *, again: bool) -> Any:
        read.append(block_id)
        return original(self, segment, block_id, again=again)

    monkeypatch.setattr(SpanReader, "_read_sealed_block", counted)
    return read


def filters(service: str) -> list[SpanFilter]:
    return [
        SpanFilter(time_range, service, order=order, failed=failed, limit=limit)
        for time_range in RANGES
        for order in ("latest", "slowest")
        for failed in (False, True)
        for limit in (1, 10, 1000)
    ]


def faults_of(tmp_path: Path) -> list[object]:
    folder = ReadOnlyFolder(tmp_path / "data")
    return list(verify_segments(folder, folder.segments()))


async def assert_same(store: TelemetryReader, expected: TelemetryReader) -> None:
    for wanted in filters("service-1") + filters("service-9"):
        assert await store.list_spans(wanted) == await expected.list_spans(wanted), wanted


async def test_sealed_unsealed_merged_and_deleted_spans_are_those_in_memory(
    opened: Open, clock: MovedClock, monkeypatch: pytest.MonkeyPatch, small_blocks: None
) -> None:
    monkeypatch.setattr(merge, "PARTS_MIN", 2)
    expected = MemoryStore(clock=clock)
    async with opened() as store:
        for seed in range(3):
            batch = Batch(spans=tuple(many_spans(300, seed=seed)))
            await store.write(batch)
            await expected.write(batch)
            await assert_same(store, expected)
            await store.seal()
            await assert_same(store, expected)
        await store.merge()
        await assert_same(store, expected)
        await store.delete(Selector(service="service-2"))
        await expected.delete(Selector(service="service-2"))
        await assert_same(store, expected)


async def test_blocks_behind_the_last_listed_span_are_not_read(
    opened: Open, small_blocks: None, read_blocks: list[int]
) -> None:
    async with opened() as store:
        await store.write(Batch(spans=tuple(many_spans(5000, services=20))))
        await store.seal()
        for order in ("latest", "slowest"):
            for failed in (False, True):
                read_blocks.clear()
                wanted = SpanFilter(RANGES[0], "service-7", order=order, failed=failed, limit=5)
                result: SpanList = await store.list_spans(wanted)
                assert len(result.spans) == 5
                # Of the slowest that failed, the block's longest may be one that did not.
                assert len(read_blocks) <= (6 if not failed or order == "latest" else 60)


async def test_the_bound_on_blocks_is_stated(opened: Open, monkeypatch: pytest.MonkeyPatch, small_blocks: None) -> None:
    monkeypatch.setattr(span_search, "BLOCKS_READ_MAX", 3)
    async with opened() as store:
        await store.write(Batch(spans=tuple(many_spans(1000))))
        assert (await store.list_spans(SpanFilter(RANGES[0], "service-1", limit=500))).is_complete
        await store.seal()
        cut = await store.list_spans(SpanFilter(RANGES[0], "service-1", limit=500))
        assert not cut.is_complete
        assert 0 < len(cut.spans) < 150
        assert (await store.list_spans(SpanFilter(RANGES[0], "service-1", limit=2))).is_complete


async def test_blocks_of_an_earlier_version_name_their_services_alone(
    opened: Open, clock: MovedClock, tmp_path: Path, small_blocks: None
) -> None:
    expected = MemoryStore(clock=clock)
    batch = Batch(spans=tuple(many_spans(400)))
    await expected.write(batch)
    async with opened() as store:
        await store.write(batch)
        await store.seal()
    for path in (tmp_path / "data" / "segments").glob("*.samples.db"):
        with closing(sqlite3.connect(path)) as db, db:
            for block_id, services in db.execute("SELECT id, services FROM span_block").fetchall():
                names = json.dumps(sorted(json.loads(services)))
                db.execute("UPDATE span_block SET services=? WHERE id=?", (names, block_id))
    async with opened() as store:
        await assert_same(store, expected)
    assert faults_of(tmp_path) == []


async def test_figures_that_are_not_those_of_the_block_are_reported(opened: Open, tmp_path: Path) -> None:
    async with opened() as store:
        await store.write(Batch(spans=tuple(many_spans(40))))
        await store.seal()
    for path in (tmp_path / "data" / "segments").glob("*.samples.db"):
        with closing(sqlite3.connect(path)) as db, db:
            (services,) = db.execute("SELECT services FROM span_block").fetchone()
            figures = json.loads(services)
            figures["service-1"][0] += 1
            db.execute("UPDATE span_block SET services=?", (json.dumps(figures),))
    assert ["services" in str(fault) for fault in faults_of(tmp_path)] == [True]
