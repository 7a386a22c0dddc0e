"""``/compare`` as an API: services, versions, tag values or windows of time."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody, Parameter

from vantage.analysis.verdict import EFFECT_PCT, ERROR_POINTS, Direction
from vantage.core.comparison import SavedComparison
from vantage.core.errors import InputError
from vantage.core.sample import TAGS_MAX, metric_name_problem, service_name_problem, text_problem
from vantage.core.semconv import DURATION
from vantage.core.timerange import TimeRange, parse_time
from vantage.query.compare import ComparisonRequest, Comparisons
from vantage.query.compared_data import BY_ROUTE, UNMATCHED, Side
from vantage.query.context import QueryContext
from vantage.web.api.params import TIME_TEXT, Service, examples, problems

Time = Annotated[str | int | float, msgspec.Meta(description=TIME_TEXT)]
Name = Annotated[str, msgspec.Meta(max_length=255)]
Tags = Annotated[dict[str, str], msgspec.Meta(max_length=TAGS_MAX)]
DirectionIn = Literal["lower", "higher"]
_MATCH = re.compile(r"[^\x00-\x1f]{1,64}")


class _CommonIn(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """``metrics``: several metrics that are judged together, in place of ``metric_name``. ``direction``: what is
    better, for metrics of which that is not known, or by metric. ``match``: ``route``, ``none`` or the key of a tag,
    whose values are compared each with itself. ``planned_end``: the comparison is looked at while it runs, until then,
    and stays right however often. ``save``: list the result."""

    metric_name: Annotated[str, msgspec.Meta(examples=[DURATION])] = DURATION
    metrics: list[str] | None = None
    environment: Name = ""
    direction: DirectionIn | dict[str, DirectionIn] | None = None
    match: str = BY_ROUTE
    minimum_effect_pct: Annotated[float, msgspec.Meta(gt=0, le=1000)] = EFFECT_PCT
    minimum_error_points: Annotated[float, msgspec.Meta(gt=0, le=100)] = ERROR_POINTS
    planned_end: Time | None = None
    expected_candidate_share: float | None = None
    title: Annotated[str, msgspec.Meta(max_length=200)] = ""
    save: bool = True


class CompareServicesIn(_CommonIn, kw_only=True):
    """Two services, or versions or tag values of services, in one time. The candidate's service is the baseline's where
    it is absent. With a candidate's version alone, every other version is the baseline."""

    baseline_service: Annotated[str, msgspec.Meta(examples=["api-v1"])]
    candidate_service: Annotated[str, msgspec.Meta(examples=["api-v2"])] = ""
    time_start: Annotated[Time, msgspec.Meta(examples=[1703001234])] = "now-1h"
    time_end: Annotated[Time, msgspec.Meta(examples=[1703001334])] = "now"
    baseline_version: Name = ""
    candidate_version: Name = ""
    baseline_tags: Tags = {}
    candidate_tags: Tags = {}


class CompareWindowsIn(_CommonIn, kw_only=True):
    """One service in two windows of time, such as before and after a change."""

    service: Annotated[str, msgspec.Meta(examples=["my-api"])]
    baseline_start: Annotated[Time, msgspec.Meta(examples=["now-2h"])]
    baseline_end: Annotated[Time, msgspec.Meta(examples=["now-1h"])]
    candidate_start: Annotated[Time, msgspec.Meta(examples=["now-1h"])]
    candidate_end: Time = "now"
    version: Name = ""
    baseline_version: Name = ""
    candidate_version: Name = ""
    tags: Tags = {}


class FiguresOut(msgspec.Struct):
    """Figures of the samples that have a counterpart, weighted to the same mix of routes on both sides."""

    mean: float | None
    p50: float | None
    p75: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    samples: int


class ChangeOut(msgspec.Struct):
    """Candidate minus baseline, with its 95 % interval, and both in percent of the baseline; null where unknown."""

    absolute: float | None
    interval: list[float | None]
    pct: float | None
    interval_pct: list[float | None]
    p_value: float
    t: float | None
    degrees_of_freedom: float | None


class EffectOut(msgspec.Struct):
    """``superiority``: the probability that a sample of the candidate is lower than one of the baseline."""

    superiority: float
    interval: list[float]
    cliffs_delta: float
    p_value: float
    t: float | None
    degrees_of_freedom: float | None


