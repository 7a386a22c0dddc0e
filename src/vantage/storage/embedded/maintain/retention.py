"""What leaves the embedded store, and in which order: by age whole files, by size the oldest samples, then rollups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import structlog

from vantage.core.batch import I64
from vantage.core.retention import RetentionRule
from vantage.core.span_table import SpanTable
from vantage.storage.embedded.format.part_stats import PartCounts
from vantage.storage.embedded.format.segment import ROLLUPS, SAMPLES, TIERS, Part, Segment
from vantage.storage.embedded.format.week import DAY_MS
from vantage.storage.embedded.maintain.merge import Merger, Unreadable
from vantage.storage.embedded.maintain.rewrite import NEVER_MS, Keep
from vantage.storage.embedded.maintain.segment_files import UNPINNED_WAIT_S, Shelf
from vantage.storage.embedded.read.reader import forgotten_rows
from vantage.storage.embedded.write.block import Mask
from vantage.storage.embedded.write.catalogue import Catalogue
from vantage.storage.ports import Reclaimed

RULE_SLACK_MS = DAY_MS  # a file is rewritten for a rule when something in it is a day too old: not every minute

_log = structlog.get_logger("vantage.storage.retention")


@dataclass(slots=True)
class Gone:
    """Adds up what left. ``series`` is counted by the catalogue."""

    samples: int = 0
    spans: int = 0
    nbytes: int = 0

    def parts(self, parts: Sequence[Part]) -> None:
        self.samples += sum(part.samples for part in parts)
        self.spans += sum(part.spans for part in parts)

    def add(self, other: Gone) -> None:
        self.samples += other.samples
        self.spans += other.spans
        self.nbytes += other.nbytes

    def less(self, before: tuple[int, int, int], after: tuple[int, int, int]) -> None:
        """What lies between two counts of samples, spans and bytes."""
        self.add(Gone(*(was - now for was, now in zip(before, after, strict=True))))

    @property
    def anything(self) -> bool:
        return bool(self.samples or self.spans or self.nbytes)

    def reclaimed(self, series: int) -> Reclaimed:
        return Reclaimed(self.samples, self.spans, series, self.nbytes)


class Retention:
    """Runs on the upkeep thread. Every method may raise sqlite3.Error and OSError."""

    def __init__(self, shelf: Shelf, catalogue: Catalogue, merger: Merger) -> None:
        self._shelf = shelf
        self._catalogue = catalogue
        self._merger = merger

    def by_age(self, oldest_ms: int) -> Gone:
        """Files that hold nothing younger leave; in the others what is older is no longer shown."""
        gone = Gone()
        self._shelf.publish(change=lambda view: replace(view, floor_ms=max(view.floor_ms, oldest_ms)))
        for tier in TIERS:
            for segment in list(self._shelf.views.now.tier(tier).values()):
                if all(part.last_ms < oldest_ms for part in segment.parts):
                    gone.parts(segment.parts)
                    gone.nbytes += self._shelf.unlink(segment)
                    _log.info("segment removed", file=segment.name, because="retention_days")
        return gone

    def by_rules(self, rules: Sequence[RetentionRule], now_ms: int) -> Gone:
        """Of the services and metrics that rules name, what is older than they say."""
        gone = Gone()
        if not rules:
            return gone
        keep = self._keep_of(rules, now_ms)
        for tier in TIERS:
            for segment in list(self._shelf.views.now.tier(tier).values()):
                due = [
                    part for part in segment.parts if self._due(self._shelf.counts(segment, part), keep, rules, now_ms)
                ]
                self._rewrite(segment, due, keep, gone)
        return gone

    def _keep_of(self, rules: Sequence[RetentionRule], now_ms: int) -> Keep:
        """The strictest of the rules that name a series holds."""
        columns = self._catalogue.columns
        cutoff = np.full(len(columns), -NEVER_MS)
        for rule in rules:
            hit = np.ones(len(columns), np.bool_)
            if rule.service:
                hit &= columns.coded("service_name").test(rule.names_service)
            if rule.metric:
                hit &= columns.coded("metric_name").test(rule.names_metric)
            cutoff[hit] = np.maximum(cutoff[hit], now_ms - rule.days * DAY_MS)
        of_services = [rule for rule in rules if not rule.metric]

        def spans(table: SpanTable) -> Mask:
            kept = np.ones(len(table), np.bool_)
            for rule in of_services:
                old = table.start_ms < now_ms - rule.days * DAY_MS
                kept &= ~(old & table.service_name.test(rule.names_service))
            return kept

        return Keep(cutoff, spans if of_services else None)

    @staticmethod
    def _due(counts: PartCounts, keep: Keep, rules: Sequence[RetentionRule], now_ms: int) -> bool:
        series = counts.series
        if (series.first_ms < keep.cutoff_ms[series.slot] - RULE_SLACK_MS).any():
            return True
        return any(
            not rule.metric and rule.names_service(service) and first_ms < now_ms - rule.days * DAY_MS - RULE_SLACK_MS
            for rule in rules
            for (service, *_), (_, first_ms, _) in counts.services.items()
        )

    def by_size(self, budget_nbytes: int) -> Gone:
        """The oldest samples leave until everything fits; when none but the newest are left, the oldest rollups. The
        newest part of each tier stays."""
        gone = Gone()
        for tier in (SAMPLES, ROLLUPS):
            while self._shelf.total_nbytes() > budget_nbytes:
                segments = self._shelf.views.now.tier(tier)
                if not segments:
                    break
                oldest = segments[min(segments)]
                if len(segments) > 1:
                    gone.parts(oldest.parts)
                    gone.nbytes += self._shelf.unlink(oldest)
                    _log.info("segment removed", file=oldest.name, because="disk_budget_bytes")
                elif len(oldest.parts) > 1:
                    self._drop_part(oldest, min(oldest.parts, key=lambda part: part.last_ms), gone)
                else:
                    break
        return gone

    def _drop_part(self, segment: Segment, part: Part, gone: Gone) -> None:
        before = self._shelf.nbytes(segment.path)
        with self._shelf.writing(segment.week, segment.tier) as writer, writer.slice() as db:
            db.execute("DELETE FROM part WHERE id=?", (part.id,))
        self._shelf.replaced(segment, [part], [])
        self._shelf.clean_later(segment, [part])
        self._shelf.clean(lambda: None, wait_s=UNPINNED_WAIT_S)
        gone.parts([part])
        gone.nbytes += max(0, before - self._shelf.nbytes(segment.path))
        _log.info("oldest part removed", file=segment.name, part=part.id, because="disk_budget_bytes")

    def forget(self, service: str, environment: str, slots: Sequence[int]) -> Gone:
        """Write anew whatever holds something of a service, an environment or both. The series are out of the
        catalogue already; their samples are known by their slots, or by having no series any more."""
        gone = Gone()
        cutoff: I64 = np.where(self._catalogue.present(), -NEVER_MS, NEVER_MS)
        cutoff[list(slots)] = NEVER_MS
        keep = Keep(cutoff, lambda table: ~forgotten_rows(table, service, environment))
        for tier in TIERS:
            for segment in list(self._shelf.views.now.tier(tier).values()):
                due = []
                for part in segment.parts:
                    counts = self._shelf.counts(segment, part)
                    named = any(
                        service in ("", one) and environment in ("", other) for one, other, *_ in counts.services
                    )
                    if named or (cutoff[counts.series.slot] == NEVER_MS).any():
                        due.append(part)
                self._rewrite(segment, due, keep, gone)
        return gone

    def _rewrite(self, segment: Segment, parts: Sequence[Part], keep: Keep, gone: Gone) -> None:
        for part in parts:  # one by one: how large a part may be is the merger's business
            before = self._shelf.nbytes(segment.path)
            try:
                left = self._merger.rewrite(segment, [part], keep, level=part.level)
            except Unreadable:
                continue
            self._shelf.clean(lambda: None, wait_s=UNPINNED_WAIT_S)
            gone.samples += part.samples - (left.samples if left else 0)
            gone.spans += part.spans - (left.spans if left else 0)
            gone.nbytes += max(0, before - self._shelf.nbytes(segment.path))
