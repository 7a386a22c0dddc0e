"""The cache of answers: bounded in bytes and in time, and empty at once when data is forgotten."""

from __future__ import annotations

import random

import pytest

from tests.support.samples import MovedClock
from vantage.query.cache import ENTRY_NBYTES, TTL_S, Cache
from vantage.telemetry import Telemetry

ROOM = 10 * (ENTRY_NBYTES + 100)


class Kept:
    """A cache, its clock and what it counts."""

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
    kept = Kept()
    assert kept.cache.get("k") is None
    kept.put("k", [1])
    assert kept.cache.get("k") == [1]
    assert (kept.count("hits_total"), kept.count("misses_total")) == (1, 1)
    assert kept.count("bytes") == ENTRY_NBYTES + 100


def test_a_result_expires_after_five_minutes() -> None:
    kept = Kept()
    kept.put("k")
    kept.move(TTL_S - 1)
    assert kept.cache.get("k") == "v"
    kept.move(1)
    assert kept.cache.get("k") is None
    assert (kept.count("bytes"), kept.count("evictions_total")) == (0, 0)


def test_reads_do_not_extend_the_ttl() -> None:
    kept = Kept()
    kept.put("k")
    for _ in range(10):
        kept.cache.get("k")
        kept.move(TTL_S / 10)
    assert kept.cache.get("k") is None


def test_the_least_recently_used_is_evicted_first() -> None:
    kept = Kept()
    for n in range(10):
        kept.put(f"k{n}")
    kept.cache.get("k0")
    kept.put("new")
    assert kept.cache.get("k1") is None
    assert kept.cache.get("k0") == kept.cache.get("new") == "v"
    assert kept.count("evictions_total") == 1


def test_expired_entries_are_not_counted_as_evicted() -> None:
    kept = Kept()
    for n in range(10):
        kept.put(f"k{n}")
    kept.move(TTL_S)
    kept.put("new")
    assert kept.count("evictions_total") == 0


def test_a_result_larger_than_the_cache_is_not_stored_and_evicts_nothing() -> None:
    kept = Kept()
    kept.put("k")
    kept.put("large", nbytes=ROOM)
    assert kept.cache.get("large") is None
    assert kept.cache.get("k") == "v"


def test_a_second_value_replaces_the_first() -> None:
    kept = Kept()
    kept.put("k", 1, nbytes=500)
    kept.put("k", 2)
    assert kept.cache.get("k") == 2
    assert kept.count("bytes") == ENTRY_NBYTES + 100


def test_a_cache_of_no_bytes_stores_and_counts_nothing() -> None:
    kept = Kept(0)
    kept.put("k", nbytes=0)
    assert kept.cache.get("k") is None
    assert not kept.cache.enabled
    assert (kept.count("misses_total"), kept.count("bytes")) == (0, 0)


def test_clearing_removes_everything() -> None:
    kept = Kept()
    kept.put("k")
    kept.cache.clear()
    assert kept.cache.get("k") is None
    assert kept.count("bytes") == 0


def test_a_result_computed_while_the_cache_was_cleared_is_not_stored() -> None:
    kept = Kept()
    before = kept.cache.generation
    kept.cache.clear()
    kept.cache.put("k", "of before", nbytes=1, generation=before, data_end_ms=0)
    assert kept.cache.get("k") is None
    kept.put("k", "of after")
    assert kept.cache.get("k") == "of after"


@pytest.mark.parametrize("seed", range(20))
def test_the_cache_agrees_with_a_model(seed: int) -> None:
    """Held against a model: whatever is found is what was put last, is young, and all of it fits."""
    chance, kept = random.Random(seed), Kept()
    model: dict[str, tuple[int, int]] = {}
    for step in range(400):
        key = f"k{chance.randrange(15)}"
        match chance.choice("ggpppm" if step % 100 else "c"):
            case "g":
                found = kept.cache.get(key)
                if found is not None:
                    value, at_ms = model[key]
                    assert found == value
                    assert kept.clock.now - at_ms < TTL_S * 1000
            case "p":
                kept.put(key, step, nbytes=chance.choice([0, 50, 700, 4000]))
                model[key] = (step, kept.clock.now)
                assert kept.cache.get(key) == step
            case "m":
                kept.move(chance.randrange(60))
                kept.cache.get("unknown")  # expires
            case "c":
                kept.cache.clear()
                model.clear()
        held = kept.cache._entries
        assert kept.count("bytes") == sum(entry.nbytes for entry in held.values()) <= ROOM


def test_late_data_invalidates_results_of_its_time() -> None:
    kept = Kept()
    now_ms = kept.clock.now_ms()
    kept.put("older", until_ms=now_ms - 900_000)
    kept.put("newer", until_ms=now_ms - 300_000)
    before = kept.cache.generation
    kept.cache.invalidate_from(now_ms - 1000)  # on time
    assert (kept.cache.get("older"), kept.cache.get("newer"), kept.cache.generation) == ("v", "v", before)
    kept.cache.invalidate_from(now_ms - 900_000)
    assert (kept.cache.get("older"), kept.cache.get("newer")) == ("v", None)
    kept.cache.put("newer", "under way meanwhile", nbytes=1, generation=before, data_end_ms=now_ms)
    assert kept.cache.get("newer") is None