class CriterionOut(msgspec.Struct):
    """A figure that is judged: ``change`` and ``interval`` in ``unit`` (%, or percentage ``points``); ``matters`` is
    the smallest change that does; ``outcome`` is better, worse, no worse, no difference, different or unclear."""

    metric: str
    name: str
    unit: str
    change: float | None
    interval: list[float | None]
    matters: float
    p_value: float
    p_adjusted: float
    outcome: str
    sentence: str


class ComparisonOut(msgspec.Struct, kw_only=True):
    """The result. ``recommendation`` begins with DEPLOY, HOLD, ROLLBACK or INSUFFICIENT DATA, and gives the reason.
    ``improvement_pct`` is of the mean: positive is better. ``p_value`` is the smallest of the criteria, corrected for
    their number. ``metrics`` has each metric in full: changes of every figure, routes, histogram, queries."""

    format: int
    id: str
    timestamp: int
    kind: str
    title: str
    metric: str
    baseline: FiguresOut | None
    candidate: FiguresOut | None
    improvement_pct: float | None
    statistical_significance: bool
    p_value: float | None
    recommendation: str
    verdict: str
    reason: str
    test: str
    change: ChangeOut | None
    effect_size: EffectOut | None
    criteria: list[CriterionOut]
    metrics: list[dict[str, Any]]
    errors: dict[str, Any] | None
    share: dict[str, float] | None
    warnings: list[str]
    sides: dict[str, dict[str, Any]]
    settings: dict[str, Any]


class ListedComparisonOut(msgspec.Struct):
    """A saved comparison; ``author`` is the id of a key, or how it came about."""

    id: str
    timestamp: int
    service: str
    title: str
    verdict: str
    author: str


class ComparisonsOut(msgspec.Struct):
    comparisons: list[ListedComparisonOut]


@post(
    "/compare/services",
    summary="Compare services or versions",
    status_code=200,
    responses=problems(),
    tags=["compare"],
)
async def compare_services(
    request: Request[Any, Any, Any],
    context: NamedDependency[QueryContext],
    comparisons: NamedDependency[Comparisons],
    data: JSONBody[CompareServicesIn],
) -> ComparisonOut:
    """Compare two services, versions or tag values in one time, and recommend what to do."""
    wanted = services_request(data, now_ms=context.present().now_ms)
    return out(await comparisons.make(wanted, author=request.state.principal.id, save=data.save))


@post(
    "/compare/windows",
    summary="Compare two windows of time",
    status_code=200,
    responses=problems(),
    tags=["compare"],
)
async def compare_windows(
    request: Request[Any, Any, Any],
    context: NamedDependency[QueryContext],
    comparisons: NamedDependency[Comparisons],
    data: JSONBody[CompareWindowsIn],
) -> ComparisonOut:
    """Compare a service with itself at another time, and recommend what to do."""
    wanted = windows_request(data, now_ms=context.present().now_ms)
    return out(await comparisons.make(wanted, author=request.state.principal.id, save=data.save))


@get("/api/comparisons", summary="Saved comparisons", responses=problems(), tags=["compare"])
async def list_comparisons(
    comparisons: NamedDependency[Comparisons],
    service: Service = "",
    limit: Annotated[int, Parameter(description="Maximum number of comparisons.", ge=1, le=500)] = 100,
) -> ComparisonsOut:
    """List comparisons, the latest first."""
    return ComparisonsOut(
        [
            ListedComparisonOut(saved.id, saved.at_ms, saved.service, saved.title, saved.word, saved.author)
            for saved in await comparisons.latest(service=service, limit=limit)
        ]
    )


@get("/api/comparisons/{comparison_id:str}", summary="A saved comparison", responses=problems(404), tags=["compare"])
async def get_comparison(
    comparisons: NamedDependency[Comparisons],
    comparison_id: Annotated[str, Parameter(description="Its id.", examples=examples("x7Jq2mVb1cKd"))],
) -> ComparisonOut:
    """Return a comparison as it was answered when it was made."""
    return out(await comparisons.get(comparison_id))


