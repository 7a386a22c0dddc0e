"""Responses with gzip. What is large is compressed in a thread: on the event loop every other request would wait."""

from __future__ import annotations

import asyncio
import zlib
from typing import Final

from litestar.datastructures import MutableScopeHeaders
from litestar.middleware.compression import CompressionMiddleware
from litestar.types import HTTPResponseStartEvent, Message, Scope, Send

GZIP_LEVEL: Final = 5
COMPRESSED_NBYTES_MIN: Final = 1000
THREAD_NBYTES_MIN: Final = 64 << 10  # what is smaller takes less than a thread costs
_GZIP_WINDOW: Final = 31  # 15 bits, and 16 for the header of gzip: zlib.net/manual.html, deflateInit2


class GzipMiddleware(CompressionMiddleware):
    """Compresses as Litestar's own middleware does, which never leaves the event loop."""

    def create_compression_send_wrapper(self, send: Send, compression_encoding: str, scope: Scope) -> Send:  # noqa: ARG002
        """Return ``send`` for the response to one request."""
        start: HTTPResponseStartEvent | None = None
        compressor = None

        async def send_on(message: Message) -> None:
            nonlocal start, compressor
            if message["type"] == "http.response.start":
                start = message
                return
            if message["type"] != "http.response.body":
                await send(message)
                return
            body, is_last = message["body"], not message.get("more_body", False)
            if start is not None and _may_compress(start) and (not is_last or len(body) >= COMPRESSED_NBYTES_MIN):
                compressor = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
                headers = MutableScopeHeaders(start)
                headers["Content-Encoding"] = compression_encoding
                headers.extend_header_value("vary", "Accept-Encoding")
                del headers["Content-Length"]
            if compressor is not None:
                message["body"] = await _compress(compressor, body, is_last=is_last)
            if start is not None:
                if compressor is not None and is_last:
                    MutableScopeHeaders(start)["Content-Length"] = str(len(message["body"]))
                await send(start)
                start = None
            await send(message)

        return send_on


def gzipped(body: bytes) -> bytes:
    """Return a response's body compressed, for one that is sent to several."""
    compressor = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    return compressor.compress(body) + compressor.flush()


def _may_compress(start: HTTPResponseStartEvent) -> bool:
    return all(name.lower() != b"content-encoding" for name, _ in start["headers"])


async def _compress(compressor: zlib._Compress, body: bytes, *, is_last: bool) -> bytes:
    """Return everything that a receiver needs for what was given so far."""

    def compress() -> bytes:
        return compressor.compress(body) + compressor.flush(zlib.Z_FINISH if is_last else zlib.Z_SYNC_FLUSH)

    return await asyncio.to_thread(compress) if len(body) > THREAD_NBYTES_MIN else compress()
