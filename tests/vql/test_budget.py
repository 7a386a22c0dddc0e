"""Time and memory of a query hold inside its operations, whatever they work on."""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

from tests.support.samples import NOW_MS, a_series
from vantage.core.arrays import Mask
from vantage.core.errors import BusyError, InputError, StoreTimeout, StoreUnavailable
from vantage.core.exemplars import encode_exemplars
from vantage.core.sample_columns import SampleColumns
from vantage.core.timerange import TimeRange
from vantage.vql.exec.budget import VALUES_PER_CHECK, QueryBudget, QueryMemory
from vantage.vql.exec.execute import execute
from vantage.vql.exec.series_table import SeriesColumns
from vantage.vql.exec.source import ScanEstimate
from vantage.vql.table import Table
from vantage.vql.text.compile import compile_query

ROWS = 8 * VALUES_PER_CHECK
CHUNK = VALUES_PER_CHECK
LIKED = 12 if os.environ.get("VANTAGE_TEST_LONG") else 4
QUANTILES = ", ".join(f"quantile(0.{i:02})(value + {i})" for i in range(1, 60))
LIKES = " OR ".join(f"trace_id LIKE '%{i}%zz{i}'" for i in range(LIKED))
# Each works on ROWS distinct texts or numbers.
DEAR = {
    "LIKE": "SELECT count() FROM metrics WHERE trace_id LIKE '%0%1%2%3%4%zz'",
    f"{LIKED} times LIKE": f"SELECT count() FROM metrics WHERE {LIKES}",
    "lower and upper": "SELECT count() FROM metrics WHERE lower(upper(lower(upper(trace_id)))) LIKE '%zz'",
    "concat": "SELECT max(concat(trace_id, lower(trace_id))) FROM metrics",
    "grouped by texts": "SELECT concat(trace_id, 'x') AS x, count() FROM metrics GROUP BY x ORDER BY x LIMIT 5",
    "uniq": "SELECT uniq(trace_id), uniq(concat(trace_id, 'a')), uniq(concat(trace_id, 'b')) FROM metrics",
    "sorted by texts": "SELECT trace_id FROM metrics ORDER BY trace_id DESC LIMIT 5",
    "IN": "SELECT count() FROM metrics WHERE trace_id IN ('a', 'b')",
    "compared": "SELECT count() FROM metrics WHERE trace_id > 'a' AND concat(trace_id, '1') < concat(trace_id, '2')",
    "CASE": "SELECT max(coalesce(CASE WHEN value > 5 THEN trace_id END, concat(trace_id, 'a'))) FROM metrics",
    "argMax": "SELECT argMax(trace_id, value) FROM metrics",
    "59 quantiles": f"SELECT {QUANTILES} FROM metrics",
    "everything": "SELECT * FROM metrics ORDER BY value LIMIT 10000",
    "grouped by numbers": "SELECT value, count() FROM metrics GROUP BY value ORDER BY 2 DESC LIMIT 5",
    "many groups": "SELECT value, quantile(0.5)(value), stddevPop(value), uniq(value) FROM metrics GROUP BY value",
}


class OneSeries:
    """ROWS samples, each with another trace id."""

    def __init__(self) -> None:
        self._series = SeriesColumns([a_series()])

    def rows_upper_bound(self, *_: Any) -> int:
        return ROWS

    def plan(self, *_: Any) -> list[ScanEstimate]:
        return []

    def series(self) -> SeriesColumns:
        return self._series

    def samples(self, _range: TimeRange, _slots: Mask, *, wanted: frozenset[str]) -> Iterator[SampleColumns]:
        for start in range(0, ROWS, CHUNK):
            number = np.arange(start, start + CHUNK)
            ids = [f"{i:032x}" for i in number.tolist()] if "exemplars" in wanted else []
            yield SampleColumns(
                np.zeros(CHUNK, np.uint32),
                NOW_MS - number,
                (number * 7919 % 1_000_000).astype(np.float64),
                encode_exemplars(np.arange(len(ids)), ids, ids),
            )

    def partials(self, *_: Any, **__: Any) -> Any:
        return iter(())

    def spans(self, _range: TimeRange) -> Any:
        return iter(())


SOURCE = OneSeries()


def run(text: str, budget: QueryBudget) -> Table:
    return execute(compile_query(text, now_ms=NOW_MS + 5000).query, SOURCE, budget)


class CountedBudget(QueryBudget):
    checks = 0

    def check(self) -> None:
        self.checks += 1
        super().check()


@pytest.mark.parametrize(
    "name", [name for name in DEAR if "quantile" not in name and "numbers" not in name and "groups" not in name]
)
def test_every_operation_on_texts_looks_at_the_time(name: str) -> None:
    plain, dear = CountedBudget(60), CountedBudget(60)
    run("SELECT count() FROM metrics", plain)
    run(DEAR[name], dear)
    assert dear.checks > plain.checks + ROWS // VALUES_PER_CHECK


@pytest.mark.parametrize("name", DEAR)
def test_a_query_ends_soon_after_its_time(name: str) -> None:
    """Whenever the time is over, the next look ends the query."""
    counted = CountedBudget(60)
    run(DEAR[name], counted)
    for share in (0.2, 0.5, 0.8):
        looks = iter(range(1 << 30))
        budget = QueryBudget(int(counted.checks * share), monotonic_s=lambda looks=looks: next(looks))
        with pytest.raises(StoreTimeout):
            run(DEAR[name], budget)
        assert next(looks) <= int(counted.checks * share) + 3


def test_a_store_that_closes_ends_its_queries() -> None:
    with pytest.raises(StoreUnavailable, match="stopping"):
        run(DEAR["LIKE"], QueryBudget(60, stopping=lambda: True))


@pytest.mark.parametrize("name", DEAR)
def test_a_query_stays_within_its_memory_or_is_refused(name: str) -> None:
    refused = 0
    for nbytes_max in (3 << 20, 8 << 20, 48 << 20):
        gc.collect()
        tracemalloc.start()
        try:
            run(DEAR[name], QueryBudget(600, nbytes_max=nbytes_max))
        except InputError:
            refused += 1
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 1.5 * nbytes_max, (name, nbytes_max)
    assert refused < 3, "refused although there is memory for it"


@pytest.mark.parametrize("name", DEAR)
def test_queries_together_stay_within_their_memory(name: str) -> None:
    """What others take is not there; whatever becomes of a query, it gives all of its memory back."""
    memory = QueryMemory(200 << 20)
    memory.take(199 << 20)
    for left, outcome in ((0, pytest.raises(BusyError)), (198 << 20, nullcontext())):
        memory.give(left)
        budget = QueryBudget(60, memory=memory)
        with outcome:
            run(DEAR[name], budget)
        budget.close()
        assert memory.nbytes == (199 << 20) - left


def test_vectors_are_forgotten_after_their_last_use() -> None:
    once = "SELECT quantile(0.5)(value + 1) FROM metrics"
    nbytes = next(n for n in range(1 << 20, 1 << 30, 1 << 18) if _fits(once, n))
    assert _fits(DEAR["59 quantiles"], nbytes + 59 * 1024)


def test_columns_that_a_query_does_not_read_take_no_memory() -> None:
    assert _fits("SELECT count() FROM metrics", 5 * ROWS)  # the series of each row
    assert not _fits("SELECT sum(value) FROM metrics", 12 * ROWS)


def _fits(text: str, nbytes_max: int) -> bool:
    try:
        run(text, QueryBudget(60, nbytes_max=nbytes_max))
    except InputError:
        return False
    return True
