"""A store that is cancelled while it closes is closed nevertheless."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.samples import MovedClock, a_batch
from vantage.storage.closing import to_its_end
from vantage.storage.embedded.store import EmbeddedStore
from vantage.telemetry import Telemetry


async def test_closing_ends_before_its_cancellation_is_raised() -> None:
    may_end, ended = asyncio.Event(), False

    async def close() -> None:
        nonlocal ended
        await may_end.wait()
        ended = True

    task = asyncio.create_task(to_its_end(close()))
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended


async def test_an_error_of_closing_is_raised() -> None:
    async def close() -> None:
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        await to_its_end(close())


async def test_an_embedded_store_is_closed_though_its_closing_is_cancelled(tmp_path: Path) -> None:
    def store() -> EmbeddedStore:
        return EmbeddedStore(tmp_path, clock=MovedClock(), telemetry=Telemetry())

    async def write() -> None:
        async with store() as opened:
            await opened.write(a_batch(3))
            closing.set()

    closing = asyncio.Event()
    task = asyncio.create_task(write())
    await closing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with store() as again:
        assert [info.samples for info in await again.list_series()] == [1]
