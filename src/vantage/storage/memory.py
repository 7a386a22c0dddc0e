"""The smallest TelemetryStore: lists in memory, for tests. It fulfils the contract except for durability."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from types import TracebackType
from typing import Final, Self

import numpy as np

from vantage.core.arrays import Mask
from vantage.core.batch import Batch, build_batch
from vantage.core.clock import Clock
from vantage.core.exemplars import NO_EXEMPLARS, Exemplars, encode_exemplars
from vantage.core.red import MINUTE_MS, RedKeys, RedSlots, by_service, of_endpoints, red_of_samples, red_of_spans
from vantage.core.red_table import RedQuery, RedTable, summarize
from vantage.core.rollup import Partials, rollup_samples, with_sketches
from vantage.core.sample_columns import SampleColumns
from vantage.core.series import Series
from vantage.core.span import Span
from vantage.core.span_table import SpanTable, build_span_table
from vantage.core.timerange import TimeRange
from vantage.storage.ports import (
    DeletionResult,
    ExemplarSample,
    RetentionPolicy,
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
    UsageRow,
)
from vantage.storage.recent_spans import RecentSpans
from vantage.storage.service_edges import edge_width, service_edges, whole_buckets
from vantage.storage.service_infos import sum_up_services
from vantage.storage.span_list import SpanLister
from vantage.storage.trace_summary import count_by_service, latest_summaries, matching_rows
from vantage.vql.check import CheckedSelect
from vantage.vql.exec.budget import QueryBudget
from vantage.vql.exec.execute import execute, explain
from vantage.vql.exec.series_table import SeriesColumns
from vantage.vql.exec.source import ScanEstimate
from vantage.vql.table import Table
from vantage.vql.tree import TableName

EXPORTED_MAX: Final = 1000  # samples or spans per batch


class MemoryStore:
    """Stores every sample as ``(series, time_ms, value, trace_id, span_id)``."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._rows: list[tuple[Series, int, float, str, str]] = []
        self._spans: list[Span] = []
        self._recent_spans = RecentSpans()
        self._ids: set[str] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    async def write(self, batch: Batch) -> bool:
        if batch.batch_id and batch.batch_id in self._ids:
            return False
        exemplars = {position: (trace_id, span_id) for position, trace_id, span_id in batch.exemplars.rows()}
        for row, (which, time_ms, value) in enumerate(
            zip(batch.index.tolist(), batch.time_ms.tolist(), batch.value.tolist(), strict=True)
        ):
            trace_id, span_id = exemplars.get(row, ("", ""))
            self._rows.append((batch.series[which], time_ms, value, trace_id, span_id))
        spans = self._recent_spans.unseen(batch.spans)
        self._recent_spans.remember(spans)
        self._spans.extend(spans)
        if batch.batch_id:
            self._ids.add(batch.batch_id)
        return True

    async def select(self, query: CheckedSelect, *, deadline_s: float) -> Table:
        return execute(query, _RowSource(self._rows, self._spans), QueryBudget(deadline_s))

    async def explain(self, query: CheckedSelect, *, deadline_s: float) -> Table:  # noqa: ARG002 - of the port; this is quick
        return explain(query, _RowSource(self._rows, self._spans))

    async def red(self, query: RedQuery, *, deadline_s: float) -> RedTable | None:  # noqa: ARG002 - of the port; this is quick
        columns = SeriesColumns()
        for row in self._rows:
            columns.append(row[0])
        slots = RedSlots(RedKeys(), columns.series)
        samples = SampleColumns(
            np.arange(len(self._rows), dtype=np.uint32),
            np.array([row[1] for row in self._rows], np.int64),
            np.array([row[2] for row in self._rows], np.float64),
        )
        minutes = [red_of_samples(samples, slots), red_of_spans(build_span_table(self._spans), slots.keys)]
        if query.level == "service":
            parts = [by_service(part, slots.keys) for part in minutes]
        else:
            parts = [of_endpoints(part, slots.keys, width_ms=MINUTE_MS) for part in minutes]
        return summarize(parts, slots.keys.keys, query) if query.step_ms % MINUTE_MS == 0 else None

    async def list_series(self, *, service: str = "", metric: str = "") -> Sequence[SeriesInfo]:
        times: dict[int, tuple[Series, list[int]]] = {}
        for series, time_ms, *_ in self._rows:
            if (not service or series.service == service) and (not metric or series.metric == metric):
                times.setdefault(series.id, (series, []))[1].append(time_ms)
        return [SeriesInfo(series, len(at_ms), min(at_ms), max(at_ms)) for series, at_ms in times.values()]

    async def services(self, *, service: str = "") -> Sequence[ServiceInfo]:
        infos = sum_up_services(await self.list_series(), await self.services_with_spans())
        return [info for info in infos if service in ("", info.service)]

    async def services_with_spans(self) -> Sequence[ServiceSpanStats]:
        return [
            ServiceSpanStats(*key, *counts) for key, counts in count_by_service(build_span_table(self._spans)).items()
        ]

    async def trace(self, trace_id: str) -> Trace:
        samples = [ExemplarSample(*row) for row in self._rows if row[3] == trace_id]
        return Trace(
            trace_id,
            tuple(
                sorted(
                    (span for span in self._spans if span.trace_id == trace_id),
                    key=lambda span: (span.start_ns, span.span_id),
                )
            ),
            tuple(sorted(samples, key=lambda sample: sample.time_ms)),
        )

    async def spans_of(self, trace_ids: Sequence[str], *, spans_max: int) -> Sequence[Span]:
        wanted = set(trace_ids)
        return [span for span in self._spans if span.trace_id in wanted][:spans_max]

    async def traces(self, wanted: TraceFilter) -> Sequence[TraceSummary]:
        table = build_span_table(self._spans)
        trace_ids = np.unique(table.trace_id[matching_rows(table, wanted)])
        return latest_summaries(table.take(np.flatnonzero(np.isin(table.trace_id, trace_ids))), wanted)

    async def list_spans(self, wanted: SpanFilter) -> SpanList:
        lister = SpanLister(wanted)
        lister.add(build_span_table(self._spans))
        return SpanList(tuple(lister.spans))

    async def edges(self, time_range: TimeRange) -> ServiceEdges:
        width_ms = edge_width(time_range, now_ms=self._clock.now_ms())
        return service_edges([build_span_table(self._spans)], whole_buckets(time_range, width_ms=width_ms))

    async def export(self, selector: Selector, time_range: TimeRange) -> AsyncGenerator[Batch, None]:
        def selected(service: str, environment: str, at_ms: int) -> bool:
            matches = selector.service in ("", service) and selector.environment in ("", environment)
            return matches and time_range.start_ms <= at_ms < time_range.end_ms

        rows = [row for row in self._rows if selected(row[0].service, row[0].environment, row[1])]
        spans = [span for span in self._spans if selected(span.service_name, span.environment, span.start_ms)]
        for start in range(0, len(rows), EXPORTED_MAX):
            chunk = rows[start : start + EXPORTED_MAX]
            yield build_batch([row[:3] for row in chunk], exemplars=_exemplars(chunk))
        for start in range(0, len(spans), EXPORTED_MAX):
            yield Batch(spans=tuple(spans[start : start + EXPORTED_MAX]))

    async def expire(self, policy: RetentionPolicy) -> DeletionResult:
        if policy.days is None:
            return DeletionResult()
        oldest_ms = self._clock.now_ms() - policy.days * 86_400_000
        return self._replace(
            [row for row in self._rows if row[1] >= oldest_ms],
            [span for span in self._spans if span.start_ms >= oldest_ms],
        )

    async def delete(self, selector: Selector) -> DeletionResult:
        def selected(service: str, environment: str) -> bool:
            return selector.service in ("", service) and selector.environment in ("", environment)

        if selector == Selector():
            raise ValueError("refusing to delete everything: name a service or an environment")
        return self._replace(
            [row for row in self._rows if not selected(row[0].service, row[0].environment)],
            [span for span in self._spans if not selected(span.service_name, span.environment)],
        )

    def newest_ms(self) -> int:
        return max([row[1] for row in self._rows] + [span.start_ms for span in self._spans], default=0)

    def _replace(self, rows: list[tuple[Series, int, float, str, str]], spans: list[Span]) -> DeletionResult:
        deleted = {row[0].id for row in self._rows} - {row[0].id for row in rows}
        result = DeletionResult(len(self._rows) - len(rows), len(self._spans) - len(spans), len(deleted), 0)
        self._rows, self._spans = rows, spans
        self._recent_spans.clear()
        return result

    async def usage(self) -> Usage:
        counted = Counter((row[0].service, row[0].metric) for row in self._rows)
        distinct = {row[0].id: row[0] for row in self._rows}.values()
        series = Counter((info.service, info.metric) for info in distinct)
        rows = [UsageRow(*key, "samples", 0, count, series[key]) for key, count in counted.items()]
        spans = Counter(span.service_name for span in self._spans)
        rows += [UsageRow(service, "", "spans", 0, count, 0) for service, count in spans.items()]
        return Usage(tuple(rows), {}, 0, 0, ())

    async def raw_since_ms(self) -> int:
        return 0

    async def ping(self) -> None:
        return None


