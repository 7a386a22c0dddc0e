"""The result of a comparison as JSON: what the API answers, what is saved and what pages show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vantage.analysis.compare import Figures, RankTest, StratumChange, ValueComparison
from vantage.analysis.compare_shares import ErrorComparison
from vantage.analysis.interval import Change
from vantage.analysis.verdict import ALPHA, Criterion, MetricResult, describe

if TYPE_CHECKING:
    from vantage.query.compare import ComparisonResult
    from vantage.query.compared_data import Side, SideData

FORMAT = 1
TEST = (
    "rank test (Mann-Whitney's statistic, variance by batches of time) with the mean, the 95th percentile and the error"
    " rate; Holm's correction"
)
SEQUENTIAL_TEST = f"{TEST}; confidence sequences, valid at every look"


def document_of(result: ComparisonResult, *, comparison_id: str) -> dict[str, Any]:
    """Return the document of a result."""
    request, verdict = result.request, result.verdict
    main = result.results[0] if result.results else None
    mean = main.comparison.changes["mean"] if main else None
    sign = 1 if main and main.direction == "higher" else -1
    return {
        "format": FORMAT,
        "id": comparison_id,
        "timestamp": result.at_ms,
        "kind": request.kind,
        "title": request.title,
        "metric": request.metrics[0],
        "baseline": _figures(main.comparison.baseline) if main else None,
        "candidate": _figures(main.comparison.candidate) if main else None,
        "improvement_pct": None if mean is None or mean.pct is None else round(sign * mean.pct, 1) + 0.0,
        "statistical_significance": verdict.is_significant,
        "p_value": None if verdict.p_value is None else _rounded(verdict.p_value),
        "recommendation": verdict.recommendation,
        "verdict": verdict.word,
        "reason": verdict.reason,
        "test": TEST if request.planned_end_ms is None else SEQUENTIAL_TEST,
        "change": None if mean is None else _change(mean),
        "effect_size": None if main is None else _ranks(main.comparison.ranks),
        "criteria": [_criterion(item) for item in verdict.criteria],
        "metrics": [_metric(item, pair) for item, pair in zip(result.results, result.data, strict=True)],
        "errors": None if result.errors is None else _errors(result.errors),
        "share": None
        if result.share is None
        else {
            "candidate": result.share.share,
            "expected": result.share.expected,
            "p_value": _rounded(result.share.p_value),
        },
        "warnings": list(result.warnings),
        "sides": {"baseline": _side(request.baseline), "candidate": _side(request.candidate)},
        "settings": {
            "level": 1 - ALPHA,
            "match": request.match,
            "minimum_effect_pct": request.effect_pct,
            "minimum_error_points": request.error_points,
            "planned_end": request.planned_end_ms,
            "paired": request.is_paired,
        },
    }


def _figures(figures: Figures) -> dict[str, Any]:
    return {**{name: finite(value) for name, value in figures.values.items()}, "samples": figures.samples}


def _change(change: Change) -> dict[str, Any]:
    return {
        "absolute": finite(change.absolute),
        "interval": [finite(change.low), finite(change.high)],
        "pct": finite(change.pct),
        "interval_pct": [finite(change.low_pct), finite(change.high_pct)],
        "p_value": _rounded(change.p_value),
        "t": finite(change.statistic),
        "degrees_of_freedom": finite(change.freedom),
    }


def _ranks(ranks: RankTest) -> dict[str, Any]:
    return {
        "superiority": ranks.superiority,
        "interval": [ranks.low, ranks.high],
        "cliffs_delta": 2 * ranks.superiority - 1,
        "p_value": _rounded(ranks.p_value),
        "t": finite(ranks.statistic),
        "degrees_of_freedom": finite(ranks.freedom),
    }


def _criterion(item: Criterion) -> dict[str, Any]:
    return {
        "metric": item.metric,
        "name": item.name,
        "unit": item.unit,
        "change": finite(item.growth),
        "interval": [finite(item.low), finite(item.high)],
        "matters": item.matters,
        "p_value": _rounded(item.p_value),
        "p_adjusted": _rounded(item.p_adjusted),
        "outcome": item.outcome,
        "sentence": describe(item),
    }


def _metric(result: MetricResult, pair: Sequence[SideData]) -> dict[str, Any]:
    comparison = result.comparison
    return {
        "metric": result.metric,
        "unit": result.unit,
        "direction": result.direction,
        "baseline": _figures(comparison.baseline),
        "candidate": _figures(comparison.candidate),
        "plain_means": list(comparison.plain_means),
        "samples": list(comparison.samples),
        "changes": {name: _change(change) for name, change in comparison.changes.items()},
        "effect_size": _ranks(comparison.ranks),
        "routes": [_stratum(item) for item in comparison.strata if item.name],
        "routes_omitted": comparison.strata_omitted,
        "unmatched": list(comparison.unmatched),
        "histogram": _histogram(comparison),
        "batches": list(comparison.batches),
        "effective_samples": [finite(value) for value in comparison.effective],
        "paired": comparison.is_paired,
        "ordered": comparison.is_ordered,
        "read": [side.read for side in pair],
        "vql": [side.vql for side in pair],
        "ranges": [[side.time_range.start_ms, side.time_range.end_ms] for side in pair],
        "approximate": any(side.is_approximate for side in pair),
    }


def _stratum(item: StratumChange) -> dict[str, Any]:
    return {
        "route": item.name,
        "samples": list(item.samples),
        "means": [finite(value) for value in item.means],
        "weight": item.weight,
        "change": _change(item.change),
    }


def _histogram(comparison: ValueComparison) -> dict[str, Any]:
    histogram = comparison.histogram
    return {
        "edges": histogram.edges.tolist(),
        "baseline": histogram.baseline.tolist(),
        "candidate": histogram.candidate.tolist(),
        "logarithmic": histogram.is_logarithmic,
    }


def _errors(errors: ErrorComparison) -> dict[str, Any]:
    return {
        **{
            name: {"error_rate": errors.ratios[side], "requests": errors.requests[side], "errors": errors.errors[side]}
            for side, name in enumerate(("baseline", "candidate"))
        },
        "change": _change(errors.change),
    }


def _side(side: Side) -> dict[str, Any]:
    return {
        "label": side.label,
        "service": side.service,
        "version": side.version,
        "except_version": side.except_version,
        "environment": side.environment,
        "tags": dict(side.tags),
        "start": side.time_range.start_ms,
        "end": side.time_range.end_ms,
    }


def finite(value: float | None) -> float | None:
    """Return a number that JSON knows, None for others."""
    return value if value is not None and math.isfinite(value) else None


def _rounded(probability: float) -> float:
    """Return a probability with four digits: more would be noise."""
    return float(f"{probability:.4g}")
