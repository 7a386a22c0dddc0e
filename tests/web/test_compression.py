"""Compressed responses: complete, in every shape, and never made while the event loop waits."""

from __future__ import annotations

import asyncio
import gzip
import random
import time
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from litestar import Litestar, get
from litestar.config.compression import CompressionConfig
from litestar.params import FromPath
from litestar.response import Response, Stream
from litestar.testing import AsyncTestClient

from vantage.web.compression import COMPRESSED_NBYTES_MIN, GZIP_LEVEL, THREAD_NBYTES_MIN, GzipMiddleware

GZIP = {"Accept-Encoding": "gzip"}


def text_of(nbytes: int) -> bytes:
    """Return text that is slow to compress."""
    words = [str(number) for number in range(1000)]
    draw = random.Random(7)
    return " ".join(draw.choice(words) for _ in range(nbytes // 3)).encode()[:nbytes]


LARGE = text_of(1 << 18) * 48  # gzip looks back by 32 KiB


@get("/body/{nbytes:int}", sync_to_thread=False)
def body(nbytes: FromPath[int]) -> Response[bytes]:
    return Response(LARGE[:nbytes], media_type="text/plain")


@get("/pieces/{nbytes:int}")
async def pieces(nbytes: FromPath[int]) -> Stream:
    async def made() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield LARGE[:nbytes]

    return Stream(made(), media_type="text/plain")


def app() -> Litestar:
    return Litestar(
        [body, pieces],
        compression_config=CompressionConfig(backend="gzip", middleware_class=GzipMiddleware),
        openapi_config=None,
    )


@pytest.mark.parametrize("nbytes", [0, COMPRESSED_NBYTES_MIN - 1, COMPRESSED_NBYTES_MIN, THREAD_NBYTES_MIN * 3])
@pytest.mark.parametrize("path", ["body", "pieces"])
async def test_a_response_is_what_it_was(path: str, nbytes: int) -> None:
    sent = LARGE[:nbytes] * (3 if path == "pieces" else 1)
    async with AsyncTestClient(app()) as client:
        for headers in (GZIP, {"Accept-Encoding": "identity"}):
            answer = await client.get(f"/{path}/{nbytes}", headers=headers)
            assert answer.content == sent
            compressed = headers is GZIP and (path == "pieces" or nbytes >= COMPRESSED_NBYTES_MIN)
            assert answer.headers.get("content-encoding") == ("gzip" if compressed else None)
            assert ("Accept-Encoding" in answer.headers.get("vary", "")) is compressed
            if path == "body" and not compressed:
                assert int(answer.headers["content-length"]) == nbytes


async def respond(bodies: list[bytes]) -> bytes:
    """Return the bytes of a response as they go to the server."""
    sent: list[bytes] = []

    async def application(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number, piece in enumerate(bodies, 1):
            await send({"type": "http.response.body", "body": piece, "more_body": number < len(bodies)})

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    scope: Any = {"type": "http", "path": "/", "headers": [(b"accept-encoding", b"gzip")]}
    middleware = GzipMiddleware(application, CompressionConfig(backend="gzip"))
    await middleware(scope, receive, send)
    return b"".join(sent)


@pytest.mark.parametrize("pieces_sent", [1, 3])
async def test_the_event_loop_does_not_wait_for_a_large_response(pieces_sent: int) -> None:
    """The longest time for which the loop does nothing else is compared with that of the same compression."""
    began_s = time.perf_counter()
    compressor = zlib.compressobj(GZIP_LEVEL)
    compressor.compress(LARGE)
    took_s = time.perf_counter() - began_s

    length = len(LARGE) // pieces_sent
    bodies = [LARGE[start : start + length] for start in range(0, len(LARGE), length)]
    gaps_s: list[float] = []
    for _ in range(3):  # a busy machine may stop this process for a while
        answer = asyncio.create_task(respond(bodies))
        longest_s, seen_s = 0.0, time.perf_counter()
        while not answer.done():
            await asyncio.sleep(0.001)
            now_s = time.perf_counter()
            longest_s, seen_s = max(longest_s, now_s - seen_s), now_s
        assert gzip.decompress(answer.result()) == LARGE
        gaps_s.append(longest_s)
    assert min(gaps_s) < took_s / 6, (gaps_s, took_s)
