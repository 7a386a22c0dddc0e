"""A service version that was never seen before is a deployment, at the time of its earliest data."""

from __future__ import annotations

import asyncio
from typing import Final

import numpy as np
import structlog

from vantage.core.batch import Batch
from vantage.core.clock import Clock
from vantage.core.deployment import Deployment
from vantage.core.errors import UnavailableError
from vantage.core.sample import TAG_VERSION
from vantage.storage.ports import MetadataStore
from vantage.telemetry import Telemetry

WAITING_MAX: Final = 1000
KNOWN_MAX: Final = 200_000
EARLIER_BY_MS: Final = 60_000  # by how much older data must be to move a deployment back
RETRY_S: Final = 5.0
_log = structlog.get_logger("vantage.ingest.deployments")


class DeploymentDetector:
    """Looks at committed batches, and records new versions in its own time: ingest never waits for it."""

    def __init__(self, metadata: MetadataStore, *, clock: Clock, telemetry: Telemetry) -> None:
        self._metadata = metadata
        self._clock = clock
        self._telemetry = telemetry
        self._series: dict[int, bool] = {}  # series seen, and whether each names a version
        self._known: dict[tuple[str, str, str], int] = {}  # when each version was first seen, as far as is known
        self._latest_ms = 0  # the latest of those times: a batch that is younger cannot make one earlier
        self._waiting: asyncio.Queue[Deployment] = asyncio.Queue(WAITING_MAX)

    def observe(self, batch: Batch) -> None:
        """Take a committed batch."""
        fresh = versioned = False
        for one in batch.series:
            named = self._series.get(one.id)
            if named is None:
                named = self._series[one.id] = bool(one.tag(TAG_VERSION))
                fresh = fresh or named
            versioned = versioned or named
        if fresh or (versioned and batch.time_ms.min() < self._latest_ms):
            first_ms = np.full(len(batch.series), np.iinfo(np.int64).max)
            np.minimum.at(first_ms, batch.index, batch.time_ms)
            for one, at_ms in zip(batch.series, first_ms.tolist(), strict=True):
                if version := one.tag(TAG_VERSION):
                    self._detect(one.service, one.environment, version, at_ms)
        for span in batch.spans:
            if span.service_version:
                self._detect(span.service_name, span.environment, span.service_version, span.start_ms)
        if len(self._series) > KNOWN_MAX:
            self._series.clear()

    def _detect(self, service: str, environment: str, version: str, at_ms: int) -> None:
        key = (service, environment, version)
        if at_ms > self._known.get(key, at_ms + 2 * EARLIER_BY_MS) - EARLIER_BY_MS:
            return
        if len(self._known) > KNOWN_MAX:
            self.clear()
        try:
            self._waiting.put_nowait(Deployment(service, environment, version, at_ms, "detected"))
        except asyncio.QueueFull:
            self._telemetry.lost.labels("deployment_queue_full").inc()
            return
        self._known[key] = at_ms
        self._latest_ms = max(self._known.values())

    def clear(self) -> None:
        """Data was forgotten: versions that come again are new again."""
        self._series.clear()
        self._known.clear()
        self._latest_ms = 0

    async def run(self) -> None:
        """Record what was seen, for ever; try again while the database is away."""
        while True:
            deployment = await self._waiting.get()
            while True:
                try:
                    await self._metadata.record_deployment(deployment, actor="system")
                    break
                except UnavailableError as error:
                    _log.warning("deployment not recorded yet", reason=str(error))
                    await self._clock.sleep(RETRY_S)
