"""Stream long responses in chunks, as fast as the client reads, and end them when it stops."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Final, TypeVar

import structlog
from litestar.response import Response
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Send

from vantage.core.errors import VantageError

SEND_NBYTES: Final = 256 << 10  # handed over at once: what the client has taken is known to this
CLIENT_GONE: Final = 499  # for the log: there is nobody to read it
T = TypeVar("T")
UNCOMPRESSED: Final = "streamed"  # in `opt` of a handler: compressing would be done on the event loop

_log = structlog.get_logger("vantage.web")


class Pace:
    """How fast a client takes a response, and the way to end it."""

    def __init__(self, monotonic_s: Callable[[], float]) -> None:
        self._monotonic_s = monotonic_s
        self._began_s = monotonic_s()
        self._nbytes = 0
        self.ended = asyncio.Event()

    def took(self, nbytes: int) -> None:
        self._nbytes += nbytes

    def elapsed_s(self) -> float:
        return self._monotonic_s() - self._began_s

    def bytes_per_s(self) -> float:
        """Return the average so far."""
        return self._nbytes / max(self.elapsed_s(), 1e-9)


class StreamingResponse(Response[bytes]):
    """A response of an unknown number of chunks, which browsers save as ``filename`` if it has one. After an error the
    connection is closed before the last chunk, so that the client does not mistake a part for the complete response.
    The server ends the connection of a client that does not read."""

    def __init__(
        self, chunks: AsyncGenerator[bytes, None], *, media_type: str, filename: str = "", pace: Pace | None = None
    ) -> None:
        super().__init__(b"", media_type=media_type)
        if filename:
            self.headers["Content-Disposition"] = f'attachment; filename="{filename}"'
        self._chunks = chunks
        self._pace = pace

    def to_asgi_response(self, *_: Any, **named: Any) -> ASGIResponse:
        return _StreamingASGI(
            chunks=self._chunks,
            pace=self._pace,
            media_type=self.media_type,
            status_code=self.status_code or named.get("status_code"),
            headers={**(named.get("headers") or {}), **self.headers},
            encoded_headers=named.get("encoded_headers"),
        )


class _StreamingASGI(ASGIResponse):
    __slots__ = ("_chunks", "_pace")
    _should_set_content_length = False

    def __init__(self, *, chunks: AsyncGenerator[bytes, None], pace: Pace | None, **named: Any) -> None:
        super().__init__(body=b"", **named)
        self._chunks = chunks
        self._pace = pace

    async def send_body(self, send: Send, receive: Receive) -> None:
        sending = asyncio.create_task(self._send_all(send))
        others = [asyncio.create_task(_wait_for_disconnect(receive))]
        if self._pace is not None:
            others.append(asyncio.create_task(self._wait_for_end(self._pace)))
        try:
            await asyncio.wait((sending, *others), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, *others):
                task.cancel()
        try:
            await sending
        except asyncio.CancelledError:
            if not sending.cancelled():  # it is this request that was cancelled
                raise
        except VantageError as error:
            _log.warning("response aborted", reason=str(error))

    async def _send_all(self, send: Send) -> None:
        async with contextlib.aclosing(self._chunks) as chunks:
            async for chunk in chunks:
                for start in range(0, len(chunk), SEND_NBYTES):
                    piece = chunk[start : start + SEND_NBYTES]
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                    if self._pace is not None:
                        self._pace.took(len(piece))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _wait_for_end(self, pace: Pace) -> None:
        await pace.ended.wait()
        _log.warning("response aborted", reason=f"the client read {pace.bytes_per_s():.0f} bytes a second")


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """Return the result of ``work``; cancel it when the client disconnects, and return None. The request's body must
    have been read."""
    working = asyncio.create_task(work)
    watch = asyncio.create_task(_wait_for_disconnect(receive))
    try:
        await asyncio.wait((working, watch), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
    finally:
        watch.cancel()
        working.cancel()
    await asyncio.wait([working])
    if not working.cancelled():
        working.exception()  # retrieved, although nobody waits for it
    return None


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
