"""The plan of a query: at most twice what is read, and refused when it is too much."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.support.samples import HOUR_MS, NOW_MS, a_series, a_span
from vantage.core.batch import Batch, build_batch
from vantage.core.errors import InputError
from vantage.storage.embedded.store import EmbeddedStore
from vantage.vql.exec.budget import QueryBudget
from vantage.vql.text.compile import compile_query

Open = Callable[..., Any]
DAY_MS = 24 * HOUR_MS
SINCE = "timestamp >= now() - INTERVAL 30 DAY"


async def fill(store: EmbeddedStore) -> None:
    """A sample a quarter of an hour of 40 series over 20 days, the last day of them in the head; some spans."""
    series = [a_series(f"s{n % 4}", f"m{n % 2}", tags={"n": str(n)}) for n in range(40)]
    for start in range(20):
        first = NOW_MS - (20 - start) * DAY_MS
        times = range(first, first + DAY_MS, HOUR_MS // 4)
        await store.write(build_batch([(item, at, float(at % 7)) for at in times for item in series]))
        await store.write(Batch(spans=tuple(a_span(f"t{start}-{n}", start_ms=first + n * HOUR_MS) for n in range(20))))
        if start == 18:
            await store.seal()


def rows_read(store: EmbeddedStore, text: str) -> int:
    """How many samples or spans are decoded for a query."""
    query = compile_query(text, now_ms=NOW_MS).query
    with store._reader(QueryBudget(5)) as source:
        if query.select.table == "spans":
            return sum(len(table) for table in source.spans(query.time_range))
        chosen = source.series().matching(query.series_where)
        chunks = source.samples(query.time_range, chosen, wanted=frozenset())
        return sum(int(np.count_nonzero(chosen[chunk.slot])) for chunk in chunks)


@pytest.mark.parametrize(
    "where",
    [
        f"metrics WHERE {SINCE}",
        f"metrics WHERE {SINCE} AND service_name = 's1'",
        f"metrics WHERE {SINCE} AND tags['n'] = '7'",
        f"metrics WHERE {SINCE} AND metric_name LIKE '%1' AND value > 3",
        f"metrics WHERE {SINCE} AND service_name = 'nobody'",
        "metrics WHERE timestamp >= now() - INTERVAL 2 DAY",
        "metrics WHERE timestamp BETWEEN now() - INTERVAL 10 DAY AND now() - INTERVAL 9 DAY AND metric_name = 'm0'",
        f"spans WHERE {SINCE}",
        "spans WHERE timestamp >= now() - INTERVAL 3 DAY",
    ],
)
async def test_a_plan_is_at_most_twice_what_is_read(opened: Open, where: str) -> None:
    async with opened() as store:
        await fill(store)
        compiled = compile_query(f"EXPLAIN SELECT count() FROM {where}", now_ms=NOW_MS)
        table = await store.explain(compiled.query, deadline_s=5)
        assert [column.name for column in table.columns] == ["tier", "chunks", "rows"]
        assert table.column("tier") == ["sealed", "head"]
        read = rows_read(store, f"SELECT count() FROM {where}")
        assert read <= sum(table.column("rows")) <= 2 * read


async def test_a_plan_separates_sealed_data_and_the_head(opened: Open) -> None:
    async with opened() as store:
        await fill(store)

        async def plan(text: str) -> list[tuple[Any, ...]]:
            return list((await store.explain(compile_query(text, now_ms=NOW_MS).query, deadline_s=5)).rows())

        (_, chunks, sealed), (_, blocks, young) = await plan(f"SELECT value FROM metrics WHERE {SINCE}")
        assert (sealed, young) == (19 * 96 * 40, 96 * 40)
        assert chunks > 1
        assert blocks == 1
        assert await plan("SELECT value FROM metrics WHERE timestamp > now() - INTERVAL 1 HOUR") == [
            ("sealed", 0, 0), ("head", 1, 96 * 40),
        ]  # fmt: skip


async def test_a_query_that_would_read_too_much_is_refused_with_the_figure(opened: Open) -> None:
    async with opened(query_samples_max=10_000) as store:
        await fill(store)

        async def ask(text: str) -> int:
            query = compile_query(text, now_ms=NOW_MS).query
            return int((await store.select(query, deadline_s=5)).column("count()")[0])

        with pytest.raises(InputError, match="would read 76800 samples, at most 10000 are read: narrow"):
            await ask(f"SELECT count() FROM metrics WHERE {SINCE}")
        assert await ask(f"SELECT count() FROM metrics WHERE {SINCE} AND tags['n'] = '7'") == 20 * 96
        assert await ask("SELECT count() FROM spans WHERE timestamp >= 0") == 400
    async with opened(query_samples_max=100) as store:
        query = compile_query("SELECT count() FROM spans WHERE timestamp >= 0", now_ms=NOW_MS).query
        with pytest.raises(InputError, match="would read 400 spans, at most 10 are read"):
            await store.select(query, deadline_s=5)
