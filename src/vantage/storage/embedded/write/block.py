"""Blocks: the immutable pieces that the head is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from vantage.core.arrays import F64, I64, U32, U64, Array, Mask
from vantage.core.exemplars import NO_EXEMPLARS, Exemplars
from vantage.core.idhash import IdColumn, hash_ids
from vantage.core.red import RedKeys, RedLevel, RedSlots, by_service, of_endpoints, red_of_samples, red_of_spans
from vantage.core.rollup import FIVE_MINUTES_MS, HOUR_MS, Partials, rollup_partials, rollup_samples, with_sketches
from vantage.core.sample_columns import SampleColumns, concat_samples
from vantage.core.span import Span, spans_nbytes
from vantage.core.span_table import SpanTable, build_span_table, concat_span_tables
from vantage.storage.trace_summary import ServiceKey, count_by_service

SAMPLE_NBYTES: Final = 20
HASH_NBYTES: Final = 8
CACHED_NBYTES_MIN: Final = 1 << 16


@dataclass(frozen=True, eq=False)
class SampleBlock:
    """Samples in the order they were committed."""

    first_ms: int
    last_ms: int
    samples: SampleColumns
    exemplar_hash: U64  # of each exemplar's trace id

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def nbytes(self) -> int:
        """Estimate the memory of the block, in bytes."""
        return samples_nbytes(self.samples)

    def concat(self, later: SampleBlock) -> SampleBlock:
        """Return one block of both."""
        return SampleBlock(
            min(self.first_ms, later.first_ms),
            max(self.last_ms, later.last_ms),
            concat_samples([self.samples, later.samples]),
            np.concatenate([self.exemplar_hash, later.exemplar_hash]),
        )

    def filter(self, mask: Mask) -> SampleBlock | None:
        """Return a block of the rows that ``mask`` selects; None where it selects none."""
        if mask.all():
            return self
        if not mask.any():
            return None
        samples = self.samples.filter(mask)
        return SampleBlock(
            int(samples.time_ms.min()),
            int(samples.time_ms.max()),
            samples,
            self.exemplar_hash[mask[self.samples.exemplars.position]],
        )

    @cached_property
    def _sorted(self) -> tuple[U32, I64, F64]:
        slot, time_ms, value = self.samples.slot, self.samples.time_ms, self.samples.value
        order = np.lexsort((time_ms, slot))
        return slot[order], time_ms[order], value[order]

    @property
    def is_rolled_up(self) -> bool:
        """Return whether ``rollup_5m`` is computed already."""
        return "rollup_5m" in self.__dict__

    @cached_property
    def rollup_5m(self) -> Partials:
        """Return the block aggregated over 5 minutes; computed on first use."""
        return rollup_samples(*self._sorted, width_ms=FIVE_MINUTES_MS)

    def rollup_1h(self, histograms: Mask) -> Partials:
        """Return the block aggregated over hours, with sketches of histograms; computed on first use."""
        hours: Partials | None = self.__dict__.get("_hours")
        if hours is None:
            slot, time_ms, value = self._sorted
            is_histogram = histograms[slot]
            hours = with_sketches(
                rollup_partials(self.rollup_5m, width_ms=HOUR_MS),
                slot[is_histogram],
                time_ms[is_histogram],
                value[is_histogram],
                width_ms=HOUR_MS,
            )
            self.__dict__["_hours"] = hours
        return hours

    def red(self, level: RedLevel, slots: RedSlots) -> Partials:
        """Return the block's requests by service and minute, or by endpoint and 5 minutes; computed on first use."""
        return _red(self, level, slots.keys, lambda: red_of_samples(self.samples, slots))


@dataclass(frozen=True, eq=False)
class SpanBlock:
    """Spans in the order they were committed."""

    first_ms: int
    last_ms: int
    spans: tuple[Span, ...]
    trace_hash: I64  # of each span's trace id
    nbytes: int  # estimated memory

    def __len__(self) -> int:
        return len(self.spans)

    @cached_property
    def table(self) -> SpanTable:
        """Return the spans as columns; built on first use."""
        return build_span_table(self.spans)

    def red(self, level: RedLevel, slots: RedSlots) -> Partials:
        """Return the server spans by service and minute, or by endpoint and 5 minutes; computed on first use."""
        return _red(self, level, slots.keys, lambda: red_of_spans(self.table, slots.keys))

    @cached_property
    def counts(self) -> dict[ServiceKey, tuple[int, int, int]]:
        """Return spans, first and last start by service, environment, version and instance."""
        return count_by_service(self.table)

    def concat(self, later: SpanBlock) -> SpanBlock:
        block = SpanBlock(
            min(self.first_ms, later.first_ms),
            max(self.last_ms, later.last_ms),
            self.spans + later.spans,
            np.concatenate([self.trace_hash, later.trace_hash]),
            self.nbytes + later.nbytes,
        )
        if "table" in self.__dict__:  # of a large block the columns are made once, not again with every commit
            block.__dict__["table"] = concat_span_tables([self.table, later.table])
        return block

    def filter(self, mask: Mask) -> SpanBlock | None:
        """Return a block of the rows that ``mask`` selects; None where it selects none."""
        rows = np.flatnonzero(mask)
        if rows.size == len(self):
            return self
        if not rows.size:
            return None
        spans = tuple(self.spans[row] for row in rows.tolist())
        starts = [span.start_ms for span in spans]
        return SpanBlock(min(starts), max(starts), spans, self.trace_hash[rows], spans_nbytes(spans))


