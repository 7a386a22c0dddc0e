"""The latency heatmap of a page: what ``heatmap.js`` draws, and the same as a table with links to traces."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import msgspec
import numpy as np

from vantage.query.heatmap import Band, Heatmap
from vantage.web.pages.ranges import PageRange


@dataclass(frozen=True, slots=True)
class HeatmapView:
    """``options`` are JSON: ``start`` and ``step`` in ms, the number of ``columns``, ``edges`` of the rows in ms,
    ``levels``, and the URL of the service's ``traces``.

    ``cells`` has a line for each bucket: the first row with requests and the counts from there on, separated by commas,
    '' for 0; an empty line without requests. The bucket that begins at a time is line ``time / step`` modulo the number
    of lines, which depends on the range's length alone: so an update changes the line of the present and no others.
    """

    options: str
    cells: str
    levels: tuple[int, ...]
    requests: int
    bands: tuple[tuple[Band, str], ...]  # with the URL of the traces of each


def heatmap_view(heatmap: Heatmap, page_range: PageRange, service: str) -> HeatmapView:
    """Return what a page needs to show a heatmap."""
    url = f"/traces?{urlencode({'service': service})}"
    options = {
        "start": heatmap.buckets.start_ms,
        "step": heatmap.buckets.step_ms,
        "columns": heatmap.buckets.count,
        "edges": [float(f"{edge:.4g}") for edge in heatmap.edges_ms.tolist()],
        "levels": heatmap.levels,
        "traces": url,
    }
    lines_min = -(-page_range.time_range.length_ms // heatmap.buckets.step_ms) + 1  # it may touch one bucket more
    bands = tuple(
        (band, f"{url}&{urlencode({**page_range.state, **duration_params(band.low_ms, band.high_ms)})}")
        for band in heatmap.bands()
    )
    return HeatmapView(
        msgspec.json.encode(options).decode(), _cells(heatmap, lines_min), heatmap.levels, heatmap.requests, bands
    )


def duration_params(low_ms: float, high_ms: float) -> dict[str, str]:
    """Return the parameters of a search for traces of such durations, in whole milliseconds: none for less than one."""
    low = {"min_duration": f"{math.floor(low_ms)}ms"} if low_ms >= 1 else {}
    return {**low, "max_duration": f"{math.ceil(high_ms)}ms"}


def _cells(heatmap: Heatmap, lines_min: int) -> str:
    buckets = heatmap.buckets
    lines = [""] * max(lines_min, buckets.count)
    first = buckets.start_ms // buckets.step_ms
    for position, column in enumerate(heatmap.counts.T):
        lines[(first + position) % len(lines)] = _line(column)
    return "\n".join(lines)


def _line(column: Any) -> str:
    rows = np.flatnonzero(column)
    if not rows.size:
        return ""
    first, last = int(rows[0]), int(rows[-1])
    counts = (str(count) if count else "" for count in column[first : last + 1].tolist())
    return f"{first},{','.join(counts)}"
