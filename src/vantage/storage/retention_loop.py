"""The loop that expires data by age, by rule and by size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from vantage.core.clock import Clock
from vantage.storage.ports import DeletionResult, RetentionPolicy, TelemetryStore

INTERVAL_S: Final = 60.0
_log = structlog.get_logger("vantage.storage.retention")


class RetentionLoop:
    """Applies the policy once a minute. ``on_expired`` is called when queries may see less than before."""

    name = "retention"

    def __init__(
        self, store: TelemetryStore, policy: RetentionPolicy, *, clock: Clock, on_expired: Callable[[], None]
    ) -> None:
        self._store = store
        self._policy = policy
        self._clock = clock
        self._on_expired = on_expired

    async def run(self) -> None:
        while True:
            await self._clock.sleep(INTERVAL_S)
            await self._expire()

    async def _expire(self) -> None:
        result = None
        try:
            result = await self._store.expire(self._policy)
        finally:
            # Data older than retention_days is hidden long before it is deleted and counted.
            if self._policy.days is not None or result != DeletionResult():
                self._on_expired()
        if result.samples or result.spans:
            _log.info("expired", samples=result.samples, spans=result.spans, series=result.series, bytes=result.nbytes)
