"""Alerts: what a rule says about one entity, from the moment its condition holds until it has recovered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from vantage.core.alert_rule import Severity

EVALUATOR = "vantage"  # the actor of transitions that no person made


class State(StrEnum):
    """``ok`` is where an alert begins and has no row; ``resolved`` is its end."""

    OK = "ok"
    PENDING = "pending"
    FIRING = "firing"
    ACKNOWLEDGED = "acknowledged"
    NO_DATA = "no data"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert. At most one of a rule and an entity is open at a time.

    ``since_ms`` is when it came into its state, ``begun_ms`` when the condition began to hold, ``fired_ms`` when it
    fired first (None: it has not), ``ended_ms`` when it was resolved (None: it is open); ``recovering_ms`` since when
    the condition has not held (None: it holds). All are of the data's clock. ``entity`` has the names of what it is
    about, such as ``{"service": "checkout"}``; ``service`` is that of the entity or rule, '' for none. ``value`` is the
    newest one, ``text`` a sentence. ``revision`` grows with each change. ``waits_for_ok``: somebody resolved it while
    the condition held, and it may not fire again before that has recovered.
    """

    id: int
    rule: str
    entity: Mapping[str, str]
    service: str
    severity: Severity
    state: State
    since_ms: int
    begun_ms: int
    fired_ms: int | None = None
    ended_ms: int | None = None
    recovering_ms: int | None = None
    value: float | None = None
    unit: str = ""
    text: str = ""
    actor: str = EVALUATOR
    note: str = ""
    revision: int = 1
    waits_for_ok: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        return self.ended_ms is None


@dataclass(frozen=True, slots=True)
class AlertEvent:
    """A transition of an alert. ``at_ms`` is of the wall clock, ``data_ms`` of the data's. ``handled_ms`` is when what
    there is to notify of it was written down, None before."""

    id: int
    alert_id: int
    at_ms: int
    data_ms: int
    before: State
    after: State
    actor: str
    note: str
    value: float | None
    text: str
    handled_ms: int | None = None


def entity_key(entity: Mapping[str, str]) -> str:
    """Return a text that tells entities apart."""
    return "\x1f".join(f"{name}\x1e{entity[name]}" for name in sorted(entity))
