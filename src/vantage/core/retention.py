"""Rules by which some services and metrics expire earlier than the rest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from vantage.core.errors import InputError

DAYS_MAX: Final = 36_500
_RULE: Final = re.compile(r"([^/]+)/(.+)=(\d{1,6})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """Data older than ``days`` expires, of services and metrics whose names match.

    '' matches any name, ``*`` any run of characters. A rule for any metric applies to spans as well.
    """

    days: int
    service: str = ""
    metric: str = ""

    def names_service(self, name: str) -> bool:
        return not self.service or fnmatchcase(name, self.service)

    def names_metric(self, name: str) -> bool:
        return not self.metric or fnmatchcase(name, self.metric)


def parse_rule(text: str) -> RetentionRule:
    """Parse ``SERVICE/METRIC=DAYS``, such as ``checkout/*=30`` or ``*/debug.*=7``. Raises InputError."""
    match = _RULE.fullmatch(text.strip())
    if not match:
        raise InputError(f"{text[:80]!r} is no rule: write SERVICE/METRIC=DAYS, such as checkout/*=30 or */debug.*=7")
    service, metric, days = match[1], match[2], int(match[3])
    if not 1 <= days <= DAYS_MAX:
        raise InputError(f"{text[:80]!r}: days must be 1 to {DAYS_MAX}")
    if service == "*" and metric == "*":
        raise InputError(f"{text[:80]!r} is for everything: set retention_days instead")
    return RetentionRule(days, "" if service == "*" else service, "" if metric == "*" else metric)
