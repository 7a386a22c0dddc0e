"""Sparklines as text, a character for each point: a script draws them, and an update of a live page is small."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

LEVELS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz+-"  # in the script, too
GAP: Final = "."


def sparkline(points: Sequence[float | None], *, top: float | None = None) -> str:
    """Return the levels of points between 0 and the largest value, or ``top`` if that is larger: '' when there is
    nothing to draw. None is a gap; what is below 0 is drawn as 0."""
    largest = max((value for value in points if value is not None), default=None)
    if largest is None:
        return ""
    levels = (len(LEVELS) - 1) / (max(largest, top or 0.0) or 1.0)
    return "".join([GAP if value is None else LEVELS[round(value * levels) if value > 0 else 0] for value in points])
