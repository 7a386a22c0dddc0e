"""The threads that run queries, and a limit on waiting queries."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from vantage.core.errors import BusyError, StoreUnavailable, VantageError
from vantage.core.turns import Turns, wait_in_thread

WAITING_MAX: Final = 32
T = TypeVar("T")


class QueryPool:
    """``threads`` queries run at once, WAITING_MAX more wait. ``initializer`` is called in each thread first; with
    ``turns``, queries compute in turns."""

    def __init__(
        self, threads: int, *, initializer: Callable[[], None] | None = None, turns: Turns | None = None
    ) -> None:
        self._turns = turns
        self._threads = threads
        self._initializer = initializer
        self._pool: ThreadPoolExecutor | None = None
        self._queries = 0
        self.stopping = threading.Event()  # running queries look at it, and end

    def start(self) -> None:
        self.stopping.clear()
        self._pool = ThreadPoolExecutor(self._threads, "vantage-query", initializer=self._initializer)

    async def stop(self) -> None:
        """End running queries, cancel waiting ones, and wait for them."""
        self.stopping.set()
        pool, self._pool = self._pool, None
        if pool is not None:
            await wait_in_thread(pool.shutdown, wait=True, cancel_futures=True)

    @property
    def pool(self) -> ThreadPoolExecutor:
        """The threads, for work with its own limit. Raises StoreUnavailable."""
        if self._pool is None:
            raise StoreUnavailable("the store is closed")
        return self._pool

    async def run(self, work: Callable[[], T]) -> T:
        """Run ``work`` in a thread. Raises BusyError when too many queries wait, StoreUnavailable before ``start`` and
        after ``stop``."""
        pool = self.pool
        if self._queries >= self._threads + WAITING_MAX:
            raise BusyError("too many queries are waiting")
        self._queries += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, self._in_turn, work)
        finally:
            self._queries -= 1

    def _in_turn(self, work: Callable[[], T]) -> T:
        if self._turns is None:
            return _without_frames(work)
        with self._turns.turn():
            return _without_frames(work)


def _without_frames(work: Callable[[], T]) -> T:
    """Run ``work``. An error lives on until its answer is sent, or, in a cycle, until all garbage is collected: it must
    not hold what the query had read, as the frames of its traceback do."""
    try:
        return work()
    except (VantageError, MemoryError) as error:
        error.__context__ = None
        raise error.with_traceback(None) from None
