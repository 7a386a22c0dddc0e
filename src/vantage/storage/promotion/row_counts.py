"""Compare the rows of two stores without a common order: which does the other lack?"""

from __future__ import annotations

import numpy as np

from vantage.core.arrays import Array
from vantage.core.batch import Batch
from vantage.storage.promotion.hour_summary import hash_of, hash_samples
from vantage.storage.recent_spans import identity


class RowCounts:
    """How often each sample of one store is there, and which spans are, as 64-bit hashes: 16 bytes of memory a row.

    Rows are added first; then those of the other store are taken, batch by batch.
    """

    def __init__(self) -> None:
        self._hashes: list[Array] = []
        self._spans: set[int] = set()
        self._distinct: Array | None = None
        self._left: Array = np.empty(0, np.int64)

    def add(self, batch: Batch) -> None:
        """Add what a store has."""
        assert self._distinct is None
        self._spans.update(_span_hashes(batch))
        if batch.samples:
            self._hashes.append(hash_samples(batch))

    def take(self, batch: Batch) -> Batch:
        """Take the rows of the other store out, and return those that were not in."""
        if self._distinct is None:
            hashes = np.concatenate(self._hashes) if self._hashes else np.empty(0, np.uint64)
            self._distinct, self._left = np.unique(hashes, return_counts=True)
            self._hashes = []
        rows = np.flatnonzero(self._lacking(hash_samples(batch))) if batch.samples else np.empty(0, np.int64)
        spans = []
        for span, key in zip(batch.spans, _span_hashes(batch), strict=True):
            if key in self._spans:
                self._spans.discard(key)
            else:
                spans.append(span)
        return Batch(
            series=batch.series,
            index=batch.index[rows],
            time_ms=batch.time_ms[rows],
            value=batch.value[rows],
            exemplars=batch.exemplars.take(rows, batch.samples),
            spans=tuple(spans),
        )

    @property
    def left(self) -> int:
        """Return how many rows were added and not taken out."""
        if self._distinct is None:
            return sum(len(part) for part in self._hashes) + len(self._spans)
        return int(self._left.sum()) + len(self._spans)

    def _lacking(self, hashes: Array) -> Array:
        """Take samples out; return which of them were not in, the last ones of those that are equal."""
        assert self._distinct is not None
        order = np.argsort(hashes, kind="stable")
        keys, first, counts = np.unique(hashes[order], return_index=True, return_counts=True)
        at = np.searchsorted(self._distinct, keys)
        known = at < len(self._distinct)
        known[known] = self._distinct[at[known]] == keys[known]
        there = np.zeros(len(keys), np.int64)
        there[known] = np.minimum(self._left[at[known]], counts[known])
        self._left[at[known]] -= there[known]
        lacking = np.empty(len(hashes), bool)
        lacking[order] = np.arange(len(hashes)) - np.repeat(first, counts) >= np.repeat(there, counts)
        return lacking


def _span_hashes(batch: Batch) -> list[int]:
    return [hash_of(identity(span)) for span in batch.spans]
