"""Rates: one token bucket for each key, session or address."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Final

from cachetools import LRUCache

from vantage.core.errors import BusyError

BUCKETS_MAX: Final = 20_000


class RateLimited(BusyError):
    """Too many requests from one key, session or address."""


class TokenBuckets:
    """``per_minute`` requests each, refilled steadily; all of them may come at once. 0 is no limit.

    The least recently seen bucket is dropped when there are more than ``buckets_max``: whoever it belonged to starts
    with a full one again.
    """

    def __init__(self, per_minute: int, *, buckets_max: int = BUCKETS_MAX) -> None:
        self._capacity = float(per_minute)
        self._per_second = per_minute / 60.0
        self._buckets: LRUCache[str, tuple[float, float]] = LRUCache(buckets_max)

    def take(self, owner: str, now_s: float) -> None:
        """Take one token. Raises RateLimited with the seconds until the next one."""
        if not self._capacity:
            return
        tokens, at_s = self._buckets.get(owner, (self._capacity, now_s))
        tokens = min(self._capacity, tokens + (now_s - at_s) * self._per_second)
        enough = tokens >= 1.0
        self._buckets[owner] = (tokens - 1.0 if enough else tokens, now_s)
        if not enough:
            raise RateLimited(
                f"more than {self._capacity:.0f} requests a minute", retry_after_s=(1.0 - tokens) / self._per_second
            )


class TrustedProxies:
    """Finds the address a request comes from, believing only the proxies named in the settings."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = [ipaddress.ip_network(network, strict=False) for network in networks]

    def trusts(self, address: str) -> bool:
        if not self._networks:
            return False
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)

    def client(self, peer: str, headers: Mapping[bytes, bytes]) -> str:
        """The right-most address that no trusted proxy has: what stands left of it anyone may have written. Of IPv6
        its network."""
        if not self._networks:
            return _one_subscriber(peer)
        address = peer
        forwarded_for = headers.get(b"x-forwarded-for", b"").decode("latin-1")
        hops = [hop.strip() for hop in forwarded_for.split(",") if hop.strip()]
        while hops and self.trusts(address):
            address = hops.pop()
        return _one_subscriber(address)


def _one_subscriber(address: str) -> str:
    """The address that a rate is kept for. Of IPv6 it is the network of 64 bits, since everyone has one, with more
    addresses in it than there can be buckets."""
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    return str(parsed.ipv4_mapped or ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
