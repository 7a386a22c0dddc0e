"""Whatever was answered 202 is there after a SIGKILL at any moment, once; whatever was not, can be sent again.

What a lying store would show here: batches acknowledged before they were committed are missing; batches committed but
not remembered by id are doubled when they are sent again; batches kept in part have some of their samples only; a
group commit that mixes its batches up gives values to the wrong ones.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

from tests.support.server import Server

LONG = bool(os.environ.get("VANTAGE_TEST_LONG"))
ROUNDS = 50 if LONG else 6
THREADS = 4
SAMPLES_PER_BATCH = 7  # small, so that many batches are under way at once
NO_RATES = {"VANTAGE_INGEST_RATE_LIMIT": "0", "VANTAGE_API_RATE_LIMIT": "0"}
BUCKET_MS = 1000


@dataclass
class Sent:
    """Batches by number: those answered 202, and those whose answer never came."""

    answered: set[int] = field(default_factory=set)
    unanswered: set[int] = field(default_factory=set)


def batch(number: int, start_ms: int) -> dict[str, Any]:
    """Every sample has a second and a value of its own: ``number`` and its place can be read back from both."""
    return {
        "service_name": "crash",
        "metrics": [
            {
                "metric_name": "m",
                "value": number * SAMPLES_PER_BATCH + place,
                "timestamp": start_ms + (number * SAMPLES_PER_BATCH + place) * BUCKET_MS,
                "trace_id": f"t{number}",
                "span_id": f"s{place}",
            }
            for place in range(SAMPLES_PER_BATCH)
        ],
    }


def post(connection: http.client.HTTPConnection, number: int, start_ms: int) -> int:
    headers = {"Content-Type": "application/json", "Idempotency-Key": f"b-{number}"}
    connection.request("POST", "/v1/metrics", json.dumps(batch(number, start_ms)), headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status


class Load:
    """Threads that send batch after batch, each with a number of its own, until the server is gone."""

    def __init__(self, server: Server, start_ms: int, first: int) -> None:
        self.sent = Sent()
        self.next = first
        self._server = server
        self._start_ms = start_ms
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._send) for _ in range(THREADS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.join(30)

    def _number(self) -> int:
        with self._lock:
            self.next += 1
            return self.next - 1

    def _send(self) -> None:
        connection = http.client.HTTPConnection(*self._server.address, timeout=10)
        while True:
            number = self._number()
            try:
                status = post(connection, number, self._start_ms)
            except (OSError, http.client.HTTPException):
                self.sent.unanswered.add(number)
                connection.close()
                return
            (self.sent.answered if status == 202 else self.sent.unanswered).add(number)


def read_back(server: Server, start_ms: int, batches: int) -> Counter[int]:
    """How often each value is kept, as the API tells: the count and the sum of every second."""
    found: Counter[int] = Counter()
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
                found[value] = int(count)
                assert total == value * count, f"the second of {value} holds other values: {count} samples make {total}"
    return found


def values_of(number: int) -> range:
    return range(number * SAMPLES_PER_BATCH, (number + 1) * SAMPLES_PER_BATCH)


def crash_rounds(data: Path, rounds: int, *, seed: int, program: tuple[str, ...] = ("-m", "vantage")) -> None:
    """Load, kill, look, send again, look again: ``rounds`` times on one folder."""
    chance = random.Random(seed)
    start_ms = 1_600_000_000_000
    answered: set[int] = set()
    number = rounds_with_answers = 0
    server = Server(data, environ=NO_RATES, program=program).wait_ready()
    try:
        for _ in range(rounds):
            with Load(server, start_ms, number) as load:
                time.sleep(chance.uniform(0.02, 0.7))
                server.kill()
            number = load.next
            answered |= load.sent.answered
            rounds_with_answers += bool(load.sent.answered)

            server = Server(data, environ=NO_RATES, program=program).wait_ready()
            found = read_back(server, start_ms, number)
            for one in answered:
                kept = [found[value] for value in values_of(one)]
                assert kept == [1] * SAMPLES_PER_BATCH, f"batch {one} was answered 202 and is kept as {kept}"
            for one in load.sent.unanswered:
                assert {found[value] for value in values_of(one)} in ({0}, {1}), f"batch {one} is kept in part"

            again = [*sorted(load.sent.unanswered), *chance.sample(sorted(answered), min(20, len(answered)))]
            connection = http.client.HTTPConnection(*server.address, timeout=10)
            assert {post(connection, one, start_ms) for one in again} <= {202}
            connection.close()
            answered |= load.sent.unanswered
            assert answered == set(range(number)), "the test lost count"
            found = read_back(server, start_ms, number)
            assert set(found.values()) <= {1}, "a batch sent again is kept twice"
            assert len(found) == number * SAMPLES_PER_BATCH, f"kept are {len(found)} of {number * SAMPLES_PER_BATCH}"
            assert "Traceback" not in server.output
        assert rounds_with_answers >= rounds / 2, "the kills came before any answer: nothing was tested"
        for one in chance.sample(range(number), min(10, number)):
            linked = server.get(f"/api/traces/t{one}").json()["samples"]
            assert sorted(sample["value"] for sample in linked) == list(values_of(one))
    finally:
        if server.process.poll() is None:
            server.kill()


@pytest.fixture
def seed() -> int:
    seed = int(os.environ.get("VANTAGE_TEST_SEED", time.time_ns() % 2**32))
    print(f"VANTAGE_TEST_SEED={seed}")
    return seed


@pytest.mark.timeout(60 * ROUNDS)
def test_every_batch_is_kept_exactly_once_through_kills_at_random_moments(tmp_path: Path, seed: int) -> None:
    crash_rounds(tmp_path / "data", ROUNDS, seed=seed)


ACKNOWLEDGES_EARLY = """
from vantage.storage.embedded.journal import Journal
from vantage.storage.embedded.store import EmbeddedStore

async def write(self, batch):
    done = self._writer.write(batch)
    done.add_done_callback(lambda done: done.exception())
    return True

EmbeddedStore.write = write
"""
FORGETS_BATCH_IDS = """
from vantage.storage.embedded.batch_ids import BatchIds
BatchIds.seen = lambda self, batch_id, now_ms: False
"""
KEEPS_HALF = """
from vantage.storage.embedded.store import EmbeddedStore
from vantage.core.batch import Batch
kept = EmbeddedStore.write

async def write(self, batch):
    half = Batch(batch.series, batch.index[:4], batch.time_ms[:4], batch.value[:4], batch_id=batch.batch_id)
    return await kept(self, half if batch.batch_id.endswith("7") else batch)

EmbeddedStore.write = write
"""
SLOW_DISK = """
import time
from vantage.storage.embedded.journal import Journal
commit = Journal.commit

def slow(self, *args, **named):
    time.sleep(0.05)
    return commit(self, *args, **named)

Journal.commit = slow
"""
RUN = "import sys; from vantage.cli import main; sys.exit(main())"


@pytest.mark.parametrize(
    ("lie", "seen"),
    [(ACKNOWLEDGES_EARLY + SLOW_DISK, "answered 202"), (FORGETS_BATCH_IDS, "kept twice"), (KEEPS_HALF, "answered 202")],
    ids=["acknowledges before the commit", "forgets batch ids", "keeps half a batch"],
)
def test_a_store_that_lies_does_not_pass(tmp_path: Path, seed: int, lie: str, seen: str) -> None:
    with pytest.raises(AssertionError, match=seen):
        crash_rounds(tmp_path / "data", 4, seed=seed, program=("-c", lie + RUN))
