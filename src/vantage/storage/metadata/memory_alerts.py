"""The smallest AlertStore, for tests. Its methods never await anything, so each is one transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from vantage.core.alert import EVALUATOR, Alert, AlertEvent, State, entity_key
from vantage.core.alert_rule import Rule, StoredRule
from vantage.core.audit import AuditEntry
from vantage.core.clock import Clock
from vantage.core.errors import ConflictError
from vantage.core.timerange import TimeRange
from vantage.storage.metadata.alert_ports import RULES_MAX, Evaluation


class MemoryAlerts:
    """Implements ``AlertStore``; ``record_audit`` and ``ping`` are those of the store it belongs to."""

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
        self._rules: dict[str, StoredRule] = {}
        self._removed: dict[str, int] = {}  # default rules, by their revision
        self._alerts: dict[int, Alert] = {}
        self._events: list[AlertEvent] = []
        self._evaluations: dict[str, Evaluation] = {}
        self._settings: dict[str, Any] = {}
        self._ever = 0
        self._events_ever = 0

    async def rules(self) -> Sequence[StoredRule]:
        """Return all rules by name."""
        await self._ping()
        return [self._rules[name] for name in sorted(self._rules)]

    async def rule(self, name: str) -> StoredRule | None:
        """Return a rule; None: there is none of this name."""
        await self._ping()
        return self._rules.get(name)

    async def alerts(
        self,
        *,
        states: Collection[State] = (),
        rule: str = "",
        service: str = "",
        time_range: TimeRange | None = None,
        before_id: int | None = None,
        limit: int = 100,
    ) -> Sequence[Alert]:
        """Return up to ``limit`` alerts, those that began last first."""
        await self._ping()
        chosen = [
            alert
            for alert in self._alerts.values()
            if (not states or alert.state in states)
            and rule in ("", alert.rule)
            and service in ("", alert.service)
            and (before_id is None or alert.id < before_id)
            and (time_range is None or alert.begun_ms < time_range.end_ms)
            and (time_range is None or alert.ended_ms is None or alert.ended_ms >= time_range.start_ms)
        ]
        return sorted(chosen, key=lambda alert: -alert.id)[: max(0, limit)]

    async def alert(self, alert_id: int) -> Alert | None:
        """Return an alert; None: there is none."""
        await self._ping()
        return self._alerts.get(alert_id)

    async def events(
        self, *, alert_id: int | None = None, before_id: int | None = None, limit: int = 100
    ) -> Sequence[AlertEvent]:
        """Return up to ``limit`` transitions, the latest first."""
        await self._ping()
        chosen = [
            event
            for event in reversed(self._events)
            if alert_id in (None, event.alert_id) and (before_id is None or event.id < before_id)
        ]
        return chosen[: max(0, limit)]

    async def counts(self) -> Mapping[State, int]:
        """Return how many open alerts there are in each state."""
        await self._ping()
        return Counter(alert.state for alert in self._alerts.values() if alert.is_open)

    async def evaluations(self) -> Sequence[Evaluation]:
        """Return how the latest evaluation of each rule went."""
        await self._ping()
        return [self._evaluations[name] for name in sorted(self._evaluations)]

    async def save_rule(self, rule: Rule, *, actor: str, revision: int | None = None) -> StoredRule:
        """Store a rule, or replace that of its name. Raises ConflictError."""
        await self._ping()
        stored = self._rules.get(rule.name)
        if revision is not None and revision != (stored.revision if stored else 0):
            raise ConflictError(
                "was changed meanwhile" if revision else "is that of another rule",
                field="revision" if revision else "name",
            )
        if stored is None and len(self._rules) >= RULES_MAX:
            raise ConflictError(f"there are {RULES_MAX} rules: remove one first", field="name")
        now_ms = self._clock.now_ms()
        removed = self._removed.pop(rule.name, None)
        origin = stored.origin if stored else "user" if removed is None else "default"
        before = stored.revision if stored else removed or 0
        self._rules[rule.name] = StoredRule(rule, before + 1, origin, actor, now_ms)
        await self._record_audit(AuditEntry(now_ms, actor, "alert_rule.save", rule.name))
        return self._rules[rule.name]

    async def apply_rules(self, rules: Sequence[Rule], *, removed: Collection[str], actor: str) -> None:
        """Store several rules and remove others, all or nothing. Raises ConflictError."""
        await self._ping()
        if len({*self._rules, *(rule.name for rule in rules)} - set(removed)) > RULES_MAX:
            raise ConflictError(f"there are {RULES_MAX} rules: remove one first", field="name")
        for name in removed:
            await self.remove_rule(name, actor=actor)
        for rule in rules:
            await self.save_rule(rule, actor=actor)

    async def remove_rule(self, name: str, *, actor: str) -> bool:
        """Remove a rule; its open alerts are resolved. False: there is none."""
        await self._ping()
        stored = self._rules.pop(name, None)
        if stored is None:
            return False
        if stored.origin == "default":
            self._removed[name] = stored.revision + 1
        self._evaluations.pop(name, None)
        at_ms, note = self._clock.now_ms(), "the rule was removed"
        for alert in [alert for alert in self._alerts.values() if alert.rule == name]:
            if alert.is_open:
                ended = replace(alert, state=State.RESOLVED, ended_ms=at_ms, since_ms=at_ms, actor=actor, note=note)
                await self.change_alert(replace(ended, waits_for_ok=False), before=alert, at_ms=at_ms, note=note)
            elif alert.waits_for_ok:
                self._alerts[alert.id] = replace(alert, waits_for_ok=False, revision=alert.revision + 1)
        await self._record_audit(AuditEntry(at_ms, actor, "alert_rule.remove", name))
        return True

    async def add_default_rules(self, rules: Sequence[Rule]) -> int:
        """Store those default rules whose names have never been stored."""
        await self._ping()
        added = [rule for rule in rules if rule.name not in self._rules and rule.name not in self._removed]
        for rule in added:
            self._rules[rule.name] = StoredRule(rule, 1, "default", EVALUATOR, self._clock.now_ms())
        return len(added)

    async def watched_alerts(self) -> Sequence[Alert]:
        """Return all alerts that are open, and those that wait for their condition to recover."""
        await self._ping()
        return [alert for alert in self._alerts.values() if alert.is_open or alert.waits_for_ok]

    async def open_alert(self, alert: Alert, *, note: str, at_ms: int) -> Alert | None:
        """Store a new alert with its first transition. None: there is one already."""
        key = (alert.rule, entity_key(alert.entity))
        if any((stored.rule, entity_key(stored.entity)) == key for stored in await self.watched_alerts()):
            return None
        self._ever += 1
        self._alerts[self._ever] = opened = replace(alert, id=self._ever)
        self._add_event(opened, before=State.OK, at_ms=at_ms, note=note)
        return opened

    async def change_alert(self, alert: Alert, *, before: Alert, at_ms: int, note: str = "") -> bool:
        """Replace an alert that is still as in ``before``. False: it is not."""
        await self._ping()
        stored = self._alerts.get(before.id)
        if stored is None or (stored.revision, stored.state) != (before.revision, before.state):
            return False
        if alert.state is State.OK:
            del self._alerts[before.id]
            self._events = [event for event in self._events if event.alert_id != before.id]
            return True
        self._alerts[before.id] = replace(alert, revision=before.revision + 1)
        if alert.state is not before.state:
            self._add_event(alert, before=before.state, at_ms=at_ms, note=note)
            if alert.actor != EVALUATOR:
                now_ms = self._clock.now_ms()
                detail = {"rule": alert.rule}
                await self._record_audit(AuditEntry(now_ms, alert.actor, f"alert.{alert.state}", str(alert.id), detail))
        return True

    async def unhandled_events(self, *, limit: int = 500) -> Sequence[AlertEvent]:
        """Return the oldest transitions that nobody has handled."""
        await self._ping()
        return [event for event in self._events if event.handled_ms is None][:limit]

    def mark_handled(self, event_ids: Collection[int], *, at_ms: int) -> None:
        """Mark transitions as handled."""
        self._events = [replace(event, handled_ms=at_ms) if event.id in event_ids else event for event in self._events]

    async def record_evaluations(self, evaluations: Sequence[Evaluation]) -> None:
        """Replace those of the same rules."""
        await self._ping()
        self._evaluations |= {evaluation.rule: evaluation for evaluation in evaluations}

    async def alert_settings(self) -> Mapping[str, Any]:
        """Return what is set for all alerts."""
        await self._ping()
        return dict(self._settings)

    async def save_alert_settings(self, settings: Mapping[str, Any], *, actor: str) -> None:
        """Replace what is set for all alerts."""
        await self._ping()
        self._settings = dict(settings)
        await self._record_audit(AuditEntry(self._clock.now_ms(), actor, "alert_settings.save", "alerts"))

    def _add_event(self, alert: Alert, *, before: State, at_ms: int, note: str) -> None:
        self._events_ever += 1
        self._events.append(
            AlertEvent(
                self._events_ever,
                alert.id,
                at_ms,
                alert.since_ms,
                before,
                alert.state,
                alert.actor,
                note,
                alert.value,
                alert.text,
            )
        )
