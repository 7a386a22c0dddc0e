"""A query that somebody gave a name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SavedQuery:
    """``text`` is VQL; ``author`` and ``at_ms`` are those of the latest change. ``author`` is as in ``AuditEntry``."""

    name: str
    text: str
    author: str
    at_ms: int
