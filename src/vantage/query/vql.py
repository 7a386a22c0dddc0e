"""Compile and run queries that people write."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

import numpy as np

from vantage.core.timerange import TimeRange
from vantage.query.cache import SETTLE_MS_MIN
from vantage.query.context import QueryContext
from vantage.vql.check import CheckedSelect
from vantage.vql.table import Table
from vantage.vql.text.compile import CompiledQuery, compile_query
from vantage.vql.text.params import Params

ANSWER_NBYTES_MAX: Final = 32 << 20
CELL_NBYTES: Final = 32  # of a number, or of a text beside its characters
MAP_ENTRY_NBYTES: Final = 16


@dataclass(frozen=True, slots=True)
class VqlResult:
    """A table, the range that was read, and warnings for the user."""

    table: Table
    time_range: TimeRange
    warnings: tuple[str, ...]
    elapsed_ms: float
    cached: bool = False


async def run_vql(context: QueryContext, text: str, params: Params) -> VqlResult:
    """Compile and run a query. Raises QueryError, and what the store's ``select`` raises."""
    began_s = time.perf_counter()
    present = context.present()
    try:
        # A hostile text takes milliseconds: compile it in a thread, not on the event loop.
        compiled = await asyncio.to_thread(
            compile_query,
            text,
            now_ms=present.clock_ms,
            newest_ms=present.newest_ms,
            params=params,
            rows_max=context.rows_max,
        )
        table, cached = await _run(context, compiled)
    finally:
        elapsed_s = time.perf_counter() - began_s
        context.telemetry.query_duration.labels("vql").observe(elapsed_s)
    warnings = compiled.query.warnings
    if table.truncated:
        warnings = (*warnings, f"only the first {len(table)} rows are returned: narrow the query or add LIMIT")
    return VqlResult(table, compiled.query.time_range, warnings, round(elapsed_s * 1000, 3), cached)


async def _run(context: QueryContext, compiled: CompiledQuery) -> tuple[Table, bool]:
    """Return the table, and whether it came from the cache. Results are cached if their range can no longer change:
    they depend on the tree and the range alone, where ``now()`` is a number already."""
    query, cache = compiled.query, context.cache
    if compiled.explain:
        return await context.store.explain(query, deadline_s=context.timeout_s), False
    if not cache.enabled or query.time_range.end_ms > context.clock.now_ms() - SETTLE_MS_MIN:
        return (await _select(context, query))[0], False
    key, generation = ("vql", query), cache.generation
    hit: Table | None = cache.get(key)
    if hit is not None:
        return hit, True
    table, nbytes = await _select(context, query)
    cache.put(key, table, nbytes=nbytes, generation=generation, data_end_ms=query.time_range.end_ms)
    return table, False


async def _select(context: QueryContext, query: CheckedSelect) -> tuple[Table, int]:
    """Return the answer of the store, cut after ``ANSWER_NBYTES_MAX``, and its size in bytes."""
    table = await context.store.select(query, deadline_s=context.timeout_s)
    return await asyncio.to_thread(limit_nbytes, table)


def limit_nbytes(table: Table, *, nbytes_max: int = ANSWER_NBYTES_MAX) -> tuple[Table, int]:
    """Return the first rows of a table that fit into ``nbytes_max``, at least one, and their size in bytes."""
    row_nbytes = np.zeros(len(table), np.int64)
    for cells in table.data:
        row_nbytes += np.fromiter(map(_cell_nbytes, cells), np.int64, len(cells))
    ends = np.cumsum(row_nbytes)
    rows = max(1, int(np.searchsorted(ends, nbytes_max, "right")))
    if rows < len(table):
        table = Table(table.columns, tuple(cells[:rows] for cells in table.data), truncated=True)
    return table, int(ends[len(table) - 1]) if len(table) else 0


def _cell_nbytes(cell: object) -> int:
    if isinstance(cell, str):
        return CELL_NBYTES + len(cell)
    if isinstance(cell, dict):
        return CELL_NBYTES + sum(map(len, cell)) + sum(map(len, cell.values())) + MAP_ENTRY_NBYTES * len(cell)
    return CELL_NBYTES
