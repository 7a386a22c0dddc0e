"""``/compare``: two services, versions or windows of time, and what came out of it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.response import Redirect

from vantage.core import number_format
from vantage.core.comparison import SavedComparison
from vantage.core.errors import InputError, StoreUnavailable
from vantage.core.semconv import DURATION
from vantage.query import catalogue
from vantage.query.compare import Comparisons
from vantage.query.context import QueryContext
from vantage.query.deployments import WAIT_S, deployments_if_known
from vantage.web.api.compare import CompareServicesIn, CompareWindowsIn, services_request, windows_request
from vantage.web.render import Renderer, render

AnyRequest = Request[Any, Any, Any]
LISTED_MAX: Final = 100
SERVICES_MAX: Final = 500
DEPLOYMENTS_MAX: Final = 30
LENGTHS: Final = {"15m": "15 minutes", "1h": "an hour", "6h": "6 hours", "24h": "a day", "7d": "a week"}
FORMS: Final = ("services", "versions", "windows")
SNIPPET: Final = "parts/compare_mean.txt"
# What a verdict is shown as: a class of the style sheet and a shape.
VERDICTS: Final = {
    "DEPLOY": ("good", "✓"),
    "HOLD": ("warn", "‖"),
    "ROLLBACK": ("bad", "✕"),
    "INSUFFICIENT DATA": ("idle", "?"),
}
OUTCOMES: Final = {"better": "good", "no worse": "good", "worse": "bad", "different": "warn", "unclear": "warn"}
_FIGURES: Final = ("mean", "p50", "p75", "p90", "p95", "p99")
_WIDTH: Final = 200.0  # of the drawing of an interval
_HEIGHT: Final = 100.0  # of the drawing of a distribution


@dataclass(frozen=True, slots=True)
class Span:
    """An interval as drawn: positions from 0 to _WIDTH of its ends, its middle and of no change."""

    low: float
    high: float
    middle: float
    zero: float


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table: texts, an interval to draw, and the class of its level."""

    label: str
    cells: tuple[str, ...]
    span: Span | None
    level: str = ""
    note: str = ""


@get("/compare", include_in_schema=False)
async def compare_page(
    request: AnyRequest, context: NamedDependency[QueryContext], comparisons: NamedDependency[Comparisons]
) -> Response[str]:
    return await _page(request, context, comparisons, dict(request.query_params))


@post("/compare", include_in_schema=False)
async def compare_form(
    request: AnyRequest, context: NamedDependency[QueryContext], comparisons: NamedDependency[Comparisons]
) -> Response[Any]:
    values = {key: str(value).strip() for key, value in (await request.form()).items()}
    now_ms = context.present().now_ms
    try:
        wanted = (
            windows_request(_windows_in(values), now_ms=now_ms)
            if values.get("form") == "windows"
            else services_request(_services_in(values), now_ms=now_ms)
        )
        saved = await comparisons.make(wanted, author=request.state.principal.id)
    except InputError as error:
        problem = f"{error.field.replace('_', ' ')} {error.reason}"
        return await _page(request, context, comparisons, values, status=400, problem=problem)
    return Redirect(f"/compare/{saved.id}", status_code=303)


def _services_in(values: Mapping[str, str]) -> CompareServicesIn:
    service = values.get("service", "")
    is_of_versions = values.get("form") == "versions"
    other = "" if is_of_versions else values.get("other", "")
    if not is_of_versions and not other:
        raise InputError("is empty", field="candidate")
    if is_of_versions and not values.get("candidate_version"):
        raise InputError("is empty", field="version")
    return CompareServicesIn(
        baseline_service=service,
        baseline_version=_short(values, "baseline_version"),
        candidate_version=_short(values, "candidate_version"),
        metric_name=values.get("metric") or DURATION,
        time_start=f"now-{values['length']}" if values.get("length") in LENGTHS else "now-1h",
        candidate_service=other,
    )


