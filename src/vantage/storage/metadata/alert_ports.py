"""The port of alerting's state: rules, alerts and their history. ``MetadataStore.alerts`` is one.

All methods raise StoreUnavailable when the database cannot be reached. Changes are durable when a method returns; those
that people make write an audit entry in the same transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from vantage.core.alert import Alert, AlertEvent, State
from vantage.core.alert_rule import Rule, StoredRule
from vantage.core.timerange import TimeRange

RULES_MAX = 2000
ALERTS_MAX = 50_000  # those that ended; the oldest are removed


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How the latest evaluation of a rule went: ``problem`` is why it could not be evaluated, '' if it could."""

    rule: str
    at_ms: int
    entities: int
    problem: str = ""


class AlertReader(Protocol):
    """What pages and the API show."""

    async def rules(self) -> Sequence[StoredRule]:
        """Return all rules by name."""
        ...

    async def rule(self, name: str) -> StoredRule | None:
        """Return a rule; None: there is none of this name."""
        ...

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
        """Return up to ``limit`` alerts, those that began last first: in one of ``states`` (any, if empty), that touch
        a range, with ids below ``before_id``."""
        ...

    async def alert(self, alert_id: int) -> Alert | None:
        """Return an alert; None: there is none."""
        ...

    async def events(
        self, *, alert_id: int | None = None, before_id: int | None = None, limit: int = 100
    ) -> Sequence[AlertEvent]:
        """Return up to ``limit`` transitions, the latest first."""
        ...

    async def counts(self) -> Mapping[State, int]:
        """Return how many open alerts there are in each state."""
        ...

    async def evaluations(self) -> Sequence[Evaluation]:
        """Return how the latest evaluation of each rule went."""
        ...


class AlertStore(AlertReader, Protocol):
    """Changes of rules and alerts."""

    async def save_rule(self, rule: Rule, *, actor: str, revision: int | None = None) -> StoredRule:
        """Store a rule, or replace that of its name. ``revision``: only if the stored one has it, 0 for none. Raises
        ConflictError otherwise, and when there are RULES_MAX rules."""
        ...

    async def apply_rules(self, rules: Sequence[Rule], *, removed: Collection[str], actor: str) -> None:
        """Store several rules and remove others, all or nothing. Raises ConflictError."""
        ...

    async def remove_rule(self, name: str, *, actor: str) -> bool:
        """Remove a rule; its open alerts are resolved. False: there is none."""
        ...

    async def add_default_rules(self, rules: Sequence[Rule]) -> int:
        """Store those default rules whose names have never been stored, and return their number."""
        ...

    async def watched_alerts(self) -> Sequence[Alert]:
        """Return all alerts that are open, and those that wait for their condition to recover."""
        ...

    async def open_alert(self, alert: Alert, *, note: str, at_ms: int) -> Alert | None:
        """Store a new alert with its first transition, and return it with its id. None: one of this rule and entity is
        open already, or waits for its condition to recover."""
        ...

    async def change_alert(self, alert: Alert, *, before: Alert, at_ms: int, note: str = "") -> bool:
        """Replace an alert that is still as in ``before`` (state and revision), with the transition when the state is
        another. False: another process was faster, and nothing is changed. A pending alert that becomes ``ok`` is
        removed."""
        ...

    async def unhandled_events(self, *, limit: int = 500) -> Sequence[AlertEvent]:
        """Return the oldest transitions that nobody has handled."""
        ...

    async def record_evaluations(self, evaluations: Sequence[Evaluation]) -> None:
        """Replace those of the same rules."""
        ...

    async def alert_settings(self) -> Mapping[str, Any]:
        """Return what is set for all alerts, such as times of grouping; empty at first."""
        ...

    async def save_alert_settings(self, settings: Mapping[str, Any], *, actor: str) -> None:
        """Replace what is set for all alerts."""
        ...
