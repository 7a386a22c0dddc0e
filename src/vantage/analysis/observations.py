"""What is compared: values and failed requests over time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vantage.analysis.long_run import BATCHES_MAX, BATCHES_MIN, IN_BATCH_MIN, batch_edges
from vantage.core.arrays import F64, I64


@dataclass(frozen=True, slots=True)
class Observations:
    """Row ``i`` is ``count[i]`` observations of about ``value[i]`` at about ``time_ms[i]``, in the stratum of that
    number."""

    time_ms: I64
    value: F64
    count: I64
    stratum: I64

    def __len__(self) -> int:
        return int(self.count.sum())

    def take(self, rows: I64) -> Observations:
        """Return some of the rows."""
        return Observations(self.time_ms[rows], self.value[rows], self.count[rows], self.stratum[rows])


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Row ``i`` is ``requests[i]`` requests at about ``time_ms[i]``, of which ``errors[i]`` failed."""

    time_ms: I64
    requests: F64
    errors: F64
    stratum: I64


def shared_edges(first: I64, second: I64, first_count: I64 | F64, second_count: I64 | F64) -> I64:
    """Return the times at which batches of both sides begin, the first one's left out."""
    counts = np.concatenate([first_count, second_count])
    batches_max = min(BATCHES_MAX, max(BATCHES_MIN, int(counts.sum()) // (2 * IN_BATCH_MIN)))
    return batch_edges(np.concatenate([first, second]), np.maximum(counts, 1).astype(np.int64), batches_max=batches_max)
