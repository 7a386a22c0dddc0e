"""The query cache: bounded in bytes and in time, and empty at once when data is deleted."""

from __future__ import annotations

import random

import pytest

from tests.support.samples import MovedClock
from vantage.query.cache import ENTRY_NBYTES, TTL_S, Cache
from vantage.telemetry import Telemetry

ROOM = 10 * (ENTRY_NBYTES + 100)


class CacheUnderTest:
    """A cache, its clock and its counters."""

    def __init__(self, nbytes_max: int = ROOM) -> None:
        self.clock, self.telemetry = MovedClock(), Telemetry()
        self.cache = Cache(nbytes_max, clock=self.clock, telemetry=self.telemetry)

    def put(self, key: str, value: object = "v", nbytes: int = 100, until_ms: int = 0) -> None:
        self.cache.put(key, value, nbytes=nbytes, generation=self.cache.generation, data_end_ms=until_ms)

    def move(self, seconds: float) -> None:
        self.clock.now += int(seconds * 1000)

    def count(self, what: str) -> float:
        return self.telemetry.value(f"vantage_query_cache_{what}")


def test_stored_values_are_returned_and_counted() -> None:
    cached = CacheUnderTest()
    assert cached.cache.get("k") is None
    cached.put("k", [1])
    assert cached.cache.get("k") == [1]
    assert (cached.count("hits_total"), cached.count("misses_total")) == (1, 1)
    assert cached.count("bytes") == ENTRY_NBYTES + 100


def test_a_result_expires_after_five_minutes() -> None:
    cached = CacheUnderTest()
    cached.put("k")
    cached.move(TTL_S - 1)
    assert cached.cache.get("k") == "v"
    cached.move(1)
    assert cached.cache.get("k") is None
    assert (cached.count("bytes"), cached.count("evictions_total")) == (0, 0)


def test_reads_do_not_extend_the_ttl() -> None:
    cached = CacheUnderTest()
    cached.put("k")
    for _ in range(10):
        cached.cache.get("k")
        cached.move(TTL_S / 10)
    assert cached.cache.get("k") is None


def test_the_least_recently_used_is_evicted_first() -> None:
    cached = CacheUnderTest()
    for n in range(10):
        cached.put(f"k{n}")
    cached.cache.get("k0")
    cached.put("new")
    assert cached.cache.get("k1") is None
    assert cached.cache.get("k0") == cached.cache.get("new") == "v"
    assert cached.count("evictions_total") == 1


def test_expired_entries_are_not_counted_as_evicted() -> None:
    cached = CacheUnderTest()
    for n in range(10):
        cached.put(f"k{n}")
    cached.move(TTL_S)
    cached.put("new")
    assert cached.count("evictions_total") == 0


def test_a_result_larger_than_the_cache_is_not_stored_and_evicts_nothing() -> None:
    cached = CacheUnderTest()
    cached.put("k")
    cached.put("large", nbytes=ROOM)
    assert cached.cache.get("large") is None
    assert cached.cache.get("k") == "v"


def test_a_second_value_replaces_the_first() -> None:
    cached = CacheUnderTest()
    cached.put("k", 1, nbytes=500)
    cached.put("k", 2)
    assert cached.cache.get("k") == 2
    assert cached.count("bytes") == ENTRY_NBYTES + 100


def test_a_cache_of_no_bytes_stores_and_counts_nothing() -> None:
    cached = CacheUnderTest(0)
    cached.put("k", nbytes=0)
    assert cached.cache.get("k") is None
    assert not cached.cache.enabled
    assert (cached.count("misses_total"), cached.count("bytes")) == (0, 0)


def test_clearing_removes_everything() -> None:
    cached = CacheUnderTest()
    cached.put("k")
    cached.cache.clear()
    assert cached.cache.get("k") is None
    assert cached.count("bytes") == 0


def test_a_result_computed_while_the_cache_was_cleared_is_not_stored() -> None:
    cached = CacheUnderTest()
    before = cached.cache.generation
    cached.cache.clear()
    cached.cache.put("k", "of before", nbytes=1, generation=before, data_end_ms=0)
    assert cached.cache.get("k") is None
    cached.put("k", "of after")
    assert cached.cache.get("k") == "of after"


@pytest.mark.parametrize("seed", range(20))
def test_the_cache_agrees_with_a_model(seed: int) -> None:
    """Compare with a model: values are the last ones stored, have not expired, and fit into the limit."""
    chance, cached = random.Random(seed), CacheUnderTest()
    model: dict[str, tuple[int, int]] = {}
    for step in range(400):
        key = f"k{chance.randrange(15)}"
        match chance.choice("ggpppm" if step % 100 else "c"):
            case "g":
                result = cached.cache.get(key)
                if result is not None:
                    value, at_ms = model[key]
                    assert result == value
                    assert cached.clock.now - at_ms < TTL_S * 1000
            case "p":
                cached.put(key, step, nbytes=chance.choice([0, 50, 700, 4000]))
                model[key] = (step, cached.clock.now)
                assert cached.cache.get(key) == step
            case "m":
                cached.move(chance.randrange(60))
                cached.cache.get("unknown")  # expires
            case "c":
                cached.cache.clear()
                model.clear()
        cached.cache.get("unknown")  # frees what has expired
        entries = cached.cache._entries.values()
        assert cached.count("bytes") == sum(entry.nbytes for entry in entries) <= ROOM


def test_late_data_invalidates_results_of_its_time() -> None:
    cached = CacheUnderTest()
    now_ms = cached.clock.now_ms()
    cached.put("older", until_ms=now_ms - 900_000)
    cached.put("newer", until_ms=now_ms - 300_000)
    before = cached.cache.generation
    cached.cache.invalidate_from(now_ms - 1000)  # on time
    assert (cached.cache.get("older"), cached.cache.get("newer"), cached.cache.generation) == ("v", "v", before)
    cached.cache.invalidate_from(now_ms - 900_000)
    assert (cached.cache.get("older"), cached.cache.get("newer")) == ("v", None)
    cached.cache.put("newer", "under way meanwhile", nbytes=1, generation=before, data_end_ms=now_ms)
    assert cached.cache.get("newer") is None
