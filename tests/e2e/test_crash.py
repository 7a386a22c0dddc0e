"""Whatever was answered 202 is there after a SIGKILL at any moment, once; whatever was not, can be sent again.

What a lying store would show here: batches acknowledged before they were committed are missing; batches committed but
not remembered by id are doubled when they are sent again; batches kept in part have some of their samples only; a
group commit that mixes its batches up gives values to the wrong ones.
"""

from __future__ import annotations

import http.client
import os
import random
from pathlib import Path

import pytest

from tests.support.load import (
    NO_RATES,
    RUN,
    SAMPLES_PER_BATCH,
    START_MS,
    Load,
    post,
    printed_seed,
    read_back,
    values_of,
)
from tests.support.server import Server
from tests.support.wait import wait_until

LONG = bool(os.environ.get("VANTAGE_TEST_LONG"))
ROUNDS = 50 if LONG else 2


def crash_rounds(data: Path, rounds: int, *, seed: int, program: tuple[str, ...] = ("-m", "vantage")) -> None:
    """Load, kill, look, send again, look again: ``rounds`` times on one folder."""
    chance = random.Random(seed)
    answered: set[int] = set()
    number = 0
    server = Server(data, environ=NO_RATES, program=program).wait_ready()
    try:
        for _ in range(rounds):
            with Load(server, START_MS, number) as load:
                enough = chance.randint(1, 100)
                wait_until(lambda load=load, enough=enough: len(load.sent.answered) >= enough, every_s=0.001)
                server.kill()
            number = load.next
            answered |= load.sent.answered

            server = Server(data, environ=NO_RATES, program=program).wait_ready()
            result = read_back(server, START_MS, number)
            for item in answered:
                stored = [result[value] for value in values_of(item)]
                assert stored == [1] * SAMPLES_PER_BATCH, f"batch {item} was answered 202 and is kept as {stored}"
            for item in load.sent.unanswered:
                assert {result[value] for value in values_of(item)} in ({0}, {1}), f"batch {item} is kept in part"

            again = [*sorted(load.sent.unanswered), *chance.sample(sorted(answered), min(20, len(answered)))]
            connection = http.client.HTTPConnection(*server.address, timeout=10)
            assert {post(connection, item, START_MS) for item in again} <= {202}
            connection.close()
            answered |= load.sent.unanswered
            assert answered == set(range(number)), "the test lost count"
            result = read_back(server, START_MS, number)
            assert set(result.values()) <= {1}, "a batch sent again is kept twice"
            assert len(result) == number * SAMPLES_PER_BATCH, f"kept are {len(result)} of {number * SAMPLES_PER_BATCH}"
            assert "Traceback" not in server.output
        for item in chance.sample(range(number), min(10, number)):
            linked = server.get(f"/api/traces/t{item}").json()["samples"]
            assert sorted(sample["value"] for sample in linked) == list(values_of(item))
    finally:
        if server.process.poll() is None:
            server.kill()


@pytest.fixture
def seed() -> int:
    return printed_seed()


@pytest.mark.timeout(60 * ROUNDS)
def test_every_batch_is_kept_exactly_once_through_kills_at_random_moments(tmp_path: Path, seed: int) -> None:
    crash_rounds(tmp_path / "data", ROUNDS, seed=seed)


ACKNOWLEDGES_EARLY = """
from vantage.storage.embedded.write.journal import Journal
from vantage.storage.embedded.store import EmbeddedStore

async def write(self, batch):
    done = self._commits.write(batch)
    done.add_done_callback(lambda done: done.exception())
    return True

EmbeddedStore.write = write
"""
FORGETS_BATCH_IDS = """
from vantage.storage.recent_batch_ids import RecentBatchIds
RecentBatchIds.seen = lambda self, batch_id: False
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
from vantage.storage.embedded.write.journal import Journal
commit = Journal.commit

def slow(self, *args, **named):
    time.sleep(0.05)
    return commit(self, *args, **named)

Journal.commit = slow
"""


@pytest.mark.parametrize(
    ("lie", "seen"),
    [
        (ACKNOWLEDGES_EARLY + SLOW_DISK, "answered 202"),
        (FORGETS_BATCH_IDS, "kept twice"),
        (KEEPS_HALF, "answered 202|in part|kept are"),
    ],
    ids=["acknowledges before the commit", "forgets batch ids", "keeps half a batch"],
)
def test_a_store_that_lies_does_not_pass(tmp_path: Path, seed: int, lie: str, seen: str) -> None:
    with pytest.raises(AssertionError, match=seen):
        crash_rounds(tmp_path / "data", 4, seed=seed, program=("-c", lie + RUN))
