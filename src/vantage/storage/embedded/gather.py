"""From a generation to what is written of it: by week, samples series by series, spans in order of time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vantage.core.batch import F64, I64, NO_LINKS, U32, Links, joined_links
from vantage.core.rollup import NO_SKETCHES, Partials, Sketches, roll_up
from vantage.core.spantable import SpanTable, joined
from vantage.storage.embedded.blocks import Mask, SampleBlock, SpanBlock
from vantage.storage.embedded.weeks import weeks_of


@dataclass(frozen=True, slots=True)
class Samples:
    """Sample columns of equal length."""

    slot: U32
    time_ms: I64
    value: F64
    links: Links

    def __len__(self) -> int:
        return len(self.slot)

    def take(self, rows: I64) -> Samples:
        """Some rows in any order; their links come along."""
        return Samples(self.slot[rows], self.time_ms[rows], self.value[rows], moved_links(self.links, rows, len(self)))

    def cut(self, start: int, end: int) -> Samples:
        """Neighbouring rows."""
        links = self.links
        if len(links):
            low, high = np.searchsorted(links.position, [start, end]).tolist()
            some = Links(links.position[low:high] - np.uint32(start), links.trace_id[low:high], links.span_id[low:high])
            links = some if high > low else NO_LINKS
        return Samples(self.slot[start:end], self.time_ms[start:end], self.value[start:end], links)


def joined_samples(parts: Sequence[Samples]) -> Samples:
    """Rows laid end to end."""
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *map(len, parts)]).tolist()
    return Samples(
        np.concatenate([part.slot for part in parts]) if parts else np.empty(0, np.uint32),
        np.concatenate([part.time_ms for part in parts]) if parts else np.empty(0, np.int64),
        np.concatenate([part.value for part in parts]) if parts else np.empty(0, np.float64),
        joined_links([(start, part.links) for start, part in zip(starts, parts, strict=False)]),
    )


def moved_links(links: Links, rows: I64, size: int) -> Links:
    """The links of rows that are put in another order, out of ``size``; those of rows left out are gone."""
    if not len(links):
        return NO_LINKS
    place = np.full(size, -1, np.int64)
    place[rows] = np.arange(len(rows))
    moved = place[links.position]
    order = np.argsort(moved, kind="stable")
    order = order[moved[order] >= 0]
    picked = order.tolist()
    return Links(
        moved[order].astype(np.uint32),
        tuple(links.trace_id[i] for i in picked),
        tuple(links.span_id[i] for i in picked),
    )


def series_order(slot: U32, time_ms: I64, group: I64) -> I64:
    """The order in which rows are kept: series by series, those of one service and metric together (``group``, by
    slot), and by time within a series. Rows of one time stay as they came."""
    by_time = np.argsort(time_ms, kind="stable")
    present = np.unique(slot)
    rank = np.empty(int(present[-1]) + 1 if len(present) else 0, np.uint32)
    rank[present[np.lexsort((present, group[present]))]] = np.arange(len(present), dtype=np.uint32)
    ranks = rank[slot[by_time]]
    if len(present) < 1 << 16:
        ranks = ranks.astype(np.uint16)  # 16 bits are sorted by radix
    found: I64 = by_time[np.argsort(ranks, kind="stable")]
    return found


def ordered_samples(parts: Sequence[Samples], group: I64) -> Samples:
    """Rows of some parts in the order in which they are kept."""
    whole = joined_samples(parts)
    return whole.take(series_order(whole.slot, whole.time_ms, group)) if len(whole) else whole


def samples_by_week(blocks: Iterable[SampleBlock], *, present: Mask, group: I64, floor_ms: int) -> dict[int, Samples]:
    """The samples of a generation. Those of series that are gone, or older than ``floor_ms``, are left out."""
    parts = []
    for block in blocks:
        some = Samples(block.slot, block.time_ms, block.value, block.links)
        keep = present[block.slot] & (block.time_ms >= floor_ms)
        parts.append(some if keep.all() else some.take(np.flatnonzero(keep)))
    whole = ordered_samples(parts, group)
    weeks = weeks_of(whole.time_ms)
    found = {}
    for week in np.unique(weeks).tolist():
        rows = np.flatnonzero(weeks == week)
        found[week] = whole if len(rows) == len(whole) else whole.take(rows)
    return found


def spans_by_week(blocks: Iterable[SpanBlock], *, floor_ms: int) -> dict[int, SpanTable]:
    """The spans of a generation by start, without those that started before ``floor_ms``."""
    whole = joined([block.table for block in blocks])
    if not len(whole):
        return {}
    order = np.argsort(whole.start_ns, kind="stable")
    weeks = weeks_of(whole.start_ms[order])
    order, weeks = order[whole.start_ms[order] >= floor_ms], weeks[whole.start_ms[order] >= floor_ms]
    return {week: whole.take(order[weeks == week]) for week in np.unique(weeks).tolist()}


def combined(partials: Partials, group: I64, *, width_ms: int) -> Partials:
    """Partials in the order in which they are kept, one row for each series and bucket, sketches merged."""
    order = series_order(partials.slot, partials.time_ms, group)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    some = partials.sketches
    plain = Partials(
        partials.slot[order], partials.time_ms[order], partials.count[order],
        partials.sum[order], partials.min[order], partials.max[order],
    )  # fmt: skip
    rolled = roll_up(plain, width_ms=width_ms)
    if not len(some.key):
        return rolled
    bucket = plain.time_ms // width_ms
    first = np.append(True, (plain.slot[1:] != plain.slot[:-1]) | (bucket[1:] != bucket[:-1]))
    row = (np.cumsum(first) - 1)[place[some.row]]
    return Partials(
        rolled.slot, rolled.time_ms, rolled.count, rolled.sum, rolled.min, rolled.max,
        merged_sketches(Sketches(row, some.key, some.count)),
    )  # fmt: skip


def merged_sketches(some: Sketches) -> Sketches:
    """One bucket for each row and key, in their order."""
    if not len(some.key):
        return NO_SKETCHES
    order = np.lexsort((some.key, some.row))
    row, key, count = some.row[order], some.key[order], some.count[order]
    first = np.flatnonzero(np.append(True, (row[1:] != row[:-1]) | (key[1:] != key[:-1])))
    return Sketches(row[first], key[first], np.add.reduceat(count, first))
