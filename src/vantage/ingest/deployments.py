"""A service version that was never seen before is a deployment."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from vantage.core.batch import Batch
from vantage.core.clock import Clock
from vantage.core.deployment import Deployment
from vantage.core.errors import UnavailableError
from vantage.core.sample import TAG_VERSION
from vantage.storage.ports import MetadataStore
from vantage.telemetry import Telemetry

WAITING_MAX: Final = 1000
SEEN_MAX: Final = 200_000
RETRY_S: Final = 5.0
_log = structlog.get_logger("vantage.ingest.deployments")


class DeploymentWatch:
    """Looks at committed batches, and records new versions in its own time: ingest never waits for it."""

    def __init__(self, metadata: MetadataStore, *, clock: Clock, telemetry: Telemetry) -> None:
        self._metadata = metadata
        self._clock = clock
        self._telemetry = telemetry
        self._series: set[int] = set()
        self._known: set[tuple[str, str, str]] = set()
        self._waiting: asyncio.Queue[Deployment] = asyncio.Queue(WAITING_MAX)

    def watch(self, batch: Batch) -> None:
        """Take a committed batch."""
        for place, one in enumerate(batch.series):
            if one.id in self._series:
                continue
            self._series.add(one.id)
            if version := one.tag(TAG_VERSION):
                first = batch.time_ms[batch.index == place].min(initial=2**62)
                self._see(one.service, one.environment, version, int(first))
        for span in batch.spans:
            if span.service_version:
                self._see(span.service_name, span.environment, span.service_version, span.start_ms)
        if len(self._series) > SEEN_MAX:
            self._series.clear()

    def _see(self, service: str, environment: str, version: str, at_ms: int) -> None:
        key = (service, environment, version)
        if key in self._known:
            return
        if len(self._known) > SEEN_MAX:
            self._known.clear()
        try:
            self._waiting.put_nowait(Deployment(service, environment, version, at_ms, "seen"))
        except asyncio.QueueFull:
            self._telemetry.lost.labels("deployment_queue_full").inc()
            return
        self._known.add(key)

    def forget(self) -> None:
        """Data was forgotten: versions that come again are new again."""
        self._series.clear()
        self._known.clear()

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
