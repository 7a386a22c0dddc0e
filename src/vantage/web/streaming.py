"""Long answers: made piece by piece, as fast as the client takes them, and ended when it does not."""

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

STALL_S: Final = 60.0  # without taking anything
UNCOMPRESSED: Final = "streamed"  # in `opt` of a handler: compressing would be done on the event loop

_log = structlog.get_logger("vantage.web")


class StreamingResponse(Response[bytes]):
    """An answer of pieces of unknown number. When one cannot be made the connection is broken off, so that the client
    does not take half of it for the whole."""

    def __init__(self, pieces: AsyncGenerator[bytes, None], *, media_type: str) -> None:
        super().__init__(b"", media_type=media_type)
        self._pieces = pieces

    def to_asgi_response(self, *_: Any, **named: Any) -> ASGIResponse:
        return _StreamingASGI(
            pieces=self._pieces,
            media_type=self.media_type,
            status_code=self.status_code or named.get("status_code"),
            headers={**(named.get("headers") or {}), **self.headers},
            encoded_headers=named.get("encoded_headers"),
        )


class _StreamingASGI(ASGIResponse):
    __slots__ = ("_pieces",)
    _should_set_content_length = False

    def __init__(self, *, pieces: AsyncGenerator[bytes, None], **named: Any) -> None:
        super().__init__(body=b"", **named)
        self._pieces = pieces

    async def send_body(self, send: Send, receive: Receive) -> None:
        gone = asyncio.create_task(_disconnected(receive))
        try:
            async with contextlib.aclosing(self._pieces) as pieces:
                async for piece in pieces:
                    async with asyncio.timeout(STALL_S):
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
                    if gone.done():
                        return
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (VantageError, TimeoutError) as error:
            _log.warning("answer broken off", reason=str(error) or f"the client took nothing for {STALL_S:g} s")
        finally:
            gone.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
