"""The smallest TelemetryStore: lists in memory, for tests. It keeps the whole contract, durability excepted."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from vantage.core.batch import NO_LINKS, Batch, Links, batch_of
from vantage.core.clock import Clock
from vantage.core.link_columns import link_columns
from vantage.core.rollup import Partials, roll, with_sketches
from vantage.core.series import Series
from vantage.core.span import Span
from vantage.core.spantable import SpanTable, table_of
from vantage.core.timerange import TimeRange
from vantage.storage.edges import edges_of
from vantage.storage.ports import (
    Edge,
    LinkedSample,
    Reclaimed,
    RetentionPolicy,
    Selector,
    SeriesInfo,
    ServiceSpans,
    Trace,
    TraceFilter,
    TraceSummary,
    Usage,
    UsageRow,
)
from vantage.storage.tracing import count_by_service, latest_summaries, matching_rows
from vantage.vql.check import CheckedSelect
from vantage.vql.execute import Deadline, execute, explain
from vantage.vql.series import SeriesColumns
from vantage.vql.source import Chunk, Reading
from vantage.vql.table import Table
from vantage.vql.tree import TableName

EXPORTED_MAX: Final = 1000  # samples or spans of a batch


class MemoryStore:
    """Keeps every sample as ``(series, time_ms, value, trace_id, span_id)``."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._rows: list[tuple[Series, int, float, str, str]] = []
        self._spans: list[Span] = []
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
        links = {
            position: ids
            for position, *ids in zip(
                batch.links.position.tolist(), batch.links.trace_id, batch.links.span_id, strict=True
            )
        }
        for row, (which, time_ms, value) in enumerate(
            zip(batch.index.tolist(), batch.time_ms.tolist(), batch.value.tolist(), strict=True)
        ):
            trace_id, span_id = links.get(row, ("", ""))
            self._rows.append((batch.series[which], time_ms, value, trace_id, span_id))
        self._spans.extend(batch.spans)
        if batch.batch_id:
            self._ids.add(batch.batch_id)
        return True

    async def select(self, query: CheckedSelect, *, deadline_s: float) -> Table:
        return execute(query, _RowSource(self._rows, self._spans), Deadline(deadline_s))

    async def explain(self, query: CheckedSelect, *, deadline_s: float) -> Table:  # noqa: ARG002 - of the port; this is quick
        return explain(query, _RowSource(self._rows, self._spans))

    async def catalogue(self, *, service: str = "", metric: str = "") -> Sequence[SeriesInfo]:
        times: dict[int, tuple[Series, list[int]]] = {}
        for one, time_ms, *_ in self._rows:
            if (not service or one.service == service) and (not metric or one.metric == metric):
                times.setdefault(one.id, (one, []))[1].append(time_ms)
        return [SeriesInfo(one, len(held), min(held), max(held)) for one, held in times.values()]

    async def services_with_spans(self) -> Sequence[ServiceSpans]:
        return [ServiceSpans(*key, *counts) for key, counts in count_by_service(table_of(self._spans)).items()]

    async def trace(self, trace_id: str) -> Trace:
        samples = [LinkedSample(*row) for row in self._rows if row[3] == trace_id]
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

    async def traces(self, wanted: TraceFilter) -> Sequence[TraceSummary]:
        table = table_of(self._spans)
        found = np.unique(table.trace_id[matching_rows(table, wanted)])
        return latest_summaries(table.take(np.flatnonzero(np.isin(table.trace_id, found))), wanted)

    async def edges(self, time_range: TimeRange) -> Sequence[Edge]:
        return edges_of([table_of(self._spans)], time_range)

    async def export(self, selector: Selector, time_range: TimeRange) -> AsyncGenerator[Batch, None]:
        def wanted(service: str, environment: str, at_ms: int) -> bool:
            named = selector.service in ("", service) and selector.environment in ("", environment)
            return named and time_range.start_ms <= at_ms < time_range.end_ms

        rows = [row for row in self._rows if wanted(row[0].service, row[0].environment, row[1])]
        spans = [span for span in self._spans if wanted(span.service_name, span.environment, span.start_ms)]
        for start in range(0, len(rows), EXPORTED_MAX):
            some = rows[start : start + EXPORTED_MAX]
            linked = [(place, row[3], row[4]) for place, row in enumerate(some) if row[3]]
            links = NO_LINKS
            if linked:
                positions = np.array([place for place, _, _ in linked], np.uint32)
                links = Links(positions, [trace for _, trace, _ in linked], [span for _, _, span in linked])
            yield batch_of([row[:3] for row in some], links=links)
        for start in range(0, len(spans), EXPORTED_MAX):
            yield Batch(spans=tuple(spans[start : start + EXPORTED_MAX]))

    async def expire(self, policy: RetentionPolicy) -> Reclaimed:
        if policy.days is None:
            return Reclaimed()
        oldest_ms = self._clock.now_ms() - policy.days * 86_400_000
        return self._keep(
            [row for row in self._rows if row[1] >= oldest_ms],
            [span for span in self._spans if span.start_ms >= oldest_ms],
        )

    async def forget(self, selector: Selector) -> Reclaimed:
        def selected(service: str, environment: str) -> bool:
            return selector.service in ("", service) and selector.environment in ("", environment)

        if selector == Selector():
            raise ValueError("forgetting everything is not offered: name a service or an environment")
        return self._keep(
            [row for row in self._rows if not selected(row[0].service, row[0].environment)],
            [span for span in self._spans if not selected(span.service_name, span.environment)],
        )

    def _keep(self, rows: list[tuple[Series, int, float, str, str]], spans: list[Span]) -> Reclaimed:
        gone = {row[0].id for row in self._rows} - {row[0].id for row in rows}
        result = Reclaimed(len(self._rows) - len(rows), len(self._spans) - len(spans), len(gone), 0)
        self._rows, self._spans = rows, spans
        return result

    async def usage(self) -> Usage:
        counted = Counter((row[0].service, row[0].metric) for row in self._rows)
        series = Counter((one.service, one.metric) for one in {row[0].id: row[0] for row in self._rows}.values())
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

    def rows_at_most(self, table: TableName, _time_range: TimeRange) -> int:
        return len(self._spans if table == "spans" else self._rows)

    def plan(self, table: TableName, time_range: TimeRange, _slots: NDArray[np.bool_]) -> list[Reading]:
        return [Reading("memory", 1, self.rows_at_most(table, time_range))]

    def samples(self, _time_range: TimeRange, _slots: NDArray[np.bool_], *, links: bool) -> Iterator[Chunk]:
        linked = [(row, held[3], held[4]) for row, held in enumerate(self._rows) if links and (held[3] or held[4])]
        held_links = NO_LINKS
        if linked:
            position = np.array([row for row, _, _ in linked], np.uint32)
            held_links = Links(position, [trace for _, trace, _ in linked], [span for _, _, span in linked])
        count = len(self._rows)
        yield Chunk(
            np.fromiter((self._slots[row[0].id] for row in self._rows), np.uint32, count),
            np.fromiter((row[1] for row in self._rows), np.int64, count),
            np.fromiter((row[2] for row in self._rows), np.float64, count),
            link_columns(held_links),
        )

    def partials(
        self, time_range: TimeRange, slots: NDArray[np.bool_], *, width_ms: int, wanted: frozenset[str]
    ) -> Iterator[Partials]:
        (chunk,) = self.samples(time_range, slots, links=False)
        order = np.lexsort((chunk.time_ms, chunk.slot))
        slot, time_ms, value = chunk.slot[order], chunk.time_ms[order], chunk.value[order]
        rolled = roll(slot, time_ms, value, width_ms=width_ms)
        if "sketches" not in wanted:
            yield rolled
            return
        some = self._series.coded("metric_type").test(lambda kind: kind == "histogram")[slot]
        yield with_sketches(rolled, slot[some], time_ms[some], value[some], width_ms=width_ms)

    def spans(self, _time_range: TimeRange) -> Iterator[SpanTable]:
        yield table_of(self._spans)
