"""Rollups: samples aggregated over buckets of 5 minutes or an hour.

They are partials: one bucket of one series may have several rows, whose counts and sums add up and of whose extremes
the extreme counts. So late samples are one more row, and nothing is ever rewritten for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from vantage.core.arrays import F64, I64, U32
from vantage.core.sketch import I32, sketch_keys

FIVE_MINUTES_MS: Final = 300_000
HOUR_MS: Final = 3_600_000
WIDTHS_MS: Final = {"5m": FIVE_MINUTES_MS, "1h": HOUR_MS}
_KEY_BITS: Final = 18  # keys of sketches lie within +-77 300
_KEY_SHIFT: Final = 1 << 17


@dataclass(frozen=True, slots=True)
class Sketches:
    """Sparse sketches of rows: sketch bucket ``i`` belongs to row ``row[i]`` (ascending)."""

    row: I64
    key: I32
    count: I64

    def take(self, rows: I64, *, of: int) -> Self:
        """Return the sketches of the given ascending rows, out of ``of``, numbered among them."""
        new_row = np.full(of, -1, np.int64)
        new_row[rows] = np.arange(len(rows))
        new = new_row[self.row]
        keep = new >= 0
        return type(self)(new[keep], self.key[keep], self.count[keep])


NO_SKETCHES: Final = Sketches(np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.int64))


@dataclass(frozen=True, slots=True)
class Partials:
    """Row ``i`` aggregates samples of the series ``slot[i]`` in the bucket that begins at ``time_ms[i]``."""

    slot: U32
    time_ms: I64
    count: I64
    sum: F64
    min: F64
    max: F64
    sketches: Sketches = NO_SKETCHES

    def __len__(self) -> int:
        return len(self.slot)

    @property
    def nbytes(self) -> int:
        """Estimate the memory, in bytes."""
        return 44 * len(self.slot) + 20 * len(self.sketches.key)

    def take(self, rows: I64) -> Partials:
        """Return the given ascending rows."""
        sketches = self.sketches.take(rows, of=len(self)) if len(self.sketches.key) else NO_SKETCHES
        return Partials(
            self.slot[rows], self.time_ms[rows], self.count[rows], self.sum[rows], self.min[rows], self.max[rows],
            sketches,
        )  # fmt: skip


def _empty() -> Partials:
    ints, floats = np.empty(0, np.int64), np.empty(0, np.float64)
    return Partials(np.empty(0, np.uint32), ints, ints, floats, floats, floats)


NO_PARTIALS: Final = _empty()


def concat_partials(parts: Sequence[Partials]) -> Partials:
    """Concatenate rows."""
    if len(parts) <= 1:
        return parts[0] if parts else NO_PARTIALS
    starts = np.cumsum([0, *(len(part) for part in parts)])
    sketches = [(start, part.sketches) for start, part in zip(starts.tolist(), parts, strict=False)]
    return Partials(
        np.concatenate([part.slot for part in parts]),
        np.concatenate([part.time_ms for part in parts]),
        np.concatenate([part.count for part in parts]),
        np.concatenate([part.sum for part in parts]),
        np.concatenate([part.min for part in parts]),
        np.concatenate([part.max for part in parts]),
        Sketches(
            np.concatenate([sketch.row + start for start, sketch in sketches]),
            np.concatenate([sketch.key for _, sketch in sketches]),
            np.concatenate([sketch.count for _, sketch in sketches]),
        ),
    )


def rollup_samples(slot: U32, time_ms: I64, value: F64, *, width_ms: int) -> Partials:
    """Aggregate samples, which must be sorted by series, then by time."""
    if not len(slot):
        return NO_PARTIALS
    bucket = time_ms // width_ms
    first = _firsts(slot, bucket)
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.add.reduceat(value, first)
    return Partials(
        slot[first],
        bucket[first] * width_ms,
        np.diff(np.append(first, len(slot))),
        _snap_to_decimal(total),
        np.minimum.reduceat(value, first),
        np.maximum.reduceat(value, first),
    )


def rollup_partials(partials: Partials, *, width_ms: int) -> Partials:
    """Aggregate partials into wider buckets. They must be sorted by series, then by time."""
    if not len(partials):
        return NO_PARTIALS
    bucket = partials.time_ms // width_ms
    first = _firsts(partials.slot, bucket)
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.add.reduceat(partials.sum, first)
    return Partials(
        partials.slot[first],
        bucket[first] * width_ms,
        np.add.reduceat(partials.count, first),
        _snap_to_decimal(total),
        np.minimum.reduceat(partials.min, first),
        np.maximum.reduceat(partials.max, first),
    )


def with_sketches(partials: Partials, slot: U32, time_ms: I64, value: F64, *, width_ms: int) -> Partials:
    """Return the partials with sketches of the given samples, each of which must fall into one of them."""
    if not len(slot):
        return partials
    # Rows are found by one number: the place of the series among those of the partials, then the bucket.
    key = sketch_keys(value)
    at = _row_numbers(partials.slot, partials.time_ms // width_ms, slot, time_ms // width_ms)
    code = at << _KEY_BITS | (key.astype(np.int64) + _KEY_SHIFT)
    code.sort()
    first = np.flatnonzero(np.append(True, code[1:] != code[:-1]))
    code = code[first]
    counts = np.diff(np.append(first, len(slot)))
    sketches = Sketches(code >> _KEY_BITS, ((code & ((1 << _KEY_BITS) - 1)) - _KEY_SHIFT).astype(np.int32), counts)
    return Partials(partials.slot, partials.time_ms, partials.count, partials.sum, partials.min, partials.max, sketches)


def _row_numbers(slots: U32, buckets: I64, slot: U32, bucket: I64) -> I64:
    """Return for each sample the row of its series and bucket."""
    low = int(buckets.min())
    span = int(buckets.max()) - low + 1
    have = slots.astype(np.int64) * span + (buckets - low)
    order = np.argsort(have, kind="stable")
    rows: I64 = order[np.searchsorted(have[order], slot.astype(np.int64) * span + (bucket - low))]
    return rows


def _firsts(slot: U32, bucket: I64) -> I64:
    """Return the first row of each series and bucket."""
    return np.flatnonzero(np.append(True, (slot[1:] != slot[:-1]) | (bucket[1:] != bucket[:-1])))


def _snap_to_decimal(total: F64) -> F64:
    """Return sums of decimal fractions as the decimal they stand for, where it is no further away than the rounding
    error of the additions (1e-13 of the sum): it is the better sum, and takes a third of the space."""
    snapped = total.copy()
    left = np.flatnonzero(np.isfinite(total) & (total != np.rint(total)) & (np.abs(total) < 1e9))
    for digits in range(1, 7):
        if not left.size:
            break
        scale = 10.0**digits
        decimal = np.rint(total[left] * scale) / scale
        near = np.abs(decimal - total[left]) <= 1e-13 * np.abs(total[left])
        snapped[left[near]] = decimal[near]
        left = left[~near]
    return snapped
