"""Rollups of requests in segments: sealed, merged, late, deleted, expired, and filled in after an upgrade."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.red_traffic import DAY_MS, STEPS_MS, rows_of, traffic
from tests.support.samples import HOUR_MS, NOW_MS, MovedClock
from tests.support.wait import until
from vantage.core.batch import Batch
from vantage.core.red import KEPT_DAYS, RedLevel
from vantage.core.red_table import RedQuery
from vantage.core.retention import parse_rule
from vantage.core.timerange import TimeRange
from vantage.storage.embedded.maintain import merge, red_rollups
from vantage.storage.embedded.offline.folder_reader import ReadOnlyFolder
from vantage.storage.embedded.offline.verify import verify_segments
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.memory import MemoryStore
from vantage.storage.ports import RetentionPolicy, Selector

Open = Callable[..., Any]


async def assert_same(store: EmbeddedStore, expected: MemoryStore, *, days: int = 3) -> None:
    for level in ("service", "endpoint"):
        for step_ms in STEPS_MS:
            if level == "endpoint" and step_ms < 300_000:
                continue
            length_ms = min(days, KEPT_DAYS.get((level, step_ms), days)) * DAY_MS
            time_range = TimeRange((NOW_MS - length_ms) // step_ms * step_ms + step_ms, NOW_MS + 1)
            query = RedQuery(time_range, step_ms, level=level, quantiles=(0.95,))
            ours = rows_of(await store.red(query, deadline_s=10))
            wanted = rows_of(await expected.red(query, deadline_s=10))
            assert ours.keys() == wanted.keys()
            for key, values in wanted.items():
                assert ours[key] == pytest.approx(values, rel=1e-9), key


async def write_both(store: EmbeddedStore, expected: MemoryStore, batch: Batch) -> None:
    await store.write(batch)
    await expected.write(batch)


async def test_whatever_happens_below_rollups_tell_the_same(
    opened: Open, clock: MovedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "PARTS_MIN", 2)
    expected = MemoryStore(clock=clock)
    async with opened() as store:
        for seed in range(4):
            await write_both(store, expected, traffic(seed))
            await assert_same(store, expected)
            await store.seal()
            await assert_same(store, expected)
        await write_both(store, expected, traffic(10, end_ms=NOW_MS - DAY_MS))  # late
        await store.seal()
        await store.merge()
        await assert_same(store, expected)
        await write_both(store, expected, traffic(11))
        for target in (store, expected):
            await target.delete(Selector(service="shop"))
        await assert_same(store, expected)
        await write_both(store, expected, traffic(12))
        await assert_same(store, expected)
    async with opened() as store:
        await assert_same(store, expected)
        await store.seal()
        await assert_same(store, expected)
        folder = ReadOnlyFolder(store.folder)
    assert list(verify_segments(folder, folder.segments())) == []


async def test_narrow_buckets_are_deleted_after_days_and_hours_with_their_week(opened: Open, clock: MovedClock) -> None:
    five_minutes = 5 * 60_000
    async with opened() as store:
        folder = ReadOnlyFolder(store.folder)
        await store.write(traffic(1))
        await store.seal()
        minutes = TimeRange(NOW_MS // 60_000 * 60_000 - HOUR_MS, NOW_MS)
        fives = TimeRange(NOW_MS // five_minutes * five_minutes - HOUR_MS, NOW_MS)
        hours = TimeRange(NOW_MS // HOUR_MS * HOUR_MS - 4 * HOUR_MS, NOW_MS)
        path = next((store.folder / "segments").glob("*.rollups.db"))

        def left() -> set[tuple[str, int]]:
            with closing(sqlite3.connect(path)) as db:
                return set(db.execute("SELECT DISTINCT level, width_ms FROM red"))

        async def has(time_range: TimeRange, step_ms: int, level: RedLevel = "service") -> bool:
            table = await store.red(RedQuery(time_range, step_ms, level, quantiles=(0.5,)), deadline_s=5)
            return table is not None and len(rows_of(table)) > 0

        of_hours = {("service", HOUR_MS), ("endpoint", HOUR_MS)}
        assert left() == {("service", 60_000), ("service", five_minutes), ("endpoint", five_minutes), *of_hours}
        assert await has(minutes, 60_000)
        assert await has(fives, five_minutes, "endpoint")
        await store.write(traffic(2))
        clock.now += 3 * DAY_MS
        assert not await has(minutes, 60_000)
        assert not await has(fives, five_minutes, "endpoint")
        await until(lambda: left() == {("service", five_minutes), *of_hours})
        assert await has(fives, five_minutes)
        assert list(verify_segments(folder, folder.segments())) == []
        clock.now += 60 * DAY_MS
        await store.write(traffic(3))
        assert not await has(fives, five_minutes)
        await until(lambda: left() == of_hours)
        for level in ("service", "endpoint"):
            assert await has(hours, HOUR_MS, level)
        assert list(verify_segments(folder, folder.segments())) == []


async def test_a_rule_of_retention_is_one_of_rollups_too(opened: Open) -> None:
    async with opened() as store:
        for days in (5, 1):
            await store.write(traffic(days, end_ms=NOW_MS - days * DAY_MS))
        await store.seal()
        policy = RetentionPolicy(rules=(parse_rule("api/*=2"),))
        await store.expire(policy)
        query = RedQuery(TimeRange(NOW_MS // HOUR_MS * HOUR_MS - 8 * DAY_MS, NOW_MS), HOUR_MS, quantiles=(0.5,))
        oldest = {
            group.service: at_ms for (kind, group, at_ms) in sorted(rows_of(await store.red(query, deadline_s=5)),
            key=lambda key: -key[2]) if kind == "bucket"
        }  # fmt: skip
        assert oldest["api"] >= NOW_MS - 2 * DAY_MS - HOUR_MS
        assert oldest["shop"] < NOW_MS - 4 * DAY_MS
        segments = {path: path.stat().st_mtime_ns for path in (store.folder / "segments").glob("*.db")}
        await store.expire(policy)
        assert segments == {path: path.stat().st_mtime_ns for path in segments}, "nothing is rewritten again"


def forget_rollups(folder: Path) -> None:
    """Make a folder what an earlier version would have left."""
    for path in (folder / "segments").glob("*.db"):
        with closing(sqlite3.connect(path)) as db:
            if ".samples." in path.name:
                db.execute("INSERT OR REPLACE INTO red_since SELECT max(id) + 1 FROM part")
            else:
                db.execute("DELETE FROM red")
            db.commit()


async def test_what_an_earlier_version_wrote_is_filled_in(
    opened: Open, clock: MovedClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = MemoryStore(clock=clock)
    async with opened() as store:
        for seed in range(3):
            await write_both(store, expected, traffic(seed))
            await store.seal()
    forget_rollups(tmp_path / "data")
    fill = red_rollups.RedFiller.fill_next
    monkeypatch.setattr(red_rollups.RedFiller, "fill_next", lambda _: False)
    query = RedQuery(TimeRange(NOW_MS // HOUR_MS * HOUR_MS - DAY_MS, NOW_MS), HOUR_MS)
    async with opened() as store:
        assert await store.red(query, deadline_s=5) is None
    monkeypatch.setattr(red_rollups.RedFiller, "fill_next", fill)
    async with opened() as store:
        await until(lambda: not store._snapshots.now.without_red)
        await write_both(store, expected, traffic(20))
        await assert_same(store, expected)
    async with opened() as store:
        assert not store._snapshots.now.without_red
        await assert_same(store, expected)


async def test_parts_are_filled_in_before_they_become_others(
    opened: Open, clock: MovedClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = MemoryStore(clock=clock)
    async with opened() as store:
        for seed in range(3):
            await write_both(store, expected, traffic(seed))
            await store.seal()
    forget_rollups(tmp_path / "data")
    monkeypatch.setattr(red_rollups.RedFiller, "fill_next", lambda _: False)
    async with opened() as store:
        for target in (store, expected):
            await target.delete(Selector(service="shop"))
        await assert_same(store, expected)


@pytest.mark.parametrize("stop_at", [0, 1, 2])
async def test_filling_in_that_is_interrupted_counts_nothing_twice(
    opened: Open, clock: MovedClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    expected = MemoryStore(clock=clock)
    async with opened() as store:
        for seed in range(3):
            await write_both(store, expected, traffic(seed))
            await store.seal()
    forget_rollups(tmp_path / "data")
    write, written = red_rollups.write_red, 0

    def write_some(*arguments: Any) -> None:
        nonlocal written
        write(*arguments)
        if written == stop_at:
            raise OSError("the disk is gone")
        written += 1

    monkeypatch.setattr(red_rollups, "write_red", write_some)
    async with opened() as store:
        await until(lambda: bool(store._maintenance.failing))
    monkeypatch.setattr(red_rollups, "write_red", write)
    async with opened() as store:
        await until(lambda: not store._snapshots.now.without_red)
        await assert_same(store, expected)
