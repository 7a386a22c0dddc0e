"""Small lines drawn on the server: paths for an SVG that stretches to the width of its cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 120
HEIGHT: Final = 28
_MARGIN: Final = 2  # room for the stroke


@dataclass(frozen=True, slots=True)
class Sparkline:
    """``line`` and ``area`` are the ``d`` of two paths; both empty when there is nothing to draw."""

    line: str
    area: str
    width: int = WIDTH
    height: int = HEIGHT


def sparkline(points: Sequence[float | None], *, top: float | None = None) -> Sparkline:
    """From 0 to the largest value, or to ``top`` when that is larger. A gap stays a gap; a lone point is a dot."""
    largest = max((value for value in points if value is not None), default=0.0)
    scale = max(largest, top or 0.0) or 1.0
    step = WIDTH / max(1, len(points) - 1)
    lines: list[str] = []
    areas: list[str] = []
    for run in _runs(points):
        placed = [(at * step, HEIGHT - _MARGIN - max(0.0, value) / scale * (HEIGHT - 2 * _MARGIN)) for at, value in run]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in placed)
        lines.append(f"M{path}" if len(placed) > 1 else f"M{path}h0.01")
        if len(placed) > 1:
            areas.append(f"M{placed[0][0]:.1f} {HEIGHT}L{path}L{placed[-1][0]:.1f} {HEIGHT}Z")
    return Sparkline("".join(lines), "".join(areas))


def _runs(points: Sequence[float | None]) -> list[list[tuple[int, float]]]:
    runs: list[list[tuple[int, float]]] = []
    current: list[tuple[int, float]] = []
    for at, value in enumerate(points):
        if value is not None:
            current.append((at, value))
        elif current:
            runs.append(current)
            current = []
    return [*runs, current] if current else runs
