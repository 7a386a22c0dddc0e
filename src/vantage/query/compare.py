"""Comparisons: of services, versions, tag values or windows of time, by one or several metrics."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from vantage.analysis.compare import compare_values
from vantage.analysis.compare_shares import ErrorComparison, ShareCheck, check_share, compare_outcomes
from vantage.analysis.verdict import (
    EFFECT_PCT,
    ERROR_POINTS,
    Direction,
    MetricResult,
    Stakes,
    Verdict,
    judge,
    known_direction,
)
from vantage.core.comparison import SavedComparison
from vantage.core.errors import InputError, NotFoundError
from vantage.core.semconv import DURATION
from vantage.query.compared_data import BY_ROUTE, Rollups, Side, SideData, read_side
from vantage.query.comparison_document import document_of
from vantage.query.context import QueryContext
from vantage.storage.metadata.ports import MetadataStore

METRICS_MAX: Final = 10
LISTED_MAX: Final = 500
Kind = Literal["services", "windows", "deployment"]


@dataclass(frozen=True, slots=True)
class ComparisonRequest:
    """What to compare. ``directions`` by metric: what is better, where that is not known. ``effect_pct`` and
    ``error_points``: the smallest changes that matter. ``planned_end_ms``: the comparison is looked at while it runs,
    until then. ``expected_share``: the share of the traffic that the candidate should have, from 0 to 1."""

    baseline: Side
    candidate: Side
    metrics: tuple[str, ...] = (DURATION,)
    directions: Mapping[str, Direction] = field(default_factory=dict)
    match: str = BY_ROUTE
    effect_pct: float = EFFECT_PCT
    error_points: float = ERROR_POINTS
    planned_end_ms: int | None = None
    expected_share: float | None = None
    kind: Kind = "services"
    title: str = ""

    @property
    def is_paired(self) -> bool:
        """Return whether both sides are of the same time."""
        return self.baseline.time_range == self.candidate.time_range


@dataclass(frozen=True, slots=True)
class ComparisonResult:
    """``data`` has both sides of each metric that could be compared, in the order of ``results``."""

    request: ComparisonRequest
    verdict: Verdict
    results: tuple[MetricResult, ...]
    data: tuple[tuple[SideData, SideData], ...]
    errors: ErrorComparison | None
    share: ShareCheck | None
    warnings: tuple[str, ...]
    at_ms: int


def check_request(request: ComparisonRequest) -> None:
    """Raise InputError naming the field of a request that nothing can answer."""
    if request.baseline == request.candidate:
        field_name = "candidate_start" if request.kind == "windows" else "candidate_service"
        raise InputError("is the same as the baseline: there is nothing to compare", field=field_name)
    ranges = (request.baseline.time_range, request.candidate.time_range)
    if request.kind == "windows" and ranges[0].start_ms < ranges[1].end_ms and ranges[1].start_ms < ranges[0].end_ms:
        raise InputError("overlaps the baseline: the same samples would be on both sides", field="candidate_start")
    if not request.metrics:
        raise InputError("names no metric", field="metrics")
    if len(request.metrics) > METRICS_MAX:
        raise InputError(f"names more than {METRICS_MAX} metrics", field="metrics")
    if len(set(request.metrics)) < len(request.metrics):
        raise InputError("names a metric twice", field="metrics")
    if request.expected_share is not None and not 0 < request.expected_share < 1:
        raise InputError("must lie between 0 and 1", field="expected_candidate_share")


async def compare(context: QueryContext, request: ComparisonRequest) -> ComparisonResult:
    """Compare. Without enough data the verdict says so. Raises InputError naming a field, and what the store raises."""
    check_request(request)
    results: list[MetricResult] = []
    pairs: list[tuple[SideData, SideData]] = []
    missing: list[str] = []
    rollups = Rollups(context)
    for metric in request.metrics:
        sides = [
            await read_side(context, rollups, side, metric, match=request.match)
            for side in (request.baseline, request.candidate)
        ]
        absent = [
            f"{name} ({side.label}) has no samples of {metric} in its time"
            for name, side, data in zip(
                ("baseline", "candidate"), (request.baseline, request.candidate), sides, strict=True
            )
            if data is None
        ]
        if absent:
            missing += absent
            continue
        baseline, candidate = _with_shared_strata([data for data in sides if data is not None])
        if baseline.unit != candidate.unit:
            raise InputError(
                f"{metric} is in {baseline.unit or 'no unit'} on one side and in {candidate.unit or 'no unit'} on the"
                " other",
                field="metric_name",
            )
        try:
            comparison = await asyncio.to_thread(
                compare_values,
                baseline.observations,
                candidate.observations,
                baseline.strata,
                paired=request.is_paired,
            )
        except InputError as error:
            missing.append(f"{metric}: {error.reason}")
            continue
        direction = request.directions.get(metric) or known_direction(metric, baseline.unit)
        results.append(MetricResult(metric, baseline.unit, direction, comparison))
        pairs.append((baseline, candidate))
    return await asyncio.to_thread(_judge, request, results, pairs, missing, context.clock.now_ms())


def _with_shared_strata(sides: Sequence[SideData]) -> tuple[SideData, SideData]:
    strata = tuple(dict.fromkeys(name for side in sides for name in side.strata))
    return sides[0].renumbered(strata), sides[1].renumbered(strata)


def _judge(
    request: ComparisonRequest,
    results: Sequence[MetricResult],
    pairs: Sequence[tuple[SideData, SideData]],
    missing: Sequence[str],
    now_ms: int,
) -> ComparisonResult:
    errors = next((compared for pair in pairs if (compared := _compare_errors(pair, request)) is not None), None)
    share = _check_share(request, pairs)
    start_ms, planned_ms = request.candidate.time_range.start_ms, request.planned_end_ms
    elapsed_ms = request.candidate.time_range.end_ms - start_ms
    stakes = Stakes(
        request.effect_pct,
        request.error_points,
        None if planned_ms is None else min(1.0, elapsed_ms / max(1, planned_ms - start_ms)),
    )
    verdict = judge(
        results,
        errors,
        stakes=stakes,
        share_p=share.p_value if share else None,
        missing="; ".join(missing) if len(results) < len(request.metrics) else "",
    )
    return ComparisonResult(
        request, verdict, tuple(results), tuple(pairs), errors, share, tuple(_warnings(results, pairs)), now_ms
    )


def _compare_errors(pair: tuple[SideData, SideData], request: ComparisonRequest) -> ErrorComparison | None:
    baseline, candidate = (side.outcomes for side in pair)
    if baseline is None or candidate is None:
        return None
    return compare_outcomes(baseline, candidate, len(pair[0].strata), paired=request.is_paired)


def _check_share(request: ComparisonRequest, pairs: Sequence[tuple[SideData, SideData]]) -> ShareCheck | None:
    if request.expected_share is None or not request.is_paired or not pairs:
        return None
    baseline, candidate = pairs[0]
    return check_share(baseline.observations, candidate.observations, expected=request.expected_share)


def _warnings(results: Sequence[MetricResult], pairs: Sequence[tuple[SideData, SideData]]) -> list[str]:
    warnings = []
    for result, pair in zip(results, pairs, strict=True):
        comparison = result.comparison
        for name, unmatched in zip(("baseline", "candidate"), comparison.unmatched, strict=True):
            if unmatched >= 0.005:
                warnings.append(
                    f"{100 * unmatched:.0f} % of the {name}'s samples of {result.metric} have no counterpart on the"
                    " other side and are left out"
                )
        if not comparison.is_ordered:
            warnings.append(
                f"samples of {result.metric} have so few different times that they count as independent of each other"
            )
        widened = [side for side in pair if side.is_approximate]
        if widened:
            warnings.append(
                f"{result.metric} was read from {widened[0].read}: single values are known to within 1 %, means exactly"
            )
    return list(dict.fromkeys(warnings))


class Comparisons:
    """Makes comparisons and remembers their results."""

    def __init__(self, context: QueryContext, metadata: MetadataStore) -> None:
        self._context = context
        self._metadata = metadata

    async def make(
        self, request: ComparisonRequest, *, author: str, save: bool = True, key: str = ""
    ) -> SavedComparison:
        """Compare, and save the result under a new id, or with ``save`` false under none (''). With a ``key`` it is
        saved once: a second one returns the first. Raises what ``compare`` raises, and StoreUnavailable."""
        result = await compare(self._context, request)
        comparison_id = secrets.token_urlsafe(9) if save else ""
        saved = SavedComparison(
            comparison_id,
            result.at_ms,
            author,
            request.candidate.service,
            request.title or _title(request),
            result.verdict.word,
            await asyncio.to_thread(document_of, result, comparison_id=comparison_id),
            key,
        )
        return await self._metadata.save_comparison(saved) if save else saved

    async def latest(self, *, service: str = "", limit: int = LISTED_MAX) -> Sequence[SavedComparison]:
        """Return saved comparisons, the latest first. Raises StoreUnavailable."""
        return await self._metadata.comparisons(service=service, limit=limit)

    async def get(self, comparison_id: str) -> SavedComparison:
        """Return a saved comparison. Raises NotFoundError, StoreUnavailable."""
        saved = await self._metadata.comparison(comparison_id)
        if saved is None:
            raise NotFoundError(
                "there is no comparison with this id, or it was removed as one of the oldest", field="id"
            )
        return saved

    async def is_made(self, key: str) -> bool:
        """Return whether a comparison with this key is saved. Raises StoreUnavailable."""
        return await self._metadata.comparison_of(key) is not None


def _title(request: ComparisonRequest) -> str:
    baseline, candidate = request.baseline.label, request.candidate.label
    if baseline == candidate:
        return f"{candidate}, two windows"
    return f"{candidate} against {baseline}"
