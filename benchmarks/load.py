"""The load: prepared requests over persistent connections, from one process on a core of its own.

``python -m benchmarks.load`` reads a JSON line from standard input (host, port, requests as hex, connections, seconds,
and a rate or null), sends the requests in turn, and prints the result as a JSON line.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import uvloop


class Connection(asyncio.Protocol):
    """Sends the next request after each response, or at its next turn with a rate. ``next_request`` returns None when
    there are no more. ``sent_s`` are the times at which the requests were due."""

    def __init__(self, next_request: Callable[[], bytes | None], every_s: float, first_s: float) -> None:
        self._next_request = next_request
        self._every_s = every_s
        self._next_s = first_s
        self._sent_s = 0.0
        self._buffer = b""
        self.latencies_s: list[float] = []
        self.sent_s: list[float] = []
        self.failed = 0
        self.done = asyncio.get_running_loop().create_future()
        self._transport: Any = None
        self.running = True

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._plan()

    def _plan(self) -> None:
        if not self.running:
            return
        if not self._every_s:
            self._send(time.perf_counter())
            return
        wait_s = self._next_s - time.perf_counter()
        due_s, self._next_s = self._next_s, self._next_s + self._every_s
        # With a rate, latency counts from when the request was due: a slow server cannot hide behind a waiting client.
        if wait_s > 0:
            asyncio.get_running_loop().call_later(wait_s, self._send, due_s)
        else:
            self._send(due_s)

    def _send(self, due_s: float) -> None:
        if not self.running:
            return
        request = self._next_request()
        if request is None:
            self.end()
            return
        self._sent_s = due_s
        self._transport.write(request)

    def end(self) -> None:
        self.running = False
        if not self.done.done():
            self.done.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        start = head.find(b"content-length:")
        length = int(head[start + 15 :].split(b"\r\n", 1)[0])
        if len(self._buffer) < end + 4 + length:
            return
        if self._buffer[9:12] != b"202":
            self.failed += 1
        self._buffer = b""
        self.latencies_s.append(time.perf_counter() - self._sent_s)
        self.sent_s.append(self._sent_s)
        self._plan()

    def connection_lost(self, error: Exception | None) -> None:
        if self.running:
            self.failed += 1
            self.end()


async def connect(order: dict[str, Any], next_request: Callable[[], bytes | None]) -> tuple[float, list[Connection]]:
    """Return the start time, and connections that have begun to send."""
    count, rate = order["connections"], order.get("rate")
    every_s = count / rate if rate else 0.0
    started = time.perf_counter()
    connections: list[Connection] = []
    for i in range(count):
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda i=i: Connection(next_request, every_s, started + every_s * i / count),
            order["host"],
            order["port"],
        )
        connections.append(connection)
    return started, connections


def disconnect(started: float, connections: list[Connection]) -> dict[str, Any]:
    """Close the connections, and return the result."""
    took_s = time.perf_counter() - started
    latencies = sorted(latency for connection in connections for latency in connection.latencies_s)
    failed = sum(connection.failed for connection in connections)
    for connection in connections:
        connection.end()
        connection._transport.abort()

    def at(share: float) -> float:
        return latencies[min(len(latencies) - 1, int(len(latencies) * share))] * 1000 if latencies else float("nan")

    return {
        "requests": len(latencies),
        "failed": failed,
        "per_s": len(latencies) / took_s,
        "p50_ms": at(0.50),
        "p99_ms": at(0.99),
    }


async def run(order: dict[str, Any]) -> dict[str, Any]:
    """Load a server, and return the result."""
    requests = itertools.cycle([bytes.fromhex(request) for request in order["requests"]])
    started, connections = await connect(order, requests.__next__)
    await asyncio.sleep(order["seconds"])
    return disconnect(started, connections)


def take_second_core() -> None:
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {1})


def main() -> None:
    take_second_core()
    for line in sys.stdin:
        print(json.dumps(uvloop.run(run(json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
