"""Queries as people write them: the rows, the warnings, and what is cached."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.context_writes import write_batch
from tests.support.samples import NOW_MS, MovedClock, a_batch
from vantage.core.errors import QueryError
from vantage.query.context import QueryContext
from vantage.query.vql import limit_nbytes, run_vql
from vantage.storage.memory import MemoryStore
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.telemetry import Telemetry
from vantage.vql.table import Table, TableColumn

FINAL_QUERY = "SELECT count() AS n FROM metrics WHERE timestamp BETWEEN '2026-11-18 10:00:00' AND '2026-11-18 11:00:00'"
FINAL_MS = 1_794_996_000_000 + 1000  # in that hour, which ended six minutes before NOW_MS


@pytest.fixture
async def context() -> AsyncIterator[QueryContext]:
    clock = MovedClock()
    async with MemoryStore(clock=clock) as store:
        metadata = MemoryMetadataStore(clock)
        yield QueryContext(store, metadata, clock, Telemetry(), cache_nbytes_max=1 << 20, rows_max=10)


async def ask(context: QueryContext, text: str) -> tuple[object, bool]:
    answer = await run_vql(context, text, {})
    return answer.table.data[0][0], answer.cached


async def test_final_results_are_cached_for_five_minutes(context: QueryContext) -> None:
    await write_batch(context, a_batch(1.0, at_ms=FINAL_MS))
    assert await ask(context, FINAL_QUERY) == (1, False)
    await write_batch(context, a_batch(2.0, at_ms=FINAL_MS))
    assert await ask(context, FINAL_QUERY) == (1, True)
    assert await ask(context, FINAL_QUERY.replace(" AS n", "")) == (2, False)
    await context.clock.sleep(300)
    assert await ask(context, FINAL_QUERY) == (2, False)


async def test_the_newest_window_is_always_read(context: QueryContext) -> None:
    since = f"SELECT count() AS n FROM metrics WHERE timestamp >= 0 AND timestamp < {NOW_MS - 100_000}"
    await write_batch(context, a_batch(1.0, at_ms=FINAL_MS))
    assert await ask(context, since) == (1, False)
    await write_batch(context, a_batch(2.0, at_ms=FINAL_MS))
    assert await ask(context, since) == (2, False)
    assert await ask(context, "SELECT count() FROM metrics WHERE timestamp >= 0") == (2, False)


async def test_plans_are_not_cached(context: QueryContext) -> None:
    assert (await ask(context, f"EXPLAIN {FINAL_QUERY}"))[1] is False
    assert (await ask(context, f"EXPLAIN {FINAL_QUERY}"))[1] is False


async def test_forgetting_empties_it(context: QueryContext) -> None:
    await ask(context, FINAL_QUERY)
    context.cache.clear()
    assert (await ask(context, FINAL_QUERY))[1] is False


async def test_rows_that_were_cut_are_a_warning(context: QueryContext) -> None:
    await write_batch(context, a_batch(*map(float, range(12))))
    answer = await run_vql(context, "SELECT value FROM metrics WHERE timestamp >= now() - INTERVAL 1 HOUR", {})
    assert answer.table.truncated
    assert answer.warnings == ("only the first 10 rows are returned: narrow the query or add LIMIT",)


async def test_queries_are_timed_whether_or_not_they_are_answered(context: QueryContext) -> None:
    await ask(context, FINAL_QUERY)
    with pytest.raises(QueryError):
        await ask(context, "SELECT valu FROM metrics")
    count = context.telemetry.registry.get_sample_value("vantage_api_query_duration_seconds_count", {"query": "vql"})
    assert count == 2


def test_an_answer_is_cut_where_it_grows_too_large() -> None:
    columns = (TableColumn("tags", "map"), TableColumn("n", "int"))
    tags = {f"tag{i}": "x" * 500 for i in range(30)}
    table = Table(columns, ([tags] * 1000, list(range(1000))))
    cut, nbytes = limit_nbytes(table, nbytes_max=1_000_000)
    assert cut.truncated
    assert 50 < len(cut) < 100
    assert 900_000 < nbytes <= 1_000_000
    assert cut.column("n") == list(range(len(cut)))
    assert len(limit_nbytes(table, nbytes_max=1)[0]) == 1
    assert limit_nbytes(Table(columns, ([], [])))[0] == Table(columns, ([], []))
    complete, nbytes = limit_nbytes(table, nbytes_max=1 << 30)
    assert complete is table
    assert nbytes > 1000 * 30 * 500
