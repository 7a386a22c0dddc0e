"""What the embedded store answers: every query reads one snapshot of head and segments, in a thread of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Final, TypeVar

import numpy as np

from vantage.core.batch import Batch
from vantage.core.errors import BusyError, StoreUnavailable
from vantage.core.red_table import RedQuery, RedTable
from vantage.core.span import Span
from vantage.core.timerange import TimeRange
from vantage.core.turns import Turns
from vantage.storage.embedded import thread_priority
from vantage.storage.embedded.format.chunk import ChunkCodec
from vantage.storage.embedded.format.part_stats import ServiceStats, add_up_services
from vantage.storage.embedded.format.week import week_range
from vantage.storage.embedded.maintain.seal import histograms
from vantage.storage.embedded.read.access import DamageLog, SnapshotAccess
from vantage.storage.embedded.read.chunk_index import ChunkIndexCache
from vantage.storage.embedded.read.connection_pool import ConnectionPool
from vantage.storage.embedded.read.edges import UnsealedEdges
from vantage.storage.embedded.read.export import export_batches, iterate_in_pool
from vantage.storage.embedded.read.reader import SnapshotReader
from vantage.storage.embedded.read.snapshot import Snapshot, Snapshots
from vantage.storage.embedded.read.span_search import listed_spans
from vantage.storage.embedded.read.trace_search import latest_traces
from vantage.storage.embedded.read.usage import aged_bytes, usage_rows
from vantage.storage.embedded.thread_priority import lower_priority
from vantage.storage.embedded.write.catalogue import Catalogue
from vantage.storage.ports import (
    TRACE_SPANS_MAX,
    ExemplarSample,
    Selector,
    SeriesInfo,
    ServiceEdges,
    ServiceInfo,
    ServiceSpanStats,
    SpanFilter,
    SpanList,
    Trace,
    TraceFilter,
    TraceSummary,
    Usage,
)
from vantage.storage.query_pool import QueryPool
from vantage.storage.service_edges import edge_width, service_edges, whole_buckets, with_parents
from vantage.storage.service_infos import merge_services
from vantage.vql.check import CheckedSelect
from vantage.vql.exec.budget import QueryBudget, QueryMemory
from vantage.vql.exec.execute import execute, explain
from vantage.vql.table import Table

QUERY_THREADS: Final = 2
SPAN_NBYTES: Final = 400  # of a span as an object, about
EXPORTS_MAX: Final = 2
SEARCH_TIMEOUT_S: Final = 30.0
T = TypeVar("T")


class Queries:
    """The reading half of the store. Subclasses set ``_open`` and say what only they know."""

    def __init__(
        self,
        snapshots: Snapshots,
        catalogue: Catalogue,
        pool: ConnectionPool,
        indexes: ChunkIndexCache,
        damage: DamageLog,
        *,
        query_samples_max: int,
        query_nbytes_max: int,
        turns: Turns,
    ) -> None:
        self._turns = turns
        self._snapshots = snapshots
        self._catalogue = catalogue
        self._pool = pool
        self._indexes = indexes
        self._damage = damage
        self._query_samples_max = query_samples_max
        self._query_nbytes_max = query_nbytes_max
        self._query_memory = QueryMemory(query_nbytes_max * 5 // 4)  # a dear query leaves a fifth for small ones
        self._codecs: list[ChunkCodec] = []  # those that no query uses now
        self._threads = QueryPool(QUERY_THREADS, initializer=lambda: lower_priority(thread_priority.WORK), turns=turns)
        self._exports = 0
        self._open = False
        self._unsealed_edges = UnsealedEdges(catalogue.edges, on_lost=self._count_unjoined)
        self._sealed_span_counts: tuple[int, ServiceStats] = (-1, {})  # with the version of its snapshot

    @property
    def unsealed_nbytes(self) -> int:
        """Estimate the memory of what is committed and not sealed, in bytes."""
        raise NotImplementedError

    def _now_ms(self) -> int:
        """Return the time that ages are counted from."""
        raise NotImplementedError

    def _note_query(self) -> None:
        """Note that a query begins or ends."""
        raise NotImplementedError

    def _count_unjoined(self, spans: int) -> None:
        """Count spans whose other halves were not looked up."""
        raise NotImplementedError

    def _file_nbytes_of(self, snapshot: Snapshot) -> Mapping[str, int]:
        """Return the bytes on the disk by kind of file."""
        raise NotImplementedError

    def _damaged_files(self) -> Sequence[str]:
        """Return the names of the segments that cannot be read."""
        raise NotImplementedError

    async def select(self, query: CheckedSelect, *, deadline_s: float) -> Table:
        budget = self._budget(deadline_s)

        def run() -> Table:
            with self._reader(budget, **_blocks_of(query)) as reader:
                return execute(query, reader, budget, samples_max=self._query_samples_max)

        return await self._in_thread(run)

    async def explain(self, query: CheckedSelect, *, deadline_s: float) -> Table:
        def run() -> Table:
            with self._reader(self._budget(deadline_s), **_blocks_of(query)) as reader:
                return explain(query, reader)

        return await self._in_thread(run)

    async def red(self, query: RedQuery, *, deadline_s: float) -> RedTable | None:
        def run() -> RedTable | None:
            with self._reader(self._budget(deadline_s)) as reader:
                return reader.red_reader.table(query, now_ms=self._now_ms())

        return await self._in_thread(run)

    async def list_series(self, *, service: str = "", metric: str = "") -> Sequence[SeriesInfo]:
        known = self._catalogue

        def run() -> list[SeriesInfo]:
            return [
                SeriesInfo(series, int(known.samples[slot]), int(known.first_ms[slot]), int(known.last_ms[slot]))
                for slot in known.find(service_name=service, metric_name=metric)
                if (series := known.series[slot]) is not None and known.has_data(slot)
            ]

        return await self._in_thread(run)

    async def services(self, *, service: str = "") -> Sequence[ServiceInfo]:
        def run() -> list[ServiceInfo]:
            spans = [
                ServiceInfo(name, environment, version, 0, *totals)
                for (name, environment, version, _), totals in self._span_counts().items()
                if service in ("", name)
            ]
            return merge_services([*self._catalogue.services(service), *spans])

        return await self._in_thread(run)

    async def services_with_spans(self) -> Sequence[ServiceSpanStats]:
        return await self._in_thread(self._services_with_spans)

    def _services_with_spans(self) -> list[ServiceSpanStats]:
        return [ServiceSpanStats(*key, *total) for key, total in self._span_counts().items()]

    def _span_counts(self) -> ServiceStats:
        """Return spans, first and last start by service, environment, version and instance. What is sealed is added up
        again when it has changed."""
        with self._reader(self._budget(SEARCH_TIMEOUT_S), samples=False) as reader:
            version, counts = self._sealed_span_counts
            if version != reader.version:
                counts = add_up_services(reader.span_reader.sealed_counts())
                self._sealed_span_counts = reader.version, counts
            return add_up_services([counts, *reader.span_reader.unsealed_counts()])

    async def trace(self, trace_id: str) -> Trace:
        def run() -> Trace:
            with self._reader(self._budget(SEARCH_TIMEOUT_S)) as reader:
                table, left_out = reader.span_reader.spans_of_traces([trace_id], rows_max=TRACE_SPANS_MAX)
                order = np.lexsort((table.span_id, table.start_ns))
                reader.budget.take(SPAN_NBYTES * min(len(order), TRACE_SPANS_MAX))
                spans = table.spans(order[:TRACE_SPANS_MAX])
                left_out += len(order) - len(spans)
                samples = [
                    ExemplarSample(series, time_ms, value, trace_id, span_id)
                    for series, time_ms, value, span_id in reader.sample_reader.exemplars_of(trace_id)
                ]
            return Trace(
                trace_id,
                tuple(spans),
                tuple(sorted(samples, key=lambda sample: sample.time_ms)),
                left_out=left_out,
            )

        return await self._in_thread(run)

    async def spans_of(self, trace_ids: Sequence[str], *, spans_max: int) -> Sequence[Span]:
        def run() -> list[Span]:
            if not trace_ids:
                return []
            with self._reader(self._budget(SEARCH_TIMEOUT_S), samples=False) as reader:
                table, _ = reader.span_reader.spans_of_traces(trace_ids, rows_max=spans_max)
                reader.budget.take(SPAN_NBYTES * min(len(table), spans_max))
                return table.spans(np.arange(min(len(table), spans_max)))

        return await self._in_thread(run)

    async def traces(self, wanted: TraceFilter) -> Sequence[TraceSummary]:
        def run() -> list[TraceSummary]:
            with self._reader(self._budget(SEARCH_TIMEOUT_S), samples=False) as reader:
                return latest_traces(reader.span_reader, wanted)

        return await self._in_thread(run)

    async def list_spans(self, wanted: SpanFilter) -> SpanList:
        def run() -> SpanList:
            with self._reader(self._budget(SEARCH_TIMEOUT_S), samples=False) as reader:
                return listed_spans(reader.span_reader, wanted)

        return await self._in_thread(run)

    async def edges(self, time_range: TimeRange) -> ServiceEdges:
        def run() -> ServiceEdges:
            width_ms = edge_width(time_range, now_ms=self._now_ms())
            in_buckets = whole_buckets(time_range, width_ms=width_ms)
            budget = self._budget(SEARCH_TIMEOUT_S)
            with self._reader(budget, samples=False) as reader:
                stored = reader.edge_reader.edges(in_buckets, width_ms=width_ms)
                return stored or service_edges(reader.spans(with_parents(in_buckets)), in_buckets, take=budget.take)

        return await self._in_thread(run)

    async def export(self, selector: Selector, time_range: TimeRange) -> AsyncGenerator[Batch, None]:
        if not self._open:
            raise StoreUnavailable("the store is closed")
        if self._exports >= EXPORTS_MAX:
            raise BusyError("other exports are under way", retry_after_s=60.0)
        self._exports += 1
        try:
            # Pinned until the end: meanwhile parts may be merged, and are deleted later.
            with self._reader(self._budget(float("inf")), may_end=False) as reader:
                async with aclosing(
                    iterate_in_pool(export_batches(reader, selector, time_range), self._threads.pool)
                ) as batches:
                    async for batch in batches:
                        yield batch
        finally:
            self._exports -= 1
            self._note_query()

    async def usage(self) -> Usage:
        def run() -> Usage:
            with self._snapshots.pinned() as pinned:
                return Usage(
                    tuple(usage_rows(pinned.snapshot, self._catalogue.columns, self._pool)),
                    self._file_nbytes_of(pinned.snapshot),
                    self.unsealed_nbytes,
                    _raw_since_ms(pinned.snapshot),
                    tuple(self._damaged_files()),
                    tuple(aged_bytes(pinned.snapshot)),
                )

        return await self._in_thread(run)

    def newest_ms(self) -> int:
        with self._snapshots.pinned() as pinned:
            return pinned.newest_ms

    async def raw_since_ms(self) -> int:
        return _raw_since_ms(self._snapshots.now)

    def _budget(self, seconds: float) -> QueryBudget:
        return QueryBudget(
            seconds,
            nbytes_max=self._query_nbytes_max,
            memory=self._query_memory,
            stopping=self._threads.stopping.is_set,
            pass_on=self._turns.pass_on,
        )

    @contextmanager
    def _reader(
        self, budget: QueryBudget, *, samples: bool = True, spans: bool = True, may_end: bool = True
    ) -> Iterator[SnapshotReader]:
        """Yield a reader of everything as it is now, for one query in one thread: of ``samples``, ``spans`` or both.
        ``may_end``: for the memory it holds. Closes the budget."""
        try:
            codec = self._codecs.pop()
        except IndexError:  # every codec is in use
            codec = ChunkCodec()
        try:
            with self._snapshots.pinned(samples=samples, spans=spans, may_end=may_end) as pinned:
                budget.check_also(pinned.check)
                access = SnapshotAccess(pinned, codec, self._pool, self._indexes, self._damage, budget)
                yield SnapshotReader(
                    access,
                    self._catalogue.columns,
                    histograms=histograms(self._catalogue),
                    red=self._catalogue.red,
                    edges=self._unsealed_edges,
                )
        finally:
            self._codecs.append(codec)
            budget.close()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if not self._open:
            raise StoreUnavailable("the store is closed")
        self._note_query()
        try:
            return await self._threads.run(work)
        finally:
            self._note_query()


def _blocks_of(query: CheckedSelect) -> dict[str, bool]:
    """Return which blocks that are not sealed a query reads."""
    return {"samples": query.select.table != "spans", "spans": query.select.table == "spans"}


def _raw_since_ms(snapshot: Snapshot) -> int:
    """Return the end of the last week that has rollups but no samples: those have expired by size."""
    lost = [week for week, segment in snapshot.rollups.items() if week not in snapshot.samples and segment.parts]
    return week_range(max(lost)).end_ms if lost else 0
