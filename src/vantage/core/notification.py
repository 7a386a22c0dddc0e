"""Notifications: what is sent to a channel about the alerts of a service, with its fate."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from vantage.core.alert import Alert, entity_key


class Status(StrEnum):
    """What a channel is notified of about an alert; '' is nothing yet."""

    NONE = ""
    FIRING = "firing"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"
    FLAPPING = "flapping"


class Fate(StrEnum):
    """What becomes of a notification. ``suppressed`` ones are recorded and never sent, ``failed`` ones are given up."""

    WAITING = "waiting"
    SENT = "sent"
    FAILED = "failed"
    SUPPRESSED = "suppressed"


class NoticeAlert(msgspec.Struct, frozen=True):
    """An alert as it was when its notice was written. Times in epoch ms; ``end_ms`` None: it goes on. ``is_new``: the
    notice is because of it, otherwise it is context. ``fingerprint`` is the same for all alerts of a rule and entity.
    """

    fingerprint: str
    alert_id: int
    rule: str
    service: str
    severity: str
    status: Status
    start_ms: int
    end_ms: int | None = None
    is_new: bool = True
    entity: Mapping[str, str] = {}
    labels: Mapping[str, str] = {}
    value: float | None = None
    unit: str = ""
    text: str = ""
    actor: str = ""
    note: str = ""
    owner: str = ""
    runbook: str = ""


@dataclass(frozen=True, slots=True)
class Notification:
    """One row of the outbox. ``reason`` says why it is, such as ``first``, ``changed``, ``ended`` and ``repeated``, or
    by what it was suppressed. It is sent at ``due_ms`` at the earliest; ``attempts`` were made, the latest failed with
    ``problem``. ``done_ms`` is when its fate became final."""

    channel: str
    service: str
    fate: Fate
    reason: str
    alerts: tuple[NoticeAlert, ...]
    created_ms: int
    due_ms: int
    attempts: int = 0
    problem: str = ""
    done_ms: int | None = None
    id: int = 0

    @property
    def status(self) -> Status:
        """What it is about: firing if any of its alerts is."""
        statuses = {alert.status for alert in self.alerts}
        for status in (Status.FIRING, Status.FLAPPING, Status.ACKNOWLEDGED):
            if status in statuses:
                return status
        return Status.RESOLVED


def fingerprint(rule: str, entity: Mapping[str, str]) -> str:
    """Return what a rule's alerts of an entity have in common, as 16 hex digits."""
    return hashlib.sha256(f"{rule}\x1d{entity_key(entity)}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def fingerprint_of(alert: Alert) -> str:
    return fingerprint(alert.rule, alert.entity)
