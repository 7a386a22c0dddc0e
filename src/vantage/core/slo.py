"""Service level objectives: the share of good requests, or of successful checks, over a window of days."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec

from vantage.core.errors import InputError
from vantage.core.sample import text_problem

NAME_LENGTH_MAX: Final = 100
TEXT_LENGTH_MAX: Final = 2000
DAY_MS: Final = 86_400_000
SloKind = Literal["errors", "latency", "check"]


class Slo(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An objective. ``errors``: the share of requests that do not fail; ``latency``: the share of those that take at
    most ``threshold_ms``; ``check``: the share of successful runs of the HTTP check ``check``. Requests are those of
    ``service``, or of its ``endpoint`` (``GET /orders``, or a route). ``objective`` is in percent, over ``days``."""

    name: Annotated[str, msgspec.Meta(examples=["checkout answers"])]
    kind: Annotated[SloKind, msgspec.Meta(examples=["errors"])] = "errors"
    service: str = ""
    endpoint: str = ""
    check: str = ""
    threshold_ms: float | None = None
    objective: float = 99.9
    days: int = 30
    description: str = ""

    @property
    def budget(self) -> float:
        """Return the share that may be bad."""
        return 1 - self.objective / 100

    @property
    def window_ms(self) -> int:
        return self.days * DAY_MS


@dataclass(frozen=True, slots=True)
class StoredSlo:
    """An objective with its history: ``author`` changed it last, at ``at_ms``."""

    slo: Slo
    revision: int
    author: str
    at_ms: int


def checked_slo(slo: Slo) -> Slo:
    """Return an objective that can be computed, with its name stripped. Raises InputError that names the field."""
    name = checked_name(slo.name)
    if slo.description and (problem := text_problem(slo.description, TEXT_LENGTH_MAX)):
        raise InputError(problem, field="description")
    if not 50 <= slo.objective < 100:
        raise InputError("is not from 50 to below 100 percent", field="objective")
    if not 1 <= slo.days <= 90:
        raise InputError("is not between 1 and 90", field="days")
    wanted = {"errors": ("service",), "latency": ("service", "threshold_ms"), "check": ("check",)}[slo.kind]
    for field in ("service", "check", "threshold_ms"):
        if field in wanted and not getattr(slo, field):
            raise InputError(f"is needed for an objective of {slo.kind}", field=field)
    if slo.kind == "check" and (slo.service or slo.endpoint):
        raise InputError("a check has its own service", field="service")
    if slo.kind != "check" and slo.check:
        raise InputError("is for an objective of a check alone", field="check")
    if slo.kind != "latency" and slo.threshold_ms is not None:
        raise InputError("is for an objective of latency alone", field="threshold_ms")
    if slo.threshold_ms is not None and not 0.001 <= slo.threshold_ms <= 86_400_000:
        raise InputError("is not between 0.001 and 86400000 ms", field="threshold_ms")
    return msgspec.structs.replace(slo, name=name)


def checked_name(name: str) -> str:
    """Return a name that may be a segment of an address, stripped. Raises InputError."""
    name = name.strip()
    if problem := "is empty" if not name else text_problem(name, NAME_LENGTH_MAX):
        raise InputError(problem, field="name")
    if "/" in name or name in ("new", "save", "remove"):
        raise InputError("contains a slash, or is an address of its own", field="name")
    return name
