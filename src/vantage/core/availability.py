"""Sources of availability: heartbeats of jobs that must run, and HTTP checks of URLs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec

from vantage.core.errors import InputError
from vantage.core.sample import text_problem
from vantage.core.slo import checked_name
from vantage.core.timerange import parse_duration_ms

HEARTBEATS_MAX: Final = 1000
CHECKS_MAX: Final = 500
TEXT_LENGTH_MAX: Final = 1000
DAY_MS: Final = 86_400_000
PingState = Literal["start", "success", "fail"]


class Heartbeat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A job that must report ``every`` so long, or by the times of ``cron`` in ``timezone``. It is late when it has not
    reported success ``grace`` after it should have."""

    name: Annotated[str, msgspec.Meta(examples=["nightly export"])]
    service: str = ""
    every: str = "1d"
    cron: str = ""
    timezone: str = "UTC"
    grace: str = "15m"
    description: str = ""
    enabled: bool = True

    @property
    def every_ms(self) -> int:
        return parse_duration_ms(self.every, field="every")

    @property
    def grace_ms(self) -> int:
        return parse_duration_ms(self.grace, field="grace")


class HttpCheck(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A URL that is called ``every`` so often. It is up when it answers within ``timeout`` with one of the statuses
    from ``status_from`` to ``status_to``, and with ``text`` in its first 64 kB. ``service`` is what it is of."""

    name: Annotated[str, msgspec.Meta(examples=["home page"])]
    url: Annotated[str, msgspec.Meta(examples=["https://shop.example.com/health"])]
    service: str = ""
    method: Literal["GET", "HEAD"] = "GET"
    every: str = "1m"
    timeout: str = "10s"
    status_from: int = 200
    status_to: int = 299
    text: str = ""
    description: str = ""
    enabled: bool = True

    @property
    def every_ms(self) -> int:
        return parse_duration_ms(self.every, field="every")

    @property
    def timeout_ms(self) -> int:
        return parse_duration_ms(self.timeout, field="timeout")


@dataclass(frozen=True, slots=True)
class StoredHeartbeat:
    """A heartbeat with its secret ``token`` and what was reported last: ``last_ms`` is the latest success (None: not
    yet), ``started_ms`` the latest start, ``failed_ms`` the latest failure. ``created_ms`` is when it began to be
    expected. Wall clock."""

    heartbeat: Heartbeat
    token: str
    revision: int
    author: str
    at_ms: int
    created_ms: int
    last_ms: int | None = None
    started_ms: int | None = None
    failed_ms: int | None = None


@dataclass(frozen=True, slots=True)
class CheckResult:
    """How a check went: ``status`` is 0 without a response, ``problem`` '' if it was up."""

    at_ms: int
    is_up: bool
    status: int
    duration_ms: float
    problem: str = ""


@dataclass(frozen=True, slots=True)
class StoredCheck:
    """A check with its latest result (None: not yet) and how often it has failed in a row, since ``since_ms``."""

    check: HttpCheck
    revision: int
    author: str
    at_ms: int
    due_ms: int
    result: CheckResult | None = None
    failures: int = 0
    since_ms: int | None = None


def checked_heartbeat(heartbeat: Heartbeat) -> Heartbeat:
    """Return a heartbeat within its limits, its name stripped; cron and timezone are checked where they are read.
    Raises InputError that names the field."""
    name = checked_name(heartbeat.name)
    _check_texts(heartbeat.service, heartbeat.description)
    if not 60_000 <= heartbeat.every_ms <= 31 * DAY_MS:
        raise InputError("is not between 1m and 31d", field="every")
    if not 0 <= heartbeat.grace_ms <= 7 * DAY_MS:
        raise InputError("is not between 0s and 7d", field="grace")
    return msgspec.structs.replace(heartbeat, name=name)


def checked_check(check: HttpCheck) -> HttpCheck:
    """Return a check within its limits, its name stripped. Whether its address may be called is decided by who calls
    it. Raises InputError that names the field."""
    name = checked_name(check.name)
    _check_texts(check.service, check.description)
    try:
        parts = urlsplit(check.url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url or len(check.url) > 2048:
        raise InputError("is no http or https address", field="url")
    if not 10_000 <= check.every_ms <= DAY_MS:
        raise InputError("is not between 10s and 1d", field="every")
    if not 1000 <= check.timeout_ms <= 30_000:
        raise InputError("is not between 1s and 30s", field="timeout")
    if not 100 <= check.status_from <= check.status_to <= 599:
        raise InputError("statuses are from 100 to 599, the first not above the last", field="status_from")
    if len(check.text) > TEXT_LENGTH_MAX:
        raise InputError(f"is longer than {TEXT_LENGTH_MAX} characters", field="text")
    if check.text and check.method == "HEAD":
        raise InputError("a response to HEAD has no text", field="text")
    return msgspec.structs.replace(check, name=name)


def _check_texts(service: str, description: str) -> None:
    if service and (problem := text_problem(service, 255)):
        raise InputError(problem, field="service")
    if description and (problem := text_problem(description, TEXT_LENGTH_MAX)):
        raise InputError(problem, field="description")
