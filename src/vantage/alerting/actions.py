"""What people do with alerts: acknowledge and resolve them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from vantage.core.alert import Alert, State
from vantage.core.clock import Clock
from vantage.core.errors import ConflictError, InputError, NotFoundError
from vantage.core.sample import text_problem
from vantage.storage.metadata.alert_ports import AlertStore

NOTE_LENGTH_MAX: Final = 1000
ATTEMPTS: Final = 5  # an evaluation may change the alert at the same moment


class AlertActions:
    """Changes alerts on behalf of people. Every method raises StoreUnavailable."""

    def __init__(self, alerts: AlertStore, clock: Clock) -> None:
        self._alerts = alerts
        self._clock = clock

    async def acknowledge(self, alert_id: int, *, actor: str, note: str = "") -> Alert:
        """Say that somebody works on an alert; of one that is acknowledged already, return it as it is. Raises
        NotFoundError, ConflictError for one that is pending or resolved, InputError for a note."""

        def acknowledged(alert: Alert) -> Alert:
            if alert.state is State.ACKNOWLEDGED:
                return alert
            if alert.state not in (State.FIRING, State.NO_DATA):
                raise ConflictError(f"is {alert.state} and cannot be acknowledged", field="alert")
            return replace(alert, state=State.ACKNOWLEDGED)

        return await self._change(alert_id, acknowledged, actor=actor, note=note)

    async def resolve(self, alert_id: int, *, actor: str, note: str = "") -> Alert:
        """End an alert. It does not fire again before its condition has recovered. One that is resolved already is
        returned as it is. Raises NotFoundError, ConflictError for a pending one, InputError for a note."""

        def resolved(alert: Alert) -> Alert:
            if alert.state is State.RESOLVED:
                return alert
            if alert.state is State.PENDING:
                raise ConflictError("is pending: it has not fired", field="alert")
            waits = alert.recovering_ms is None
            now_ms = max(alert.since_ms, self._clock.now_ms())
            return replace(alert, state=State.RESOLVED, ended_ms=now_ms, recovering_ms=None, waits_for_ok=waits)

        return await self._change(alert_id, resolved, actor=actor, note=note)

    async def _change(self, alert_id: int, change: Callable[[Alert], Alert], *, actor: str, note: str) -> Alert:
        note = note.strip()
        if note and (problem := text_problem(note, NOTE_LENGTH_MAX)):
            raise InputError(problem, field="note")
        for _ in range(ATTEMPTS):
            before = await self._alerts.alert(alert_id) if 0 < alert_id < 1 << 62 else None
            if before is None:
                raise NotFoundError("no alert has this id", field="alert")
            after = change(before)
            if after is before:
                return before
            now_ms = self._clock.now_ms()
            after = replace(after, actor=actor, note=note, since_ms=max(before.since_ms, now_ms))
            if await self._alerts.change_alert(after, before=before, at_ms=now_ms, note=note):
                return replace(after, revision=before.revision + 1)
        raise ConflictError("changes too often: try again", field="alert")
