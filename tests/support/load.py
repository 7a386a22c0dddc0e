"""Send numbered batches from several threads at once, and count how often each is stored."""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Self

from tests.support.server import Server

THREADS = 4
SAMPLES_PER_BATCH = 7  # small, so that many batches are in flight at once
START_MS = 1_600_000_000_000
NO_RATES = {"VANTAGE_INGEST_RATE_LIMIT": "0", "VANTAGE_API_RATE_LIMIT": "0"}
BUCKET_MS = 1000
RUN = "import sys; from vantage.cli import main; sys.exit(main())"


def printed_seed() -> int:
    """Return a new seed, or that of VANTAGE_TEST_SEED, and print it for failing tests."""
    seed = int(os.environ.get("VANTAGE_TEST_SEED", time.time_ns() % 2**32))
    print(f"VANTAGE_TEST_SEED={seed}")
    return seed


@dataclass
class Sent:
    """Batches by number: acknowledged by a 202, or without a response."""

    answered: set[int] = field(default_factory=set)
    unanswered: set[int] = field(default_factory=set)


def batch(number: int, start_ms: int) -> dict[str, Any]:
    """Return a batch. Every sample has its own second and value, which both encode ``number`` and its index."""
    return {
        "service_name": "crash",
        "metrics": [
            {
                "metric_name": "m",
                "value": number * SAMPLES_PER_BATCH + index,
                "timestamp": start_ms + (number * SAMPLES_PER_BATCH + index) * BUCKET_MS,
                "trace_id": f"t{number}",
                "span_id": f"s{index}",
            }
            for index in range(SAMPLES_PER_BATCH)
        ],
    }


def post(connection: http.client.HTTPConnection, number: int, start_ms: int) -> int:
    headers = {"Content-Type": "application/json", "Idempotency-Key": f"b-{number}"}
    connection.request("POST", "/v1/metrics", json.dumps(batch(number, start_ms)), headers)
    response = connection.getresponse()
    response.read()
    return response.status


class Load:
    """Threads that send batch after batch, each with its own number, until the end or until the server has exited."""

    def __init__(self, server: Server, start_ms: int, first: int, *, pause_s: float = 0.0) -> None:
        self._pause_s = pause_s  # between two batches of a thread
        self.sent = Sent()
        self.next = first
        self._server = server
        self._start_ms = start_ms
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(THREADS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(30)

    def _number(self) -> int:
        with self._lock:
            self.next += 1
            return self.next - 1

    def _send(self) -> None:
        connection = http.client.HTTPConnection(*self._server.address, timeout=10)
        with closing(connection):
            self._send_over(connection)

    def _send_over(self, connection: http.client.HTTPConnection) -> None:
        while not self._stopping.wait(self._pause_s):
            number = self._number()
            try:
                status = post(connection, number, self._start_ms)
            except (OSError, http.client.HTTPException):
                self.sent.unanswered.add(number)
                return
            (self.sent.answered if status == 202 else self.sent.unanswered).add(number)


def read_back(server: Server, start_ms: int, batches: int) -> Counter[int]:
    """Return how often each value is stored, from the API's count and sum of every second."""
    stored: Counter[int] = Counter()
    per_query = 10_000
    for first in range(0, batches * SAMPLES_PER_BATCH, per_query):
        start = start_ms + first * BUCKET_MS
        path = (
            f"/api/metrics/timeseries?service=crash&metric=m&step=1s&start={start}&end={start + per_query * BUCKET_MS}"
        )
        counts, sums = (server.get(f"{path}&agg={agg}").json()["series"] for agg in ("count", "sum"))
        if not counts:
            continue
        for (at_ms, count), (_, total) in zip(counts[0]["points"], sums[0]["points"], strict=True):
            if count:
                value = (at_ms - start_ms) // BUCKET_MS
                stored[value] = int(count)
                assert total == value * count, (
                    f"the second of {value} has other values: the sum of {count} samples is {total}"
                )
    return stored


def values_of(number: int) -> range:
    return range(number * SAMPLES_PER_BATCH, (number + 1) * SAMPLES_PER_BATCH)
