"""Series identity: service, environment, metric, kind, unit and tags."""

from __future__ import annotations

import hashlib
from sys import getsizeof
from typing import Final

import msgspec

from vantage.core.sample import TAG_INSTANCE, TAG_VERSION, Kind

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(tuple[str, str, str, Kind, str, tuple[tuple[str, str], ...]]).decode
# Memory of a series without tags, its slot and statistics in the catalogue included, and of a tag's pair: measured.
_SERIES_NBYTES: Final = 500
_TAG_NBYTES: Final = 64


class Series(msgspec.Struct, frozen=True, eq=False, weakref=False):
    """One series. Instances compare by identity (they are cached and shared); use ``id`` or ``canonical()`` as key.

    ``tags`` is sorted by key and holds the reserved tags ``instance`` and ``service_version`` when they were given.
    """

    service: str
    environment: str
    metric: str
    kind: Kind
    unit: str
    tags: tuple[tuple[str, str], ...]
    id: int  # 64-bit unsigned, the same on every store

    def canonical(self) -> bytes:
        """Return the identity as MessagePack: ``id`` is its hash, and stores compare it when ids are equal."""
        return canonical(self.service, self.environment, self.metric, self.kind, self.unit, self.tags)

    @property
    def nbytes(self) -> int:
        """Estimate the memory of the series in a catalogue, in bytes."""
        texts = len(self.service) + len(self.environment) + len(self.metric) + len(self.unit)
        return _SERIES_NBYTES + texts + sum(_TAG_NBYTES + getsizeof(key) + getsizeof(value) for key, value in self.tags)

    def tag(self, key: str) -> str:
        """Return the tag's value, or '' when the series has no such tag (as ClickHouse's maps do)."""
        for name, value in self.tags:
            if name == key:
                return value
        return ""


def canonical(
    service: str, environment: str, metric: str, kind: Kind, unit: str, tags: tuple[tuple[str, str], ...]
) -> bytes:
    """Return the canonical form of an identity. ``tags`` must be sorted by key."""
    return _encode([service, environment, metric, kind.value, unit, tags])


def series_of(identity: bytes) -> Series:
    """Return the series of a canonical identity. Raises ValueError."""
    service, environment, metric, kind, unit, tags = _decode(identity)
    return make_series(service=service, environment=environment, metric=metric, kind=kind, unit=unit, tags=dict(tags))


def make_series(
    *,
    service: str,
    environment: str,
    metric: str,
    kind: Kind,
    unit: str = "",
    tags: dict[str, str] | None = None,
    service_version: str = "",
    instance: str = "",
) -> Series:
    """Build a series from checked parts; empty ``service_version`` and ``instance`` leave no tag.

    The id is BLAKE2b (RFC 7693) of the canonical form, 8 bytes, little-endian.
    """
    merged = dict(tags or {})
    if service_version:
        merged[TAG_VERSION] = service_version
    if instance:
        merged[TAG_INSTANCE] = instance
    ordered = tuple(sorted(merged.items()))
    digest = hashlib.blake2b(canonical(service, environment, metric, kind, unit, ordered), digest_size=8).digest()
    return Series(service, environment, metric, kind, unit, ordered, int.from_bytes(digest, "little"))
