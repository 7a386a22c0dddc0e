"""A change with its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from vantage.analysis.long_run import t_quantile, t_two_sided

LEVEL: Final = 0.95
_FREEDOM_MAX: Final = 1e6  # Student's t is the normal distribution then


@dataclass(frozen=True, slots=True)
class Change:
    """Candidate minus baseline, with a 95 % interval; an infinite bound is not known. ``pct`` is relative to the
    baseline in percent, None where a value is not positive. ``p_value`` is of no difference, ``freedom`` the degrees of
    freedom and ``statistic`` the value of Student's t."""

    name: str
    absolute: float
    low: float
    high: float
    pct: float | None
    low_pct: float | None
    high_pct: float | None
    p_value: float
    statistic: float
    freedom: float


def change_of(name: str, baseline: float, candidate: float, variance: float, freedom: float) -> Change:
    """Return the change of an estimate with a variance and so many degrees of freedom."""
    difference, error = candidate - baseline, math.sqrt(variance)
    degrees = min(freedom, _FREEDOM_MAX)
    margin = t_quantile((1 + LEVEL) / 2, degrees) * error
    statistic = difference / error if error > 0 else math.copysign(math.inf, difference) if difference else 0.0
    p_value = float(t_two_sided(statistic, degrees))
    return Change(
        name, difference, difference - margin, difference + margin, None, None, None, p_value, statistic, degrees
    )


def as_pct(logarithm: float) -> float:
    """Return the change in percent of a logarithm's change; infinite ones stay so."""
    return logarithm if math.isinf(logarithm) else 100 * math.expm1(min(logarithm, 700.0))
