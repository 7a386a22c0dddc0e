"""Queries that people write: compiled, run, and told what was read."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from vantage.core.timerange import TimeRange
from vantage.query.cache import SETTLE_MS_MIN
from vantage.query.context import QueryContext
from vantage.vql.table import Table
from vantage.vql.text.compile import CompiledQuery, compile_query
from vantage.vql.text.params import Params

CELL_NBYTES: Final = 64


@dataclass(frozen=True, slots=True)
class VqlResult:
    """A table, the range that was read, and what to tell whoever asked."""

    table: Table
    time_range: TimeRange
    warnings: tuple[str, ...]
    elapsed_ms: float
    cached: bool = False


async def run_vql(reads: QueryContext, text: str, params: Params) -> VqlResult:
    """Answer a text. Raises QueryError, and what the store's ``select`` raises."""
    began_s = time.perf_counter()
    try:
        # A hostile text takes its milliseconds in a thread, not on the event loop.
        compiled = await asyncio.to_thread(
            compile_query, text, now_ms=reads.clock.now_ms(), params=params, rows_max=reads.rows_max
        )
        table, cached = await _answered(reads, compiled)
    finally:
        elapsed_s = time.perf_counter() - began_s
        reads.telemetry.query_duration.labels("vql").observe(elapsed_s)
    warnings = compiled.query.warnings
    if table.truncated:
        warnings = (*warnings, f"only the first {len(table)} rows are given: narrow the query or say LIMIT")
    return VqlResult(table, compiled.query.time_range, warnings, round(elapsed_s * 1000, 3), cached)


async def _answered(reads: QueryContext, compiled: CompiledQuery) -> tuple[Table, bool]:
    """The table, and whether it was kept. Kept are answers about a past that is settled: the tree and the range, where
    ``now()`` is a number already, are the whole question."""
    query, cache = compiled.query, reads.cache
    if compiled.explain:
        return await reads.store.explain(query, deadline_s=reads.timeout_s), False
    if not cache.enabled or query.time_range.end_ms > reads.clock.now_ms() - SETTLE_MS_MIN:
        return await reads.store.select(query, deadline_s=reads.timeout_s), False
    key, generation = ("vql", query), cache.generation
    kept: Table | None = cache.get(key)
    if kept is not None:
        return kept, True
    table = await reads.store.select(query, deadline_s=reads.timeout_s)
    cache.put(key, table, nbytes=_nbytes(table), generation=generation, data_end_ms=query.time_range.end_ms)
    return table, False


def _nbytes(table: Table) -> int:
    texts = sum(len(str(cell)) for cells in table.data for cell in cells if isinstance(cell, (str, dict)))
    return CELL_NBYTES * len(table) * len(table.columns) + 2 * texts