def services_request(data: CompareServicesIn, *, now_ms: int) -> ComparisonRequest:
    """Return the request. Raises InputError naming a field."""
    candidate_service = data.candidate_service or data.baseline_service
    _check_service("baseline_service", data.baseline_service)
    _check_service("candidate_service", candidate_service)
    in_time = _range(data.time_start, data.time_end, "time_start", "time_end", now_ms=now_ms)
    is_one_service = candidate_service == data.baseline_service
    others = data.candidate_version if is_one_service and not data.baseline_version and not data.baseline_tags else ""
    baseline = Side(
        data.baseline_service,
        in_time,
        data.baseline_version,
        others if data.candidate_tags == data.baseline_tags else "",
        data.environment,
        tuple(sorted(data.baseline_tags.items())),
    )
    candidate = Side(
        candidate_service,
        in_time,
        data.candidate_version,
        "",
        data.environment,
        tuple(sorted(data.candidate_tags.items())),
    )
    return _request(data, baseline, candidate, kind="services", now_ms=now_ms)


def windows_request(data: CompareWindowsIn, *, now_ms: int) -> ComparisonRequest:
    """Return the request. Raises InputError naming a field."""
    _check_service("service", data.service)
    ranges = [
        _range(data.baseline_start, data.baseline_end, "baseline_start", "baseline_end", now_ms=now_ms),
        _range(data.candidate_start, data.candidate_end, "candidate_start", "candidate_end", now_ms=now_ms),
    ]
    versions = (data.baseline_version or data.version, data.candidate_version or data.version)
    baseline, candidate = (
        Side(data.service, in_time, version, "", data.environment, tuple(sorted(data.tags.items())))
        for in_time, version in zip(ranges, versions, strict=True)
    )
    return _request(data, baseline, candidate, kind="windows", now_ms=now_ms)


def _request(
    data: _CommonIn, baseline: Side, candidate: Side, *, kind: Literal["services", "windows"], now_ms: int
) -> ComparisonRequest:
    metrics = tuple(data.metrics) if data.metrics is not None else (data.metric_name,)
    for position, metric in enumerate(metrics):
        if problem := metric_name_problem(metric):
            raise InputError(problem, field="metric_name" if data.metrics is None else f"metrics[{position}]")
    if not _MATCH.fullmatch(data.match):
        raise InputError(f"must be {BY_ROUTE!r}, {UNMATCHED!r} or the key of a tag", field="match")
    if data.title and (problem := text_problem(data.title, 200)):
        raise InputError(problem, field="title")
    directions: dict[str, Direction] = {}
    if isinstance(data.direction, dict):
        if unknown := next((name for name in data.direction if name not in metrics), None):
            raise InputError("is not among the metrics", field=f"direction.{unknown[:80]}")
        directions = dict(data.direction)
    elif data.direction is not None:
        directions = dict.fromkeys(metrics, data.direction)
    planned_ms = None if data.planned_end is None else _time(data.planned_end, "planned_end", now_ms=now_ms)
    if planned_ms is not None and planned_ms <= candidate.time_range.start_ms:
        raise InputError("lies before the start", field="planned_end")
    return ComparisonRequest(
        baseline,
        candidate,
        metrics,
        directions,
        data.match,
        data.minimum_effect_pct,
        data.minimum_error_points,
        planned_ms,
        data.expected_candidate_share,
        kind,
        data.title,
    )


def _check_service(field: str, name: str) -> None:
    if problem := service_name_problem(name):
        raise InputError(problem, field=field)


def _range(start: Any, end: Any, start_field: str, end_field: str, *, now_ms: int) -> TimeRange:
    start_ms = _time(start, start_field, now_ms=now_ms)
    # "now" includes a sample of the current millisecond.
    end_ms = now_ms + 1 if end == "now" else _time(end, end_field, now_ms=now_ms)
    if start_ms >= end_ms:
        raise InputError(f"must lie after {start_field}", field=end_field)
    return TimeRange(start_ms, end_ms)


def _time(value: str | float, field: str, *, now_ms: int) -> int:
    return parse_time(str(value), now_ms=now_ms, field=field)


def out(saved: SavedComparison) -> ComparisonOut:
    return msgspec.convert({**saved.document, "title": saved.title}, ComparisonOut)


handlers = [compare_services, compare_windows, list_comparisons, get_comparison]
