"""Turns of threads that compute for long: queries, pages, sealing and merging.

A thread that has the interpreter and not the processor keeps both from the threads that clients wait for, and the more
threads compute, the longer it waits for the processor. So only as many compute at a time as there are processors, and
each that has computed for a while lets those go first that have not: a page is made of many short pieces.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final, ParamSpec, TypeVar

TURN_S: Final = 0.02  # after which ``pass_on`` lets others go first
WAITING_MAX: Final = 32
PATIENCE_S: Final = 1.0  # after which a thread computes without a turn: who has one may wait for it
_WAITING: Final = ThreadPoolExecutor(WAITING_MAX, thread_name_prefix="vantage-wait")  # begins with no thread
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Waiting:
    ready: threading.Event = field(default_factory=threading.Event)
    has_turn: bool = False


class _OfThread(threading.local):
    depth = 0
    has_turn = False
    since_s = 0.0


class Turns:
    """At most ``count`` threads have a turn, the others wait in line; ``count`` is the number of processors by default.
    What has had a long turn already waits behind what has not. Any thread."""

    def __init__(self, count: int | None = None, *, patience_s: float = PATIENCE_S) -> None:
        self._free = count or processors()
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._lines: tuple[deque[_Waiting], deque[_Waiting]] = (deque(), deque())  # new work, and what was long already
        self._thread = _OfThread()
        self._stopped = False

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Compute in a turn until the context ends. Within a turn of the same thread it does nothing more."""
        thread = self._thread
        if not thread.depth:
            self._take()
        thread.depth += 1
        try:
            yield
        finally:
            thread.depth -= 1
            if not thread.depth:
                self._give()

    def pass_on(self) -> None:
        """Between two pieces of work: let others go first when this turn was long. Costs nothing while none wait."""
        if any(self._lines) and self._thread.has_turn and time.monotonic() - self._thread.since_s >= TURN_S:
            self._give()
            self._take(was_long=True)

    def stop(self) -> None:
        """Let every thread compute at once, as at the end of the process, when they wait for one another."""
        with self._lock:
            self._stopped = True
            for line in self._lines:
                while line:
                    line.popleft().ready.set()

    def _take(self, *, was_long: bool = False) -> None:
        thread, line = self._thread, self._lines[was_long]
        with self._lock:
            if self._stopped:
                return
            if self._free:
                self._free -= 1
                thread.has_turn, thread.since_s = True, time.monotonic()
                return
            waiting = _Waiting()
            line.append(waiting)
        if not waiting.ready.wait(self._patience_s):
            with self._lock:
                if waiting in line:
                    line.remove(waiting)
        thread.has_turn, thread.since_s = waiting.has_turn, time.monotonic()

    def _give(self) -> None:
        if not self._thread.has_turn:
            return
        self._thread.has_turn = False
        with self._lock:
            if line := next(filter(None, self._lines), None):
                following = line.popleft()
                following.has_turn = True
                following.ready.set()
            else:
                self._free += 1


class TurnExecutor(ThreadPoolExecutor):
    """Threads whose work takes turns. ``initializer`` is called in each thread first."""

    def __init__(self, turns: Turns, *, initializer: Callable[[], None]) -> None:
        super().__init__(thread_name_prefix="vantage-work", initializer=initializer)
        self._turns = turns

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a function in a turn."""

        def work() -> T:
            with self._turns.turn():
                return fn(*args, **kwargs)

        return super().submit(work)


async def wait_in_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call in a thread what waits for another thread or machine: without a turn, of which it would need nothing but
    keep others from it."""
    return await asyncio.get_running_loop().run_in_executor(_WAITING, partial(function, *args, **kwargs))


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