def _red(block: SampleBlock | SpanBlock, level: RedLevel, keys: RedKeys, compute: Callable[[], Partials]) -> Partials:
    """Return a block's rollup of requests. It is cached unless it is larger than the block; the one that both levels
    are made of never is."""
    cached: Partials | None = block.__dict__.get(f"_red_{level}")
    if cached is not None:
        return cached
    minutes = compute()
    levels = {
        "service": by_service(minutes, keys),
        "endpoint": of_endpoints(minutes, keys, width_ms=FIVE_MINUTES_MS),
    }
    if sum(partials.nbytes for partials in levels.values()) <= max(block.nbytes, CACHED_NBYTES_MIN):
        block.__dict__.update({f"_red_{name}": partials for name, partials in levels.items()})
    return levels[level]


def samples_nbytes(samples: SampleColumns) -> int:
    """Estimate the memory of samples in a block, in bytes."""
    return SAMPLE_NBYTES * len(samples) + samples.exemplars.nbytes + HASH_NBYTES * len(samples.exemplars)


class _Columns:
    """Columns of equal length in arrays with room at their end. Rows that were written never change: a view of the
    first ones stays as it is while more are written behind it, and when the arrays are replaced by larger ones."""

    def __init__(self, room: int, *types: type[np.generic]) -> None:
        """``room``: for how many rows there is room once there are several commits."""
        self.arrays: list[Array] = [np.empty(0, kind) for kind in types]
        self._room = room

    def make_room(self, used: int, rows: int) -> None:
        """Leave room for ``rows`` behind the ``used`` first."""
        if used + rows > len(self.arrays[0]):
            size = max(used + rows, self._room)
            larger = [np.empty(size, array.dtype) for array in self.arrays]
            for array, old in zip(larger, self.arrays, strict=True):
                array[:used] = old[:used]
            self.arrays = larger


class GrowingBlock:
    """The block that commits add to, with room for ``room`` samples. ``stage`` writes a commit's samples behind those
    that readers see, and ``extend`` returns a block that includes them. What was staged and is not wanted any more is
    written over."""

    def __init__(self, room: int) -> None:
        self._samples = _Columns(room, np.uint32, np.int64, np.float64)
        self._exemplars = _Columns(room, np.int64, np.uint64)
        self._trace_ids, self._span_ids = IdColumn(room), IdColumn(room)
        self._length = self._exemplar_count = 0
        self._first_ms, self._last_ms = np.iinfo(np.int64).max, np.iinfo(np.int64).min
        self._staged = self._staged_exemplars = 0

    def __len__(self) -> int:
        return self._length

    def stage(self, parts: Sequence[SampleColumns]) -> SampleColumns:
        """Write samples, and return them as the columns of one commit. They are not in a block yet."""
        start = self._length
        self._staged = sum(map(len, parts))
        end = start + self._staged
        self._samples.make_room(start, self._staged)
        slot, time_ms, value = (array[start:end] for array in self._samples.arrays)
        np.concatenate([part.slot for part in parts], out=slot)
        np.concatenate([part.time_ms for part in parts], out=time_ms)
        np.concatenate([part.value for part in parts], out=value)
        return SampleColumns(slot, time_ms, value, self._stage_exemplars(parts, start))

    def _stage_exemplars(self, parts: Sequence[SampleColumns], row: int) -> Exemplars:
        carried = [part.exemplars for part in parts]
        counts = [len(exemplars) for exemplars in carried]
        start, count = self._exemplar_count, sum(counts)
        self._staged_exemplars = count
        if not count:
            return NO_EXEMPLARS
        end = start + count
        rows = np.repeat(np.cumsum([0, *map(len, parts[:-1])]), counts)  # where the part of each begins
        rows += np.concatenate([exemplars.position for exemplars in carried])
        self._exemplars.make_room(start, count)
        np.add(rows, row, out=self._exemplars.arrays[0][start:end])
        self._trace_ids.write(start, [exemplars.trace_id for exemplars in carried])
        self._span_ids.write(start, [exemplars.span_id for exemplars in carried])
        return Exemplars(rows, self._trace_ids.read(start, end), self._span_ids.read(start, end))

    def extend(self) -> SampleBlock:
        """Return the block with what was staged."""
        before, exemplars_before = self._length, self._exemplar_count
        self._length, self._exemplar_count = before + self._staged, exemplars_before + self._staged_exemplars
        slot, time_ms, value = (array[: self._length] for array in self._samples.arrays)
        position, trace_hash = (array[: self._exemplar_count] for array in self._exemplars.arrays)
        if self._staged:
            self._first_ms = min(self._first_ms, int(time_ms[before:].min()))
            self._last_ms = max(self._last_ms, int(time_ms[before:].max()))
        if self._staged_exemplars:
            added = self._trace_ids.read(exemplars_before, self._exemplar_count)
            trace_hash[exemplars_before:] = hash_ids(added)
        self._staged = self._staged_exemplars = 0
        exemplars = NO_EXEMPLARS
        if self._exemplar_count:
            ids = self._trace_ids.read(0, self._exemplar_count), self._span_ids.read(0, self._exemplar_count)
            exemplars = Exemplars(position, *ids)
        samples = SampleColumns(slot, time_ms, value, exemplars)
        return SampleBlock(self._first_ms, self._last_ms, samples, trace_hash)


def span_block(spans: tuple[Span, ...], nbytes: int) -> SpanBlock:
    """Return the block of one commit's spans, of which there is at least one."""
    starts = [span.start_ms for span in spans]
    return SpanBlock(min(starts), max(starts), spans, process_hashes([span.trace_id for span in spans]), nbytes)


def process_hashes(ids: Sequence[str]) -> I64:
    """Return Python's own hashes, for look-ups by one comparison of arrays. They never leave the process."""
    return np.fromiter(map(hash, ids), np.int64, len(ids))
