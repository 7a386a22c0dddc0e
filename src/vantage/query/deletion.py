"""Deletion on request: all data of a service, an environment, or both together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from vantage.core.audit import AuditEntry
from vantage.core.clock import Clock
from vantage.core.errors import InputError
from vantage.storage.metadata.ports import MetadataStore
from vantage.storage.ports import Selector, TelemetryStore


@dataclass(frozen=True, slots=True)
class Deleted:
    """How much was deleted. ``nbytes`` is what it took in memory or on disk, estimated."""

    samples: int
    spans: int
    series: int
    deployments: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Deletion:
    """Deletes from both stores and writes the audit entry.

    ``before_answer`` is called when data was or may have been deleted, also after an error: caches are cleared there.
    ``on_deleted`` is called once everything is deleted.
    """

    store: TelemetryStore
    metadata: MetadataStore
    clock: Clock
    before_answer: Callable[[], None] = field(default=lambda: None)
    on_deleted: Callable[[], None] = field(default=lambda: None)

    async def delete(self, service: str, environment: str, *, actor: str) -> Deleted:
        """Delete samples, spans, series and deployments of a service, an environment, or of both together ('' is any).

        Durable and visible when it returns. Raises InputError when both are empty, and what the stores raise.
        """
        if not service and not environment:
            raise InputError("is missing: name a service, an environment, or both", field="service")
        selector = Selector(service, environment)
        await self.metadata.ping()  # nothing is deleted that the audit log could not record
        try:
            result = await self.store.delete(selector)
        finally:  # after an error it is unknown what is deleted
            self.before_answer()
        deployments = await self.metadata.remove_deployments(selector, actor=actor)
        if service and not environment:
            await self.metadata.remove_anomalies(service)
        self.on_deleted()
        detail = {
            "service": service,
            "environment": environment,
            "samples": str(result.samples),
            "spans": str(result.spans),
        }
        await self.metadata.record_audit(
            AuditEntry(self.clock.now_ms(), actor, "data.delete", service or environment, detail)
        )
        return Deleted(result.samples, result.spans, result.series, deployments, result.nbytes)
