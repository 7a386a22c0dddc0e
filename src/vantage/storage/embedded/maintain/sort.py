"""From a generation to what is written of it: by week, samples series by series, spans in order of time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vantage.core.batch import F64, I64, U32
from vantage.core.exemplars import NO_LINK_COLUMNS, LinkColumns, concat_link_columns
from vantage.core.rollup import NO_SKETCHES, Partials, Sketches, concat_partials, rollup_partials
from vantage.core.span_table import SpanTable, concat_span_tables
from vantage.storage.embedded.format.chunk import CHUNK_SAMPLES_MAX, RUN_SAMPLES
from vantage.storage.embedded.format.exemplars import ExemplarColumns, concat_exemplars, exemplars_of_samples
from vantage.storage.embedded.format.week import week_numbers
from vantage.storage.embedded.write.block import Mask, SampleBlock, SpanBlock


@dataclass(frozen=True, slots=True)
class Samples:
    """Sample columns of equal length."""

    slot: U32
    time_ms: I64
    value: F64
    links: LinkColumns = NO_LINK_COLUMNS

    def __len__(self) -> int:
        return len(self.slot)

    def take(self, rows: I64) -> Samples:
        """Some rows in any order; their links come along."""
        return Samples(self.slot[rows], self.time_ms[rows], self.value[rows], self.links.take(rows, len(self)))

    def slice(self, start: int, end: int) -> Samples:
        """Neighbouring rows."""
        return Samples(
            self.slot[start:end], self.time_ms[start:end], self.value[start:end], self.links.slice(start, end)
        )


def concat_samples(parts: Sequence[Samples]) -> Samples:
    """Rows laid end to end."""
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *map(len, parts)]).tolist()
    return Samples(
        np.concatenate([part.slot for part in parts]) if parts else np.empty(0, np.uint32),
        np.concatenate([part.time_ms for part in parts]) if parts else np.empty(0, np.int64),
        np.concatenate([part.value for part in parts]) if parts else np.empty(0, np.float64),
        concat_link_columns([(start, part.links) for start, part in zip(starts, parts, strict=False)]),
    )


def storage_ranks(slot: U32, group: I64) -> tuple[NDArray[Any], int]:
    """By slot, the place of its series in the order in which series are kept: those of one metric and service together
    (``group``, by slot). And how many series there are."""
    present = np.flatnonzero(np.bincount(slot))
    rank = np.empty(int(present[-1]) + 1, np.uint32)
    rank[present[np.lexsort((present, group[present]))]] = np.arange(len(present), dtype=np.uint32)
    if len(present) < 1 << 16:
        rank = rank.astype(np.uint16)  # 16 bits are sorted by radix
    return rank, len(present)


def in_storage_order(samples: Samples, group: I64) -> Iterator[Samples]:
    """The samples as they are kept: series by series, by time within a series, those of one time as they came; one
    stretch of time after another. In a stretch a series has RUN_SAMPLES on average, and there is enough for a chunk."""
    size = len(samples)
    if not size:
        return
    by_time = np.argsort(samples.time_ms, kind="stable")
    rank, series = storage_ranks(samples.slot, group)
    number = max(1, min(round(size / RUN_SAMPLES / series), size // CHUNK_SAMPLES_MAX))
    for rows in np.array_split(by_time, number):
        yield samples.take(rows[np.argsort(rank[samples.slot[rows]], kind="stable")])


def samples_by_week(blocks: Iterable[SampleBlock], *, present: Mask, floor_ms: int) -> dict[int, Samples]:
    """The samples of a generation, as they came. Those of series that are gone, or older than ``floor_ms``, are left
    out."""
    parts = []
    for block in blocks:
        some = Samples(block.slot, block.time_ms, block.value)
        keep = present[block.slot] & (block.time_ms >= floor_ms)
        parts.append(some if keep.all() else some.take(np.flatnonzero(keep)))
    whole = concat_samples(parts)
    weeks = week_numbers(whole.time_ms)
    if not len(weeks):
        return {}
    if weeks.min() == weeks.max():
        return {int(weeks[0]): whole}
    return {week: whole.take(np.flatnonzero(weeks == week)) for week in np.unique(weeks).tolist()}


def links_by_week(blocks: Iterable[SampleBlock], *, present: Mask, floor_ms: int) -> dict[int, ExemplarColumns]:
    """The trace links of those samples, in the order in which they are kept."""
    parts = [
        exemplars_of_samples(block.exemplars, block.slot, block.time_ms, block.value)
        for block in blocks
        if len(block.exemplars)
    ]
    if not parts:
        return {}
    whole = concat_exemplars(parts)
    whole = whole.keep(present[whole.slot] & (whole.time_ms >= floor_ms)).in_storage_order()
    weeks = week_numbers(whole.time_ms)
    return {week: whole.keep(weeks == week) for week in np.unique(weeks).tolist()}


def spans_by_week(blocks: Iterable[SpanBlock], *, floor_ms: int) -> dict[int, SpanTable]:
    """The spans of a generation by start, without those that started before ``floor_ms``."""
    whole = concat_span_tables([block.table for block in blocks])
    if not len(whole):
        return {}
    order = np.argsort(whole.start_ns, kind="stable")
    weeks = week_numbers(whole.start_ms[order])
    order, weeks = order[whole.start_ms[order] >= floor_ms], weeks[whole.start_ms[order] >= floor_ms]
    return {week: whole.take(order[weeks == week]) for week in np.unique(weeks).tolist()}


def merge_partials(parts: Sequence[Partials], group: I64, *, width_ms: int) -> Partials:
    """Partials in the order in which they are kept, one row for each series and bucket, sketches merged."""
    partials = concat_partials(parts)
    if not len(partials):
        return partials
    rank, _ = storage_ranks(partials.slot, group)
    order = np.lexsort((partials.time_ms, rank[partials.slot]))
    plain = Partials(
        partials.slot[order], partials.time_ms[order], partials.count[order],
        partials.sum[order], partials.min[order], partials.max[order],
    )  # fmt: skip
    rolled = rollup_partials(plain, width_ms=width_ms)
    some = partials.sketches
    if not len(some.key):
        return rolled
    first = np.append(True, (plain.slot[1:] != plain.slot[:-1]) | (plain.time_ms[1:] != plain.time_ms[:-1]))
    row_of = np.empty(len(order), np.int64)
    row_of[order] = np.cumsum(first) - 1
    return Partials(
        rolled.slot, rolled.time_ms, rolled.count, rolled.sum, rolled.min, rolled.max,
        merge_sketches(Sketches(row_of[some.row], some.key, some.count)),
    )  # fmt: skip


def merge_sketches(some: Sketches) -> Sketches:
    """One bucket for each row and key, in their order."""
    if not len(some.key):
        return NO_SKETCHES
    order = np.lexsort((some.key, some.row))
    row, key, count = some.row[order], some.key[order], some.count[order]
    first = np.flatnonzero(np.append(True, (row[1:] != row[:-1]) | (key[1:] != key[:-1])))
    return Sketches(row[first], key[first], np.add.reduceat(count, first))
