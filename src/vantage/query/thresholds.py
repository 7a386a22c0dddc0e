"""When a figure is a warning, and when it is bad: defined once, for pages, scripts and the order of services."""

from __future__ import annotations

from typing import Final, Literal

ERROR_RATIO_HIGH: Final = 0.01  # from here on a service is listed first, and its ratio is a warning
ERROR_RATIO_CRITICAL: Final = 0.05
P95_CHANGE_SHOWN: Final = 0.1  # less than this, up or down, is noise
P95_CHANGE_SLOWER: Final = 0.25

Level = Literal["", "ok", "good", "warn", "bad"]


def error_level(ratio: float | None) -> Level:
    """Return ``ok``, ``warn`` or ``bad`` for a share of failed requests from 0 to 1; None counts as 0."""
    if (ratio or 0) >= ERROR_RATIO_CRITICAL:
        return "bad"
    return "warn" if (ratio or 0) >= ERROR_RATIO_HIGH else "ok"


def p95_change_level(change: float) -> Level:
    """Return ``warn`` for a p95 that grew a lot, ``good`` for one that shrank, and nothing for a small change."""
    if change >= P95_CHANGE_SLOWER:
        return "warn"
    return "good" if change <= -P95_CHANGE_SHOWN else ""


def is_p95_change_shown(change: float | None) -> bool:
    """Return whether a relative change of the p95 is large enough to be shown; None, which is unknown, is not."""
    return change is not None and abs(change) >= P95_CHANGE_SHOWN
