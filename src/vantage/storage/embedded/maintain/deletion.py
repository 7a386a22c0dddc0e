"""Expiry and deletion: data leaves head, journal, segments and catalogue together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vantage.core.batch import BATCH_ID_MEMORY_MS
from vantage.core.span import Span
from vantage.storage.embedded.format.week import DAY_MS
from vantage.storage.embedded.maintain.retention import DeletedCounts, Retention
from vantage.storage.embedded.maintain.segment_files import SegmentFiles
from vantage.storage.embedded.maintain.series_stats import load_part_stats, rebuild_series_stats
from vantage.storage.embedded.read.snapshot import Generation, Snapshot
from vantage.storage.embedded.read.usage import file_nbytes
from vantage.storage.embedded.write.catalogue import Catalogue
from vantage.storage.embedded.write.commit import CommitThread
from vantage.storage.embedded.write.head import Head, filter_blocks, totals
from vantage.storage.embedded.write.journal import Journal
from vantage.storage.ports import DeletionResult, RetentionPolicy
from vantage.storage.recent_batch_ids import RecentBatchIds


class Deleter:
    """Runs on the maintenance thread unless a method says otherwise. Raises sqlite3.Error and OSError."""

    def __init__(
        self,
        files: SegmentFiles,
        journal: Journal,
        commits: CommitThread,
        catalogue: Catalogue,
        head: Head,
        retention: Retention,
        batch_ids: RecentBatchIds,
    ) -> None:
        self._files = files
        self._journal = journal
        self._commits = commits
        self._catalogue = catalogue
        self._head = head
        self._retention = retention
        self._batch_ids = batch_ids

    def expire(self, policy: RetentionPolicy, now_ms: int) -> DeletionResult:
        """Delete what the policy expires. While a backup is being made nothing is deleted; the next call does it."""
        self._commits.call(
            lambda: self._journal.drop_batch_ids(before_ms=self._batch_ids.now_ms() - BATCH_ID_MEMORY_MS)
        )
        expired = DeletedCounts()
        with self._files.try_lock() as locked:
            if not locked:
                return DeletionResult()
            if policy.days is not None:
                expired.add(self._retention.expire_by_age(now_ms - policy.days * DAY_MS))
            expired.add(self._retention.expire_by_rules(policy.rules, now_ms))
            if policy.budget_bytes is not None:
                # The journal takes its share, but it is no reason to delete everything else.
                journal_nbytes = file_nbytes(self._files.folder.parent, Snapshot())["journal"]
                budget_nbytes = policy.budget_bytes - min(journal_nbytes, policy.budget_bytes // 2)
                expired.add(self._retention.expire_by_size(budget_nbytes))
        return expired.result(self._drop_empty_series() if expired.is_anything else 0)

    def _drop_empty_series(self) -> int:
        counts = load_part_stats(self._files)

        def drop() -> int:
            with self._files.snapshots.pinned() as pinned:
                rebuild_series_stats(self._catalogue, counts, pinned)
            empty = self._catalogue.empty()
            self._journal.drop_series(empty)
            self._catalogue.drop(empty)
            return len(empty)

        return self._commits.call(drop)

    def delete(self, service: str, environment: str, now_ms: int) -> DeletionResult:
        """Delete durably: from then on no query sees it, also after a restart. Then free the space."""

        def record() -> tuple[int, list[int], DeletedCounts]:
            slots = self._catalogue.find(service_name=service, environment=environment)
            number = self._journal.add_tombstone(service=service, environment=environment, slots=slots, at_ms=now_ms)
            deleted = self.delete_unsealed(service, environment, slots, hide=True)
            self._catalogue.drop(slots)
            self._commits.recent_spans.clear()
            return number, slots, deleted

        number, slots, deleted = self._commits.call(record)
        with self._files.try_lock() as locked:
            if locked:
                deleted.add(self._remove_from_segments(number, service, environment, slots))
        return deleted.result(len(slots))

    def _remove_from_segments(self, number: int, service: str, environment: str, slots: Sequence[int]) -> DeletedCounts:
        deleted = self._retention.delete(service, environment, slots)
        self._commits.call(lambda: self._journal.clear_tombstone(number))
        self._files.publish(
            change=lambda snapshot: replace(
                snapshot, hidden=tuple(hidden for hidden in snapshot.hidden if hidden != (service, environment))
            )
        )
        return deleted

    def finish_deletions(self) -> None:
        """Delete from segments what was deleted before the process ended or while a backup was made. It is hidden until
        then."""
        if not self._files.snapshots.now.hidden:
            return
        with self._files.try_lock() as locked:
            if locked:
                for number, service, environment in self._commits.call(self._journal.tombstones):
                    self._remove_from_segments(number, service, environment, [])

    def hide_deleted(self) -> bool:
        """Hide what ``finish_deletions`` has yet to delete. Returns whether there is any.

        On the commit thread, before anything is read.
        """
        hidden = tuple((service, environment) for _, service, environment in self._journal.tombstones())
        self._files.publish(change=lambda snapshot: replace(snapshot, hidden=hidden))
        return bool(hidden)

    def delete_unsealed(
        self, service: str, environment: str, slots: Sequence[int], *, hide: bool = False
    ) -> DeletedCounts:
        """Delete from the head and from generations that wait to be sealed; with ``hide`` hide the spans in segments.

        On the commit thread.
        """
        dropped = np.zeros(len(self._catalogue.columns), np.bool_)
        dropped[list(slots)] = True
        deleted = DeletedCounts()

        def selected(span: Span) -> bool:
            return (bool(service) or bool(environment)) and (
                service in ("", span.service_name) and environment in ("", span.environment)
            )

        def less(generation: Generation) -> Generation:
            samples, spans = filter_blocks(generation.samples, generation.spans, dropped, selected)
            counts = totals(samples, spans)
            deleted.add_difference((generation.sample_count, generation.span_count, generation.nbytes), counts)
            return replace(
                generation, samples=samples, spans=spans, sample_count=counts[0], span_count=counts[1],
                nbytes=counts[2],
            )  # fmt: skip

        def change(snapshot: Snapshot) -> Snapshot:
            head = self._head
            before = (head.sample_count, head.span_count, head.nbytes)
            head.replace(*filter_blocks(head.samples, head.spans, dropped, selected))
            deleted.add_difference(before, (head.sample_count, head.span_count, head.nbytes))
            hidden = (*snapshot.hidden, (service, environment)) if hide else snapshot.hidden
            return replace(
                snapshot,
                sealing_generations=tuple(map(less, snapshot.sealing_generations)),
                hidden=hidden,
                deletions=snapshot.deletions + 1,
            )

        self._files.publish(change=change)
        return deleted
