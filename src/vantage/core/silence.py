"""Silences: times at which alerts of a kind disturb nobody, once or again and again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final

from vantage.core.alert import Alert
from vantage.core.errors import InputError
from vantage.core.sample import text_problem

TEXT_LENGTH_MAX: Final = 500
ENTITY_MAX: Final = 10
YEAR_MS: Final = 366 * 86_400_000


@dataclass(frozen=True, slots=True)
class Silence:
    """What it silences has all that is given: ``rule``, ``service`` and the values of ``entity`` are patterns with
    ``*``, '' and an absent name mean any.

    Once: from ``start_ms`` to ``end_ms``. Recurring: for ``duration_ms`` from each time of ``cron`` in ``timezone``,
    between ``start_ms`` and ``end_ms`` (None: for good).
    """

    start_ms: int
    end_ms: int | None
    rule: str = ""
    service: str = ""
    severity: str = ""
    entity: Mapping[str, str] = field(default_factory=dict)
    cron: str = ""
    timezone: str = "UTC"
    duration_ms: int = 0
    comment: str = ""
    author: str = ""
    at_ms: int = 0
    id: int = 0
    revision: int = 0

    def matches(self, alert: Alert) -> bool:
        """Return whether it is about an alert, whatever the time."""
        return (
            _like(alert.rule, self.rule)
            and _like(alert.service, self.service)
            and self.severity in ("", str(alert.severity))
            and all(name in alert.entity and _like(alert.entity[name], text) for name, text in self.entity.items())
        )


def _like(text: str, pattern: str) -> bool:
    # Brackets are characters as others are: names of services may have them.
    return not pattern or fnmatchcase(text, pattern.replace("[", "[[]"))


def checked_silence(silence: Silence) -> Silence:
    """Return a silence whose texts and times are within their limits; its cron and timezone are checked where they are
    read. Raises InputError that names the field."""
    for name in ("rule", "service", "comment"):
        text = getattr(silence, name)
        if text and (problem := text_problem(text, TEXT_LENGTH_MAX)):
            raise InputError(problem, field=name)
    if silence.severity not in ("", "critical", "warning", "info"):
        raise InputError("is not critical, warning or info", field="severity")
    if len(silence.entity) > ENTITY_MAX:
        raise InputError(f"has more than {ENTITY_MAX} names", field="entity")
    if any(not name or text_problem(name + text, TEXT_LENGTH_MAX) for name, text in silence.entity.items()):
        raise InputError("has a name or value that is empty, too long or no text", field="entity")
    if not (silence.rule or silence.service or silence.severity or silence.entity):
        raise InputError("name a rule, service, severity or entity; service * is everything", field="service")
    _check_times(silence)
    return silence


def _check_times(silence: Silence) -> None:
    if silence.cron:
        if not 60_000 <= silence.duration_ms <= 7 * 86_400_000:
            raise InputError("is not between 1m and 7d", field="duration")
    elif silence.end_ms is None:
        raise InputError("is missing: a silence that is not recurring must end", field="end")
    elif silence.end_ms - silence.start_ms > YEAR_MS:
        raise InputError("is more than a year after the start", field="end")
    if silence.end_ms is not None and silence.end_ms <= silence.start_ms:
        raise InputError("must lie after start", field="end")
