"""Aggregates over grouped rows, on numpy columns.

Results are exact: quantile is numpy's method "linear" (ClickHouse's quantileExactInclusive), uniq counts exactly,
``any`` is the minimum, ties of argMax take the smaller value. An aggregate of nothing is null, counts are 0. Nulls are
left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from vantage.core.arrays import F64, I64, Array, Mask
from vantage.core.dict_column import DictColumn
from vantage.core.sketch import sketch_quantile
from vantage.vql.exec.budget import NUMBER_NBYTES, VALUES_PER_CHECK, QueryBudget
from vantage.vql.exec.frame import Frame
from vantage.vql.exec.vector import Vector, finite
from vantage.vql.tree import Call, Column

_SORT_KEY_NBYTES: Final = 120  # of a text that is sorted with its code
_COUNT: Final = Call("count")
_RADIX_GROUPS_MAX: Final = 1 << 16
_GROUP_VALUES: Final = 16  # as many values as a group costs beside its own
_SUM_SCALE: Final = 2.0**-40  # more samples than a query may read do not overflow
# Vectors as long as the frame that an aggregate makes beside its argument; of the others three.
_WORKING_VECTORS: Final[Mapping[str, int]] = {"quantile": 4, "uniq": 5, "argMax": 6, "increase": 8, "stddevPop": 5}


@dataclass(frozen=True, slots=True)
class Groups:
    """Row ``i`` belongs to group ``ids[i]`` of ``count`` groups."""

    ids: I64
    count: int

    def only(self, keep: Mask) -> Groups:
        return Groups(self.ids[keep], self.count)


def aggregate(call: Call, frame: Frame, groups: Groups) -> Vector:
    """Return one value per group; one that is not a finite number is null."""
    if call == _COUNT and groups.count == 1:
        return np.array([frame.rows])
    working_nbytes = _WORKING_VECTORS.get(call.function, 3) * NUMBER_NBYTES * (frame.rows + groups.count)
    with np.errstate(all="ignore"), frame.budget.working(working_nbytes):
        result: Vector = _AGGREGATES[call.function](call, frame, groups)
    return result if isinstance(result, DictColumn) or result.dtype.kind != "f" else finite(result)


def _values(call: Call, frame: Frame, groups: Groups) -> tuple[Array, Groups]:
    """Return the first argument's numbers without nulls, and their groups."""
    numbers = frame.numbers(call.args[0])
    if call.function.endswith("If"):
        keep = frame.condition(call.args[-1])
        numbers, groups = numbers[keep], groups.only(keep)
    if numbers.dtype.kind == "f" and np.isnan(numbers).any():
        present = ~np.isnan(numbers)
        numbers, groups = numbers[present], groups.only(present)
    return numbers, groups


def _counts(groups: Groups) -> I64:
    return np.bincount(groups.ids, minlength=groups.count)


def _count(call: Call, frame: Frame, groups: Groups) -> Vector:
    if call.function == "countIf":
        return _counts(groups.only(frame.condition(call.args[0])))
    if not call.args:
        return _counts(groups)
    if isinstance(text := frame.vector(call.args[0]), DictColumn):
        return _counts(groups.only(_present(text, frame.budget)))
    return _counts(_values(call, frame, groups)[1])


def _present(text: DictColumn[Any], budget: QueryBudget) -> Mask:
    return budget.mask(text, lambda value: value is not None)


def _sum(call: Call, frame: Frame, groups: Groups) -> Vector:
    numbers, left = _values(call, frame, groups)
    totals = np.bincount(left.ids, weights=numbers, minlength=left.count)
    return np.where(_counts(left) > 0, totals, np.nan)


def _avg(call: Call, frame: Frame, groups: Groups) -> Vector:
    numbers, left = _values(call, frame, groups)
    counts = _counts(left)
    averages: Array = np.bincount(left.ids, weights=numbers, minlength=left.count) / counts
    if (lost := np.isinf(averages)).any():
        # Sums that no float holds, though it holds the mean: a power of two scales without rounding.
        scaled = np.bincount(left.ids, weights=numbers * _SUM_SCALE, minlength=left.count) / counts / _SUM_SCALE
        averages[lost] = scaled[lost]
    return averages


