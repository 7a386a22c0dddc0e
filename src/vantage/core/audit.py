"""The audit log: what changed, when, and who did it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change of configuration or data.

    ``actor`` is a key id, ``local`` (no keys in use), ``cli`` or ``system``.
    """

    at_ms: int
    actor: str
    action: str  # such as key.create
    subject: str  # what was changed: an id or a name
    detail: Mapping[str, str] = field(default_factory=dict)
    id: int = 0
