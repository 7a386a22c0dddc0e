"""How much is held of each series, counted from what parts, generations and the head tell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

from vantage.storage.embedded.format.part_stats import PartStats
from vantage.storage.embedded.format.segment import TIERS
from vantage.storage.embedded.maintain.segment_files import SegmentFiles
from vantage.storage.embedded.read.snapshot import PinnedSnapshot
from vantage.storage.embedded.write.block import SampleBlock
from vantage.storage.embedded.write.catalogue import Catalogue


def load_part_stats(files: SegmentFiles) -> list[PartStats]:
    """What every part holds; on the upkeep thread, or before it starts. Raises sqlite3.Error and ValueError."""
    view = files.snapshots.now
    return [
        files.part_stats(segment, part)
        for tier in TIERS
        for segment in view.of_tier(tier).values()
        for part in segment.parts
    ]


def rebuild_series_stats(catalogue: Catalogue, counts: Sequence[PartStats], seen: PinnedSnapshot) -> None:
    """Count again. On the writer thread, so that no commit comes in between."""
    catalogue.reset_counts()
    highest = max((int(one.series.slot[-1]) for one in counts if len(one.series.slot)), default=-1)
    catalogue.reserve(highest + 1)  # series that the journal does not know
    blocks: Iterable[SampleBlock] = chain(
        seen.samples, *(generation.samples for generation in seen.snapshot.sealing_generations)
    )
    for block in blocks:
        catalogue.count(block.samples.slot, block.samples.time_ms)
    for one in counts:
        if one.part.samples:
            catalogue.count_many(one.series.slot, one.series.samples, one.series.first_ms, one.series.last_ms)
    for one in counts:
        if not one.part.samples:
            catalogue.extend_rolled(one.series.slot, one.series.first_ms, one.series.last_ms)
