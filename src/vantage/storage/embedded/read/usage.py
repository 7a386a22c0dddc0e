"""The space that the embedded store uses: by service, metric and tier, and by file."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from pathlib import Path
from typing import Literal

import numpy as np

from vantage.core.arrays import I64
from vantage.core.timerange import TimeRange
from vantage.storage.embedded.format.chunk import ChunkCodec
from vantage.storage.embedded.format.part_stats import PartStats, read_part_stats
from vantage.storage.embedded.format.segment import SAMPLES, TIERS, Part, Segment, segment_paths
from vantage.storage.embedded.format.week import week_range
from vantage.storage.embedded.read.connection_pool import ConnectionPool
from vantage.storage.embedded.read.snapshot import Snapshot
from vantage.storage.ports import AgedBytes, UsageRow
from vantage.vql.exec.series_table import SeriesColumns


def usage_rows(snapshot: Snapshot, columns: SeriesColumns, pool: ConnectionPool) -> list[UsageRow]:
    """Return usage, the largest first. Parts that cannot be read are left out."""
    codec = ChunkCodec()
    rows: list[UsageRow] = []
    spans: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for tier in TIERS:
        nbytes, items = np.zeros(len(columns), np.int64), np.zeros(len(columns), np.int64)
        for segment in snapshot.of_tier(tier).values():
            for part in segment.parts:
                counts = _counts(pool, codec, segment, part)
                if counts is None:
                    continue
                known = counts.series.slot < len(columns)
                np.add.at(nbytes, counts.series.slot[known], counts.series.nbytes[known])
                np.add.at(items, counts.series.slot[known], counts.series.samples[known])
                of_spans = max(0, part.nbytes - int(counts.series.nbytes.sum()))
                for (service, *_), (number, _, _) in counts.services.items():
                    spans[service][0] += of_spans * number // max(1, part.spans)
                    spans[service][1] += number
        rows += _by_metric(columns, "samples" if tier == SAMPLES else "rollups", nbytes, items)
    rows += [
        UsageRow(service, "", "spans", nbytes_of_spans, number, 0)
        for service, (nbytes_of_spans, number) in spans.items()
    ]
    return sorted(rows, key=lambda row: (-row.nbytes, row.service, row.metric, row.tier))


def _counts(pool: ConnectionPool, codec: ChunkCodec, segment: Segment, part: Part) -> PartStats | None:
    try:
        with pool.reading(segment.path) as db:
            return read_part_stats(db, codec, part)
    except (sqlite3.Error, ValueError):
        return None


def _by_metric(columns: SeriesColumns, tier: Literal["samples", "rollups"], nbytes: I64, items: I64) -> list[UsageRow]:
    slots = np.flatnonzero(columns.present[: len(nbytes)] & (nbytes > 0))
    group, first, index, series = np.unique(
        columns.group[slots], return_index=True, return_inverse=True, return_counts=True
    )
    group_nbytes, group_items = np.zeros(len(group), np.int64), np.zeros(len(group), np.int64)
    np.add.at(group_nbytes, index, nbytes[slots])
    np.add.at(group_items, index, items[slots])
    named = [columns.series[slot] for slot in slots[first].tolist()]
    return [
        UsageRow(one_series.service, one_series.metric, tier, *counts)
        for one_series, counts in zip(
            named, zip(group_nbytes.tolist(), group_items.tolist(), series.tolist(), strict=True), strict=True
        )
        if one_series is not None
    ]


def file_nbytes(data: Path, snapshot: Snapshot) -> dict[str, int]:
    """Return bytes on disk: the journal, and each tier of segments."""
    sizes = {"journal": _size(data / "journal.db")}
    for tier in TIERS:
        sizes[tier] = sum(_size(segment.path) for segment in snapshot.of_tier(tier).values())
    return sizes


def aged_bytes(snapshot: Snapshot) -> list[AgedBytes]:
    """Return the bytes of each week, both tiers together: age removes whole files."""
    sizes: defaultdict[int, list[int]] = defaultdict(list)
    newest: defaultdict[int, int] = defaultdict(int)
    for tier in TIERS:
        for segment in snapshot.of_tier(tier).values():
            sizes[segment.week].append(_size(segment.path))
            newest[segment.week] = max([newest[segment.week], *(part.last_ms for part in segment.parts)])
    return [
        AgedBytes(TimeRange(week_range(week).start_ms, newest[week] + 1), sum(sizes[week]), is_whole=True)
        for week in sorted(sizes)
    ]


def _size(path: Path) -> int:
    total = 0
    for file in segment_paths(path):
        try:
            total += file.stat().st_size
        except FileNotFoundError:
            continue
    return total
