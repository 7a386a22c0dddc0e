"""Expiring and forgetting: what leaves head, journal, segments and catalogue together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vantage.core.batch import BATCH_ID_MEMORY_MS
from vantage.core.span import Span
from vantage.storage.embedded.format.week import DAY_MS
from vantage.storage.embedded.maintain.retention import Gone, Retention
from vantage.storage.embedded.maintain.segment_files import Shelf
from vantage.storage.embedded.maintain.series_stats import part_counts, recount
from vantage.storage.embedded.read.snapshot import Generation, View
from vantage.storage.embedded.read.usage import file_nbytes
from vantage.storage.embedded.write.catalogue import Catalogue
from vantage.storage.embedded.write.commit import Writer
from vantage.storage.embedded.write.head import Head, totals, without
from vantage.storage.embedded.write.journal import Journal
from vantage.storage.ports import Reclaimed, RetentionPolicy


class LettingGo:
    """Runs on the upkeep thread, but for what says otherwise. May raise sqlite3.Error and OSError."""

    def __init__(
        self, shelf: Shelf, journal: Journal, writer: Writer, catalogue: Catalogue, head: Head, retention: Retention
    ) -> None:
        self._shelf = shelf
        self._journal = journal
        self._writer = writer
        self._catalogue = catalogue
        self._head = head
        self._retention = retention

    def expire(self, policy: RetentionPolicy, now_ms: int) -> Reclaimed:
        """Drop what the policy no longer keeps. While a backup is being made nothing leaves: the next time will do."""
        self._writer.call(lambda: self._journal.drop_batch_ids(before_ms=now_ms - BATCH_ID_MEMORY_MS))
        gone = Gone()
        with self._shelf.held() as held:
            if not held:
                return Reclaimed()
            if policy.days is not None:
                gone.add(self._retention.by_age(now_ms - policy.days * DAY_MS))
            gone.add(self._retention.by_rules(policy.rules, now_ms))
            if policy.budget_bytes is not None:
                # The journal takes its share, but it is no reason to let go of everything else.
                journal_nbytes = file_nbytes(self._shelf.folder.parent, View())["journal"]
                budget_nbytes = policy.budget_bytes - min(journal_nbytes, policy.budget_bytes // 2)
                gone.add(self._retention.by_size(budget_nbytes))
        return gone.reclaimed(self._drop_empty_series() if gone.anything else 0)

    def _drop_empty_series(self) -> int:
        counts = part_counts(self._shelf)

        def drop() -> int:
            with self._shelf.views.pinned() as seen:
                recount(self._catalogue, counts, seen)
            empty = self._catalogue.empty()
            self._journal.drop_series(empty)
            self._catalogue.drop(empty)
            return len(empty)

        return self._writer.call(drop)

    def forget(self, service: str, environment: str, now_ms: int) -> Reclaimed:
        """First durably: from then on nobody sees it, also after a restart. Then the bytes."""

        def record() -> tuple[int, list[int], Gone]:
            slots = self._catalogue.named(service_name=service, environment=environment)
            number = self._journal.forget(service=service, environment=environment, slots=slots, at_ms=now_ms)
            gone = self.drop_unsealed(service, environment, slots, hide=True)
            self._catalogue.drop(slots)
            return number, slots, gone

        number, slots, gone = self._writer.call(record)
        with self._shelf.held() as held:
            if held:
                gone.add(self._remove(number, service, environment, slots))
        return gone.reclaimed(len(slots))

    def _remove(self, number: int, service: str, environment: str, slots: Sequence[int]) -> Gone:
        gone = self._retention.forget(service, environment, slots)
        self._writer.call(lambda: self._journal.forgotten(number))
        self._shelf.publish(
            change=lambda view: replace(view, hidden=tuple(one for one in view.hidden if one != (service, environment)))
        )
        return gone

    def finish_forgetting(self) -> None:
        """Remove from segments what was forgotten and is still in them: a process ended, or a backup was made. What
        that is, is hidden until then."""
        if not self._shelf.views.now.hidden:
            return
        with self._shelf.held() as held:
            if held:
                for number, service, environment in self._writer.call(self._journal.forgetting):
                    self._remove(number, service, environment, [])

    def hide_forgotten(self) -> bool:
        """Have nobody see what ``finish_forgetting`` has still to remove; whether there is any. On the writer thread,
        before anything is read."""
        hidden = tuple((service, environment) for _, service, environment in self._journal.forgetting())
        self._shelf.publish(change=lambda view: replace(view, hidden=hidden))
        return bool(hidden)

    def drop_unsealed(self, service: str, environment: str, slots: Sequence[int], *, hide: bool = False) -> Gone:
        """Drop from the head and from generations that wait to be sealed; with ``hide`` have the spans in segments not
        shown. On the writer thread."""
        dropped = np.zeros(len(self._catalogue.columns), np.bool_)
        dropped[list(slots)] = True
        gone = Gone()

        def selected(span: Span) -> bool:
            return (bool(service) or bool(environment)) and (
                service in ("", span.service_name) and environment in ("", span.environment)
            )

        def less(generation: Generation) -> Generation:
            samples, spans = without(generation.samples, generation.spans, dropped, selected)
            counts = totals(samples, spans)
            gone.less((generation.sample_count, generation.span_count, generation.nbytes), counts)
            return replace(
                generation, samples=samples, spans=spans, sample_count=counts[0], span_count=counts[1],
                nbytes=counts[2],
            )  # fmt: skip

        def change(view: View) -> View:
            head = self._head
            before = (head.sample_count, head.span_count, head.nbytes)
            head.put(*without(head.samples, head.spans, dropped, selected))
            gone.less(before, (head.sample_count, head.span_count, head.nbytes))
            hidden = (*view.hidden, (service, environment)) if hide else view.hidden
            return replace(view, sealing=tuple(map(less, view.sealing)), hidden=hidden)

        self._shelf.publish(change=change)
        return gone
