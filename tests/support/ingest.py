"""Wire formats as a server has them, with limits that no test reaches by chance."""

from __future__ import annotations

from vantage.core.clock import SystemClock
from vantage.ingest.origin_limits import OriginLimits
from vantage.ingest.series_cache import CACHE_NBYTES_MAX, SeriesCache
from vantage.ingest.wire.native import NativeFormat
from vantage.ingest.wire.packed import PackedFormat
from vantage.ingest.wire.spans import SpansFormat
from vantage.telemetry import Telemetry


def origin_limits() -> OriginLimits:
    return OriginLimits(clock=SystemClock(), telemetry=Telemetry())


def series_cache(*, nbytes_max: int = CACHE_NBYTES_MAX) -> SeriesCache:
    return SeriesCache(origin_limits(), nbytes_max=nbytes_max)


def native_format(encoding: str = "json", cache: SeriesCache | None = None) -> NativeFormat:
    return NativeFormat(encoding, cache or series_cache())


def packed_format(cache: SeriesCache | None = None) -> PackedFormat:
    return PackedFormat(cache or series_cache(), origin_limits())


def spans_format(encoding: str = "json") -> SpansFormat:
    return SpansFormat(encoding, origin_limits())
