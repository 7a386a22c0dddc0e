"""Stream long responses in chunks, as fast as the client reads, and end them when it stops."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any, Final

import structlog
from litestar.response import Response
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Send

from vantage.core.errors import VantageError

STALL_S: Final = 60.0  # without reading anything
UNCOMPRESSED: Final = "streamed"  # in `opt` of a handler: compressing would be done on the event loop

_log = structlog.get_logger("vantage.web")


class StreamingResponse(Response[bytes]):
    """A response of an unknown number of chunks. After an error the connection is aborted, so that the client does not
    mistake a part for the complete response."""

    def __init__(self, chunks: AsyncGenerator[bytes, None], *, media_type: str) -> None:
        super().__init__(b"", media_type=media_type)
        self._chunks = chunks

    def to_asgi_response(self, *_: Any, **named: Any) -> ASGIResponse:
        return _StreamingASGI(
            chunks=self._chunks,
            media_type=self.media_type,
            status_code=self.status_code or named.get("status_code"),
            headers={**(named.get("headers") or {}), **self.headers},
            encoded_headers=named.get("encoded_headers"),
        )


class _StreamingASGI(ASGIResponse):
    __slots__ = ("_chunks",)
    _should_set_content_length = False

    def __init__(self, *, chunks: AsyncGenerator[bytes, None], **named: Any) -> None:
        super().__init__(body=b"", **named)
        self._chunks = chunks

    async def send_body(self, send: Send, receive: Receive) -> None:
        disconnected = asyncio.create_task(_wait_for_disconnect(receive))
        try:
            async with contextlib.aclosing(self._chunks) as chunks:
                async for chunk in chunks:
                    async with asyncio.timeout(STALL_S):
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                    if disconnected.done():
                        return
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (VantageError, TimeoutError) as error:
            _log.warning("response aborted", reason=str(error) or f"the client read nothing for {STALL_S:g} s")
        finally:
            disconnected.cancel()


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
