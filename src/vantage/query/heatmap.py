"""The latency heatmap of a service: how many requests had which duration, when.

Its cells are sums of the sketches of rollups of requests, so what it takes does not grow with the requests. A row of
cells covers a whole number of sketch buckets, each 2 % wide, and begins at a multiple of that: rows stay where they are
while time passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from vantage.core.arrays import F64, I64
from vantage.core.sketch import bucket_ends, sketch_keys
from vantage.query.http_semconv import Buckets
from vantage.query.red import DurationCells

ROWS_MAX: Final = 32
LEVELS_MAX: Final = 6  # of colour
LEVEL_RATIO_MIN: Final = 1.4
BANDS_MAX: Final = 10
_SHORTEST_MS, _LONGEST_MS = 0.001, 86_400_000.0 * 7  # durations beyond count as these
_KEYS_PER_ROW: Final = (4, 6, 8, 12, 16, 24, 36, 48, 72, 96)


@dataclass(frozen=True, slots=True)
class Heatmap:
    """``counts[row, position]`` requests in the bucket at ``position`` lasted longer than ``edges_ms[row]`` and at most
    ``edges_ms[row + 1]``, within 1 %. ``levels`` are the counts at which each next colour begins, the first is 1."""

    buckets: Buckets
    edges_ms: F64
    counts: I64
    levels: tuple[int, ...]

    @property
    def requests(self) -> int:
        return int(self.counts.sum())

    def bands(self) -> list[Band]:
        """Return the rows as at most BANDS_MAX of neighbouring ones, the fastest first."""
        of_row = self.counts.sum(axis=1)
        rows = len(of_row)
        per_band = -(-rows // BANDS_MAX)
        bands = []
        for first in range(0, rows, per_band):
            last = min(first + per_band, rows)
            requests = int(of_row[first:last].sum())
            bands.append(
                Band(float(self.edges_ms[first]), float(self.edges_ms[last]), requests, requests / self.requests)
            )
        return bands


@dataclass(frozen=True, slots=True)
class Band:
    """Requests that lasted longer than ``low_ms`` and at most ``high_ms``; ``share`` of all, from 0 to 1."""

    low_ms: float
    high_ms: float
    requests: int
    share: float


def build_heatmap(cells: DurationCells, buckets: Buckets) -> Heatmap:
    """Return the heatmap of at least one cell."""
    shortest, longest = sketch_keys(np.array([_SHORTEST_MS, _LONGEST_MS])).tolist()
    key = np.clip(cells.key.astype(np.int64), shortest, longest)
    low, high = int(key.min()), int(key.max())
    width = next((width for width in _KEYS_PER_ROW if high // width - low // width < ROWS_MAX), _KEYS_PER_ROW[-1])
    first, rows = low // width, high // width - low // width + 1
    counts = np.zeros((rows, buckets.count), np.int64)
    np.add.at(counts, (key // width - first, cells.position), cells.count)
    edges_ms = bucket_ends((first + np.arange(rows + 1)) * width - 1)
    return Heatmap(buckets, edges_ms, counts, color_levels(int(counts.max())))


def color_levels(largest: int) -> tuple[int, ...]:
    """Return at most LEVELS_MAX counts up to the largest, 1 first, by their square roots evenly spread, and round: they
    change seldom."""
    levels = [1]
    for step in range(1, LEVELS_MAX):
        level = _rounded(max(1.0, largest * (step / LEVELS_MAX) ** 2))
        if level >= LEVEL_RATIO_MIN * levels[-1]:
            levels.append(level)
    return tuple(levels)


def _rounded(value: float) -> int:
    """Return a number of one digit and zeros."""
    scale = 10 ** (len(str(int(value))) - 1)
    return int(value // scale * scale)
