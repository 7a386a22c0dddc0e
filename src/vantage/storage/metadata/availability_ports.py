"""The port of objectives, heartbeats and HTTP checks. ``MetadataStore.availability`` is one.

All methods raise StoreUnavailable when the database cannot be reached. Changes are durable when a method returns; those
that people make write an audit entry in the same transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from vantage.core.availability import (
    CheckResult,
    Heartbeat,
    HttpCheck,
    PingState,
    StoredCheck,
    StoredHeartbeat,
)
from vantage.core.slo import Slo, StoredSlo

SLOS_MAX: Final = 500


class AvailabilityReader(Protocol):
    """What pages and rules read."""

    async def slos(self) -> Sequence[StoredSlo]:
        """Return all objectives by name."""
        ...

    async def heartbeats(self) -> Sequence[StoredHeartbeat]:
        """Return all heartbeats by name."""
        ...

    async def checks(self) -> Sequence[StoredCheck]:
        """Return all checks by name."""
        ...


class AvailabilityStore(AvailabilityReader, Protocol):
    """Changes."""

    async def save_slo(self, item: Slo, *, actor: str, revision: int | None = None) -> StoredSlo:
        """Store an objective, or replace that of its name. ``revision``: only if the stored one has it, 0 for none.
        Raises ConflictError otherwise, and when there are too many."""
        ...

    async def save_heartbeat(
        self, item: Heartbeat, *, token: str, actor: str, revision: int | None = None
    ) -> StoredHeartbeat:
        """Store a heartbeat as ``save_slo`` does. One that is there keeps its token and what was reported."""
        ...

    async def save_check(self, item: HttpCheck, *, actor: str, revision: int | None = None) -> StoredCheck:
        """Store a check as ``save_slo`` does. It is due at once; one with another address begins without a result."""
        ...

    async def remove_slo(self, name: str, *, actor: str) -> bool:
        """Remove an objective. False: there is none."""
        ...

    async def remove_heartbeat(self, name: str, *, actor: str) -> bool:
        """Remove a heartbeat. False: there is none."""
        ...

    async def remove_check(self, name: str, *, actor: str) -> bool:
        """Remove a check. False: there is none."""
        ...

    async def ping(self, token: str, state: PingState, *, at_ms: int) -> bool:
        """Record what a job reports. False: no heartbeat has the token."""
        ...

    async def claim_checks(self, *, now_ms: int, limit: int) -> Sequence[StoredCheck]:
        """Return checks that are due, and make each due again one interval later. Each is returned to one caller
        alone, however many there are."""
        ...

    async def record_result(self, name: str, result: CheckResult) -> None:
        """Store how a check went; nothing where it was removed meanwhile."""
        ...
