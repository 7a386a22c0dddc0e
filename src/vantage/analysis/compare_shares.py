"""Shares compared: of failed requests, and of the traffic that each side has."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vantage.analysis.interval import Change, change_of
from vantage.analysis.long_run import BATCHES_MIN, Influence, batch_edges, bincount
from vantage.analysis.observations import Observations, Outcomes, shared_edges


@dataclass(frozen=True, slots=True)
class ErrorComparison:
    """Ratios of failed requests from 0 to 1, in the same mix of strata, and their difference."""

    ratios: tuple[float, float]
    requests: tuple[int, int]
    errors: tuple[int, int]
    change: Change


@dataclass(frozen=True, slots=True)
class ShareCheck:
    """The candidate's share of all observations, the expected one, and how likely so large a difference is by chance
    (sample-ratio check)."""

    share: float
    expected: float
    p_value: float


def compare_outcomes(baseline: Outcomes, candidate: Outcomes, strata: int, *, paired: bool) -> ErrorComparison | None:
    """Compare the shares of failed requests; None where no stratum has requests on both sides.

    The variance is that of the batches, or of independent requests with two successes and two failures more (Agresti
    and Caffo, "Simple and effective confidence intervals for proportions", 2000) where that is larger, as it is with
    few failures.
    """
    requests = [np.bincount(side.stratum, side.requests, strata) for side in (baseline, candidate)]
    errors = [np.bincount(side.stratum, side.errors, strata) for side in (baseline, candidate)]
    both = (requests[0] > 0) & (requests[1] > 0)
    total = np.where(both, requests[0] + requests[1], 0.0)
    if not total.sum():
        return None
    weight = total / total.sum()
    ratios, parts, independent = [], [], []
    edges = shared_edges(baseline.time_ms, candidate.time_ms, baseline.requests, candidate.requests)
    own = paired and len(edges) + 1 >= BATCHES_MIN
    for side, number, failed in zip((baseline, candidate), requests, errors, strict=True):
        ratio = np.divide(failed, number, out=np.zeros(strata), where=both)
        ratios.append(float((weight * ratio).sum()))
        edges_of_side = edges if own else batch_edges(side.time_ms, np.maximum(side.requests, 1).astype(np.int64))
        batch = np.searchsorted(edges_of_side, side.time_ms, side="right")
        factor = np.divide(weight, number, out=np.zeros(strata), where=both)
        off = (side.errors - ratio[side.stratum] * side.requests) * factor[side.stratum]
        parts.append(bincount(batch, off, len(edges_of_side) + 1))
        matched_requests, matched_errors = float(number[both].sum()), float(failed[both].sum())
        smoothed = (matched_errors + 1) / (matched_requests + 2)
        independent.append(smoothed * (1 - smoothed) / (matched_requests + 2))
    variance, freedom = Influence(parts[0][None], parts[1][None], paired=own).difference()
    floor = sum(independent)
    chosen, degrees = (float(variance[0]), float(freedom[0])) if variance[0] > floor else (floor, math.inf)
    change = change_of("error_rate", ratios[0], ratios[1], chosen, degrees)
    numbers = [tuple(int(side[both].sum()) for side in pair) for pair in (requests, errors)]
    return ErrorComparison(
        (ratios[0], ratios[1]), (numbers[0][0], numbers[0][1]), (numbers[1][0], numbers[1][1]), change
    )


def check_share(baseline: Observations, candidate: Observations, *, expected: float) -> ShareCheck:
    """Compare the candidate's share with the expected one. Its variance is that of the batches, or of a draw for each
    observation where that is larger. Both sides are of the same time."""
    total = len(baseline) + len(candidate)
    share = len(candidate) / total
    edges = shared_edges(baseline.time_ms, candidate.time_ms, baseline.count, candidate.count)
    variance, freedom = expected * (1 - expected) / total, math.inf
    if len(edges) + 1 >= BATCHES_MIN:
        number = [
            bincount(np.searchsorted(edges, side.time_ms, side="right"), side.count.astype(np.float64), len(edges) + 1)
            for side in (baseline, candidate)
        ]
        off = (number[1] - share * (number[0] + number[1])) / total
        batched, degrees = Influence(np.zeros((1, len(off))), off[None], paired=True).difference()
        if batched[0] > variance:
            variance, freedom = float(batched[0]), float(degrees[0])
    return ShareCheck(share, expected, change_of("share", expected, share, variance, freedom).p_value)
