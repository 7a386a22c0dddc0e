"""Results of recent queries: the least recently used are evicted first, and each expires.

The caller decides what may be cached: a result must depend on its key alone, and must not change with what is sent
from now on, late samples excepted.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Final, NamedTuple, TypeVar

from cachetools import TLRUCache

from vantage.core.clock import Clock
from vantage.telemetry import Telemetry

TTL_S: Final = 300.0
SETTLE_MS_MIN: Final = 120_000  # senders collect for seconds, and send again for minutes
ENTRY_NBYTES: Final = 1024  # beside the value: the key and the entry, which bounds small entries too
T = TypeVar("T")


class _Entry(NamedTuple):
    value: Any
    nbytes: int
    data_end_ms: int
    ttl_s: float


class _Entries(TLRUCache[Hashable, _Entry]):
    """The entries by key; ``popitem`` is called for each that is evicted to make room."""

    def __init__(self, nbytes_max: int, clock: Clock, on_evicted: Callable[[], None]) -> None:
        super().__init__(
            max(1, nbytes_max),
            ttu=lambda _key, entry, now_s: now_s + entry.ttl_s,
            timer=clock.monotonic_s,
            getsizeof=lambda entry: entry.nbytes,
        )
        self._on_evicted = on_evicted

    def popitem(self) -> tuple[Hashable, _Entry]:
        self._on_evicted()
        return super().popitem()


class Cache:
    """At most ``nbytes_max`` bytes, as callers estimate them; 0 caches nothing. For one event loop."""

    def __init__(self, nbytes_max: int, *, clock: Clock, telemetry: Telemetry) -> None:
        self._nbytes_max = nbytes_max
        self._clock = clock
        self._telemetry = telemetry
        self._entries = _Entries(nbytes_max, clock, telemetry.cache_evictions.inc)
        self._generation = 0

    @property
    def generation(self) -> int:
        """How often results were invalidated: note it before reading the store, and pass it to ``put``."""
        return self._generation

    @property
    def enabled(self) -> bool:
        return self._nbytes_max > 0

    def get(self, key: Hashable) -> Any | None:
        """Return the cached value, None when there is none or it has expired. It must not be changed."""
        if not self.enabled:
            return None
        entry = self._entries.get(key)
        if entry is None:
            self._expire()
            self._telemetry.cache_misses.inc()
            self._telemetry.cache_bytes.set(self._entries.currsize)  # expires entries
            return None
        self._telemetry.cache_hits.inc()
        return entry.value

    def put(
        self, key: Hashable, value: Any, *, nbytes: int, generation: int, data_end_ms: int, ttl_s: float = TTL_S
    ) -> None:
        """Cache a value that depends on no data at or after ``data_end_ms``.

        A value larger than the cache is not cached, nor one of an earlier ``generation``: it was being computed while
        data was deleted or came late, and may lack that.
        """
        nbytes += ENTRY_NBYTES
        if generation != self._generation or nbytes > self._nbytes_max:
            return
        self._expire()  # what has expired makes room before anything is evicted
        self._entries[key] = _Entry(value, nbytes, data_end_ms, ttl_s)
        self._telemetry.cache_bytes.set(self._entries.currsize)

    async def cached(
        self, key: Hashable, load: Callable[[], Awaitable[T]], *, ttl_s: float, nbytes: int = 0, data_end_ms: int = 0
    ) -> T:
        """Return the value of ``key``, at most ``ttl_s`` seconds old: cache an expensive result that live pages
        request repeatedly. Late data before ``data_end_ms`` invalidates it. Raises what ``load`` raises."""
        value: T | None = self.get(key)
        if value is None:
            generation = self._generation
            value = await load()
            self.put(key, value, nbytes=nbytes, generation=generation, data_end_ms=data_end_ms, ttl_s=ttl_s)
        return value

    def invalidate_from(self, at_ms: int) -> None:
        """Invalidate every entry that covers ``at_ms``, including results still being computed.

        Data that arrives on time invalidates nothing.
        """
        if at_ms > self._clock.now_ms() - SETTLE_MS_MIN:
            return
        self._generation += 1
        for key in [key for key, entry in self._entries.items() if entry.data_end_ms > at_ms]:
            del self._entries[key]
        self._telemetry.cache_bytes.set(self._entries.currsize)

    def clear(self) -> None:
        """Invalidate everything, including results still being computed."""
        self._generation += 1
        self._entries = _Entries(self._nbytes_max, self._clock, self._telemetry.cache_evictions.inc)
        self._telemetry.cache_bytes.set(0)

    def _expire(self) -> None:
        self._entries.expire()
        self._telemetry.cache_bytes.set(self._entries.currsize)
