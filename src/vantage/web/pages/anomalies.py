"""``/anomalies``: what was noticed, as a timeline over services and a list; ``/anomalies/{id}`` explains one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from vantage.core.anomaly import Anomaly
from vantage.core.errors import BusyError, InputError, NotFoundError, StoreTimeout, StoreUnavailable
from vantage.core.timerange import TimeRange
from vantage.query.anomalies import BandPoints, find_anomaly, list_anomalies, read_band
from vantage.query.anomaly_explained import numpy_snippet, value_query
from vantage.query.anomaly_points import FIGURES, SeriesKey
from vantage.query.context import QueryContext
from vantage.query.detector_runs import Watched
from vantage.web.pages.charts import Chart, chart_of_points
from vantage.web.pages.ranges import PageRange, page_range
from vantage.web.render import query_string, render, segment, shared_page

DEFAULT_RANGE: Final = "24h"
LISTED_MAX: Final = 300
ROWS_MAX: Final = 40  # services of the timeline
MARKS_MAX: Final = 60  # of a service
SERVICE_LENGTH_MAX: Final = 255
AROUND_MS: Final = 6 * 3_600_000  # of an anomaly, on its chart
CHART_POINTS: Final = 300
STRONG: Final = 3.0
CLEAR: Final = 1.5
FIGURE_NAMES: Final = {"rate": "Requests", "errors": "Errors", "p95": "p95", "metric": "Metrics"}


@dataclass(frozen=True, slots=True)
class Mark:
    """An anomaly on the timeline: where it begins and how long it lasts, in percent of the range."""

    anomaly: Anomaly
    level: str
    left: float
    width: float


@dataclass(frozen=True, slots=True)
class Row:
    """A service of the timeline; ``omitted`` marks are not drawn."""

    service: str
    marks: tuple[Mark, ...]
    omitted: int


@get("/anomalies", include_in_schema=False)
async def anomalies(
    request: Request[Any, Any, Any], context: NamedDependency[QueryContext], watched: NamedDependency[Watched]
) -> Response[bytes]:
    return await shared_page(request, "pages/anomalies.html", lambda: _read(request, context, watched))


@get("/anomalies/{anomaly_id:int}", include_in_schema=False)
async def anomaly(
    request: Request[Any, Any, Any], context: NamedDependency[QueryContext], anomaly_id: FromPath[int]
) -> Response[str]:
    row = await find_anomaly(context, anomaly_id)
    problem, query = "", ""
    chart: Chart | None = None
    try:
        query = await value_query(context, row)
        around = TimeRange(row.start_ms - AROUND_MS, min(row.end_ms + AROUND_MS, row.start_ms + 2 * AROUND_MS * 4))
        key = SeriesKey(row.service, row.figure, row.metric)
        chart = band_chart(await read_band(context, key, around, points=CHART_POINTS))
    except (BusyError, InputError, NotFoundError, StoreTimeout, StoreUnavailable) as error:
        problem = str(error)
    return await render(
        request,
        "pages/anomaly.html",
        section="noticed",
        anomaly=row,
        scale=100.0 if row.unit == "%" else 1.0,
        level=level_of(row.score),
        name=name_of(row),
        chart=chart,
        problem=problem,
        query=query,
        snippet=numpy_snippet(row),
        service_url=f"/services/{segment(row.service)}{query_string(_around(row))}",
        explore_url=_explore_url(row),
    )


async def _read(request: Request[Any, Any, Any], context: QueryContext, watched: Watched) -> dict[str, Any]:
    params = request.query_params
    has_range = params.get("range") or params.get("start")
    within = page_range(
        preset=params.get("range", "") if has_range else DEFAULT_RANGE,
        start=params.get("start", ""),
        end=params.get("end", ""),
        now_ms=context.present().now_ms,
    )
    service = params.get("service", "").strip()[:SERVICE_LENGTH_MAX]
    figure = params.get("figure", "") if params.get("figure", "") in FIGURES else ""
    problem = ""
    listed: Sequence[Anomaly] = ()
    try:
        listed = await list_anomalies(context, service=service, time_range=within.time_range, limit=LISTED_MAX + 1)
    except StoreUnavailable as error:
        problem = str(error)
    shown = [row for row in listed[:LISTED_MAX] if not figure or row.figure == figure]
    rows = await asyncio.to_thread(_timeline, shown, within)
    return {
        "section": "noticed",
        "range": within,
        "rows": rows[:ROWS_MAX],
        "rows_omitted": max(0, len(rows) - ROWS_MAX),
        "anomalies": [(row, level_of(row.score), name_of(row)) for row in shown],
        "is_cut": len(listed) > LISTED_MAX,
        "listed_max": LISTED_MAX,
        "figures": FIGURE_NAMES,
        "figure": figure,
        "service": service,
        "filters": {"service": service, "figure": figure},
        "status": watched.status,
        "detectors": watched.detectors,
        "problem": problem,
        "service_length_max": SERVICE_LENGTH_MAX,
    }


def level_of(score: float) -> str:
    """Return ``strong``, ``clear`` or ``weak``."""
    return "strong" if score >= STRONG else "clear" if score >= CLEAR else "weak"


def name_of(row: Anomaly) -> str:
    """Return how people call the series of a service."""
    return row.metric or FIGURE_NAMES[row.figure]


def _timeline(rows: Sequence[Anomaly], within: PageRange) -> list[Row]:
    """Return the services with anomalies, those of the most first."""
    start_ms, length_ms = within.time_range.start_ms, within.time_range.length_ms
    by_service: dict[str, list[Mark]] = {}
    for row in rows:
        left = min(100.0, max(0.0, (row.start_ms - start_ms) / length_ms * 100))
        right = min(100.0, max(0.0, (row.end_ms - start_ms) / length_ms * 100))
        mark = Mark(row, level_of(row.score), round(left, 3), round(max(0.1, right - left), 3))
        by_service.setdefault(row.service, []).append(mark)
    ordered = sorted(by_service.items(), key=lambda item: (-len(item[1]), item[0]))
    return [Row(name, tuple(marks[:MARKS_MAX]), max(0, len(marks) - MARKS_MAX)) for name, marks in ordered]


def band_chart(band: BandPoints) -> Chart:
    """Return a chart of a series with what was expected of it."""
    scale = 100.0 if band.unit == "%" else 1.0

    def column(values: Any) -> list[float | None]:
        return [None if value != value else value * scale for value in values.tolist()]

    lines = [
        ("value", "rate", column(band.value)),
        ("expected", "quiet", column(band.expected)),
        ("low", "--line-strong", column(band.low)),
        ("high", "--line-strong", column(band.high)),
    ]
    return chart_of_points(band.time_ms.tolist(), lines, unit=band.unit, band=(2, 3))


def _around(row: Anomaly) -> dict[str, str]:
    return {"start": str(row.start_ms - AROUND_MS // 6), "end": str(row.end_ms + AROUND_MS // 6)}


def _explore_url(row: Anomaly) -> str:
    if row.figure != "metric":
        return ""
    agg = "rate" if row.evidence.get("kind") == "counter" else "avg"
    fields = {"a.service": row.service, "a.metric": row.metric, "a.agg": agg, **_around(row)}
    return f"/explore{query_string(fields)}"


handlers = [anomalies, anomaly]
