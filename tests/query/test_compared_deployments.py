"""Deployments are compared by themselves, once, when there is enough of the time after them."""

from typing import Any

import numpy as np
import pytest

from tests.support.context_writes import record_deployment, write_batch
from tests.support.pages import page_context
from tests.support.samples import NOW_MS, MovedClock, a_series
from vantage.core.batch import build_batch
from vantage.core.deployment import DETECTED, REPORTED, Deployment, Source
from vantage.core.errors import StoreUnavailable
from vantage.core.sample import Kind
from vantage.query.compare import Comparisons
from vantage.query.compared_deployments import WINDOW_MS, DeploymentComparisons, deployment_verdicts
from vantage.query.context import QueryContext

DEPLOYED_MS = NOW_MS - WINDOW_MS - 60_000


async def fill(context: QueryContext, *, versions: tuple[str, str] = ("1", "2"), slower: float = 1.5) -> None:
    chance = np.random.default_rng(8)
    rows = []
    for at_ms in sorted((DEPLOYED_MS + chance.integers(-WINDOW_MS, WINDOW_MS, 1500)).tolist()):
        is_after = at_ms >= DEPLOYED_MS
        series = a_series("api", "http.request.duration", Kind.HISTOGRAM, unit="ms", service_version=versions[is_after])
        rows.append((series, at_ms, float(chance.lognormal(4, 0.4)) * (slower if is_after else 1)))
    await write_batch(context, build_batch(rows))


def loop_of(context: QueryContext) -> tuple[DeploymentComparisons, Comparisons]:
    comparisons = Comparisons(context, context.metadata)  # type: ignore[arg-type]
    return DeploymentComparisons(context, comparisons, MovedClock()), comparisons


async def deploy(
    context: QueryContext, version: str = "2", at_ms: int = DEPLOYED_MS, source: Source = DETECTED
) -> None:
    await record_deployment(context, Deployment("api", "test", version, at_ms, source))


async def test_a_deployment_is_compared_with_the_time_before_once() -> None:
    async with page_context() as context:
        await fill(context)
        await deploy(context)
        loop, comparisons = loop_of(context)
        await loop.compare_all()
        await loop.compare_all()
        again, _ = loop_of(context)
        await again.compare_all()
        (saved,) = await comparisons.latest()
        document = (await comparisons.get(saved.id)).document
        assert (saved.word, saved.author, document["kind"]) == ("ROLLBACK", "deployments", "deployment")
        sides = document["sides"]
        assert (sides["baseline"]["end"], sides["candidate"]["start"]) == (DEPLOYED_MS, DEPLOYED_MS)
        assert (sides["baseline"]["except_version"], sides["candidate"]["version"]) == ("2", "2")
        assert (await deployment_verdicts(context, service="api"))["2"].id == saved.id


async def test_a_reported_version_that_no_sample_names_is_compared_by_time() -> None:
    async with page_context() as context:
        await fill(context, versions=("", ""))
        await deploy(context, "v/9@3", source=REPORTED)
        loop, comparisons = loop_of(context)
        await loop.compare_all()
        (saved,) = await comparisons.latest()
        document = (await comparisons.get(saved.id)).document
        assert (saved.word, document["sides"]["candidate"]["version"]) == ("ROLLBACK", "")
        assert list(await deployment_verdicts(context, service="api")) == ["v/9@3"]


@pytest.mark.parametrize(
    "deployment", [{"at_ms": NOW_MS - WINDOW_MS + 60_000}, {"at_ms": NOW_MS - 3 * 86_400_000}, {"version": "1"}]
)
async def test_too_new_too_old_and_first_deployments_are_not_compared(deployment: dict[str, Any]) -> None:
    async with page_context() as context:
        await fill(context)
        first_ms = min(info.first_ms for info in await context.store.services())
        await deploy(context, **({"at_ms": first_ms} | deployment))
        loop, comparisons = loop_of(context)
        await loop.compare_all()
        assert await comparisons.latest() == []


async def test_a_version_that_was_detected_and_reported_is_compared_once() -> None:
    async with page_context() as context:
        await fill(context)
        await deploy(context)
        await deploy(context, source=REPORTED, at_ms=DEPLOYED_MS - 1000)
        loop, comparisons = loop_of(context)
        await loop.compare_all()
        (saved,) = await comparisons.latest()
        assert saved.key == f"deployment:{DEPLOYED_MS - 1000}:api/2"


async def test_while_the_database_is_away_there_are_no_verdicts_and_the_loop_says_so() -> None:
    async with page_context() as context:
        loop, _ = loop_of(context)
    assert await deployment_verdicts(context, service="api") == {}
    with pytest.raises(StoreUnavailable):
        await loop.compare_all()
