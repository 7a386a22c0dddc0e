"""Versions before and after: the same figures as from every request of the two windows."""

from typing import Any

import numpy as np
import pytest

from tests.support.context_writes import record_deployment, write_batch
from tests.support.pages import page_context
from tests.support.samples import HOUR_MS, NOW_MS, a_series
from vantage.core.batch import build_batch
from vantage.core.deployment import DETECTED, REPORTED, Deployment
from vantage.core.sample import Kind
from vantage.core.sketch import RELATIVE_ERROR
from vantage.core.timerange import TimeRange
from vantage.query.context import QueryContext
from vantage.query.version_comparison import COMPARED_MAX, VersionChange, read_version_changes

MINUTE_MS = 60_000
DEPLOYED_MS = NOW_MS - 30 * MINUTE_MS
CUT_MS = DEPLOYED_MS // MINUTE_MS * MINUTE_MS
Request = tuple[int, float, bool, str]  # time, duration, failed, version


def requests_of(seed: int, count: int, *, before: str = "1", after: str = "2", factor: float = 2.0) -> list[Request]:
    chance = np.random.default_rng(seed)
    requests = []
    for at_ms in sorted((NOW_MS - chance.integers(1, 2 * HOUR_MS, count)).tolist()):
        is_after = at_ms >= DEPLOYED_MS
        duration_ms = float(chance.lognormal(3, 0.5)) * (factor if is_after else 1)
        requests.append((at_ms, duration_ms, bool(chance.random() < 0.1), after if is_after else before))
    return requests


async def write(context: QueryContext, requests: list[Request]) -> None:
    rows = []
    for at_ms, duration_ms, has_failed, version in requests:
        tags = {"status": "500" if has_failed else "200"}
        series = a_series("api", "http.request.duration", Kind.HISTOGRAM, tags=tags, unit="ms", service_version=version)
        rows.append((series, at_ms, duration_ms))
    await write_batch(context, build_batch(rows))


async def compared(context: QueryContext, **deployment: Any) -> VersionChange:
    settings = {"version": "2", "at_ms": DEPLOYED_MS, "source": DETECTED, **deployment}
    await record_deployment(context, Deployment("api", "test", **settings))
    changes = await read_version_changes(context, TimeRange(NOW_MS - HOUR_MS, NOW_MS), service="api")
    return next(change for change in changes.changes if change.release.version == settings["version"])


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_figures_are_those_of_the_requests_in_windows_of_one_length(seed: int) -> None:
    requests = requests_of(seed, 2000)
    async with page_context() as context:
        await write(context, requests)
        change = await compared(context)
    window_ms = (NOW_MS - CUT_MS) // MINUTE_MS * MINUTE_MS
    assert (change.window_ms, change.of_version, change.is_enough) == (window_ms, True, True)
    windows = (
        (change.before, [item for item in requests if CUT_MS - window_ms <= item[0] < CUT_MS]),
        (change.after, [item for item in requests if CUT_MS <= item[0] < CUT_MS + window_ms and item[3] == "2"]),
    )
    for figures, expected in windows:
        assert figures is not None
        assert figures.requests == len(expected)
        assert figures.rate_per_s == pytest.approx(len(expected) * 1000 / window_ms)
        assert figures.error_ratio == pytest.approx(sum(item[2] for item in expected) / len(expected))
        durations = [item[1] for item in expected]
        assert figures.p50_ms == pytest.approx(np.quantile(durations, 0.5), rel=RELATIVE_ERROR)
        assert figures.p95_ms == pytest.approx(np.quantile(durations, 0.95), rel=RELATIVE_ERROR)
    growth = change.growth("p95_ms")
    assert growth is not None
    assert 0.5 < growth < 1.6


async def test_few_requests_are_not_compared() -> None:
    async with page_context() as context:
        await write(context, requests_of(1, 40))
        assert not (await compared(context)).is_enough


async def test_a_reported_version_that_no_data_names_is_compared_with_all_of_the_time_after() -> None:
    async with page_context() as context:
        await write(context, requests_of(1, 2000, before="1", after="1"))
        change = await compared(context, version="release-9", source=REPORTED, description="by hand")
        assert not change.of_version
        assert change.is_enough
        assert (change.release.source, change.release.description) == ("reported", "by hand")


async def test_versions_seen_in_the_range_are_there_without_a_deployment_and_others_are_not() -> None:
    async with page_context() as context:
        await write(context, requests_of(1, 500))
        within = await read_version_changes(context, TimeRange(NOW_MS - HOUR_MS, NOW_MS), service="api")
        assert [change.release.version for change in within.changes] == ["2", "1"]
        assert within.changes[0].release.source == ""
        earlier = TimeRange(NOW_MS - 2 * HOUR_MS, NOW_MS - HOUR_MS)
        assert [c.release.version for c in (await read_version_changes(context, earlier, service="api")).changes] == [
            "1"
        ]
        assert (await read_version_changes(context, earlier, service="nobody")).changes == ()


async def test_the_latest_deployments_are_there_whatever_the_range_and_the_number_is_bounded() -> None:
    async with page_context() as context:
        for number in range(COMPARED_MAX + 4):
            at_ms = NOW_MS - (number + 1) * MINUTE_MS
            await record_deployment(context, Deployment("api", "test", f"v{number}", at_ms, DETECTED))
        recent = await read_version_changes(context, TimeRange(NOW_MS - HOUR_MS, NOW_MS), service="api")
        assert (len(recent.changes), recent.omitted) == (COMPARED_MAX, 4)
        assert [change.release.version for change in recent.changes[:3]] == ["v0", "v1", "v2"]
        long_ago = TimeRange(NOW_MS - 9 * HOUR_MS, NOW_MS - 8 * HOUR_MS)
        latest = await read_version_changes(context, long_ago, service="api")
        assert [change.release.version for change in latest.changes] == ["v0", "v1", "v2"]
