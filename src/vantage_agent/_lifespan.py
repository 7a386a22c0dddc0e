"""The end of an ASGI application. Servers such as uvicorn die of the signal that ended them, past every exit hook, as
soon as the application has shut down: what is left has to be sent before it says so."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

from vantage_agent._tracer import tracer

END_S = 2.0


def call_unmeasured(
    call: Callable[..., Awaitable[Any]], app: Any, scope: Any, receive: Any, send: Any
) -> Awaitable[Any]:
    """``call(app, scope, receive, send)``. The last message of a lifespan waits for what is left, for at most two
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
        flush(END_S)  # another kind of loop: at the end of its application it may wait
    else:
        # In another thread: other applications may run in this loop, and the server may be one of them.
        await asyncio.get_running_loop().run_in_executor(None, flush, END_S)


def _runs_asyncio(asyncio: Any) -> bool:
    try:
        return asyncio.get_running_loop() is not None
    except RuntimeError:
        return False
