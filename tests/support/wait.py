"""Wait for a condition that can be observed, with a deadline, instead of sleeping for a fixed time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

TIMEOUT_S = 30.0  # only a failing test waits this long, even on a busy machine
BUSY_S = 5.0  # a busy machine may add this to a time limit under test: less than what the limit is there to prevent


def wait_until(condition: Callable[[], Any], timeout_s: float = TIMEOUT_S, every_s: float = 0.02) -> Any:
    """Return what ``condition`` returns as soon as that is true; fail when it is not within ``timeout_s``."""
    end_s = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < end_s, f"the condition was still false after {timeout_s:g} s"
        time.sleep(every_s)
    return result


async def until(condition: Callable[[], Any], timeout_s: float = TIMEOUT_S, every_s: float = 0.02) -> Any:
    """Do as ``wait_until`` without blocking the event loop. ``condition`` may be a coroutine function."""
    end_s = time.monotonic() + timeout_s
    while True:
        result = condition()
        if inspect.isawaitable(result):
            result = await result
        if result:
            return result
        assert time.monotonic() < end_s, f"the condition was still false after {timeout_s:g} s"
        await asyncio.sleep(every_s)
