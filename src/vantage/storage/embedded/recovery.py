"""Opening a store: load the segments, then replay what the journal holds and the segments do not."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import structlog

from vantage.core.batch import BATCH_ID_MEMORY_MS
from vantage.storage.embedded.maintain.deletion import Deleter
from vantage.storage.embedded.maintain.seal_queue import SealQueue
from vantage.storage.embedded.maintain.segment_files import SegmentFiles
from vantage.storage.embedded.maintain.series_stats import load_part_stats, rebuild_series_stats
from vantage.storage.embedded.write.catalogue import Catalogue
from vantage.storage.embedded.write.head import Head
from vantage.storage.embedded.write.journal import Journal
from vantage.storage.recent_batch_ids import RecentBatchIds
from vantage.storage.recent_spans import RecentSpans
from vantage.storage.steady_time import SteadyTime

_log = structlog.get_logger("vantage.storage.embedded")


@dataclass(slots=True)
class Recovery:
    """Fills catalogue, head and snapshots from the files. ``run`` is called once, on the commit thread, before any
    other thread uses them."""

    journal: Journal
    files: SegmentFiles
    catalogue: Catalogue
    head: Head
    seal_queue: SealQueue
    deleter: Deleter
    batch_ids: RecentBatchIds
    steady: SteadyTime
    recent_spans: RecentSpans
    has_pending_deletions: bool = False  # segments still hold what was deleted

    def run(self) -> None:
        """Load and replay. Raises FormatTooNew, StartupError, sqlite3.Error."""
        started = time.perf_counter()
        journal = self.journal
        highest = self._load_segments()
        self._load_series()
        self.seal_queue.start_after_replay(
            generation=max(journal.sealed_generation, highest), last_seq=journal.sealed_seq
        )
        self._replay()
        with self.files.snapshots.pinned() as pinned:
            rebuild_series_stats(self.catalogue, load_part_stats(self.files), pinned)
            newest_ms = pinned.newest_ms
        self._load_batch_ids()
        if newest_ms:
            self.steady.start_from(newest_ms)
        self.has_pending_deletions = self.deleter.hide_deleted()
        snapshot = self.files.snapshots.now
        _log.info(
            "store opened",
            samples=self.head.sample_count,
            spans=self.head.span_count,
            segments=len(snapshot.samples) + len(snapshot.rollups),
            series=len(self.catalogue),
            damaged_rows=len(journal.damaged),
            took_s=round(time.perf_counter() - started, 3),
        )

    def _load_batch_ids(self) -> None:
        newest_ms = self.journal.newest_batch_ids_ms()
        if newest_ms is None:
            return
        self.batch_ids.start_from(newest_ms)
        for at_ms, ids in self.journal.batch_ids(newest_ms - BATCH_ID_MEMORY_MS):
            for batch_id in ids:
                self.batch_ids.add(batch_id, at_ms)

    def _load_segments(self) -> int:
        """Publish the segments and return their highest generation.

        A new journal beside segments adopts them: losing the journal does not lose the segments too.
        """
        journal = self.journal
        segments = self.files.load(generation_max=None if journal.new else journal.sealed_generation)
        without_red = self.files.find_parts_without_red(segments)
        without_edges = self.files.find_parts_without_edges(segments)
        self.files.publish(
            *segments,
            change=lambda snapshot: replace(snapshot, without_red=without_red, without_edges=without_edges),
        )
        highest = max((part.generation for segment in segments for part in segment.parts), default=0)
        if journal.new and segments:
            identities = {slot: identity for segment in segments for slot, identity in self.files.identities(segment)}
            journal.add_series(sorted(identities.items()))
            journal.seal(seq_max=journal.sealed_seq, generation=highest)
        return highest

    def _load_series(self) -> None:
        for slot, identity in self.journal.series():
            try:
                self.catalogue.load(slot, identity)
            except ValueError as error:
                _log.error("series unreadable, skipped", slot=slot, reason=str(error))
        # A slot without a series was deleted, and so were its samples.
        self.catalogue.reserve(self.journal.slots)

    def _replay(self) -> None:
        last_deletion = self.journal.last_deletion_seq()
        for entry in self.journal.entries():
            if entry.deletes is not None:
                self.deleter.delete_unsealed(*entry.deletes, [])
            elif entry.record is not None:
                self.head.append(entry.record)
                self.recent_spans.remember(entry.record.spans)
            self.seal_queue.on_commit(entry.seq)
            if entry.seq >= last_deletion and not self.journal.unwritable:  # a deletion deletes what is before it
                self.seal_queue.seal_in_replay()
        deleted = ~self.catalogue.present()
        if deleted.any():
            self.deleter.delete_unsealed("", "", np.flatnonzero(deleted).tolist())
