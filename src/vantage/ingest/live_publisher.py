"""Tell processes with open pages what a worker stored, through the broker."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

import structlog

from vantage.core.batch import Batch
from vantage.core.clock import Clock
from vantage.core.errors import VantageError
from vantage.core.live_update import encode_updates, services_of, updates_of
from vantage.telemetry import Telemetry

PUBLISH_EVERY_S: Final = 0.5  # readers send on once a second
WAITING_NBYTES_MAX: Final = 32 << 20  # of batches since the last time
UPDATES_MAX: Final = 20_000  # of series each time
_log = structlog.get_logger("vantage.ingest.live")


class LiveTopic(Protocol):
    """Where updates go."""

    async def send(self, messages: list[bytes]) -> None:
        """Send messages. Raises UnavailableError."""
        ...


class LivePublisher:
    """Sums up what is stored, twice a second, and publishes it. What is too much, and what the broker does not take, is
    dropped and counted: pages read the store again anyway."""

    name = "live publisher"

    def __init__(self, topic: LiveTopic, *, clock: Clock, telemetry: Telemetry) -> None:
        self._topic = topic
        self._clock = clock
        self._telemetry = telemetry
        self._batches: list[Batch] = []
        self._nbytes = 0

    def observe(self, batch: Batch) -> None:
        """Note a batch that was just stored."""
        if self._nbytes > WAITING_NBYTES_MAX:
            self._telemetry.live_dropped.inc(len(batch.series))
            return
        self._batches.append(batch)
        self._nbytes += batch.nbytes

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            await self._clock.sleep(PUBLISH_EVERY_S)
            batches, self._batches, self._nbytes = self._batches, [], 0
            if batches:
                await self._publish(batches)

    async def _publish(self, batches: list[Batch]) -> None:
        updates = await asyncio.to_thread(updates_of, batches)
        dropped = max(0, len(updates) - UPDATES_MAX)
        messages = list(encode_updates(updates[:UPDATES_MAX], services_of(batches)))
        try:
            await self._topic.send(messages)
        except VantageError as error:
            dropped = len(updates)
            _log.debug("live updates dropped", reason=str(error))
        if dropped:
            self._telemetry.live_dropped.inc(dropped)
