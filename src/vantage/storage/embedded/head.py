"""The head: what is committed and not yet sealed, in memory, as immutable column blocks.

The writer thread appends; readers take the tuple of blocks and have a consistent view without a lock. Small blocks
are merged like a binary counter, so that a sample is copied a handful of times and a reader meets few blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final

import numpy as np

from vantage.core.batch import I64
from vantage.core.series import Series
from vantage.core.span import Span
from vantage.core.timerange import TimeRange
from vantage.storage.embedded.blocks import (
    LINK_NBYTES,
    SAMPLE_NBYTES,
    SPAN_NBYTES,
    Mask,
    SampleBlock,
    SpanBlock,
    hashes,
    sample_block,
    span_block,
)
from vantage.storage.embedded.codec import Record
from vantage.vql.source import Chunk

BLOCK_SAMPLES_MAX: Final = 65_536
BLOCK_SPANS_MAX: Final = 16_384


class Head:
    """All blocks, of samples and of spans."""

    def __init__(self) -> None:
        self.samples: tuple[SampleBlock, ...] = ()
        self.spans: tuple[SpanBlock, ...] = ()
        self.sample_count = 0
        self.span_count = 0
        self.link_count = 0

    @property
    def nbytes(self) -> int:
        """What the head occupies, by its own estimate."""
        return SAMPLE_NBYTES * self.sample_count + LINK_NBYTES * self.link_count + SPAN_NBYTES * self.span_count

    def append(self, seq: int, record: Record) -> None:
        """Take a commit; it is visible when this returns."""
        self.sample_count += len(record.slot)
        self.span_count += len(record.spans)
        self.link_count += len(record.links)
        if len(record.slot):
            block, blocks = sample_block(seq, record), self.samples
            while blocks and len(blocks[-1]) <= len(block) and len(blocks[-1]) + len(block) <= BLOCK_SAMPLES_MAX:
                blocks, block = blocks[:-1], blocks[-1].then(block)
            self.samples = (*blocks, block)
        if record.spans:
            some, held = span_block(seq, record.spans), self.spans
            while held and len(held[-1]) <= len(some) and len(held[-1]) + len(some) <= BLOCK_SPANS_MAX:
                held, some = held[:-1], held[-1].then(some)
            self.spans = (*held, some)

    def chunks(self, time_range: TimeRange) -> Iterator[Chunk]:
        """The blocks that may hold samples of the range."""
        for block in self.samples:
            if block.last_ms >= time_range.start_ms and block.first_ms < time_range.end_ms:
                yield Chunk(block.slot, block.time_ms, block.value, block.links)

    def span_lists(self, time_range: TimeRange) -> Iterator[Sequence[Span]]:
        """The lists that may hold spans starting in the range, the latest commits first."""
        for block in reversed(self.spans):
            if block.last_ms >= time_range.start_ms and block.first_ms < time_range.end_ms:
                yield block.spans

    def traces(self, trace_ids: Collection[str]) -> dict[str, list[Span]]:
        """The spans of some traces; an unknown one is left out."""
        found: dict[str, list[Span]] = {}
        wanted = hashes(list(trace_ids))
        for block in self.spans:
            for place in np.flatnonzero(np.isin(block.trace_hash, wanted)).tolist():
                span = block.spans[place]
                if span.trace_id in trace_ids:
                    found.setdefault(span.trace_id, []).append(span)
        return found

    def trace_links(self, trace_id: str) -> list[tuple[int, int, float, str]]:
        """Slot, time, value and span id of the samples that carry the trace id."""
        found = []
        wanted = hash(trace_id)
        for block in self.samples:
            links = block.links
            for place in np.flatnonzero(block.link_hash == wanted).tolist():
                if links.trace_id[place] == trace_id:
                    row = links.position[place]
                    found.append(
                        (int(block.slot[row]), int(block.time_ms[row]), float(block.value[row]), links.span_id[place])
                    )
        return found

    def ledger(self) -> tuple[I64, I64, I64]:
        """Every commit held, oldest first: its sequence number, the time of its latest row, its bytes by estimate."""
        blocks: list[SampleBlock | SpanBlock] = [*self.samples, *self.spans]
        if not blocks:
            nothing = np.empty(0, np.int64)
            return nothing, nothing, nothing
        seq, place = np.unique(np.concatenate([block.commits.seq for block in blocks]), return_inverse=True)
        last_ms = np.full(len(seq), np.iinfo(np.int64).min)
        np.maximum.at(last_ms, place, np.concatenate([block.commits.last_ms for block in blocks]))
        nbytes = np.zeros(len(seq), np.int64)
        np.add.at(nbytes, place, np.concatenate([block.nbytes_by_commit() for block in blocks]))
        return seq, last_ms, nbytes

    def keep(self, sample: Callable[[SampleBlock], Mask], span: Callable[[SpanBlock], Mask]) -> None:
        """Drop every row that the masks leave out."""
        samples = [kept for block in self.samples if (kept := block.keep(sample(block))) is not None]
        spans = [left for some in self.spans if (left := some.keep(span(some))) is not None]
        self.samples, self.spans = tuple(samples), tuple(spans)
        self.sample_count = sum(len(block) for block in samples)
        self.link_count = sum(len(block.links) for block in samples)
        self.span_count = sum(len(block) for block in spans)

    def drop_commits(self, seq_max: int) -> None:
        """Drop every commit up to a sequence number."""
        self.keep(
            lambda block: np.repeat(block.commits.seq > seq_max, block.commits.rows),
            lambda block: np.repeat(block.commits.seq > seq_max, block.commits.rows),
        )

    def drop(self, slots: Mask, span: Callable[[Span], bool]) -> None:
        """Drop the samples of some slots, and the spans that a test picks."""
        self.keep(
            lambda block: ~slots[block.slot],
            lambda block: np.fromiter((not span(one) for one in block.spans), np.bool_, len(block)),
        )


class HeadSource:
    """One query's view of the head."""

    def __init__(
        self, series: list[Series | None], samples: tuple[SampleBlock, ...], spans: tuple[SpanBlock, ...]
    ) -> None:
        self._series = series
        self._view = Head()
        self._view.samples, self._view.spans = samples, spans

    def series(self) -> Sequence[Series | None]:
        return self._series

    def samples(self, time_range: TimeRange) -> Iterator[Chunk]:
        return self._view.chunks(time_range)

    def spans(self, time_range: TimeRange) -> Iterator[Sequence[Span]]:
        return self._view.span_lists(time_range)
