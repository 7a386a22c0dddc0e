"""A real HTTP server that answers as a test says: it hangs, fails, redirects, or vanishes."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class Received:
    """One request."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Answer:
    """``hangs``: nothing is sent; ``drips``: the body never ends; ``breaks``: the connection is closed at once."""

    status: int = 200
    body: bytes = b"ok"
    headers: Mapping[str, str] = field(default_factory=dict)
    hangs: bool = False
    drips: bool = False
    breaks: bool = False


class Receiver:
    """``answers`` is a list that is used up, its last one stays; or a function of the request."""

    def __init__(
        self, *answers: Answer, of: Callable[[Received], Answer] | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.answers = list(answers) or [Answer()]
        self.received: list[Received] = []
        self._of = of
        self._tls = tls
        self._port = 0
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    @property
    def port(self) -> int:
        return self._port

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, ssl=self._tls)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, path, _ = head[0].split(" ")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            request = Received(method, path, headers, body)
            self.received.append(request)
            answer = self._of(request) if self._of else self.answers.pop(0) if self.answers[1:] else self.answers[0]
            if answer.hangs:
                await reader.read()
            if answer.hangs or answer.breaks:
                return
            lines = [f"HTTP/1.1 {answer.status} Status", "connection: close"]
            lines += [] if answer.drips else [f"content-length: {len(answer.body)}"]
            lines += [f"{name}: {value}" for name, value in answer.headers.items()]
            writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + answer.body)
            await writer.drain()
            while answer.drips:
                writer.write(b"x" * 100)
                await writer.drain()
                await asyncio.sleep(0.01)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()
