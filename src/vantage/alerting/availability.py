"""Changes of objectives, heartbeats and HTTP checks, and what jobs report."""

from __future__ import annotations

import secrets
from typing import Final

from vantage.alerting.heartbeats import check_times
from vantage.alerting.outgoing import Outgoing
from vantage.alerting.slo import read_burns
from vantage.core.availability import (
    Heartbeat,
    HttpCheck,
    PingState,
    StoredCheck,
    StoredHeartbeat,
    checked_check,
    checked_heartbeat,
)
from vantage.core.errors import InputError, NotFoundError
from vantage.core.slo import Slo, StoredSlo, checked_slo
from vantage.query.context import QueryContext
from vantage.storage.metadata.availability_ports import AvailabilityStore

TOKEN_LENGTH_MAX: Final = 64
PING_STATES: Final = ("start", "success", "fail")


class AvailabilityEditing:
    """Checks and stores them. Methods raise InputError that names the field, ConflictError, and what the stores
    raise."""

    def __init__(self, context: QueryContext, store: AvailabilityStore, outgoing: Outgoing) -> None:
        self._context = context
        self._store = store
        self._outgoing = outgoing

    async def save_slo(self, slo: Slo, *, actor: str, revision: int | None = None) -> StoredSlo:
        """Store an objective that can be computed, or replace that of its name."""
        slo = checked_slo(slo)
        await read_burns(self._context, slo, at_ms=self._context.present().now_ms, speed="page")
        return await self._store.save_slo(slo, actor=actor, revision=revision)

    async def remove_slo(self, name: str, *, actor: str) -> None:
        """Remove an objective. Raises NotFoundError."""
        if not await self._store.remove_slo(name, actor=actor):
            raise NotFoundError("no SLO has this name", field="name")

    async def save_heartbeat(self, heartbeat: Heartbeat, *, actor: str, revision: int | None = None) -> StoredHeartbeat:
        """Store a heartbeat, or replace that of its name, whose token stays."""
        heartbeat = checked_heartbeat(heartbeat)
        check_times(heartbeat)
        token = secrets.token_urlsafe(24)
        return await self._store.save_heartbeat(heartbeat, token=token, actor=actor, revision=revision)

    async def remove_heartbeat(self, name: str, *, actor: str) -> None:
        """Remove a heartbeat; its address is no more. Raises NotFoundError."""
        if not await self._store.remove_heartbeat(name, actor=actor):
            raise NotFoundError("no heartbeat has this name", field="name")

    async def ping(self, token: str, state: str) -> None:
        """Record what a job reports. Raises NotFoundError for a token that no heartbeat has."""
        if state not in PING_STATES:
            raise InputError(f"is not one of {', '.join(PING_STATES)}", field="state")
        named: PingState = state  # type: ignore[assignment]
        known = 0 < len(token) <= TOKEN_LENGTH_MAX and await self._store.ping(
            token, named, at_ms=self._context.clock.now_ms()
        )
        if not known:
            raise NotFoundError("no heartbeat has this address", field="token")

    async def save_check(self, check: HttpCheck, *, actor: str, revision: int | None = None) -> StoredCheck:
        """Store a check, or replace that of its name; it runs at once."""
        check = checked_check(check)
        self._outgoing.check_url(check.url)
        return await self._store.save_check(check, actor=actor, revision=revision)

    async def remove_check(self, name: str, *, actor: str) -> None:
        """Remove a check. Raises NotFoundError."""
        if not await self._store.remove_check(name, actor=actor):
            raise NotFoundError("no check has this name", field="name")
