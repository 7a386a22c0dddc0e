"""Looking again and again at a comparison that is still running, without more false alarms than one look has.

A test at 5 % that is looked at 20 times is wrong far more often than 5 times in 100. Intervals and probabilities here
stay right however often and whenever they are looked at: the asymptotic confidence sequence of Waudby-Smith, Arbour,
Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences", 2021, theorem 2.2,
from Robbins' normal mixture (1970). Its one free number is set so that it is narrowest at the planned end, where it is
about half as wide again as the interval of a single look.
"""

from __future__ import annotations

import math
from typing import Final

from vantage.analysis.long_run import equivalent_normal, equivalent_t

_SHARE_MIN: Final = 1e-3


def _information(share: float, alpha: float) -> float:
    """Return the mixture's precision times the data's: at the planned end the one that makes the interval narrowest."""
    at_end = -2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))
    return max(share, _SHARE_MIN) * at_end


def sequential_critical(share: float, freedom: float, *, alpha: float) -> float:
    """Return how many errors wide the interval is to either side when ``share`` (0 to 1) of the planned data is there,
    with so many degrees of freedom of Student's t."""
    information = _information(share, alpha)
    width = math.sqrt(2 * (information + 1) / information * math.log(math.sqrt(information + 1) / alpha))
    return equivalent_t(width, freedom)


def sequential_p(statistic: float, freedom: float, share: float, *, alpha: float) -> float:
    """Return the smallest level whose interval excludes no difference, for a value of Student's t: at most ``alpha``
    just where the interval at ``alpha`` does."""
    information = _information(share, alpha)
    normal = equivalent_normal(statistic, freedom)
    exponent = -(normal**2) * information / (2 * (information + 1))
    return min(1.0, math.sqrt(information + 1) * math.exp(exponent))
