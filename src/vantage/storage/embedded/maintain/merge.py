"""Merging: small parts of a segment become one, so that queries read few parts and runs of a series are long."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import structlog

from vantage.core.arrays import U32
from vantage.storage.embedded.format.segment import SAMPLES, TIERS, Part, Segment
from vantage.storage.embedded.maintain.rewrite import CUTOFF_MAX_MS, PartRewriter, RowFilter
from vantage.storage.embedded.maintain.segment_files import SegmentFiles
from vantage.storage.embedded.write.catalogue import Catalogue

PARTS_MIN: Final = 8  # of one level: fewer are left as they are
PARTS_MIN_BUSY: Final = 24  # while the store is filled or asked: merging can wait, people cannot
SAMPLES_MAX: Final = 16_000_000
SPANS_MAX: Final = 1_000_000
NBYTES_MAX: Final = 40 << 20

_log = structlog.get_logger("vantage.storage.merge")


class PartUnreadable(Exception):
    """A part cannot be read completely."""


class Merger:
    """Runs on the maintenance thread. Raises sqlite3.Error and OSError."""

    def __init__(
        self,
        files: SegmentFiles,
        catalogue: Catalogue,
        *,
        identities: Callable[[U32], Mapping[int, bytes]],
        on_slice: Callable[[], None],
        fill: Callable[[int], None],
    ) -> None:
        """``fill`` is called with the week of parts of samples before they are replaced."""
        self._fill = fill
        self._files = files
        self._catalogue = catalogue
        self._identities = identities
        self._on_slice = on_slice
        self._unreadable: set[tuple[str, int]] = set()  # parts that could not be read whole: left as they are

    def due(self, parts_min: int) -> tuple[Segment, list[Part]] | None:
        """Return the next parts to merge, of a level that has ``parts_min`` of them; None when there are none."""
        snapshot = self._files.snapshots.now
        for tier in TIERS:
            for segment in snapshot.of_tier(tier).values():
                if parts := self._small(segment, parts_min):
                    return segment, parts
        return None

    def _small(self, segment: Segment, parts_min: int) -> list[Part]:
        by_level: dict[int, list[Part]] = {}
        for part in segment.parts:
            if (segment.name, part.id) not in self._unreadable:
                by_level.setdefault(part.level, []).append(part)
        for _, parts in sorted(by_level.items()):
            candidates = parts[:PARTS_MIN]
            fits = (
                sum(part.samples for part in candidates) <= SAMPLES_MAX
                and sum(part.spans for part in candidates) <= SPANS_MAX
                and sum(part.nbytes for part in candidates) <= NBYTES_MAX
            )
            if len(parts) >= parts_min and len(candidates) == PARTS_MIN and fits:
                return candidates
        return []

    def merge(self, segment: Segment, parts: Sequence[Part]) -> Part | None:
        """Replace parts by one."""
        keep = RowFilter(np.where(self._catalogue.present(), -CUTOFF_MAX_MS, CUTOFF_MAX_MS))
        merged = self.rewrite(segment, parts, keep, level=max(part.level for part in parts) + 1)
        if merged is not None:
            _log.info("parts merged", file=segment.name, parts=len(parts), samples=merged.samples, spans=merged.spans)
        return merged

    def rewrite(self, segment: Segment, parts: Sequence[Part], keep: RowFilter, *, level: int) -> Part | None:
        """Replace parts by one with the rows that ``keep`` selects. Returns None when no row remains.

        Raises PartUnreadable when something in them cannot be read: they then stay as they are.
        """
        if segment.tier == SAMPLES:
            self._fill(segment.week)
        try:
            with (
                self._files.open_writer(segment.week, segment.tier) as writer,
                self._files.allocate_part(writer) as part_id,
            ):
                rewriter = PartRewriter(
                    writer,
                    self._files.codec,
                    self._files.indexes,
                    group=self._catalogue.columns.group,
                    identities=self._identities,
                    on_slice=self._on_slice,
                    red_keys=self._catalogue.red.keys,
                    edge_keys=self._catalogue.edges,
                )
                part = rewriter.rewrite(parts, keep, level=level, part_id=part_id)
        except ValueError as error:
            self._unreadable.update((segment.name, part.id) for part in parts)
            _log.error("parts cannot be read whole, left as they are", file=segment.name, reason=str(error))
            raise PartUnreadable(segment.name) from error
        left = self._files.replace_parts(segment, parts, [part] if part else [])
        if left.parts:
            self._files.schedule_delete(segment, parts)
        else:
            self._files.unlink(segment)
        return part
