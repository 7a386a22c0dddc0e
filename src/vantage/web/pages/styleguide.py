"""``/styleguide``: every part of which the pages are made, in all its states; with the setting ``debug`` alone."""

from __future__ import annotations

import math
from typing import Any, Final

from litestar import Request, Response, get

from vantage.core.deployment import REPORTED, Deployment
from vantage.core.errors import NotFoundError
from vantage.core.timerange import TimeRange
from vantage.web.pages.charts import Chart, Evidence, chart_of_lines
from vantage.web.render import render

STEP_MS: Final = 60_000
POINTS: Final = 60
GAP: Final = range(22, 27)
TOKENS: Final = {
    "Grounds": ("ground", "surface", "raised", "accent-soft", "bad-soft"),
    "Lines": ("line", "line-strong"),
    "Text": ("text", "text-soft", "muted"),
    "Meaning": ("accent", "good", "warn", "bad"),
    "Series": ("chart-rate", "chart-errors", "chart-p95", "chart-quiet", *(f"c{number}" for number in range(10))),
}


@get("/styleguide", include_in_schema=False)
async def styleguide(request: Request[Any, Any, Any]) -> Response[str]:
    if not request.app.state.debug:
        raise NotFoundError("the style guide is there with the setting debug")
    return await render(request, "pages/styleguide.html", tokens=TOKENS, charts=_charts(), waves=_waves())


def _waves() -> list[float | None]:
    return [None if i in GAP else 50 + 30 * math.sin(i / 6) + i / 3 for i in range(POINTS)]


def _charts() -> dict[str, Chart]:
    """Return a chart in each of its states. Times are made up."""
    time_range = TimeRange(0, POINTS * STEP_MS)
    waves = [math.nan if value is None else value for value in _waves()]
    higher = [value + 40 for value in waves]
    deployed = Deployment("checkout", "production", "2.5.0", 40 * STEP_MS, REPORTED)
    return {
        "Lines, a gap, a deployment": chart_of_lines(
            time_range, STEP_MS, "ms", [("p50", "p50", waves, False), ("p99", "p99", higher, False)],
            deployments=[deployed], evidence=Evidence("/traces"),
        ),
        "One line, and the time before": chart_of_lines(
            time_range, STEP_MS, "/s", [("now", "rate", waves, False), ("before", "rate", higher, True)]
        ),
        "One point": chart_of_lines(
            time_range, STEP_MS, "%", [("errors", "errors", [math.nan] * 30 + [3.0] + [math.nan] * 29, False)]
        ),
    }  # fmt: skip


handlers = [styleguide]
