"""Batches: the samples and spans of one request, as columns. The unit of durability and of idempotence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np

from vantage.core.arrays import F64, I64, U32
from vantage.core.exemplars import NO_EXEMPLARS, Exemplars
from vantage.core.series import Series
from vantage.core.span import Span, spans_nbytes

BATCH_ID_LENGTH_MAX: Final = 64
BATCH_ID_MEMORY_MS: Final = 3_600_000  # how long a batch id is remembered
BATCH_ID_MEMORY_MAX: Final = 1_000_000  # how many are remembered at once


_BATCH_NBYTES: Final = 200  # of a batch without samples and spans


class Batch(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Samples as columns, and spans.

    ``series`` are distinct; ``index[i]`` is the series of sample ``i``. The three columns have the same length. A
    receiver must not change the arrays. ``batch_id`` is empty when the sender gave none. ``spans_nbytes`` is the
    estimated memory of the spans, ``new_series_nbytes`` that of the series that this batch is the first to have.
    """

    series: tuple[Series, ...] = ()
    index: U32 = msgspec.field(default_factory=lambda: np.empty(0, np.uint32))
    time_ms: I64 = msgspec.field(default_factory=lambda: np.empty(0, np.int64))
    value: F64 = msgspec.field(default_factory=lambda: np.empty(0, np.float64))
    exemplars: Exemplars = NO_EXEMPLARS
    spans: tuple[Span, ...] = ()
    batch_id: str = ""
    spans_nbytes: int = 0
    new_series_nbytes: int = 0

    def __post_init__(self) -> None:
        if self.spans and not self.spans_nbytes:
            msgspec.structs.force_setattr(self, "spans_nbytes", spans_nbytes(self.spans))

    @property
    def samples(self) -> int:
        """Return the number of samples."""
        return len(self.time_ms)

    @property
    def newest_ms(self) -> int:
        """Return the time of the newest sample or span, 0 where there is none."""
        times = [int(self.time_ms.max())] if self.samples else [0]
        return max(times + [span.start_ms for span in self.spans])

    @property
    def nbytes(self) -> int:
        """Estimate the memory of the batch, in bytes: for queue limits."""
        columns = 20 * len(self.time_ms) + self.exemplars.nbytes
        return columns + self.spans_nbytes + self.new_series_nbytes + _BATCH_NBYTES


def build_batch(rows: Sequence[tuple[Series, int, float]], **fields: Any) -> Batch:
    """Build a batch from ``(series, time_ms, value)`` rows. Other ``fields`` are passed on."""
    distinct = {series: i for i, series in enumerate(dict.fromkeys(row[0] for row in rows))}
    return Batch(
        series=tuple(distinct),
        index=np.fromiter((distinct[row[0]] for row in rows), np.uint32, len(rows)),
        time_ms=np.fromiter((row[1] for row in rows), np.int64, len(rows)),
        value=np.fromiter((row[2] for row in rows), np.float64, len(rows)),
        **fields,
    )
