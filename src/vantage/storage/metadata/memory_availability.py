"""The smallest AvailabilityStore, for tests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from vantage.core.audit import AuditEntry
from vantage.core.availability import (
    CHECKS_MAX,
    HEARTBEATS_MAX,
    CheckResult,
    Heartbeat,
    HttpCheck,
    PingState,
    StoredCheck,
    StoredHeartbeat,
)
from vantage.core.clock import Clock
from vantage.core.slo import Slo, StoredSlo
from vantage.storage.metadata.availability import check_revision, check_room
from vantage.storage.metadata.availability_ports import SLOS_MAX


class MemoryAvailability:
    """Implements ``AvailabilityStore``; ``record_audit`` and ``ping`` are those of the store it belongs to."""

    def __init__(
        self,
        clock: Clock,
        *,
        record_audit: Callable[[AuditEntry], Awaitable[None]],
        ping: Callable[[], Awaitable[None]],
    ) -> None:
        self._clock = clock
        self._record_audit = record_audit
        self._ping = ping
        self._slos: dict[str, StoredSlo] = {}
        self._heartbeats: dict[str, StoredHeartbeat] = {}
        self._checks: dict[str, StoredCheck] = {}

    async def slos(self) -> Sequence[StoredSlo]:
        """Return all objectives by name."""
        await self._ping()
        return [self._slos[name] for name in sorted(self._slos)]

    async def heartbeats(self) -> Sequence[StoredHeartbeat]:
        """Return all heartbeats by name."""
        await self._ping()
        return [self._heartbeats[name] for name in sorted(self._heartbeats)]

    async def checks(self) -> Sequence[StoredCheck]:
        """Return all checks by name."""
        await self._ping()
        return [self._checks[name] for name in sorted(self._checks)]

    async def save_slo(self, item: Slo, *, actor: str, revision: int | None = None) -> StoredSlo:
        """Store an objective, or replace that of its name. Raises ConflictError."""
        await self._ping()
        before = self._slos.get(item.name)
        number = self._next_revision(before.revision if before else 0, revision, len(self._slos), SLOS_MAX)
        self._slos[item.name] = StoredSlo(item, number, actor, self._clock.now_ms())
        await self._audit("slo.save", item.name, actor)
        return self._slos[item.name]

    async def save_heartbeat(
        self, item: Heartbeat, *, token: str, actor: str, revision: int | None = None
    ) -> StoredHeartbeat:
        """Store a heartbeat, or replace that of its name. Raises ConflictError."""
        await self._ping()
        before, now_ms = self._heartbeats.get(item.name), self._clock.now_ms()
        number = self._next_revision(before.revision if before else 0, revision, len(self._heartbeats), HEARTBEATS_MAX)
        base = before or StoredHeartbeat(item, token, 1, actor, now_ms, now_ms)
        self._heartbeats[item.name] = replace(base, heartbeat=item, revision=number, author=actor, at_ms=now_ms)
        await self._audit("heartbeat.save", item.name, actor)
        return self._heartbeats[item.name]

    async def save_check(self, item: HttpCheck, *, actor: str, revision: int | None = None) -> StoredCheck:
        """Store a check, or replace that of its name. Raises ConflictError."""
        await self._ping()
        before, now_ms = self._checks.get(item.name), self._clock.now_ms()
        number = self._next_revision(before.revision if before else 0, revision, len(self._checks), CHECKS_MAX)
        stored = StoredCheck(item, number, actor, now_ms, now_ms)
        if before is not None and before.check.url == item.url:
            stored = replace(stored, result=before.result, failures=before.failures, since_ms=before.since_ms)
        self._checks[item.name] = stored
        await self._audit("http_check.save", item.name, actor)
        return stored

    async def remove_slo(self, name: str, *, actor: str) -> bool:
        """Remove an objective. False: there is none."""
        await self._ping()
        return await self._removed(self._slos.pop(name, None), "slo.remove", name, actor)

    async def remove_heartbeat(self, name: str, *, actor: str) -> bool:
        """Remove a heartbeat. False: there is none."""
        await self._ping()
        return await self._removed(self._heartbeats.pop(name, None), "heartbeat.remove", name, actor)

    async def remove_check(self, name: str, *, actor: str) -> bool:
        """Remove a check. False: there is none."""
        await self._ping()
        return await self._removed(self._checks.pop(name, None), "http_check.remove", name, actor)

    async def ping(self, token: str, state: PingState, *, at_ms: int) -> bool:
        """Record what a job reports. False: no heartbeat has the token."""
        await self._ping()
        stored = next((item for item in self._heartbeats.values() if item.token == token), None)
        if stored is None:
            return False
        if state == "start":
            stored = replace(stored, started_ms=at_ms)
        elif state == "success":
            stored = replace(stored, last_ms=at_ms)
        else:
            stored = replace(stored, failed_ms=at_ms)
        self._heartbeats[stored.heartbeat.name] = stored
        return True

    async def claim_checks(self, *, now_ms: int, limit: int) -> Sequence[StoredCheck]:
        """Return checks that are due, each to one caller alone."""
        await self._ping()
        due = sorted((item for item in self._checks.values() if item.due_ms <= now_ms), key=lambda item: item.due_ms)
        for item in due[:limit]:
            self._checks[item.check.name] = replace(item, due_ms=now_ms + item.check.every_ms)
        return due[:limit]

    async def record_result(self, name: str, result: CheckResult) -> None:
        """Store how a check went."""
        await self._ping()
        before = self._checks.get(name)
        if before is None:
            return
        is_same = before.result is not None and before.result.is_up == result.is_up
        self._checks[name] = replace(
            before,
            result=result,
            failures=0 if result.is_up else before.failures + 1,
            since_ms=before.since_ms if is_same else result.at_ms,
        )

    def _next_revision(self, stored: int, wanted: int | None, count: int, most: int) -> int:
        check_revision(stored, wanted)
        if not stored:
            check_room(count, most)
        return stored + 1

    async def _removed(self, item: object, action: str, name: str, actor: str) -> bool:
        if item is None:
            return False
        await self._audit(action, name, actor)
        return True

    async def _audit(self, action: str, name: str, actor: str) -> None:
        await self._record_audit(AuditEntry(self._clock.now_ms(), actor, action, name))
