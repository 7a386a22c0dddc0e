"""Services, summed up from their series and spans."""

from __future__ import annotations

from collections.abc import Iterable

from vantage.core.sample import TAG_VERSION
from vantage.storage.ports import SeriesInfo, ServiceInfo, ServiceSpanStats


def sum_up_services(series: Iterable[SeriesInfo], spans: Iterable[ServiceSpanStats]) -> list[ServiceInfo]:
    """Return one entry for each service, environment and version."""
    parts = [
        ServiceInfo(info.series.service, info.series.environment, info.series.tag(TAG_VERSION), info.samples, 0,
                    info.first_ms, info.last_ms)
        for info in series
    ]  # fmt: skip
    parts += [
        ServiceInfo(stats.service, stats.environment, stats.service_version, 0, stats.spans, stats.first_ms,
                    stats.last_ms)
        for stats in spans
    ]  # fmt: skip
    return merge_services(parts)


def merge_services(parts: Iterable[ServiceInfo]) -> list[ServiceInfo]:
    """Return one entry for each service, environment and version."""
    merged: dict[tuple[str, str, str], ServiceInfo] = {}
    for part in parts:
        key = (part.service, part.environment, part.service_version)
        known = merged.get(key)
        if known is not None:
            part = ServiceInfo(
                *key,
                known.samples + part.samples,
                known.spans + part.spans,
                min(known.first_ms, part.first_ms),
                max(known.last_ms, part.last_ms),
            )
        merged[key] = part
    return list(merged.values())
