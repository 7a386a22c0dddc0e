"""The minutes that a running store writes to, and pausing it."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.samples import NOW_MS, MovedClock, a_batch, a_span
from vantage.core.batch import Batch
from vantage.core.errors import BusyError
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.embedded.write.touched import MINUTE_MS, MINUTES_MAX
from vantage.storage.ports import RetentionPolicy, Selector
from vantage.storage.promotion.serving import ranges_of
from vantage.telemetry import Telemetry

MINUTE = NOW_MS // MINUTE_MS


def opened(folder: Path) -> EmbeddedStore:
    return EmbeddedStore(folder, clock=MovedClock(), telemetry=Telemetry())


async def test_minutes_are_noted_while_they_are_followed(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.write(a_batch(1, at_ms=NOW_MS))
        assert store.touched.take() == []
        store.touched.follow()
        await store.write(a_batch(1, at_ms=NOW_MS))
        await store.write(a_batch(1, at_ms=NOW_MS - 3 * MINUTE_MS))
        await store.write(Batch(spans=(a_span("t", "s", start_ms=NOW_MS - MINUTE_MS),)))
        assert store.touched.take() == [MINUTE - 3, MINUTE - 1, MINUTE]
        assert store.touched.take() == []
        await store.delete(Selector(service="shop"))
        assert store.touched.take() is None
        store.touched.stop()
        await store.write(a_batch(1, at_ms=NOW_MS))
        assert store.touched.take() == []


async def test_too_many_minutes_are_any(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        store.touched.follow()
        for start in range(0, MINUTES_MAX + 1000, 10_000):
            first_ms = start * MINUTE_MS
            batch = a_batch(*range(10_000), at_ms=first_ms)
            batch.time_ms[:] = first_ms + MINUTE_MS * (batch.value.astype("int64"))
            await store.write(batch)
        assert store.touched.take() is None


async def test_nothing_is_written_or_deleted_while_writes_are_paused(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.write(a_batch(1))
        await store.pause_writes("the data is being moved")
        with pytest.raises(BusyError, match="being moved"):
            await store.write(a_batch(2))
        with pytest.raises(BusyError, match="being moved"):
            await store.delete(Selector(service="shop"))
        assert not (await store.expire(RetentionPolicy(days=1))).samples
        store.resume_writes()
        assert await store.write(a_batch(2))


async def test_a_deletion_that_runs_has_ended_when_writes_are_paused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as store:
        await store.write(a_batch(1))
        store.touched.follow()
        store.touched.take()
        begun, delete = threading.Event(), store._deleter.delete

        def slow(*arguments: Any) -> Any:
            begun.set()
            time.sleep(0.3)
            return delete(*arguments)

        monkeypatch.setattr(store._deleter, "delete", slow)
        deleting = asyncio.create_task(store.delete(Selector(service="api")))
        await asyncio.to_thread(begun.wait)
        await store.pause_writes("the data is being moved")
        assert deleting.done()
        assert store.touched.take() is None
        await deleting


def test_minutes_become_ranges_within_their_hours() -> None:
    hour = 60 * 1000
    assert [(each.start_ms // MINUTE_MS, each.end_ms // MINUTE_MS) for each in ranges_of([])] == []
    minutes = [hour + 1, hour + 2, hour + 59, hour + 60, hour + 61, hour + 64]
    assert [(each.start_ms // MINUTE_MS, each.end_ms // MINUTE_MS) for each in ranges_of(minutes)] == [
        (hour + 1, hour + 3),
        (hour + 59, hour + 60),
        (hour + 60, hour + 62),
        (hour + 64, hour + 65),
    ]
    (complete,) = ranges_of(list(range(hour, hour + 60, 4)))
    assert (complete.start_ms // MINUTE_MS, complete.end_ms // MINUTE_MS) == (hour, hour + 60)
