"""Promotion on request: as it is asked for and ended, with its audit entries."""

from __future__ import annotations

from dataclasses import dataclass

from vantage.core.audit import AuditEntry
from vantage.core.clock import Clock
from vantage.storage.metadata.ports import MetadataStore
from vantage.storage.promotion.serving import Progress, ServingPromotion


@dataclass(frozen=True, slots=True)
class Promotion:
    """Starts and ends promotions. ``serving``: this process uses the ClickHouse server that one led to."""

    work: ServingPromotion
    metadata: MetadataStore
    clock: Clock
    serving: bool

    def progress(self) -> Progress:
        """Return how far it is. Raises StartupError."""
        return self.work.progress()

    async def start(self, url: str, *, leave_rollups: bool, actor: str) -> None:
        """Begin or continue, as ``ServingPromotion.start``; raises what that and the metadata store raise."""
        await self.metadata.ping()  # nothing is begun that the audit log could not record
        await self.work.start(url, leave_rollups=leave_rollups)
        await self._record("promotion.start", actor, self.work.progress().to)

    async def abandon(self, *, actor: str) -> None:
        """End it, as ``ServingPromotion.abandon``; raises what that and the metadata store raise."""
        to = self.work.progress().to
        await self.metadata.ping()
        await self.work.abandon()
        await self._record("promotion.abandon", actor, to)

    async def _record(self, action: str, actor: str, to: str) -> None:
        await self.metadata.record_audit(AuditEntry(self.clock.now_ms(), actor, action, to, {}))
