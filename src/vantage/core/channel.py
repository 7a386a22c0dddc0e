"""Channels: where notices of alerts go. Their secrets are stored encrypted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from vantage.core.errors import InputError
from vantage.core.sample import text_problem

NAME_LENGTH_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class Channel:
    """A configured target. ``kind`` is that of its notifier, ``settings`` what that reads, without the secrets, which
    ``sealed`` has by their names, encrypted. ``revision`` grows with each change; ``author`` made the latest, at
    ``at_ms``."""

    name: str
    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    sealed: Mapping[str, str] = field(default_factory=dict)
    enabled: bool = True
    revision: int = 0
    author: str = ""
    at_ms: int = 0


def checked_channel_name(name: str) -> str:
    """Return the stripped name of a channel. Raises InputError."""
    name = name.strip()
    if problem := "is empty" if not name else text_problem(name, NAME_LENGTH_MAX):
        raise InputError(problem, field="name")
    if "/" in name or not name.isprintable() or name in (".", ".."):
        raise InputError("may not contain a slash or control characters, nor be '.' or '..'", field="name")
    return name
