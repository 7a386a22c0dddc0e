"""Sparklines drawn on the server: paths for an SVG that stretches to the width of its cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 120
HEIGHT: Final = 28
_MARGIN: Final = 2  # room for the stroke


@dataclass(frozen=True, slots=True)
class Sparkline:
    """The ``d`` of three paths, empty when there is nothing to draw; ``dots`` are points without neighbours."""

    line: str
    area: str
    dots: str
    width: int = WIDTH
    height: int = HEIGHT


def sparkline(points: Sequence[float | None], *, top: float | None = None) -> Sparkline:
    """Draw from 0 to the largest value, or to ``top`` if that is larger. Gaps stay gaps; a single point is a dot."""
    largest = max((value for value in points if value is not None), default=0.0)
    scale = max(largest, top or 0.0) or 1.0
    step = WIDTH / max(1, len(points) - 1)
    lines: list[str] = []
    areas: list[str] = []
    dots: list[str] = []
    for run in _runs(points):
        xy = [
            (index * step, HEIGHT - _MARGIN - max(0.0, value) / scale * (HEIGHT - 2 * _MARGIN)) for index, value in run
        ]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in xy)
        if len(xy) == 1:
            dots.append(f"M{path}h0.01")  # as long as a round stroke needs to be drawn
        else:
            lines.append(f"M{path}")
            areas.append(f"M{xy[0][0]:.1f} {HEIGHT}L{path}L{xy[-1][0]:.1f} {HEIGHT}Z")
    return Sparkline("".join(lines), "".join(areas), "".join(dots))


def _runs(points: Sequence[float | None]) -> list[list[tuple[int, float]]]:
    runs: list[list[tuple[int, float]]] = []
    current: list[tuple[int, float]] = []
    for index, value in enumerate(points):
        if value is not None:
            current.append((index, value))
        elif current:
            runs.append(current)
            current = []
    return [*runs, current] if current else runs
