"""Samples as columns of equal length, with their exemplars: what stores write, read, sort and hand to queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vantage.core.arrays import F64, I64, U32, Array, Mask
from vantage.core.exemplars import NO_EXEMPLARS, Exemplars, concat_exemplars


@dataclass(frozen=True, slots=True, eq=False)
class SampleColumns:
    """Row ``i`` is a sample of the series ``slot[i]``, at ``time_ms[i]`` (epoch milliseconds)."""

    slot: U32
    time_ms: I64
    value: F64
    exemplars: Exemplars = NO_EXEMPLARS

    def __len__(self) -> int:
        return len(self.slot)

    @property
    def nbytes(self) -> int:
        """Return the memory of the columns, in bytes."""
        return self.slot.nbytes + _nbytes(self.time_ms) + _nbytes(self.value) + self.exemplars.nbytes

    def take(self, rows: Array) -> SampleColumns:
        """Return the given rows in the given order, with their exemplars."""
        exemplars = self.exemplars.take(rows, len(self))
        return SampleColumns(self.slot.take(rows), _take(self.time_ms, rows), _take(self.value, rows), exemplars)

    def filter(self, mask: Mask) -> SampleColumns:
        """Return the rows that ``mask`` selects."""
        return self if mask.all() else self.take(np.flatnonzero(mask))

    def slice(self, start: int, end: int) -> SampleColumns:
        """Return rows ``start`` to ``end``."""
        return SampleColumns(
            self.slot[start:end], self.time_ms[start:end], self.value[start:end], self.exemplars.slice(start, end)
        )


def constant_column(value: float, rows: int, dtype: type) -> Array:
    """Return a column of one value. It takes no memory, and cannot be written."""
    return np.broadcast_to(np.array(value, dtype), rows)


def _is_constant(column: Array) -> bool:
    return column.strides == (0,)


def _nbytes(column: Array) -> int:
    return 0 if _is_constant(column) else int(column.nbytes)


def _take(column: Array, rows: Array) -> Array:
    if _is_constant(column) and len(column):
        return np.broadcast_to(column[:1].reshape(()), len(rows))
    return column.take(rows)


def concat_samples(parts: Sequence[SampleColumns]) -> SampleColumns:
    """Concatenate columns."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return NO_SAMPLES
    starts = np.cumsum([0, *map(len, parts)]).tolist()
    return SampleColumns(
        np.concatenate([part.slot for part in parts]),
        np.concatenate([part.time_ms for part in parts]),
        np.concatenate([part.value for part in parts]),
        concat_exemplars([(start, part.exemplars) for start, part in zip(starts, parts, strict=False)]),
    )


NO_SAMPLES = SampleColumns(np.empty(0, np.uint32), np.empty(0, np.int64), np.empty(0, np.float64))
