"""A comparison that was made, with its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class SavedComparison:
    """``document`` is what the API answers. ``author`` is as in ``AuditEntry``. ``key`` is that of what it is about,
    such as a deployment, which is compared once; '' for none."""

    id: str
    at_ms: int
    author: str
    service: str
    title: str
    word: str
    document: Mapping[str, Any]
    key: str = ""
