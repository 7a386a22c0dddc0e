"""Reading rollups of requests: rows of ``red`` summed up by bucket and over a range, with quantiles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vantage.core.arrays import F64, I64, U32, Mask
from vantage.core.red import (
    CELLS_MAX,
    KEY_BITS,
    KEY_SHIFT,
    METRIC_OF,
    NONE,
    RedKey,
    RedLevel,
    RedSource,
    bincount,
    numbered,
    summed_cells,
)
from vantage.core.rollup import NO_SKETCHES, Partials, Sketches
from vantage.core.sketch import I32, key_values, sketch_quantile
from vantage.core.timerange import TimeRange

_OUTCOMES: Final = ("", "ok", "error")
_ERROR: Final = 2


@dataclass(frozen=True, slots=True)
class RedQuery:
    """What to read: the buckets of ``time_range``, which begins on a multiple of ``step_ms``; of some ``services``
    (None: all) in an ``environment`` ('': all); by service, or by endpoint of a service. ``quantiles`` are of
    durations, from 0 to 1. ``with_cells``: also return the sketches of the buckets; it needs quantiles.
    ``with_bucket_quantiles``: otherwise quantiles are those of the range alone, which takes less."""

    time_range: TimeRange
    step_ms: int
    level: RedLevel = "service"
    services: frozenset[str] | None = None
    environment: str = ""
    quantiles: tuple[float, ...] = ()
    with_versions: bool = False
    with_cells: bool = False
    with_bucket_quantiles: bool = True


class RedGroup(NamedTuple):
    """What a row of a result is about; parts that are not grouped by are ''."""

    source: RedSource
    service: str
    version: str = ""
    method: str = ""
    route: str = ""


@dataclass(frozen=True, slots=True)
class RedRows:
    """Rows of a result: row ``i`` is about ``groups[group[i]]`` of the result, in the bucket from ``time_ms[i]``.

    ``requests``, ``errors`` and ``tagged`` (those that say whether they failed) are numbers of requests; ``first_ms``
    is when the first bucket with data begins; durations are in ms; ``quantiles_ms`` has a column for each quantile, NaN
    without durations; none where the query did not want them.
    """

    group: I64
    time_ms: I64
    requests: F64
    errors: F64
    tagged: I64
    first_ms: I64
    sum_ms: F64
    min_ms: F64
    max_ms: F64
    quantiles_ms: tuple[F64, ...]


@dataclass(frozen=True, slots=True)
class RedTable:
    """The result of a RedQuery: by group and bucket, and by group over the whole range. Quantiles are those of
    sketches, within ``sketch.RELATIVE_ERROR`` of the exact ones. ``sketches`` are those of the totals: row ``i`` is of
    ``totals.group[i]``. ``cells`` are those of the buckets, in no order, where the query wanted them: row ``i`` is of
    row ``i`` of ``buckets``."""

    groups: tuple[RedGroup, ...]
    buckets: RedRows
    totals: RedRows
    sketches: Sketches
    cells: Sketches = NO_SKETCHES

    @property
    def nbytes(self) -> int:
        """Estimate the memory of the table, in bytes."""
        rows = len(self.buckets.group) + len(self.totals.group)
        return (
            (80 + 8 * len(self.buckets.quantiles_ms)) * rows
            + 20 * (len(self.sketches.key) + len(self.cells.key))
            + 200 * len(self.groups)
        )


def grain_of(step_ms: int, widths_ms: Iterable[int]) -> int | None:
    """Return the widest of the widths that divides the step; None where none does."""
    return max((width for width in widths_ms if step_ms % width == 0), default=None)


def summarize(parts: Sequence[Partials], keys: Sequence[RedKey], query: RedQuery) -> RedTable:
    """Return the result of a query from rows of its level, which may lie outside its range and be of any service.

    ``keys`` are those of the codes of the rows. What metrics say about a service is not counted from its spans as well.
    """
    groups, group_of, outcome_of = _group(parts, keys, query)
    is_counter = np.fromiter((group.source == "requests" for group in groups), np.bool_, len(groups))
    rows = _Rows([_chosen(part, group_of, query.time_range) for part in parts])
    group, time_ms = group_of[rows.slot], rows.time_ms
    bucket = time_ms // query.step_ms
    number, first = numbered(group, bucket) if len(group) else (group, group)
    sums = _Sums(
        requests=np.where(is_counter[group], rows.sum, rows.count),
        failed=outcome_of[rows.slot] == _ERROR,
        tagged=np.where(outcome_of[rows.slot] > 0, rows.count, 0),
        first_ms=time_ms,
        sum=rows.sum,
        min=rows.min,
        max=rows.max,
    )
    present = np.unique(group)
    buckets = sums.by(number, group[first], bucket[first] * query.step_ms)
    totals = sums.by(np.searchsorted(present, group), present, np.zeros(len(present), np.int64))
    if query.with_bucket_quantiles:
        by_bucket, sketches, cells = _quantiles(
            rows, number, buckets.group, totals.group, query.quantiles, with_cells=query.with_cells
        )
    else:
        by_bucket, cells = [], NO_SKETCHES
        of_group = np.searchsorted(present, group)
        _, sketches, _ = _quantiles(rows, of_group, totals.group, totals.group, query.quantiles, with_cells=False)
    table = RedTable(groups, _with_quantiles(buckets, by_bucket), totals, sketches, cells)
    return _with_total_quantiles(table, query.quantiles)


def joined(earlier: RedTable, later: RedTable, quantiles: Sequence[float]) -> RedTable:
    """Return the result for two ranges that follow each other, cut between two buckets."""
    groups = tuple(dict.fromkeys((*earlier.groups, *later.groups)))
    numbers = {group: number for number, group in enumerate(groups)}
    rows: list[tuple[RedRows, RedRows, I64]] = []
    for table in (earlier, later):
        number_of = np.array([numbers[group] for group in table.groups], np.int64)
        rows.append((_renumbered(table.buckets, number_of), _renumbered(table.totals, number_of), number_of))
    buckets = _concat_rows([of_buckets for of_buckets, _, _ in rows])
    order = np.lexsort((buckets.time_ms, buckets.group))
    both = _concat_rows([of_totals for _, of_totals, _ in rows])
    present, number = np.unique(both.group, return_inverse=True)
    sums = _Sums(
        both.requests,
        np.zeros(len(number), np.bool_),
        both.tagged,
        both.first_ms,
        both.sum_ms,
        both.min_ms,
        both.max_ms,
    )
    totals = replace(
        sums.by(number, present, np.zeros(len(present), np.int64)),
        errors=bincount(number, both.errors, len(present)),
    )
    cells = [
        np.searchsorted(present, of_totals.group)[table.sketches.row] << KEY_BITS
        | (table.sketches.key.astype(np.int64) + KEY_SHIFT)
        for table, (_, of_totals, _) in zip((earlier, later), rows, strict=True)
    ]
    sketches = summed_cells(np.concatenate(cells), np.concatenate([earlier.sketches.count, later.sketches.count]))
    position = np.argsort(order)  # of each row among the ordered ones
    both_cells = Sketches(
        position[np.concatenate([earlier.cells.row, len(earlier.buckets.group) + later.cells.row])],
        np.concatenate([earlier.cells.key, later.cells.key]),
        np.concatenate([earlier.cells.count, later.cells.count]),
    )
    table = RedTable(groups, _take_rows(buckets, order), totals, sketches, both_cells)
    return _with_total_quantiles(table, quantiles)


def _group(
    parts: Sequence[Partials], keys: Sequence[RedKey], query: RedQuery
) -> tuple[tuple[RedGroup, ...], I64, NDArray[np.int8]]:
    """Return the groups, and by code the number of its group (negative: left out) and its outcome."""
    seen = np.zeros(len(keys), np.bool_)
    for part in parts:
        seen[part.slot] = True
    codes = np.flatnonzero(seen).tolist()
    if query.environment:
        codes = [code for code in codes if keys[code].environment == query.environment]
    by_metrics = {keys[code].service for code in codes if keys[code].source in METRIC_OF}
    groups: dict[RedGroup, int] = {}
    group_of, outcome_of = np.full(len(keys), NONE), np.zeros(len(keys), np.int8)
    for code in codes:
        key = keys[code]
        if key.source not in METRIC_OF and key.service in by_metrics:
            continue
        if query.services is None or key.service in query.services:
            endpoint = (key.method, key.route) if query.level == "endpoint" else ("", "")
            group = RedGroup(key.source, key.service, key.version if query.with_versions else "", *endpoint)
            group_of[code] = groups.setdefault(group, len(groups))
            outcome_of[code] = _OUTCOMES.index(key.outcome)
    return tuple(groups), group_of, outcome_of


def _chosen(part: Partials, group_of: I64, time_range: TimeRange) -> tuple[Partials, I64 | None]:
    """Return a part with those of its rows that count, None for all."""
    wanted = group_of[part.slot] != NONE
    wanted &= (part.time_ms >= time_range.start_ms) & (part.time_ms < time_range.end_ms)
    return part, None if wanted.all() else np.flatnonzero(wanted)


class _Rows:
    """The rows that count, of all parts; their sketches stay where they are."""

    def __init__(self, parts: Sequence[tuple[Partials, I64 | None]]) -> None:
        self._parts = parts
        self.slot: U32 = self._column("slot", np.uint32)
        self.time_ms: I64 = self._column("time_ms", np.int64)
        self.count: I64 = self._column("count", np.int64)
        self.sum: F64 = self._column("sum", np.float64)
        self.min: F64 = self._column("min", np.float64)
        self.max: F64 = self._column("max", np.float64)

    def _column(self, name: str, dtype: Any) -> Any:
        columns = [getattr(part, name) if rows is None else getattr(part, name)[rows] for part, rows in self._parts]
        return np.concatenate([np.empty(0, dtype), *columns])

    def cells(self, of_row: I64) -> Iterator[tuple[I64, I32, I64]]:
        """Yield the cells of the sketches: what ``of_row`` has for their row (negative: no cell), key and count."""
        start = 0
        for part, rows in self._parts:
            size = len(part) if rows is None else len(rows)
            of_part = of_row[start : start + size]
            start += size
            sketches = part.sketches
            if not size or not len(sketches.key):
                continue
            if rows is not None:
                everywhere = np.full(len(part), NONE)
                everywhere[rows] = of_part
                of_part = everywhere
            row = of_part[sketches.row]
            if (row >= 0).all():
                yield row, sketches.key, sketches.count
            else:
                cells = np.flatnonzero(row >= 0)
                if cells.size:
                    yield row[cells], sketches.key[cells], sketches.count[cells]


@dataclass(frozen=True, slots=True)
class _Sums:
    """Columns of rows that are summed up; ``failed`` says which rows are of failed requests."""

    requests: F64
    failed: Mask
    tagged: I64
    first_ms: I64
    sum: F64
    min: F64
    max: F64

    def by(self, number: I64, group: I64, time_ms: I64) -> RedRows:
        """Sum up by number; ``group`` and ``time_ms`` are by number. Without quantiles."""
        size = len(group)
        first_ms = np.full(size, np.iinfo(np.int64).max)
        np.minimum.at(first_ms, number, self.first_ms)
        low, high = np.full(size, np.inf), np.full(size, -np.inf)
        np.minimum.at(low, number, self.min)
        np.maximum.at(high, number, self.max)
        return RedRows(
            group,
            time_ms,
            bincount(number, self.requests, size),
            bincount(number[self.failed], self.requests[self.failed], size),
            np.bincount(number, self.tagged, size).astype(np.int64),
            first_ms,
            bincount(number, self.sum, size),
            low,
            high,
            (),
        )


def _quantiles(
    rows: _Rows, number: I64, group: I64, present: I64, quantiles: Sequence[float], *, with_cells: bool
) -> tuple[list[F64], Sketches, Sketches]:
    """Return the quantiles by number (NaN without durations), the sketches of the groups, which are ``present``, and
    ``with_cells`` those of the numbers; ``group`` is by number."""
    results = [np.full(len(group), np.nan) for _ in quantiles]
    everything = list(rows.cells(number)) if quantiles else []
    if not everything:
        return results, NO_SKETCHES, NO_SKETCHES
    has_sketch = np.zeros(len(group), np.bool_)
    for row, _, _ in everything:
        has_sketch[row] = True
    numbers, position_of = np.flatnonzero(has_sketch), np.cumsum(has_sketch) - 1
    low = min(int(key.min()) for _, key, _ in everything)
    keys = np.arange(low, max(int(key.max()) for _, key, _ in everything) + 1, dtype=np.int32)
    values = key_values(keys)
    sketched, starts = np.unique(group[numbers], return_index=True)
    ends = np.append(starts[1:], len(numbers))
    totals: list[Sketches] = []
    cells_of: list[Sketches] = []
    at = 0
    while at < len(sketched):  # counts are added up in an array by position and key, some whole groups at a time
        end = max(at + 1, int(np.searchsorted(ends, starts[at] + CELLS_MAX // len(keys), side="right")))
        first, last = int(starts[at]), int(ends[end - 1])
        counts = np.zeros((last - first) * len(keys))
        for row, key, count in everything:
            position = position_of[row] - first
            cells = position * len(keys) + (key - low)
            if last - first < len(numbers):
                within = np.flatnonzero((position >= 0) & (position < last - first))
                cells, count = cells[within], count[within]
            np.add.at(counts, cells, count.astype(np.float64))
        by_position = counts.reshape(last - first, len(keys))
        for result, of_positions in zip(results, _ranked(by_position, values, quantiles), strict=True):
            result[numbers[first:last]] = of_positions
        of_groups = np.add.reduceat(by_position, starts[at:end] - first, axis=0)
        row, column = np.nonzero(of_groups)
        rows_of = np.searchsorted(present, sketched[at:end])
        totals.append(Sketches(rows_of[row], keys[column], of_groups[row, column].astype(np.int64)))
        if with_cells:
            row, column = np.nonzero(by_position)
            cells_of.append(Sketches(numbers[first + row], keys[column], by_position[row, column].astype(np.int64)))
        at = end
    return results, _concat_sketches(totals), _concat_sketches(cells_of)


def _concat_sketches(parts: Sequence[Sketches]) -> Sketches:
    if not parts:
        return NO_SKETCHES
    return Sketches(
        np.concatenate([part.row for part in parts]),
        np.concatenate([part.key for part in parts]),
        np.concatenate([part.count for part in parts]),
    )


def _ranked(counts: F64, values: F64, quantiles: Sequence[float]) -> list[F64]:
    """Return the quantiles of each row of counts by key; between closest ranks the result is interpolated, as in
    ``sketch.sketch_quantile``."""
    reached = np.cumsum(counts, axis=1)
    totals = reached[:, -1].copy()
    present = np.flatnonzero(totals)
    # One sorted array for all rows, so that one search finds the ranks of every row.
    before = np.cumsum(totals) - totals
    reached += before[:, None]
    flat = reached.reshape(-1)
    results = []
    for p in quantiles:
        rank = p * (totals[present] - 1)
        below = np.floor(rank)
        above = np.minimum(below + 1, totals[present] - 1)
        lower, upper = (
            values[np.searchsorted(flat, before[present] + at, side="right") % len(values)] for at in (below, above)
        )
        result = np.full(len(counts), np.nan)
        result[present] = lower + (upper - lower) * (rank - below)
        results.append(result)
    return results


def _with_quantiles(rows: RedRows, quantiles: Sequence[F64]) -> RedRows:
    """Return rows with quantiles: a sketch knows a value to 1 %, the extremes are exact."""
    return replace(rows, quantiles_ms=tuple(np.clip(values, rows.min_ms, rows.max_ms) for values in quantiles))


def _with_total_quantiles(table: RedTable, quantiles: Sequence[float]) -> RedTable:
    sketches, size = table.sketches, len(table.totals.group)
    values = [sketch_quantile(sketches.row, sketches.key, sketches.count, groups=size, p=p) for p in quantiles]
    return replace(table, totals=_with_quantiles(table.totals, values))


def _renumbered(rows: RedRows, number_of: I64) -> RedRows:
    return replace(rows, group=number_of[rows.group] if len(rows.group) else rows.group)


def _concat_rows(parts: Sequence[RedRows]) -> RedRows:
    names = [field.name for field in fields(RedRows) if field.name != "quantiles_ms"]
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return RedRows(
        **columns,
        quantiles_ms=tuple(
            np.concatenate(columns) for columns in zip(*(part.quantiles_ms for part in parts), strict=True)
        ),
    )


def _take_rows(rows: RedRows, order: I64) -> RedRows:
    names = [field.name for field in fields(RedRows) if field.name != "quantiles_ms"]
    columns = {name: getattr(rows, name)[order] for name in names}
    return RedRows(**columns, quantiles_ms=tuple(column[order] for column in rows.quantiles_ms))
