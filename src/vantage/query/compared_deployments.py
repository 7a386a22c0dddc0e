"""Every deployment is compared with the time before it, once there is enough of the time after."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

import structlog

from vantage.core.clock import Clock
from vantage.core.comparison import SavedComparison
from vantage.core.deployment import REPORTED, Deployment
from vantage.core.errors import StoreUnavailable, VantageError
from vantage.core.timerange import TimeRange
from vantage.query.compare import ComparisonRequest, Comparisons
from vantage.query.compared_data import Side
from vantage.query.context import QueryContext
from vantage.query.deployments import WAIT_S

INTERVAL_S: Final = 120.0
WINDOW_MS: Final = 30 * 60_000
BACK_MS: Final = 86_400_000  # deployments of this time are looked at
DEPLOYMENTS_MAX: Final = 200
AUTHOR: Final = "deployments"
VERDICTS_MAX: Final = 200
_REMEMBERED_MAX: Final = 10_000
_PREFIX: Final = "deployment:"
_log = structlog.get_logger("vantage.query.compared_deployments")


class DeploymentComparisons:
    """Compares WINDOW_MS after each deployment of the last day with as long before it. Any number of processes may do
    so: the first result is saved."""

    name = "deployment comparisons"

    def __init__(self, context: QueryContext, comparisons: Comparisons, clock: Clock) -> None:
        self._context = context
        self._comparisons = comparisons
        self._clock = clock
        self._done: set[str] = set()

    async def run(self) -> None:
        while True:
            await self._clock.sleep(INTERVAL_S)
            await self.compare_all()

    async def compare_all(self) -> None:
        """Compare the deployments whose time has come. What cannot be compared is logged and not tried again by this
        process; a store that does not answer raises, and is tried again."""
        now_ms = self._context.present().now_ms
        if len(self._done) > _REMEMBERED_MAX:
            self._done.clear()
        time_range = TimeRange(max(0, now_ms - BACK_MS), max(1, now_ms - WINDOW_MS))
        deployments = await self._context.metadata.deployments(time_range=time_range, limit=DEPLOYMENTS_MAX)
        for deployment in _one_of_each(deployments):
            key = key_of(deployment)
            if key not in self._done and not await self._comparisons.is_made(key):
                await self._compare(deployment, key)
            self._done.add(key)

    async def _compare(self, deployment: Deployment, key: str) -> None:
        infos = await self._context.store.services(service=deployment.service)
        if all(info.first_ms >= deployment.at_ms for info in infos):
            return  # there is nothing before it
        has_version = any(info.service_version == deployment.version for info in infos)
        before = TimeRange(max(0, deployment.at_ms - WINDOW_MS), deployment.at_ms)
        after = TimeRange(deployment.at_ms, deployment.at_ms + WINDOW_MS)
        request = ComparisonRequest(
            Side(deployment.service, before, except_version=deployment.version if has_version else ""),
            Side(deployment.service, after, deployment.version if has_version else ""),
            kind="deployment",
            title=f"{deployment.service} {deployment.version} against the time before",
        )
        try:
            await self._comparisons.make(request, author=AUTHOR, key=key)
        except VantageError as error:
            _log.warning("not compared", service=deployment.service, version=deployment.version, error=str(error))


def key_of(deployment: Deployment) -> str:
    """Return the key of a deployment's comparison. What was detected may turn out to be earlier, and is the same."""
    at_ms = deployment.at_ms if deployment.source == REPORTED else 0
    return f"{_PREFIX}{at_ms}:{deployment.service}/{deployment.version}"


async def deployment_verdicts(context: QueryContext, *, service: str) -> Mapping[str, SavedComparison]:
    """Return the latest comparison of each version of a service that was deployed; none while the metadata database is
    unavailable or slow."""
    try:
        async with asyncio.timeout(WAIT_S):
            comparisons = await context.metadata.comparisons(service=service, limit=VERDICTS_MAX)
    except (StoreUnavailable, TimeoutError):
        return {}
    return {
        item.key.removeprefix(_PREFIX).partition(":")[2].removeprefix(f"{service}/"): item
        for item in reversed(comparisons)
        if item.key.startswith(_PREFIX)
    }


def _one_of_each(deployments: Sequence[Deployment]) -> list[Deployment]:
    """Return one deployment of each service and version, a reported one where there is one: the latest."""
    chosen: dict[tuple[str, str], Deployment] = {}
    for deployment in deployments:
        name = (deployment.service, deployment.version)
        if name not in chosen or (deployment.source == REPORTED and chosen[name].source != REPORTED):
            chosen[name] = deployment
    return list(chosen.values())
