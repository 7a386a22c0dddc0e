"""Rate limits: one token bucket for each key, session or address, in this process."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol

from vantage.core.errors import BusyError

BUCKETS_MAX: Final = 20_000


class RateLimited(BusyError):
    """Too many requests from one key, session or address."""


class Rates(Protocol):
    """The rates of one kind of request: those of this process (``TokenBuckets``), or shared ones."""

    def take(self, owner: str, now_s: float) -> Awaitable[None] | None:
        """Take one token: on return, or when what is returned has been awaited. Raises RateLimited."""
        ...


def too_many(per_minute: float, retry_after_s: float) -> RateLimited:
    """Return the error of an owner who has no token left."""
    return RateLimited(f"more than {per_minute:.0f} requests a minute", retry_after_s=retry_after_s)


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at_s: float = 0.0  # when tokens were last added; a full bucket takes none


class TokenBuckets:
    """Buckets of ``per_minute`` requests, refilled steadily; all of them may come at once. 0 is no limit.

    The least recently used bucket is dropped beyond ``buckets_max``: its owner starts again with a full one.
    """

    def __init__(self, per_minute: int, *, buckets_max: int = BUCKETS_MAX) -> None:
        self._capacity = float(per_minute)
        self._per_second = per_minute / 60.0
        self._bucket = lru_cache(buckets_max)(lambda _owner: _Bucket(self._capacity))

    def take(self, owner: str, now_s: float) -> None:
        """Take one token. Raises RateLimited with the seconds until the next one."""
        if not self._capacity:
            return
        bucket = self._bucket(owner)
        bucket.tokens = min(self._capacity, bucket.tokens + (now_s - bucket.at_s) * self._per_second)
        bucket.at_s = now_s
        if bucket.tokens < 1.0:
            raise too_many(self._capacity, (1.0 - bucket.tokens) / self._per_second)
        bucket.tokens -= 1.0


class TrustedProxies:
    """Finds the address of the client, trusting only the proxies of the settings."""

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
        """Return the right-most address that is not a trusted proxy: anyone may have written those to its left. For
        IPv6 return the network."""
        if not self._networks:
            return _rate_owner(peer)
        address = peer
        forwarded_for = headers.get(b"x-forwarded-for", b"").decode("latin-1")
        hops = [hop.strip() for hop in forwarded_for.split(",") if hop.strip()]
        while hops and self.trusts(address):
            address = hops.pop()
        return _rate_owner(address)


def _rate_owner(address: str) -> str:
    """Return the owner of a rate: an IPv4 address, or the /64 network of an IPv6 address, since every client has a
    network with more addresses than there can be buckets."""
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    return str(parsed.ipv4_mapped or ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
