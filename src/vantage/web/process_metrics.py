"""``/metrics`` of a port that several processes serve: a scrape reaches one of them, and wants all.

Each process answers its siblings on a Unix socket.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from vantage.telemetry import Telemetry, merge_expositions

ANSWER_TIMEOUT_S: Final = 1.0  # a process that takes longer is left out
ANSWER_NBYTES_MAX: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Siblings:
    """The ``count`` processes of a port, of which this is the one with ``number``, and the folder of their sockets."""

    number: int
    count: int
    folder: Path

    def socket(self, number: int) -> str:
        """Return the path of a process's socket."""
        return str(self.folder / f"{number}.sock")

    def own_socket(self) -> str:
        """Return the path of this process's socket, without what a process before left there."""
        path = self.socket(self.number)
        Path(path).unlink(missing_ok=True)
        return path


class ProcessMetrics:
    """The metrics of this process and its siblings; of this process alone where there are none."""

    def __init__(self, telemetry: Telemetry, siblings: Siblings | None) -> None:
        self._telemetry = telemetry
        self._siblings = siblings
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        if self._siblings is not None:
            path = self._siblings.own_socket()
            self._server = await asyncio.start_unix_server(self._answer, path)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()

    async def _answer(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(self._telemetry.exposition())
            await writer.drain()
        writer.close()

    async def exposition(self) -> bytes:
        """Return the metrics in the text format, version 0.0.4."""
        own = self._telemetry.exposition()
        siblings = self._siblings
        if siblings is None:
            return own
        others = [number for number in range(siblings.count) if number != siblings.number]
        answers = await asyncio.gather(*(_ask(siblings.socket(number)) for number in others))
        texts = {siblings.number: own, **dict(zip(others, answers, strict=True))}
        return await asyncio.to_thread(merge_expositions, {number: texts[number].decode() for number in sorted(texts)})


async def _ask(path: str) -> bytes:
    """Return what a process answers, nothing if it is away."""
    writer = None
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(path, limit=ANSWER_NBYTES_MAX)
            return await reader.read()
    except (OSError, TimeoutError):
        return b""
    finally:
        if writer is not None:
            writer.close()