def _windows_in(values: Mapping[str, str]) -> CompareWindowsIn:
    return CompareWindowsIn(
        service=values.get("service", ""),
        metric_name=values.get("metric") or DURATION,
        baseline_start=values.get("baseline_start") or "now-2h",
        baseline_end=values.get("baseline_end") or "now-1h",
        candidate_start=values.get("candidate_start") or "now-1h",
        candidate_end=values.get("candidate_end") or "now",
    )


def _short(values: Mapping[str, str], name: str) -> str:
    text = values.get(name, "")
    if len(text) > 255:
        raise InputError("is longer than 255 characters", field=name)
    return text


async def _page(
    request: AnyRequest,
    context: QueryContext,
    comparisons: Comparisons,
    values: Mapping[str, str],
    *,
    status: int = 200,
    problem: str = "",
) -> Response[str]:
    saved: Sequence[SavedComparison] = ()
    unknown = False
    try:
        async with asyncio.timeout(WAIT_S):
            saved = await comparisons.latest(limit=LISTED_MAX)
    except (StoreUnavailable, TimeoutError):
        unknown = True
    services = await catalogue.services(context)
    return await render(
        request,
        "pages/compare.html",
        status=status,
        section="compare",
        values={name: values.get(name, "") for name in ("service", "other", "metric", "length", *_TEXTS)},
        form=values.get("form") if values.get("form") in FORMS else "",
        problem=problem,
        services=[service.name for service in services[:SERVICES_MAX]],
        versions=sorted({version for service in services for version in service.versions})[:SERVICES_MAX],
        lengths=LENGTHS,
        duration=DURATION,
        deployments=await deployments_if_known(context, limit=DEPLOYMENTS_MAX),
        saved=saved,
        is_unknown=unknown,
        verdicts=VERDICTS,
    )


_TEXTS: Final = (
    "baseline_version",
    "candidate_version",
    "baseline_start",
    "baseline_end",
    "candidate_start",
    "candidate_end",
)


@get("/compare/{comparison_id:str}", include_in_schema=False)
async def comparison_page(
    request: AnyRequest, comparisons: NamedDependency[Comparisons], comparison_id: FromPath[str]
) -> Response[str]:
    saved = await comparisons.get(comparison_id)
    renderer: Renderer = request.app.state.renderer
    document = saved.document
    return await render(
        request,
        "pages/comparison.html",
        section="compare",
        saved=saved,
        document=document,
        verdict=VERDICTS.get(saved.word, VERDICTS["HOLD"]),
        criteria=_criteria(document["criteria"]),
        metrics=[_metric(metric) for metric in document["metrics"]],
        errors=document["errors"],
        snippet=_snippet(renderer, document),
        base_url=str(request.base_url).rstrip("/"),
    )


def _criteria(criteria: Sequence[Mapping[str, Any]]) -> list[Row]:
    spans = _spans([(item["change"], item["interval"]) for item in criteria if item["unit"] == "%"])
    points = _spans([(item["change"], item["interval"]) for item in criteria if item["unit"] == "points"])
    rows = []
    for item in criteria:
        span = {"%": spans, "points": points}.get(item["unit"], iter(()))
        unit = {"%": " %", "points": " points"}.get(item["unit"], "")
        rows.append(
            Row(
                item["name"],
                (
                    _with_interval(item["change"], item["interval"], unit),
                    f"{item['matters']:g}{unit}" if item["matters"] else "–",
                    _probability(item["p_adjusted"]),
                    item["outcome"],
                ),
                next(span, None),
                OUTCOMES.get(item["outcome"], ""),
                item["metric"],
            )
        )
    return rows


