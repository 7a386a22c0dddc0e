"""Background loops: run them beside the server, and restart one that fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Final, Protocol

import structlog

from vantage.core.clock import Clock
from vantage.core.errors import VantageError

RESTART_AFTER_S: Final = 1.0
WRITABLE_POLL_S: Final = 10.0
_log = structlog.get_logger("vantage.supervisor")


class BackgroundLoop(Protocol):
    """Work that goes on for as long as the process serves."""

    @property
    def name(self) -> str:
        """How the log calls it."""
        ...

    async def run(self) -> None:
        """Work until cancelled. May raise: it is then called again."""
        ...


class WhileWritable:
    """A loop that writes to the metadata database: it waits while that cannot be written. ``read_only`` says why, ''
    when it can."""

    def __init__(self, loop: BackgroundLoop, read_only: Callable[[], str], clock: Clock) -> None:
        self.name = loop.name
        self._loop = loop
        self._read_only = read_only
        self._clock = clock

    async def run(self) -> None:
        """Work until cancelled. Raises what the loop raises."""
        while self._read_only():
            await self._clock.sleep(WRITABLE_POLL_S)
        await self._loop.run()


@asynccontextmanager
async def running(loops: Iterable[BackgroundLoop], clock: Clock) -> AsyncIterator[None]:
    """Run the loops until the context ends. One that fails is logged and restarted: no fault ends it for good."""
    tasks = [asyncio.create_task(_keep_running(loop, clock), name=f"vantage {loop.name}") for loop in loops]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _keep_running(loop: BackgroundLoop, clock: Clock) -> None:
    while True:
        try:
            await loop.run()
        except VantageError as error:
            _log.warning("background loop failed, restarting it", loop=loop.name, reason=str(error))
        except Exception:  # noqa: BLE001 - whatever it is, the loop must go on
            _log.exception("background loop failed, restarting it", loop=loop.name)
        await clock.sleep(RESTART_AFTER_S)
