"""A wall clock that jumps deletes nothing and hides nothing, in every store."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from tests.support.clickhouse_stores import chdb_store
from tests.support.samples import NOW_MS, a_batch, a_series, count_query
from vantage.core.batch import Batch
from vantage.storage.clickhouse.store import ClickHouseStore
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.ports import RetentionPolicy
from vantage.storage.steady_time import JUMP_MS_MIN, TRUST_AFTER_S, SteadyTime
from vantage.telemetry import Telemetry

DAY_MS = 86_400_000
WEEK = RetentionPolicy(days=7, budget_bytes=None, rules=())


class TwoClocks:
    """A wall clock and a monotonic one that are moved apart."""

    def __init__(self) -> None:
        self.wall_ms = NOW_MS
        self.passed_s = 1000.0

    def now_ms(self) -> int:
        return self.wall_ms

    def monotonic_s(self) -> float:
        return self.passed_s

    async def sleep(self, seconds: float) -> None:
        self.pass_s(seconds)

    def pass_s(self, seconds: float) -> None:
        self.wall_ms += int(seconds * 1000)
        self.passed_s += seconds


Store = EmbeddedStore | ClickHouseStore
Opened = Callable[[TwoClocks], AbstractAsyncContextManager[Store]]


@pytest.fixture(params=[EmbeddedStore, chdb_store])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    return lambda clock: request.param(tmp_path, clock=clock, telemetry=Telemetry())


async def count(store: Store) -> int:
    table = await store.select(count_query(), deadline_s=30)
    return int(table.column("n")[0])


def old_batch(days: int) -> Batch:
    return a_batch(1.0, series=a_series(metric=f"m{days}"), at_ms=NOW_MS - days * DAY_MS)


@pytest.mark.parametrize("jump_days", [35, -35])
async def test_a_jump_while_running_deletes_and_hides_nothing(opened: Opened, jump_days: int) -> None:
    clock = TwoClocks()
    async with opened(clock) as store:
        for days in range(6):
            await store.write(old_batch(days))
        await store.expire(WEEK)
        clock.wall_ms += jump_days * DAY_MS
        for _ in range(3):
            clock.pass_s(60)
            await store.expire(WEEK)
        assert await count(store) == 6
        clock.wall_ms -= jump_days * DAY_MS
        clock.pass_s(60)
        await store.write(a_batch(1.0, at_ms=NOW_MS))
        await store.expire(WEEK)
        assert await count(store) == 7


async def test_a_wrong_clock_at_start_deletes_nothing(opened: Opened) -> None:
    clock = TwoClocks()
    async with opened(clock) as store:
        for days in range(6):
            await store.write(old_batch(days))
    clock = TwoClocks()
    clock.wall_ms += 35 * DAY_MS
    async with opened(clock) as store:
        await store.write(a_batch(1.0, at_ms=clock.wall_ms))  # beyond the range that is counted
        await store.expire(WEEK)
        assert await count(store) == 6


async def test_what_is_old_expires_when_the_clock_is_right(opened: Opened) -> None:
    clock = TwoClocks()
    async with opened(clock) as store:
        for days in (0, 40, 80):
            await store.write(old_batch(days))
        await store.expire(WEEK)
        assert await count(store) == 1


async def test_a_batch_id_ages_by_monotonic_time(opened: Opened) -> None:
    clock = TwoClocks()
    async with opened(clock) as store:
        assert await store.write(a_batch(1.0, batch_id="b")) is True
        for jump_ms in (62 * 60_000, -62 * 60_000, -DAY_MS, 35 * DAY_MS):
            clock.wall_ms += jump_ms
            await store.expire(WEEK)
            assert await store.write(a_batch(1.0, batch_id="b")) is False
    async with opened(clock) as store:  # the clock is still wrong
        assert await store.write(a_batch(1.0, batch_id="b")) is False
        clock.pass_s(3601)
        assert await store.write(a_batch(1.0, batch_id="b")) is True


def test_steady_time_follows_a_clock_that_drifts() -> None:
    clock = TwoClocks()
    steady = SteadyTime(clock)
    for _ in range(100):
        clock.pass_s(3600)
        clock.wall_ms += JUMP_MS_MIN // 2
        assert steady.now_ms() == clock.wall_ms


def test_steady_time_believes_a_jump_ahead_after_a_day() -> None:
    clock = TwoClocks()
    steady = SteadyTime(clock)
    clock.wall_ms += 35 * DAY_MS
    assert steady.now_ms() == NOW_MS
    clock.pass_s(TRUST_AFTER_S - 1)
    assert steady.now_ms() == NOW_MS + int(TRUST_AFTER_S - 1) * 1000
    assert steady.offset_s() == 35 * 86_400
    clock.pass_s(2)
    assert steady.now_ms() == clock.wall_ms
    assert steady.offset_s() == 0


def test_a_clock_that_comes_back_is_followed_at_once() -> None:
    clock = TwoClocks()
    steady = SteadyTime(clock)
    clock.wall_ms += 35 * DAY_MS
    steady.now_ms()
    clock.wall_ms -= 36 * DAY_MS
    assert steady.now_ms() == clock.wall_ms