def _metric(metric: Mapping[str, Any]) -> dict[str, Any]:
    unit = metric["unit"]
    spans = _spans([(metric["changes"][name]["pct"], metric["changes"][name]["interval_pct"]) for name in _FIGURES])
    figures = [
        Row(
            name,
            (
                _value(metric["baseline"][name], unit),
                _value(metric["candidate"][name], unit),
                _change_text(metric["changes"][name], unit),
            ),
            next(spans),
        )
        for name in _FIGURES
    ]
    routes = metric["routes"]
    route_spans = _spans([(item["change"]["pct"], item["change"]["interval_pct"]) for item in routes])
    return {
        **metric,
        "figures": figures,
        "route_rows": [
            Row(
                item["route"],
                (
                    number_format.count(item["samples"][0]),
                    number_format.count(item["samples"][1]),
                    _value(item["means"][0], unit),
                    _value(item["means"][1], unit),
                    _change_text(item["change"], unit),
                ),
                next(route_spans),
            )
            for item in routes
        ],
        "drawing": _drawing(metric["histogram"], unit),
        "superiority": number_format.percent(100 * metric["effect_size"]["superiority"]),
    }


def _spans(changes: Sequence[tuple[float | None, Sequence[float | None]]]) -> Any:
    """Return an iterator over intervals on one scale, which has no change in its middle."""
    ends = [abs(end) for _, interval in changes for end in interval if end is not None]
    ends += [abs(change) for change, _ in changes if change is not None]
    top = min(max(ends, default=1.0) or 1.0, 4 * (max((abs(c) for c, _ in changes if c), default=1.0) or 1.0) + 10)

    def at(value: float | None, otherwise: float) -> float:
        position = otherwise if value is None else (min(max(value / top, -1.0), 1.0) + 1) / 2 * _WIDTH
        return round(position, 1)

    return iter(
        [
            None
            if change is None
            else Span(at(interval[0], 0.0), at(interval[1], _WIDTH), at(change, _WIDTH / 2), _WIDTH / 2)
            for change, interval in changes
        ]
    )


def _drawing(histogram: Mapping[str, Any], unit: str) -> dict[str, Any]:
    edges: list[float] = histogram["edges"]
    top = max(*histogram["baseline"], *histogram["candidate"], 1e-9)
    step = 480 / len(histogram["baseline"])

    def path(shares: Sequence[float]) -> str:
        pieces = [f"M0 {_HEIGHT:g}"]
        for position, share in enumerate(shares):
            y = round(_HEIGHT * (1 - share / top), 1)
            pieces.append(f"L{position * step:g} {y:g}L{(position + 1) * step:g} {y:g}")
        return "".join([*pieces, f"L480 {_HEIGHT:g}Z"])

    ticks = [edges[round(position * (len(edges) - 1) / 4)] for position in range(5)]
    return {
        "baseline": path(histogram["baseline"]),
        "candidate": path(histogram["candidate"]),
        "ticks": [_value(tick, unit) for tick in ticks],
        "logarithmic": histogram["logarithmic"],
    }


def _value(value: float | None, unit: str) -> str:
    return "–" if value is None else number_format.quantity(value, unit)


def _change_text(change: Mapping[str, Any], unit: str) -> str:
    if change["pct"] is not None:
        return _with_interval(change["pct"], change["interval_pct"], " %")
    return _with_interval(change["absolute"], change["interval"], f" {unit}" if unit else "")


def _with_interval(change: float | None, interval: Sequence[float | None], unit: str) -> str:
    if change is None:
        return "–"
    low, high = (_signed(end) for end in interval)
    return f"{_signed(change)}{unit} ({low} to {high})"


def _signed(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "unknown"
    size = abs(value)
    text = f"{size:.1f}" if 0.1 <= size < 1e4 or not size else f"{size:.2g}"
    return text if float(text) == 0 else f"{'−' if value < 0 else '+'}{text}"


def _probability(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}"


def _snippet(renderer: Renderer, document: Mapping[str, Any]) -> str:
    """Return the program that works out the change of the first metric's mean, '' where it has no percentage."""
    if not document["metrics"] or document["metrics"][0]["changes"]["mean"]["pct"] is None:
        return ""
    first = document["metrics"][0]
    head = f"paired = {first['paired']}\n" if first["ordered"] else ""
    return head + renderer.page_as_string(SNIPPET) if head else ""


handlers = [compare_page, compare_form, comparison_page]
