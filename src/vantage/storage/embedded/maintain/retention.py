"""Removes expired and deleted data from segments: by age, by rule, by size, and on request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import structlog

from vantage.core.arrays import I64, Mask
from vantage.core.red import METRIC_OF, RedKey
from vantage.core.retention import RetentionRule
from vantage.core.span_table import SpanTable
from vantage.storage.edge_join import EdgeKey
from vantage.storage.embedded.format.part_stats import PartStats
from vantage.storage.embedded.format.segment import ROLLUPS, SAMPLES, TIERS, Part, Segment
from vantage.storage.embedded.format.week import DAY_MS
from vantage.storage.embedded.maintain.merge import Merger, PartUnreadable
from vantage.storage.embedded.maintain.rewrite import CUTOFF_MAX_MS, RowFilter
from vantage.storage.embedded.maintain.segment_files import UNPINNED_WAIT_S, SegmentFiles
from vantage.storage.embedded.read.selector import selected_rows
from vantage.storage.embedded.write.catalogue import Catalogue
from vantage.storage.ports import DeletionResult

RULE_SLACK_MS = DAY_MS  # a file is rewritten for a rule when something in it is a day too old: not every minute

_log = structlog.get_logger("vantage.storage.retention")


@dataclass(slots=True)
class DeletedCounts:
    """Adds up what was deleted. Series are counted by the catalogue."""

    samples: int = 0
    spans: int = 0
    nbytes: int = 0

    def parts(self, parts: Sequence[Part]) -> None:
        self.samples += sum(part.samples for part in parts)
        self.spans += sum(part.spans for part in parts)

    def add(self, other: DeletedCounts) -> None:
        self.samples += other.samples
        self.spans += other.spans
        self.nbytes += other.nbytes

    def add_difference(self, before: tuple[int, int, int], after: tuple[int, int, int]) -> None:
        """Add the difference between two counts of samples, spans and bytes."""
        self.add(DeletedCounts(*(was - now for was, now in zip(before, after, strict=True))))

    @property
    def is_anything(self) -> bool:
        return bool(self.samples or self.spans or self.nbytes)

    def result(self, series: int) -> DeletionResult:
        return DeletionResult(self.samples, self.spans, series, self.nbytes)


class Retention:
    """Applies retention; runs on the maintenance thread. Every method may raise sqlite3.Error and OSError."""

    def __init__(self, files: SegmentFiles, catalogue: Catalogue, merger: Merger) -> None:
        self._files = files
        self._catalogue = catalogue
        self._merger = merger

    def expire_by_age(self, oldest_ms: int) -> DeletedCounts:
        """Delete files without anything younger than the retention; hide older rows of the others, which are visible
        again when the time to count from goes back."""
        expired = DeletedCounts()
        self._files.publish(change=lambda snapshot: replace(snapshot, floor_ms=oldest_ms))
        for tier in TIERS:
            for segment in list(self._files.snapshots.now.of_tier(tier).values()):
                if all(part.last_ms < oldest_ms for part in segment.parts):
                    expired.parts(segment.parts)
                    expired.nbytes += self._files.unlink(segment)
                    _log.info("segment removed", file=segment.name, because="retention_days")
        return expired

    def expire_by_rules(self, rules: Sequence[RetentionRule], now_ms: int) -> DeletedCounts:
        """Delete what is older than the retention rules of its service or metric say."""
        expired = DeletedCounts()
        if not rules:
            return expired
        keep = self._row_filter(rules, now_ms)
        for tier in TIERS:
            for segment in list(self._files.snapshots.now.of_tier(tier).values()):
                due = [
                    part
                    for part in segment.parts
                    if self._due(self._files.part_stats(segment, part), keep, rules, now_ms)
                ]
                self._rewrite(segment, due, keep, expired)
        return expired

    def _row_filter(self, rules: Sequence[RetentionRule], now_ms: int) -> RowFilter:
        """Return the filter for some rules; for each series the strictest rule applies."""
        columns = self._catalogue.columns
        cutoff = np.full(len(columns), -CUTOFF_MAX_MS)
        for rule in rules:
            hit = np.ones(len(columns), np.bool_)
            if rule.service:
                hit &= columns.column("service_name").mask(rule.names_service)
            if rule.metric:
                hit &= columns.column("metric_name").mask(rule.names_metric)
            cutoff[hit] = np.maximum(cutoff[hit], now_ms - rule.days * DAY_MS)
        of_services = [rule for rule in rules if not rule.metric]

        def spans(table: SpanTable) -> Mask:
            keep = np.ones(len(table), np.bool_)
            for rule in of_services:
                old = table.start_ms < now_ms - rule.days * DAY_MS
                keep &= ~(old & table.service_name.mask(rule.names_service))
            return keep

        def red(key: RedKey) -> int:
            metric = METRIC_OF.get(key.source, "")
            matching = [
                rule.days
                for rule in rules
                if rule.names_service(key.service) and (not rule.metric or (bool(metric) and rule.names_metric(metric)))
            ]
            return now_ms - min(matching) * DAY_MS if matching else -CUTOFF_MAX_MS

        def edges(key: EdgeKey) -> int:
            days = [rule.days for rule in of_services for service, _ in key.sides if rule.names_service(service)]
            return now_ms - min(days) * DAY_MS if days else -CUTOFF_MAX_MS

        return RowFilter(cutoff, spans if of_services else None, red, edges)

    @staticmethod
    def _due(counts: PartStats, keep: RowFilter, rules: Sequence[RetentionRule], now_ms: int) -> bool:
        series = counts.series
        if (series.first_ms < keep.cutoff_ms[series.slot] - RULE_SLACK_MS).any():
            return True
        return any(
            not rule.metric and rule.names_service(service) and first_ms < now_ms - rule.days * DAY_MS - RULE_SLACK_MS
            for rule in rules
            for (service, *_), (_, first_ms, _) in counts.services.items()
        )

    def expire_by_size(self, budget_nbytes: int) -> DeletedCounts:
        """Delete the oldest samples until everything fits, then the oldest rollups. The newest part of each tier is
        never deleted."""
        expired = DeletedCounts()
        for tier in (SAMPLES, ROLLUPS):
            while self._files.total_nbytes() > budget_nbytes:
                segments = self._files.snapshots.now.of_tier(tier)
                if not segments:
                    break
                oldest = segments[min(segments)]
                if len(segments) > 1:
                    expired.parts(oldest.parts)
                    expired.nbytes += self._files.unlink(oldest)
                    _log.info("segment removed", file=oldest.name, because="disk_budget_bytes")
                elif len(oldest.parts) > 1:
                    self._drop_part(oldest, min(oldest.parts, key=lambda part: part.last_ms), expired)
                else:
                    break
        return expired

    def _drop_part(self, segment: Segment, part: Part, expired: DeletedCounts) -> None:
        before = self._files.nbytes(segment.path)
        with self._files.open_writer(segment.week, segment.tier) as writer, writer.slice() as db:
            db.execute("DELETE FROM part WHERE id=?", (part.id,))
        self._files.replace_parts(segment, [part], [])
        self._files.schedule_delete(segment, [part])
        self._files.delete_unreferenced(lambda: None, wait_s=UNPINNED_WAIT_S)
        expired.parts([part])
        expired.nbytes += max(0, before - self._files.nbytes(segment.path))
        _log.info("oldest part removed", file=segment.name, part=part.id, because="disk_budget_bytes")

    def delete(self, service: str, environment: str, slots: Sequence[int]) -> DeletedCounts:
        """Rewrite every part that holds something of a service, an environment or both.

        The series have already left the catalogue; their samples are known by their slots, or by having no series.
        """
        deleted = DeletedCounts()
        cutoff: I64 = np.where(self._catalogue.present(), -CUTOFF_MAX_MS, CUTOFF_MAX_MS)
        cutoff[list(slots)] = CUTOFF_MAX_MS

        def red(key: RedKey) -> int:
            is_deleted = service in ("", key.service) and environment in ("", key.environment)
            return CUTOFF_MAX_MS if is_deleted else -CUTOFF_MAX_MS

        def edges(key: EdgeKey) -> int:
            return CUTOFF_MAX_MS if key.has_side(service, environment) else -CUTOFF_MAX_MS

        keep = RowFilter(cutoff, lambda table: ~selected_rows(table, service, environment), red, edges)
        for tier in TIERS:
            for segment in list(self._files.snapshots.now.of_tier(tier).values()):
                due = []
                for part in segment.parts:
                    counts = self._files.part_stats(segment, part)
                    named = any(
                        service in ("", part_service) and environment in ("", part_environment)
                        for part_service, part_environment, *_ in counts.services
                    )
                    if named or (cutoff[counts.series.slot] == CUTOFF_MAX_MS).any():
                        due.append(part)
                self._rewrite(segment, due, keep, deleted)
        return deleted

    def _rewrite(self, segment: Segment, parts: Sequence[Part], keep: RowFilter, deleted: DeletedCounts) -> None:
        for part in parts:  # one by one: how large a part may be is the merger's business
            before = self._files.nbytes(segment.path)
            try:
                left = self._merger.rewrite(segment, [part], keep, level=part.level)
            except PartUnreadable:
                continue
            self._files.delete_unreferenced(lambda: None, wait_s=UNPINNED_WAIT_S)
            deleted.samples += part.samples - (left.samples if left else 0)
            deleted.spans += part.spans - (left.spans if left else 0)
            deleted.nbytes += max(0, before - self._files.nbytes(segment.path))