def _stddev(call: Call, frame: Frame, groups: Groups) -> Vector:
    """Return the standard deviation of the population.

    It takes two passes over the distances to one value of each group: equal values have none, and no square of a large
    mean is subtracted from another.
    """
    numbers, left = _values(call, frame, groups)
    counts = _counts(left)
    pivot = np.zeros(left.count)
    pivot[left.ids] = numbers  # the last of each group
    distance = numbers - pivot[left.ids]
    means = np.bincount(left.ids, weights=distance, minlength=left.count) / counts
    distance -= means[left.ids]
    deviations: Array = np.sqrt(np.bincount(left.ids, weights=distance * distance, minlength=left.count) / counts)
    return deviations


def _extreme(call: Call, frame: Frame, groups: Groups) -> Vector:
    vector = frame.vector(call.args[0])
    if isinstance(vector, DictColumn):
        return _extreme_text(call, vector, groups, frame.budget)
    numbers, left = _values(call, frame, groups)
    largest, is_int = call.function == "max", numbers.dtype.kind == "i"
    bounds = (np.iinfo(np.int64).min, np.iinfo(np.int64).max) if is_int else (-np.inf, np.inf)
    extremes = np.full(left.count, bounds[0] if largest else bounds[1], np.int64 if is_int else np.float64)
    (np.maximum if largest else np.minimum).at(extremes, left.ids, numbers)
    empty = _counts(left) == 0
    return np.where(empty, np.nan, extremes) if empty.any() else extremes


def _ranks(text: DictColumn[Any], budget: QueryBudget) -> tuple[I64, list[Any]]:
    """Return the rank of every row's text, in the order of code points, and the texts by rank; null comes last."""
    with budget.working(_SORT_KEY_NBYTES * len(text.values)):
        keys = budget.sort([(value is None, str(value), code) for code, value in enumerate(text.values)])
        order = [code for _, _, code in keys]
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[text.codes], [text.values[code] for code in order]


def _extreme_text(call: Call, vector: DictColumn[Any], groups: Groups, budget: QueryBudget) -> DictColumn[Any]:
    present = _present(vector, budget)
    ranks, values = _ranks(vector, budget)
    left = groups.only(present)
    largest = call.function == "max"
    codes = np.full(groups.count, -1 if largest else len(values), np.int64)
    (np.maximum if largest else np.minimum).at(codes, left.ids, ranks[present])
    return DictColumn(np.where(_counts(left) == 0, len(values), codes), [*values, None])


def _quantile(call: Call, frame: Frame, groups: Groups) -> Vector:
    """Interpolate linearly between closest ranks: Hyndman and Fan (1996), type 7."""
    assert call.parameter is not None
    numbers, left = _values(call, frame, groups)
    counts = _counts(left)
    starts = np.cumsum(counts) - counts
    numbers = _sorted_in_groups(numbers.astype(np.float64, copy=False), left, starts, counts, frame.budget)
    rank = call.parameter * np.maximum(counts - 1, 0)
    low = np.floor(rank).astype(np.int64)
    high = np.minimum(low + 1, np.maximum(counts - 1, 0))
    quantiles = np.full(left.count, np.nan)
    present = counts > 0
    below, above = numbers[(starts + low)[present]], numbers[(starts + high)[present]]
    share = (rank - low)[present]
    between = below + (above - below) * share
    if (lost := ~np.isfinite(between)).any():  # a distance that no float holds
        between[lost] = below[lost] * (1 - share[lost]) + above[lost] * share[lost]
    quantiles[present] = between
    return quantiles


