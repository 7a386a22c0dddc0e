"""Versions of a service before and after they went live: the same length of time, from rollups by version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vantage.core.red import MINUTE_MS
from vantage.core.red_table import RedQuery, RedTable
from vantage.core.rollup import FIVE_MINUTES_MS, HOUR_MS
from vantage.core.semconv import DURATION, REQUESTS
from vantage.core.timerange import TimeRange
from vantage.query.context import QueryContext
from vantage.query.deployments import deployments_if_known
from vantage.query.http_semconv import RequestStats, pick_metrics, stats_of_rows

WINDOW_MS_MAX: Final = HOUR_MS
REQUESTS_MIN: Final = 30  # on either side: a p95 of fewer is one or two requests
LATEST_MAX: Final = 3  # deployments that are compared although they lie before the range
COMPARED_MAX: Final = 8
_QUANTILES: Final = (0.5, 0.95)
_WIDTHS_MS: Final = (MINUTE_MS, FIVE_MINUTES_MS, HOUR_MS)
_METRICS: Final = {"requests": REQUESTS, "durations": DURATION, "spans": DURATION}


@dataclass(frozen=True, slots=True)
class Figures:
    """Requests of a window: durations in ms, a rate per second, a ratio from 0 to 1; None without data."""

    requests: float
    rate_per_s: float
    error_ratio: float | None
    p50_ms: float | None
    p95_ms: float | None


@dataclass(frozen=True, slots=True)
class Release:
    """A version that went live at ``at_ms``: deployed, or without a record of that (``source`` is '') first seen."""

    version: str
    at_ms: int
    source: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True)
class VersionChange:
    """A service in ``window_ms`` before a release, whatever ran then, and after it. ``of_version``: after are requests
    of this version alone; otherwise all, as none named it. None: there are no rollups for that time."""

    release: Release
    window_ms: int
    before: Figures | None
    after: Figures | None
    of_version: bool

    @property
    def is_enough(self) -> bool:
        """Return whether both windows have REQUESTS_MIN requests."""
        return all(side is not None and side.requests >= REQUESTS_MIN for side in (self.before, self.after))

    def growth(self, name: str) -> float | None:
        """Return the relative growth of a figure, 0.2 meaning 20 % more; None where one is unknown or the first is
        0."""
        before, after = getattr(self.before, name, None), getattr(self.after, name, None)
        return after / before - 1 if before and after is not None else None

    @property
    def error_points(self) -> float | None:
        """Return by how much the error ratio grew, 0.01 meaning one percentage point."""
        before, after = (side.error_ratio if side else None for side in (self.before, self.after))
        return None if before is None or after is None else after - before


@dataclass(frozen=True, slots=True)
class VersionChanges:
    """``changes``: up to COMPARED_MAX, the latest first; ``omitted`` counts the others."""

    changes: tuple[VersionChange, ...]
    omitted: int


async def read_version_changes(context: QueryContext, time_range: TimeRange, *, service: str) -> VersionChanges:
    """Compare the versions that ran in a range, and the latest deployments, with the time before each. Raises what the
    store raises."""
    releases = await _releases(context, time_range, service)
    changes = [await _compare(context, service, release) for release in releases[:COMPARED_MAX]]
    return VersionChanges(tuple(changes), max(0, len(releases) - COMPARED_MAX))


async def _releases(context: QueryContext, time_range: TimeRange, service: str) -> list[Release]:
    """Return deployments in the range and the latest before, and the other versions that have data in the range; the
    latest first."""
    deployments = [
        *await deployments_if_known(context, service=service, time_range=time_range),
        *await deployments_if_known(context, service=service, limit=LATEST_MAX),
    ]
    releases = dict.fromkeys(Release(item.version, item.at_ms, item.source, item.description) for item in deployments)
    named = {release.version for release in releases}
    first_ms: dict[str, int] = {}
    for info in await context.store.services(service=service):
        version = info.service_version
        is_in_range = info.first_ms < time_range.end_ms and info.last_ms >= time_range.start_ms
        if version and version not in named and is_in_range:
            first_ms[version] = min(info.first_ms, first_ms.get(version, info.first_ms))
    others = (Release(version, at_ms) for version, at_ms in first_ms.items())
    return sorted([*releases, *others], key=lambda release: (-release.at_ms, release.version))


async def _compare(context: QueryContext, service: str, release: Release) -> VersionChange:
    now_ms = context.present().now_ms
    for step_ms in _WIDTHS_MS:
        # The step in which the version went live belongs to the time after.
        cut_ms = release.at_ms // step_ms * step_ms
        window_ms = min(WINDOW_MS_MAX, max(step_ms, (now_ms - cut_ms) // step_ms * step_ms))
        earlier = await _window(context, service, cut_ms - window_ms, window_ms, step_ms)
        by_version = await _window(context, service, cut_ms, window_ms, step_ms, with_versions=True)
        if earlier is None or by_version is None:
            continue
        before, after = _figures(earlier, window_ms), _figures(by_version, window_ms, version=release.version)
        of_version = after.requests > 0
        if not of_version and (later := await _window(context, service, cut_ms, window_ms, step_ms)) is not None:
            after = _figures(later, window_ms)
        return VersionChange(release, window_ms, before, after, of_version)
    return VersionChange(release, WINDOW_MS_MAX, None, None, of_version=False)


async def _window(
    context: QueryContext, service: str, start_ms: int, window_ms: int, step_ms: int, *, with_versions: bool = False
) -> RedTable | None:
    return await context.red(
        RedQuery(
            TimeRange(start_ms, start_ms + window_ms),
            step_ms,
            services=frozenset({service}),
            quantiles=_QUANTILES,
            with_versions=with_versions,
            with_bucket_quantiles=False,
        )
    )


def _figures(table: RedTable, window_ms: int, *, version: str = "") -> Figures:
    """Return the figures of the rows of a version, '' where the table is not by version."""
    by_metric: dict[str, RequestStats] = {}
    for row, number in enumerate(table.totals.group.tolist()):
        group = table.groups[number]
        if group.source in _METRICS and group.version == version:
            by_metric[_METRICS[group.source]] = stats_of_rows(table.totals, row, _QUANTILES)
    if not by_metric:
        return Figures(0.0, 0.0, None, None, None)
    requests, errors = pick_metrics(by_metric)
    durations = by_metric.get(DURATION)
    return Figures(
        by_metric[requests].requests,
        by_metric[requests].requests * 1000 / window_ms,
        by_metric[errors].error_ratio,
        durations.quantile_ms(0.5) if durations else None,
        durations.quantile_ms(0.95) if durations else None,
    )
