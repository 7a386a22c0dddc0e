"""A query whose client disconnects is cancelled."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.wait import until
from vantage.app import create_app
from vantage.config import Settings
from vantage.core.errors import StoreTimeout
from vantage.storage.embedded.store import EmbeddedStore
from vantage.web.streaming import while_connected


class Client:
    """The ``receive`` of a request whose body was read."""

    def __init__(self) -> None:
        self.disconnected = asyncio.Event()

    async def __call__(self) -> Any:
        await self.disconnected.wait()
        return {"type": "http.disconnect"}


async def test_a_result_or_an_error_reaches_a_client_that_stays() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 7

    async def failing() -> int:
        raise StoreTimeout("too long")

    assert await while_connected(Client(), work()) == 7
    with pytest.raises(StoreTimeout):
        await while_connected(Client(), failing())
    await until(lambda: len(asyncio.all_tasks()) == 1)


async def test_the_query_of_a_client_that_disconnects_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled, started, client = asyncio.Event(), asyncio.Event(), Client()

    async def select(self: object, query: object, *, deadline_s: float) -> object:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return None

    monkeypatch.setattr(EmbeddedStore, "select", select)
    body = json.dumps({"query": "SELECT count() FROM metrics"}).encode()
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])
    sent: list[Any] = []

    async def receive() -> Any:
        message = next(messages, None)
        return message if message is not None else await client()

    async def send(message: Any) -> None:
        sent.append(message)

    app = create_app(Settings(data=str(tmp_path), self_telemetry=False))
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/vql/execute", "raw_path": b"/vql/execute", "query_string": b"", "root_path": "", "headers": headers,
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000), "state": {},
    }  # fmt: skip
    async with app.opened():
        request = asyncio.create_task(app.asgi(scope, receive, send))
        await until(started.is_set)
        client.disconnected.set()
        await request
    assert cancelled.is_set()
    assert sent[0]["status"] == 499
