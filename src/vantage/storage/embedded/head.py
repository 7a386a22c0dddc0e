"""The head: what is committed and not yet sealed, in memory, as immutable column blocks.

The writer thread appends; readers take the tuple of blocks and have a consistent view without a lock. Small blocks
are merged like a binary counter, so that a sample is copied a handful of times and a reader meets few blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vantage.core.batch import F64, I64, NO_LINKS, U32, Links, joined_links
from vantage.core.series import Series
from vantage.core.span import Span
from vantage.core.timerange import TimeRange
from vantage.storage.embedded.codec import Record
from vantage.storage.tracing import count_by_service
from vantage.vql.source import Chunk

BLOCK_SAMPLES_MAX: Final = 131_072
BLOCK_SPANS_MAX: Final = 16_384
SAMPLE_NBYTES: Final = 20
LINK_NBYTES: Final = 200  # 32 and 16 characters of ids and their places; measured on CPython 3.11
SPAN_NBYTES: Final = 900  # a span with three attributes; measured likewise


@dataclass(frozen=True, slots=True)
class SampleBlock:
    """Samples of the commits up to ``seq_last``."""

    seq_last: int
    first_ms: int
    last_ms: int
    slot: U32
    time_ms: I64
    value: F64
    links: Links
    link_hash: I64  # of each link's trace id

    def __len__(self) -> int:
        return len(self.slot)

    @property
    def nbytes(self) -> int:
        return SAMPLE_NBYTES * len(self.slot) + LINK_NBYTES * len(self.links)


@dataclass(frozen=True)
class SpanBlock:
    """Spans of the commits up to ``seq_last``."""

    seq_last: int
    first_ms: int
    last_ms: int
    spans: tuple[Span, ...]
    trace_hash: I64  # of each span's trace id

    def __len__(self) -> int:
        return len(self.spans)

    @cached_property
    def services(self) -> dict[tuple[str, str, str, str], tuple[int, int, int]]:
        """Spans, first and last start by service, environment, version and instance; counted on first use."""
        return count_by_service(self.spans)


def sample_block(seq: int, record: Record) -> SampleBlock:
    return SampleBlock(
        seq,
        int(record.time_ms.min()),
        int(record.time_ms.max()),
        record.slot,
        record.time_ms,
        record.value,
        record.links,
        _hashes(record.links.trace_id),
    )


def _span_block(seq: int, spans: tuple[Span, ...]) -> SpanBlock:
    starts = [span.start_ms for span in spans]
    return SpanBlock(seq, min(starts), max(starts), spans, _hashes([span.trace_id for span in spans]))


def _hashes(ids: Sequence[str]) -> I64:
    """Python's own hashes: to find an id among many is then one comparison of arrays. They never leave the process."""
    return np.fromiter(map(hash, ids), np.int64, len(ids))


def _merged_samples(a: SampleBlock, b: SampleBlock) -> SampleBlock:
    return SampleBlock(
        b.seq_last,
        min(a.first_ms, b.first_ms),
        max(a.last_ms, b.last_ms),
        np.concatenate([a.slot, b.slot]),
        np.concatenate([a.time_ms, b.time_ms]),
        np.concatenate([a.value, b.value]),
        joined_links([(0, a.links), (len(a), b.links)]),
        np.concatenate([a.link_hash, b.link_hash]),
    )


def _merged_spans(a: SpanBlock, b: SpanBlock) -> SpanBlock:
    return SpanBlock(
        b.seq_last,
        min(a.first_ms, b.first_ms),
        max(a.last_ms, b.last_ms),
        a.spans + b.spans,
        np.concatenate([a.trace_hash, b.trace_hash]),
    )


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
                blocks, block = blocks[:-1], _merged_samples(blocks[-1], block)
            self.samples = (*blocks, block)
        if record.spans:
            some, held = _span_block(seq, record.spans), self.spans
            while held and len(held[-1]) <= len(some) and len(held[-1]) + len(some) <= BLOCK_SPANS_MAX:
                held, some = held[:-1], _merged_spans(held[-1], some)
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
        wanted = _hashes(list(trace_ids))
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

    def rebuild(
        self, *, keep_after_seq: int, drop_slots: NDArray[np.bool_] | None, drop_span: Callable[[Span], bool]
    ) -> None:
        """Drop the blocks up to a sequence number, the samples of some slots, and the spans that a test picks."""
        samples, spans = self.samples, self.spans
        fresh = Head()
        for block in samples:
            if block.seq_last <= keep_after_seq:
                continue
            kept = block if drop_slots is None else _without(block, drop_slots)
            if len(kept):
                fresh.append(kept.seq_last, Record(kept.slot, kept.time_ms, kept.value, kept.links, ()))
        for some in spans:
            left = tuple(span for span in some.spans if not drop_span(span))
            if some.seq_last > keep_after_seq and left:
                fresh.append(some.seq_last, Record(*_NOTHING, NO_LINKS, left))
        self.sample_count, self.span_count, self.link_count = fresh.sample_count, fresh.span_count, fresh.link_count
        self.samples, self.spans = fresh.samples, fresh.spans


_NOTHING: Final = (np.empty(0, np.uint32), np.empty(0, np.int64), np.empty(0, np.float64))


def _without(block: SampleBlock, drop_slots: NDArray[np.bool_]) -> SampleBlock:
    rows = np.flatnonzero(~drop_slots[block.slot])
    if rows.size in (len(block), 0):
        return block if rows.size else SampleBlock(block.seq_last, 0, 0, *_NOTHING, NO_LINKS, _hashes(()))
    links = block.links.take(rows)
    return sample_block(block.seq_last, Record(block.slot[rows], block.time_ms[rows], block.value[rows], links, ()))


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
