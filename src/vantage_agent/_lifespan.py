"""The end of an ASGI application. Servers such as uvicorn exit by the signal that stopped them, without exit hooks, as
soon as the application has shut down: the rest must be sent before that message."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

from vantage_agent._tracer import tracer

END_S = 2.0


def call_unmeasured(
    call: Callable[..., Awaitable[Any]], app: Any, scope: Any, receive: Any, send: Any
) -> Awaitable[Any]:
    """Call ``call(app, scope, receive, send)``. The last message of a lifespan waits for a flush, for at most two
    seconds."""
    if not tracer.on or scope.get("type") != "lifespan":
        return call(app, scope, receive, send)

    async def sending(message: Any) -> Any:
        try:
            if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                await _flush()
        except Exception:
            pass
        return await send(message)

    return call(app, scope, receive, sending)


async def _flush() -> None:
    from vantage_agent import flush

    asyncio = sys.modules.get("asyncio")
    if asyncio is None or not _runs_asyncio(asyncio):
        flush(END_S)  # another kind of loop may wait at the end of its application
    else:
        # In another thread: this loop may run other applications, and even the server.
        await asyncio.get_running_loop().run_in_executor(None, flush, END_S)


def _runs_asyncio(asyncio: Any) -> bool:
    try:
        return asyncio.get_running_loop() is not None
    except RuntimeError:
        return False
