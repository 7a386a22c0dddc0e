"""A small chart of an alert's values for mails, as PNG: mail programs show neither scripts nor SVG."""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from vantage.alerting.alert_points import AlertPoints, read_alert_points
from vantage.core.notification import NoticeAlert
from vantage.core.timerange import TimeRange
from vantage.query.context import QueryContext

WIDTH: Final = 600
HEIGHT: Final = 160
MARGIN: Final = 8
HOURS_MS: Final = 6 * 3_600_000
POINTS: Final = 120
GRID_LINES: Final = 4
BACKGROUND: Final = (255, 255, 255)
GRID: Final = (229, 231, 235)
LINE: Final = (55, 65, 200)
LIMIT: Final = (196, 49, 75)
DASH: Final = 8
Pixels = npt.NDArray[np.uint8]


class ChartPicture:
    """Draws the values of an alert over the last hours, with the limit of its rule."""

    def __init__(self, context: QueryContext) -> None:
        self._context = context

    async def __call__(self, alert: NoticeAlert) -> bytes | None:
        """Return the picture, None for a rule whose values are no line, or that is not there any more. Raises
        StoreUnavailable."""
        stored = await self._context.metadata.alerts.rule(alert.rule)
        if stored is None:
            return None
        now_ms = self._context.present().now_ms
        end_ms = min(alert.end_ms + HOURS_MS // 12, now_ms) if alert.end_ms is not None else now_ms
        time_range = TimeRange(end_ms - HOURS_MS, max(end_ms, alert.start_ms + 1))
        points, _ = await read_alert_points(
            self._context, stored.rule.condition, alert.entity, time_range, points=POINTS
        )
        if points is None or sum(value is not None for value in points.values) < 2:
            return None
        return await asyncio.to_thread(draw, points)


def draw(points: AlertPoints) -> bytes:
    """Return a picture of WIDTH x HEIGHT pixels: the values as a line with gaps where there are none, the limit dashed.
    At least one value must be there."""
    values = np.array([np.nan if value is None else value for value in points.values], dtype=np.float64)
    values[~np.isfinite(values)] = np.nan
    known = [*values[~np.isnan(values)], *([points.limit] if points.limit is not None else [])]
    low, high = min(0.0, *known), max(0.0, *known)
    if high <= low:
        high = low + 1.0
    pixels: Pixels = np.full((HEIGHT, WIDTH, 3), BACKGROUND, dtype=np.uint8)
    for row in np.linspace(MARGIN, HEIGHT - 1 - MARGIN, GRID_LINES + 1).round().astype(int):
        pixels[row, MARGIN : WIDTH - MARGIN] = GRID
    if points.limit is not None:
        row = _row(points.limit, low, high)
        for start in range(MARGIN, WIDTH - MARGIN, DASH * 2):
            pixels[row : row + 2, start : min(start + DASH, WIDTH - MARGIN)] = LIMIT
    _draw_line(pixels, values, low, high)
    return png(pixels)


def _row(value: float, low: float, high: float) -> int:
    # Halves: the distance of the largest numbers is no number.
    share = (value / 2 - low / 2) / (high / 2 - low / 2)
    return int(np.clip(round(HEIGHT - 1 - MARGIN - share * (HEIGHT - 1 - 2 * MARGIN)), 0, HEIGHT - 2))


def _draw_line(pixels: Pixels, values: npt.NDArray[np.float64], low: float, high: float) -> None:
    columns = np.linspace(MARGIN, WIDTH - 1 - MARGIN, max(2, len(values))).round().astype(int)
    rows: Sequence[int | None] = [None if np.isnan(value) else _row(float(value), low, high) for value in values]
    for index, row in enumerate(rows):
        if row is None:
            continue
        pixels[row : row + 2, columns[index] : columns[index] + 2] = LINE
        after = rows[index + 1] if index + 1 < len(rows) else None
        if after is None:
            continue
        start, end = int(columns[index]), int(columns[index + 1])
        heights = np.linspace(row, after, end - start + 1).round().astype(int)
        for offset in range(end - start):
            top, bottom = sorted((int(heights[offset]), int(heights[offset + 1])))
            pixels[top : bottom + 2, start + offset] = LINE


def png(pixels: Pixels) -> bytes:
    """Return pixels (rows x columns x RGB) as PNG."""
    height, width, _ = pixels.shape
    rows = np.zeros((height, 1 + width * 3), dtype=np.uint8)  # each row begins with its filter: none
    rows[:, 1:] = pixels.reshape(height, width * 3)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
