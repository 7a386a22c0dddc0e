"""Closing that a cancellation does not interrupt: what is closed half-way keeps its lock, threads and connections."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def to_its_end(closing: Coroutine[Any, Any, None]) -> None:
    """Run ``closing`` to its end, and raise what it raises. When this task is cancelled meanwhile, the cancellation is
    raised afterwards."""
    task = asyncio.ensure_future(closing)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        task.exception()  # retrieved, so that it is not logged as forgotten
        raise cancelled
    task.result()
