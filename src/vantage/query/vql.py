"""Queries that people write: compiled, run, and told what was read."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from vantage.core.timerange import TimeRange
from vantage.query.reads import Reads
from vantage.vql.table import Table
from vantage.vql.text import Params, compile_query


@dataclass(frozen=True, slots=True)
class VqlAnswer:
    """A table, the range that was read, and what to tell whoever asked."""

    table: Table
    time_range: TimeRange
    warnings: tuple[str, ...]
    elapsed_ms: float
    cached: bool = False


async def run_vql(reads: Reads, text: str, params: Params) -> VqlAnswer:
    """Answer a text. Raises QueryError, and what the store's ``select`` raises."""
    began_s = time.perf_counter()
    try:
        # A hostile text takes its milliseconds in a thread, not on the event loop.
        compiled = await asyncio.to_thread(
            compile_query, text, now_ms=reads.clock.now_ms(), params=params, rows_max=reads.rows_max
        )
        ask = reads.store.explain if compiled.explain else reads.store.select
        table = await ask(compiled.query, deadline_s=reads.timeout_s)
    finally:
        elapsed_s = time.perf_counter() - began_s
        reads.telemetry.query_duration.labels("vql").observe(elapsed_s)
    warnings = compiled.query.warnings
    if table.truncated:
        warnings = (*warnings, f"only the first {len(table)} rows are given: narrow the query or say LIMIT")
    return VqlAnswer(table, compiled.query.time_range, warnings, round(elapsed_s * 1000, 3))
