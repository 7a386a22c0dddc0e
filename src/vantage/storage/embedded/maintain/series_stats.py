"""Counts of samples and bytes for each series, added up from parts, generations and the head."""

from __future__ import annotations

from collections.abc import Sequence

from vantage.storage.embedded.format.part_stats import PartStats
from vantage.storage.embedded.format.segment import TIERS
from vantage.storage.embedded.maintain.segment_files import SegmentFiles
from vantage.storage.embedded.read.snapshot import PinnedSnapshot
from vantage.storage.embedded.write.catalogue import Catalogue


def load_part_stats(files: SegmentFiles) -> list[PartStats]:
    """Load the statistics of every part; on the maintenance thread, or before it starts. Raises sqlite3.Error and
    ValueError."""
    snapshot = files.snapshots.now
    return [
        files.part_stats(segment, part)
        for tier in TIERS
        for segment in snapshot.of_tier(tier).values()
        for part in segment.parts
    ]


def rebuild_series_stats(catalogue: Catalogue, stats: Sequence[PartStats], pinned: PinnedSnapshot) -> None:
    """Count everything again. Runs on the commit thread, so that no commit happens meanwhile."""
    catalogue.reset_counts()
    highest = max((int(part.series.slot[-1]) for part in stats if len(part.series.slot)), default=-1)
    catalogue.reserve(highest + 1)  # series that the journal does not know
    for block in pinned.samples:
        catalogue.count(block.samples.slot, block.samples.time_ms)
    for part in stats:
        if part.part.samples:
            catalogue.count_many(part.series.slot, part.series.samples, part.series.first_ms, part.series.last_ms)
    for part in stats:
        if not part.part.samples:
            catalogue.extend_rolled(part.series.slot, part.series.first_ms, part.series.last_ms)
