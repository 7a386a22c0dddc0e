"""The head: what is committed and not yet sealed, in memory, as immutable column blocks.

The commit thread appends; readers take the tuple of blocks and have a consistent snapshot without a lock. Samples of a
commit go behind those of the commits before, into arrays with room; what a reader has is a view of their first rows.
Full blocks are merged like a binary counter, so that a sample is copied a handful of times and a reader reads few.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Final, TypeVar

import numpy as np

from vantage.core.arrays import Mask
from vantage.core.idhash import hash_id
from vantage.core.record import Record
from vantage.core.sample_columns import SampleColumns
from vantage.core.span import Span
from vantage.core.timerange import TimeRange
from vantage.storage.embedded.write.block import (
    GrowingBlock,
    SampleBlock,
    SpanBlock,
    process_hashes,
    samples_nbytes,
    span_block,
)

GROWING_SAMPLES_MAX: Final = 8192  # of the block that commits add to: what is summed up of it is lost with each
BLOCK_SAMPLES_MAX: Final = 65_536
BLOCK_SPANS_MAX: Final = 16_384
B = TypeVar("B", SampleBlock, SpanBlock)


class Head:
    """All blocks, of samples and of spans."""

    def __init__(self) -> None:
        self.samples: tuple[SampleBlock, ...] = ()
        self.spans: tuple[SpanBlock, ...] = ()
        self.sample_count = 0
        self.span_count = 0
        self.nbytes = 0
        self._growing: GrowingBlock | None = None  # of which the last block of samples is a view
        self._staging = GrowingBlock(GROWING_SAMPLES_MAX)
        self._staged: SampleColumns | None = None

    def stage(self, parts: Sequence[SampleColumns]) -> SampleColumns:
        """Return the samples of a commit as columns, which ``append`` then need not copy. They are not visible yet; the
        next call takes their memory."""
        size = sum(map(len, parts))
        if self._growing is None or len(self._growing) + size > GROWING_SAMPLES_MAX:
            self._staging = GrowingBlock(GROWING_SAMPLES_MAX)
        else:
            self._staging = self._growing
        self._staged = self._staging.stage(parts)
        return self._staged

    def append(self, record: Record) -> None:
        """Append a commit; it is visible on return."""
        if len(record.samples):
            if record.samples is not self._staged:
                self.stage([record.samples])
            block, blocks = self._staging.extend(), self.samples
            self.sample_count += len(record.samples)
            self.nbytes += samples_nbytes(record.samples)
            blocks = blocks[:-1] if self._staging is self._growing else _merged(blocks)
            self._growing, self._staged = self._staging, None
            self.samples = (*blocks, block)
        if record.spans:
            span_blocks_new, span_blocks = span_block(record.spans, record.spans_nbytes), self.spans
            self.span_count += len(span_blocks_new)
            self.nbytes += span_blocks_new.nbytes
            while (
                span_blocks
                and len(span_blocks[-1]) <= len(span_blocks_new)
                and len(span_blocks[-1]) + len(span_blocks_new) <= BLOCK_SPANS_MAX
            ):
                span_blocks, span_blocks_new = span_blocks[:-1], span_blocks[-1].concat(span_blocks_new)
            self.spans = (*span_blocks, span_blocks_new)

    def replace(self, samples: tuple[SampleBlock, ...], spans: tuple[SpanBlock, ...]) -> None:
        """Replace all blocks."""
        self.samples, self.spans, self._growing = samples, spans, None
        self.sample_count, self.span_count, self.nbytes = totals(samples, spans)


def _merged(blocks: tuple[SampleBlock, ...]) -> tuple[SampleBlock, ...]:
    """Merge the last blocks, which do not grow any more, with those before them that are no larger."""
    while (
        len(blocks) > 1
        and len(blocks[-2]) <= len(blocks[-1])
        and len(blocks[-2]) + len(blocks[-1]) <= BLOCK_SAMPLES_MAX
    ):
        blocks = (*blocks[:-2], blocks[-2].concat(blocks[-1]))
    return blocks


def totals(samples: Iterable[SampleBlock], spans: Iterable[SpanBlock]) -> tuple[int, int, int]:
    """Return how many samples and spans the blocks have, and their estimated bytes."""
    samples, spans = tuple(samples), tuple(spans)
    blocks: list[SampleBlock | SpanBlock] = [*samples, *spans]
    return sum(map(len, samples)), sum(map(len, spans)), sum(block.nbytes for block in blocks)


def filter_blocks(
    samples: tuple[SampleBlock, ...], spans: tuple[SpanBlock, ...], slots: Mask, is_deleted: Callable[[Span], bool]
) -> tuple[tuple[SampleBlock, ...], tuple[SpanBlock, ...]]:
    """Return blocks without the samples of the given slots, and without the spans that a test selects."""
    sample_blocks = (block.filter(~slots[block.samples.slot]) for block in samples)
    span_blocks = (
        block.filter(np.fromiter((not is_deleted(span) for span in block.spans), np.bool_, len(block)))
        for block in spans
    )
    return tuple(block for block in sample_blocks if block is not None), tuple(
        block for block in span_blocks if block is not None
    )


def overlapping(blocks: Iterable[B], time_range: TimeRange) -> Iterator[B]:
    """Yield the blocks that may have data of the range."""
    for block in blocks:
        if block.last_ms >= time_range.start_ms and block.first_ms < time_range.end_ms:
            yield block


def spans_of_traces(blocks: Iterable[SpanBlock], trace_ids: Collection[str]) -> list[Span]:
    """Return the spans of the given traces."""
    selected: list[Span] = []
    wanted = process_hashes(list(trace_ids))
    for block in blocks:
        rows = np.flatnonzero(np.isin(block.trace_hash, wanted)).tolist()
        selected.extend(span for row in rows if (span := block.spans[row]).trace_id in trace_ids)
    return selected


def exemplars_of_trace(blocks: Iterable[SampleBlock], trace_id: str) -> Iterator[SampleColumns]:
    """Yield the samples that carry the trace id."""
    wanted, wanted_hash = trace_id.encode(), np.uint64(hash_id(trace_id))
    for block in blocks:
        if (block.exemplar_hash == wanted_hash).any():
            exemplars = block.samples.exemplars
            yield block.samples.take(exemplars.position[exemplars.trace_id == wanted])
