"""The sentence of an alert: the usual one, or a template of the rule's with ``{{ value }}`` and the like."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from vantage.core.alert_rule import Rule
from vantage.core.errors import InputError
from vantage.core.number_format import quantity
from vantage.core.printable import printable

LENGTH_MAX: Final = 500
_PLACEHOLDER: Final = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
_FIXED: Final = ("value", "rule", "severity", "owner", "window", "text")


def value_text(value: float | None, unit: str) -> str:
    """Return a value with its unit; shares in percent."""
    return quantity(None if value is None else value * 100 if unit == "%" else value, unit)


def summary(rule: Rule, entity: Mapping[str, str], value: float | None, unit: str, text: str) -> str:
    """Return the rule's sentence about an entity, ``text`` where it has no template. A name that the entity does not
    have is left as it stands."""
    if not rule.summary:
        return text[:LENGTH_MAX]
    fields = {name: printable(part) for name, part in entity.items()}
    fields |= {f"labels.{name}": part for name, part in rule.labels.items()}
    fields |= {
        "value": value_text(value, unit),
        "rule": rule.name,
        "severity": rule.severity,
        "owner": rule.owner,
        "window": rule.window,
        "text": text,
    }
    return _PLACEHOLDER.sub(lambda match: str(fields.get(match[1], match[0])), rule.summary)[:LENGTH_MAX]


def check_summary(rule: Rule, names: frozenset[str] | None) -> None:
    """Raise InputError for a template that names what no alert of the rule has. ``names`` are those of its entities;
    None: they are not known."""
    template = rule.summary
    rest = _PLACEHOLDER.sub("", template)
    if "{{" in rest or "}}" in rest:
        raise InputError("has braces that do not belong together", field="summary")
    if names is None:
        return
    known = {*_FIXED, *names, *(f"labels.{name}" for name in rule.labels)}
    for match in _PLACEHOLDER.finditer(template):
        if match[1] not in known:
            raise InputError(f"names {match[1][:80]!r}: alerts have {', '.join(sorted(known))}", field="summary")
