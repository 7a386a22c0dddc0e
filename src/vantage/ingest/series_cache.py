"""Resolution of a sample's names and raw tag bytes to its series: checked once, then cached.

Deciding what series a sample belongs to costs as much as decoding it, unless the cache is keyed on the bytes as they
came. Whatever is not cached is checked in full: raw bytes may contain invalid UTF-8 and repeated keys.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from vantage.core.sample import (
    KINDS,
    UNIT_LENGTH_MAX,
    Kind,
    metric_name_problem,
    service_name_problem,
    tags_problem,
    text_problem,
)
from vantage.core.series import Series, make_series
from vantage.ingest.origin_limits import OriginLimits
from vantage.ingest.wire.decoded import Rejection

CACHE_NBYTES_MAX: Final = 64 << 20
_ORIGIN_LENGTH_MAX: Final = 2048  # of an envelope whose texts, of 255 characters each, can pass every check
_ENTRY_NBYTES: Final = 600  # a key of eight fields, a Series, their entries in two dicts: measured, rounded
DEFAULT_ENVIRONMENT: Final = "default"


@dataclass(frozen=True, slots=True)
class Resource:
    """The fields of the envelope, which apply to all its samples; '' where it has none."""

    service_name: str = ""
    environment: str = ""
    service_version: str = ""
    instance: str = ""


# metric, raw tags, kind, service, unit; None: that of the envelope
FastKey = tuple[str, bytes, str, str | None, str | None]
# the same, then environment, version and instance, which few samples have of their own
AnyKey = tuple[str, bytes, str, str | None, str | None, str | None, str | None, str | None]
Key = FastKey | AnyKey


def parse_json_tags(raw: bytes) -> dict[str, str]:
    """Parse tags from JSON. Raises ValueError with a reason."""
    pairs: Any = json.loads(raw, object_pairs_hook=list) if raw[:1] == b"{" else None
    if pairs is None:
        raise ValueError("must be an object of strings")
    return _tags_of(pairs)


def parse_msgpack_tags(raw: bytes) -> dict[str, str]:
    """Parse tags from MessagePack. Raises ValueError with a reason."""
    tags = msgspec.msgpack.decode(raw, type=dict[str, str])
    if len(tags) != _map_length(raw):
        raise ValueError("holds a key twice")
    return tags


def _tags_of(pairs: list[tuple[str, Any]]) -> dict[str, str]:
    tags: dict[str, str] = {}
    for key, value in pairs:
        if not isinstance(value, str):
            raise ValueError(f"the value of {key[:64]!r} must be a string")  # noqa: TRY004 - one kind for all faults
        if key in tags:
            raise ValueError(f"holds the key {key[:64]!r} twice")
        tags[key] = value
    return tags


def _map_length(raw: bytes) -> int:
    """Return the number of pairs in the header of a MessagePack map (specification: "map format family")."""
    if raw[0] >> 4 == 0x8:
        return raw[0] & 0x0F
    return int.from_bytes(raw[1:3] if raw[0] == 0xDE else raw[1:5], "big")


class SeriesCache:
    """Series by the fields of their samples. Bounded: emptied when it takes more than ``nbytes_max``.

    Dicts rather than a cache of cachetools: every sample is looked up here, in 50 ns, where LRUCache takes 290 ns.
    """

    def __init__(self, limits: OriginLimits, *, nbytes_max: int = CACHE_NBYTES_MAX) -> None:
        self._limits = limits
        self._nbytes_max = nbytes_max
        self._nbytes = 0
        self._by_origin: dict[tuple[str, ...], dict[Key, Series]] = {}

    def known(self, origin: tuple[str, ...]) -> dict[Key, Series]:
        """Return the part of the cache for one format and envelope: look keys up in it, and ``resolve`` absent ones.

        Nothing is cached of an envelope that no check can pass, since its texts may have any length.
        """
        known = self._by_origin.get(origin)
        if known is None:
            if sum(map(len, origin)) > _ORIGIN_LENGTH_MAX:
                return {}
            self._make_room()
            known = self._by_origin[origin] = {}
            self._nbytes += _ENTRY_NBYTES + 4 * sum(map(len, origin))
        return known

    def resolve(
        self, known: dict[Key, Series], key: Key, resource: Resource, parse: Callable[[bytes], dict[str, str]]
    ) -> Series | Rejection:
        """Check the fields of a key, and return its series, or the reason why it is rejected."""
        metric, raw_tags, kind, service, unit = key[:5]
        environment, version, instance = key[5:] or (None, None, None)
        service = resource.service_name if service is None else service
        environment = (resource.environment if environment is None else environment) or DEFAULT_ENVIRONMENT
        version = resource.service_version if version is None else version
        instance = resource.instance if instance is None else instance
        for field, reason in (
            ("metric_name", metric_name_problem(metric)),
            ("service_name", service_name_problem(service)),
            ("environment", metric_name_problem(environment)),
            ("metric_type", "" if kind in KINDS else f"{kind[:32]!r} is none of {', '.join(sorted(KINDS))}"),
            ("unit", text_problem(unit or "", UNIT_LENGTH_MAX)),
            ("service_version", text_problem(version, 255)),
            ("instance", text_problem(instance, 255)),
        ):
            if reason:
                return Rejection(field, reason)
        try:
            tags = parse(raw_tags) if raw_tags else {}
        except (ValueError, RecursionError) as error:
            reason = "is not valid UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
            return Rejection("tags", reason)
        name, reason = tags_problem(tags)
        if reason:
            return Rejection(name, reason)
        service, environment, version, instance = self._limits.admit(service, environment, version, instance)
        series = make_series(
            service=service,
            environment=environment,
            metric=metric,
            kind=Kind(kind),
            unit=unit or "",
            tags=tags,
            service_version=version,
            instance=instance,
        )
        self._make_room()
        known[key] = series
        self._nbytes += _ENTRY_NBYTES + 3 * len(raw_tags)
        return series

    def _make_room(self) -> None:
        if self._nbytes > self._nbytes_max:
            self._by_origin, self._nbytes = {}, 0