def _sorted_in_groups(numbers: F64, groups: Groups, starts: I64, counts: I64, budget: QueryBudget) -> F64:
    """Return the numbers group by group, each group's in ascending order."""
    if groups.count > _RADIX_GROUPS_MAX:
        return numbers[np.lexsort((numbers, groups.ids))]
    # 16-bit keys are sorted by radix, in linear time; short runs of floats are then sorted where they lie.
    grouped = numbers[np.argsort(groups.ids.astype(np.uint16), kind="stable")]
    unchecked = 0
    for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
        unchecked += count + _GROUP_VALUES
        if unchecked > VALUES_PER_CHECK:
            budget.check()
            unchecked = 0
        grouped[start : start + count].sort()
    return grouped


def _uniq(call: Call, frame: Frame, groups: Groups) -> Vector:
    vector = frame.vector(call.args[0])
    if isinstance(vector, DictColumn):
        present = _present(vector, frame.budget)
        codes, left = frame.budget.merge_equal_values(vector)[present], groups.only(present)
    else:
        numbers, left = _values(call, frame, groups)
        codes = np.unique(numbers, return_inverse=True)[1]
    pairs = np.unique(left.ids * (int(codes.max(initial=0)) + 1) + codes) // (int(codes.max(initial=0)) + 1)
    return np.bincount(pairs, minlength=groups.count)


def _arg_max(call: Call, frame: Frame, groups: Groups) -> Vector:
    vector, keys = frame.vector(call.args[0]), frame.numbers(call.args[1])
    values, texts = _ranks(vector, frame.budget) if isinstance(vector, DictColumn) else (vector, [])
    present = _present(vector, frame.budget) if isinstance(vector, DictColumn) else ~np.isnan(values)
    present = present & ~np.isnan(keys)
    rows, left = np.flatnonzero(present), groups.only(present)
    # The first row of each group: largest key, then smallest value.
    order = np.lexsort((values[rows], -keys[rows], left.ids))
    group_ids, first = np.unique(left.ids[order], return_index=True)
    results = values[rows[order[first]]]
    if len(group_ids) == groups.count and not isinstance(vector, DictColumn):
        return results
    codes = np.full(groups.count, len(results), np.int64)
    codes[group_ids] = np.arange(len(group_ids))
    return DictColumn(
        codes, [*(texts[rank] for rank in results.tolist()), None] if texts else [*results.tolist(), None]
    )


def _increase(_call: Call, frame: Frame, groups: Groups) -> Vector:
    """Return the growth between neighbouring samples of each series, counted in the later one's group.

    A fall is a reset, after which the new total is all growth (as Prometheus' ``increase`` does, without its
    extrapolation).
    """
    series, times, values = (frame.numbers(Column(name)) for name in ("series", "timestamp", "value"))
    order = np.lexsort((values, times, series))
    series, values, ids = series[order], values[order], groups.ids[order]
    growth = np.diff(values)
    growth = np.where(growth < 0, values[1:], growth)
    same = series[1:] == series[:-1]
    later = ids[1:][same]
    totals = np.bincount(later, weights=growth[same], minlength=groups.count)
    return np.where(np.bincount(later, minlength=groups.count) > 0, totals, np.nan)


def _sketch_quantile(call: Call, frame: Frame, groups: Groups) -> Vector:
    """Merge the sketches of each group: see ``core.sketch``."""
    assert call.parameter is not None
    row, key, count = (frame.numbers(Column(f"sketch_{name}")) for name in ("row", "key", "count"))
    return sketch_quantile(groups.ids[row], key, count, groups=groups.count, p=call.parameter)


_AGGREGATES: Final[Mapping[str, Callable[[Call, Frame, Groups], Any]]] = {
    "count": _count,
    "countIf": _count,
    "sum": _sum,
    "sumIf": _sum,
    "avg": _avg,
    "avgIf": _avg,
    "min": _extreme,
    "max": _extreme,
    "any": _extreme,
    "quantile": _quantile,
    "stddevPop": _stddev,
    "uniq": _uniq,
    "argMax": _arg_max,
    "increase": _increase,
    "sketchQuantile": _sketch_quantile,
}
