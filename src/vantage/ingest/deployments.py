"""Detection of deployments: the first data of a service version, at its earliest time."""

from __future__ import annotations

import asyncio
from typing import Final

import numpy as np
import structlog

from vantage.core.batch import Batch
from vantage.core.clock import Clock
from vantage.core.deployment import Deployment
from vantage.core.errors import InputError, UnavailableError
from vantage.core.sample import OVERFLOW, TAG_VERSION
from vantage.storage.metadata.ports import MetadataStore
from vantage.telemetry import Telemetry

WAITING_MAX: Final = 1000
KNOWN_MAX: Final = 20_000  # series, and versions, that are remembered: then from the start
EARLIER_BY_MS: Final = 60_000  # how much older data must be to move a deployment back
RETRY_S: Final = 5.0
_log = structlog.get_logger("vantage.ingest.deployments")


class DeploymentDetector:
    """Finds new versions in committed batches, and records them in a loop of its own: ingest never waits for it."""

    name = "deployments"

    def __init__(self, metadata: MetadataStore, *, clock: Clock, telemetry: Telemetry) -> None:
        self._metadata = metadata
        self._clock = clock
        self._telemetry = telemetry
        self._series: dict[int, bool] = {}  # series ids, and whether each has a version
        self._known: dict[tuple[str, str, str], int] = {}  # the earliest time of each version, as far as known
        self._latest_ms = 0  # the latest of those times: a later batch cannot make any of them earlier
        self._waiting: asyncio.Queue[Deployment] = asyncio.Queue(WAITING_MAX)

    def observe(self, batch: Batch) -> None:
        """Look for new versions in a committed batch."""
        fresh = versioned = False
        for series in batch.series:
            has_version = self._series.get(series.id)
            if has_version is None:
                has_version = self._series[series.id] = bool(series.tag(TAG_VERSION))
                fresh = fresh or has_version
            versioned = versioned or has_version
        if fresh or (versioned and batch.time_ms.min() < self._latest_ms):
            first_ms = np.full(len(batch.series), np.iinfo(np.int64).max)
            np.minimum.at(first_ms, batch.index, batch.time_ms)
            for series, at_ms in zip(batch.series, first_ms.tolist(), strict=True):
                if (version := series.tag(TAG_VERSION)) not in ("", OVERFLOW):
                    self._detect(series.service, series.environment, version, at_ms)
        for span in batch.spans:
            if span.service_version not in ("", OVERFLOW):
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
        """Drop the known versions, since data was deleted: one that comes again is new."""
        self._series.clear()
        self._known.clear()
        self._latest_ms = 0

    async def run(self) -> None:
        """Record detected deployments until cancelled; retry while the database is unavailable."""
        while True:
            deployment = await self._waiting.get()
            failure = ""
            while True:
                try:
                    await self._metadata.record_deployment(deployment, actor="system")
                    break
                except InputError:  # a version that PostgreSQL cannot store
                    self._telemetry.lost.labels("deployment_refused").inc()
                    break
                except UnavailableError as error:
                    if str(error) != failure:  # the same again every few seconds says nothing new
                        failure = str(error)
                        _log.warning("deployment not recorded yet", reason=failure)
                    await self._clock.sleep(RETRY_S)
