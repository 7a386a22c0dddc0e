"""A version never seen before is a deployment, at the time of its earliest data."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.support.samples import NOW_MS, MovedClock, a_batch, a_series, a_span
from vantage.core.batch import Batch, build_batch
from vantage.ingest.deployments import DeploymentDetector
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.telemetry import Telemetry

OLD, NEW = a_series(service_version="1.0"), a_series(service_version="2.0")
HOUR_MS = 3_600_000


@pytest.fixture
async def metadata() -> AsyncIterator[MemoryMetadataStore]:
    async with MemoryMetadataStore(MovedClock()) as store:
        yield store


@pytest.fixture
async def watch(metadata: MemoryMetadataStore) -> AsyncIterator[DeploymentDetector]:
    watch = DeploymentDetector(metadata, clock=MovedClock(), telemetry=Telemetry())
    running = asyncio.create_task(watch.run())
    yield watch
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def seen(metadata: MemoryMetadataStore) -> dict[str, int]:
    await asyncio.sleep(0.02)
    return {deployment.version: deployment.at_ms - NOW_MS for deployment in await metadata.deployments()}


async def test_each_version_is_recorded_once_at_its_first_sample(
    watch: DeploymentDetector, metadata: MemoryMetadataStore
) -> None:
    watch.observe(build_batch([(OLD, NOW_MS, 1.0), (NEW, NOW_MS + 5, 1.0), (OLD, NOW_MS - 9, 1.0)]))
    watch.observe(a_batch(1.0, series=OLD, at_ms=NOW_MS + 1000))
    assert await seen(metadata) == {"1.0": -9, "2.0": 5}


async def test_older_data_that_comes_later_moves_it_back(
    watch: DeploymentDetector, metadata: MemoryMetadataStore
) -> None:
    watch.observe(build_batch([(OLD, NOW_MS, 1.0), (NEW, NOW_MS, 1.0)]))
    watch.observe(a_batch(1.0, series=OLD, at_ms=NOW_MS - HOUR_MS))
    watch.observe(a_batch(1.0, series=OLD, at_ms=NOW_MS - 3 * HOUR_MS))
    watch.observe(a_batch(1.0, series=OLD, at_ms=NOW_MS - 2 * HOUR_MS))
    assert await seen(metadata) == {"1.0": -3 * HOUR_MS, "2.0": 0}


async def test_a_version_that_only_spans_name_is_seen(watch: DeploymentDetector, metadata: MemoryMetadataStore) -> None:
    watch.observe(Batch(spans=(a_span(start_ms=NOW_MS, service_version="3.0"),)))
    assert await seen(metadata) == {"3.0": 0}


async def test_series_without_a_version_are_no_deployment(
    watch: DeploymentDetector, metadata: MemoryMetadataStore
) -> None:
    watch.observe(a_batch(1.0, 2.0))
    assert await seen(metadata) == {}


async def test_a_full_queue_is_counted(metadata: MemoryMetadataStore) -> None:
    telemetry = Telemetry()
    watch = DeploymentDetector(metadata, clock=MovedClock(), telemetry=telemetry)
    for n in range(1003):
        watch.observe(a_batch(1.0, series=a_series(service_version=str(n))))
    lost = telemetry.registry.get_sample_value("vantage_lost_total", {"reason": "deployment_queue_full"})
    assert lost == 3
