"""Blocks: the immutable pieces that the head is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vantage.core.batch import F64, I64, U32, Links, joined_links
from vantage.core.span import Span
from vantage.storage.embedded.codec import Record
from vantage.storage.tracing import count_by_service

SAMPLE_NBYTES: Final = 20
LINK_NBYTES: Final = 200  # 32 and 16 characters of ids and their places; measured on CPython 3.11
SPAN_NBYTES: Final = 900  # a span with three attributes; measured likewise
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Commits:
    """Which commits a block's rows came in, by sequence number: the first ``rows[0]`` rows in ``seq[0]``, and so on.

    ``last_ms`` is the time of each commit's latest row, or later when rows were dropped since.
    """

    seq: I64
    rows: I64
    last_ms: I64

    def of_rows(self) -> I64:
        """For each row, the place of its commit."""
        return np.repeat(np.arange(len(self.seq)), self.rows)

    def then(self, later: Commits) -> Commits:
        return Commits(
            np.concatenate([self.seq, later.seq]),
            np.concatenate([self.rows, later.rows]),
            np.concatenate([self.last_ms, later.last_ms]),
        )

    def keep(self, mask: Mask) -> Commits:
        """Of the rows that the mask keeps; commits without any left are gone."""
        rows = np.bincount(self.of_rows()[mask], minlength=len(self.seq))
        held = rows > 0
        return Commits(self.seq[held], rows[held], self.last_ms[held])


def _one_commit(seq: int, rows: int, last_ms: int) -> Commits:
    return Commits(np.array([seq], np.int64), np.array([rows], np.int64), np.array([last_ms], np.int64))


@dataclass(frozen=True, slots=True)
class SampleBlock:
    """Samples in the order they were committed."""

    commits: Commits
    first_ms: int
    last_ms: int
    slot: U32
    time_ms: I64
    value: F64
    links: Links
    link_hash: I64  # of each link's trace id

    def __len__(self) -> int:
        return len(self.slot)

    def nbytes_by_commit(self) -> I64:
        """What each commit occupies, by estimate."""
        links = np.bincount(self.commits.of_rows()[self.links.position], minlength=len(self.commits.seq))
        return self.commits.rows * SAMPLE_NBYTES + links * LINK_NBYTES

    def then(self, later: SampleBlock) -> SampleBlock:
        return SampleBlock(
            self.commits.then(later.commits),
            min(self.first_ms, later.first_ms),
            max(self.last_ms, later.last_ms),
            np.concatenate([self.slot, later.slot]),
            np.concatenate([self.time_ms, later.time_ms]),
            np.concatenate([self.value, later.value]),
            joined_links([(0, self.links), (len(self), later.links)]),
            np.concatenate([self.link_hash, later.link_hash]),
        )

    def keep(self, mask: Mask) -> SampleBlock | None:
        """A block of some of the rows; None of none."""
        rows = np.flatnonzero(mask)
        if rows.size == len(self):
            return self
        if not rows.size:
            return None
        times, links = self.time_ms[rows], self.links.take(rows)
        return SampleBlock(
            self.commits.keep(mask),
            int(times.min()),
            int(times.max()),
            self.slot[rows],
            times,
            self.value[rows],
            links,
            hashes(links.trace_id),
        )


@dataclass(frozen=True)
class SpanBlock:
    """Spans in the order they were committed."""

    commits: Commits
    first_ms: int
    last_ms: int
    spans: tuple[Span, ...]
    trace_hash: I64  # of each span's trace id

    def __len__(self) -> int:
        return len(self.spans)

    def nbytes_by_commit(self) -> I64:
        """What each commit occupies, by estimate."""
        return self.commits.rows * SPAN_NBYTES

    @cached_property
    def services(self) -> dict[tuple[str, str, str, str], tuple[int, int, int]]:
        """Spans, first and last start by service, environment, version and instance; counted on first use."""
        return count_by_service(self.spans)

    def then(self, later: SpanBlock) -> SpanBlock:
        return SpanBlock(
            self.commits.then(later.commits),
            min(self.first_ms, later.first_ms),
            max(self.last_ms, later.last_ms),
            self.spans + later.spans,
            np.concatenate([self.trace_hash, later.trace_hash]),
        )

    def keep(self, mask: Mask) -> SpanBlock | None:
        """A block of some of the rows; None of none."""
        rows = np.flatnonzero(mask)
        if rows.size == len(self):
            return self
        if not rows.size:
            return None
        spans = tuple(self.spans[row] for row in rows.tolist())
        starts = [span.start_ms for span in spans]
        return SpanBlock(self.commits.keep(mask), min(starts), max(starts), spans, self.trace_hash[rows])


def sample_block(seq: int, record: Record) -> SampleBlock:
    """The block of one commit that holds samples."""
    first_ms, last_ms = int(record.time_ms.min()), int(record.time_ms.max())
    return SampleBlock(
        _one_commit(seq, len(record.slot), last_ms),
        first_ms,
        last_ms,
        record.slot,
        record.time_ms,
        record.value,
        record.links,
        hashes(record.links.trace_id),
    )


def span_block(seq: int, spans: tuple[Span, ...]) -> SpanBlock:
    """The block of one commit that holds spans."""
    starts = [span.start_ms for span in spans]
    last_ms = max(starts)
    commits = _one_commit(seq, len(spans), last_ms)
    return SpanBlock(commits, min(starts), last_ms, spans, hashes([span.trace_id for span in spans]))


def hashes(ids: Sequence[str]) -> I64:
    """Python's own hashes: to find an id among many is then one comparison of arrays. They never leave the process."""
    return np.fromiter(map(hash, ids), np.int64, len(ids))
