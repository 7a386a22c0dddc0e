"""Summarise the data of an hour, so that two stores can compare theirs without a common order."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from vantage.core.arrays import Array
from vantage.core.batch import Batch

_MASK: Final = (1 << 64) - 1
_encode: Final = msgspec.msgpack.Encoder(order="sorted").encode


@dataclass(frozen=True, slots=True)
class HourSummary:
    """Numbers of samples and of distinct spans, and a 64-bit sum of the hashes of all of them in hex."""

    samples: int
    spans: int
    digest: str

    @property
    def is_empty(self) -> bool:
        """Return whether the hour has no data."""
        return not self.samples and not self.spans

    def with_more(self, more: HourSummary) -> HourSummary:
        """Return the summary of the hour after other samples and other spans were added."""
        digest = (int(self.digest, 16) + int(more.digest, 16)) & _MASK
        return HourSummary(self.samples + more.samples, self.spans + more.spans, f"{digest:016x}")


EMPTY: Final = HourSummary(0, 0, f"{0:016x}")


class HourSummer:
    """Adds up batches in any order. A sample counts as often as it is stored, a span once: 8 bytes of memory each."""

    def __init__(self) -> None:
        self._samples = 0
        self._sum = 0
        self._spans: list[Array] = []

    def add(self, batch: Batch) -> None:
        """Add the samples with their trace ids, and the spans with their attributes."""
        if batch.samples:
            self._samples += batch.samples
            self._sum = (self._sum + int(hash_samples(batch).sum(dtype=np.uint64))) & _MASK
        if batch.spans:
            hashes = (hash_of(span) for span in batch.spans)
            self._spans.append(np.fromiter(hashes, np.uint64, len(batch.spans)))

    def summary(self) -> HourSummary:
        """Return the summary of what was added."""
        spans = np.unique(np.concatenate(self._spans)) if self._spans else np.empty(0, np.uint64)
        digest = (self._sum + int(spans.sum(dtype=np.uint64))) & _MASK
        return HourSummary(self._samples, len(spans), f"{digest:016x}")


def hash_samples(batch: Batch) -> Array:
    """Return a 64-bit hash of each sample, of its series, time, value and ids."""
    series = np.array([series.id for series in batch.series], np.uint64)[batch.index]
    times = np.ascontiguousarray(batch.time_ms).view(np.uint64)
    values = np.ascontiguousarray(batch.value).view(np.uint64)
    hashes = _mix(series ^ _mix(times ^ _mix(values)))
    traced = [
        (row, f"{trace_id}\0{span_id}") for row, trace_id, span_id in batch.exemplars.rows() if trace_id or span_id
    ]
    if traced:
        rows = np.array([row for row, _ in traced], np.int64)
        of_ids = np.fromiter((_hash(text.encode()) for _, text in traced), np.uint64, len(traced))
        hashes[rows] = _mix(hashes[rows] ^ of_ids)
    return hashes


def _mix(numbers: Array) -> Array:
    """Scatter 64-bit numbers, as splitmix64 does (Steele, Lea, Flood: Fast splittable generators, 2014)."""
    numbers = numbers + np.uint64(0x9E3779B97F4A7C15)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Array = numbers ^ (numbers >> np.uint64(31))
    return mixed


def hash_of(value: object) -> int:
    """Return a 64-bit hash of a value that MessagePack can encode, the same in every process."""
    return _hash(_encode(value))


def _hash(text: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