class _RowSource:
    """One query's view of the rows, as a single chunk."""

    def __init__(self, rows: list[tuple[Series, int, float, str, str]], spans: list[Span]) -> None:
        self._rows = list(rows)
        self._spans = list(spans)
        by_id = {row[0].id: row[0] for row in rows}
        self._series = SeriesColumns(by_id.values())
        self._slots = {series_id: slot for slot, series_id in enumerate(by_id)}

    def series(self) -> SeriesColumns:
        return self._series

    def rows_upper_bound(self, table: TableName, _time_range: TimeRange) -> int:
        return len(self._spans if table == "spans" else self._rows)

    def plan(self, table: TableName, time_range: TimeRange, _slots: Mask) -> list[ScanEstimate]:
        return [ScanEstimate("memory", 1, self.rows_upper_bound(table, time_range))]

    def samples(self, _time_range: TimeRange, _slots: Mask, *, wanted: frozenset[str]) -> Iterator[SampleColumns]:
        count = len(self._rows)
        yield SampleColumns(
            np.fromiter((self._slots[row[0].id] for row in self._rows), np.uint32, count),
            np.fromiter((row[1] for row in self._rows), np.int64, count),
            np.fromiter((row[2] for row in self._rows), np.float64, count),
            _exemplars(self._rows) if "exemplars" in wanted else NO_EXEMPLARS,
        )

    def partials(
        self, time_range: TimeRange, slots: Mask, *, width_ms: int, wanted: frozenset[str]
    ) -> Iterator[Partials]:
        (chunk,) = self.samples(time_range, slots, wanted=frozenset({"timestamp", "value"}))
        order = np.lexsort((chunk.time_ms, chunk.slot))
        slot, time_ms, value = chunk.slot[order], chunk.time_ms[order], chunk.value[order]
        rollups = rollup_samples(slot, time_ms, value, width_ms=width_ms)
        if "sketches" not in wanted:
            yield rollups
            return
        has_sketch = self._series.column("metric_type").mask(lambda kind: kind == "histogram")[slot]
        yield with_sketches(rollups, slot[has_sketch], time_ms[has_sketch], value[has_sketch], width_ms=width_ms)

    def spans(self, _time_range: TimeRange) -> Iterator[SpanTable]:
        yield build_span_table(self._spans)


def _exemplars(rows: Sequence[tuple[Series, int, float, str, str]]) -> Exemplars:
    with_ids = [(position, row[3], row[4]) for position, row in enumerate(rows) if row[3] or row[4]]
    return encode_exemplars(*zip(*with_ids, strict=True)) if with_ids else NO_EXEMPLARS
