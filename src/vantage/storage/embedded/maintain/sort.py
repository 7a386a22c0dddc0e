"""Sorting a generation for its segments: by week, samples series by series, spans by time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from vantage.core.arrays import I64, U32, Array, Mask
from vantage.core.exemplars import NO_EXEMPLARS
from vantage.core.rollup import NO_SKETCHES, Partials, Sketches, concat_partials, rollup_partials
from vantage.core.sample_columns import SampleColumns, concat_samples
from vantage.core.span_table import SpanTable, concat_span_tables
from vantage.storage.embedded.format.chunk import CHUNK_SAMPLES_MAX, RUN_SAMPLES
from vantage.storage.embedded.format.exemplars import SortedExemplars, exemplar_samples, sort_by_trace
from vantage.storage.embedded.format.week import week_numbers
from vantage.storage.embedded.write.block import SampleBlock, SpanBlock


def storage_ranks(slot: U32, group: I64) -> tuple[Array, int]:
    """Return, by slot, the rank of its series in storage order, and the number of series.

    Series of one metric and service (``group``, by slot) are neighbours.
    """
    present = np.flatnonzero(np.bincount(slot))
    rank = np.empty(int(present[-1]) + 1, np.uint32)
    rank[present[np.lexsort((present, group[present]))]] = np.arange(len(present), dtype=np.uint32)
    if len(present) < 1 << 16:
        rank = rank.astype(np.uint16)  # 16 bits are sorted by radix
    return rank, len(present)


def in_storage_order(samples: SampleColumns, group: I64) -> Iterator[SampleColumns]:
    """Return samples in storage order.

    Samples are cut into stretches of time, each with RUN_SAMPLES per series on average and at least a chunk in all;
    within a stretch they are sorted by series, then time, then arrival.
    """
    size = len(samples)
    if not size:
        return
    by_time = np.argsort(samples.time_ms, kind="stable")
    rank, series = storage_ranks(samples.slot, group)
    number = max(1, min(round(size / RUN_SAMPLES / series), size // CHUNK_SAMPLES_MAX))
    for rows in np.array_split(by_time, number):
        yield samples.take(rows[np.argsort(rank[samples.slot[rows]], kind="stable")])


def samples_by_week(blocks: Iterable[SampleBlock], *, present: Mask, floor_ms: int) -> dict[int, SampleColumns]:
    """Return the samples of a generation by week, in arrival order.

    Samples of deleted series, and those older than ``floor_ms``, are left out.
    """
    parts = []
    for block in blocks:
        samples = replace(block.samples, exemplars=NO_EXEMPLARS)
        parts.append(samples.filter(present[samples.slot] & (samples.time_ms >= floor_ms)))
    samples = concat_samples(parts)
    return {week: samples.filter(mask) for week, mask in _weeks(samples.time_ms)}


def exemplars_by_week(blocks: Iterable[SampleBlock], *, present: Mask, floor_ms: int) -> dict[int, SortedExemplars]:
    """Return the exemplars of blocks by week, in storage order."""
    carrying = [block for block in blocks if len(block.samples.exemplars)]
    if not carrying:
        return {}
    samples = concat_samples([exemplar_samples(block.samples) for block in carrying])
    exemplars = sort_by_trace(samples, np.concatenate([block.exemplar_hash for block in carrying]))
    keep = present[samples.slot] & (samples.time_ms >= floor_ms)
    return {week: exemplars.select(mask & keep) for week, mask in _weeks(samples.time_ms) if (mask & keep).any()}


def _weeks(time_ms: I64) -> Iterator[tuple[int, Mask]]:
    """Yield each week of the times, and which of them it has."""
    if not len(time_ms):
        return
    first, last = week_numbers(np.array([time_ms.min(), time_ms.max()])).tolist()
    if first == last:
        yield first, np.ones(len(time_ms), np.bool_)
        return
    weeks = week_numbers(time_ms)
    for week in np.unique(weeks).tolist():
        yield week, weeks == week


def spans_by_week(blocks: Iterable[SpanBlock], *, floor_ms: int) -> dict[int, SpanTable]:
    """Return the spans of a generation by week and start, without those that started before ``floor_ms``."""
    table = concat_span_tables([block.table for block in blocks])
    if not len(table):
        return {}
    order = np.argsort(table.start_ns, kind="stable")
    weeks = week_numbers(table.start_ms[order])
    order, weeks = order[table.start_ms[order] >= floor_ms], weeks[table.start_ms[order] >= floor_ms]
    return {week: table.take(order[weeks == week]) for week in np.unique(weeks).tolist()}


def merge_partials(parts: Sequence[Partials], group: I64, *, width_ms: int) -> Partials:
    """Merge partial aggregates into one row per series and bucket, in storage order; sketches are merged."""
    partials = concat_partials(parts)
    if not len(partials):
        return partials
    rank, _ = storage_ranks(partials.slot, group)
    order = np.lexsort((partials.time_ms, rank[partials.slot]))
    ordered = Partials(
        partials.slot[order], partials.time_ms[order], partials.count[order],
        partials.sum[order], partials.min[order], partials.max[order],
    )  # fmt: skip
    rolled = rollup_partials(ordered, width_ms=width_ms)
    sketches = partials.sketches
    if not len(sketches.key):
        return rolled
    first = np.append(True, (ordered.slot[1:] != ordered.slot[:-1]) | (ordered.time_ms[1:] != ordered.time_ms[:-1]))
    row_of = np.empty(len(order), np.int64)
    row_of[order] = np.cumsum(first) - 1
    return Partials(
        rolled.slot, rolled.time_ms, rolled.count, rolled.sum, rolled.min, rolled.max,
        merge_sketches(Sketches(row_of[sketches.row], sketches.key, sketches.count)),
    )  # fmt: skip


def merge_sketches(sketches: Sketches) -> Sketches:
    """Add up the counts of sketch buckets with the same row and key; the result is sorted by row, then key."""
    if not len(sketches.key):
        return NO_SKETCHES
    order = np.lexsort((sketches.key, sketches.row))
    row, key, count = sketches.row[order], sketches.key[order], sketches.count[order]
    first = np.flatnonzero(np.append(True, (row[1:] != row[:-1]) | (key[1:] != key[:-1])))
    return Sketches(row[first], key[first], np.add.reduceat(count, first))
