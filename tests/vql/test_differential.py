"""The same queries on the embedded store and on ClickHouse: random data, random VQL, the same answers."""

from __future__ import annotations

import math
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.clickhouse_server import ClickHouseServer, running_clickhouse
from tests.support.clickhouse_stores import store_of
from tests.support.samples import NOW_MS, MovedClock, a_series, a_span
from tests.vql.grammar import DAY_MS, Grammar, Query
from vantage.core.batch import Batch, build_batch
from vantage.core.exemplars import NO_EXEMPLARS, encode_exemplars
from vantage.core.sample import Kind
from vantage.core.span import SpanStatus
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.memory import MemoryStore
from vantage.storage.ports import TelemetryStore
from vantage.telemetry import Telemetry
from vantage.vql.signatures import TEXT_FUNCTIONS
from vantage.vql.text.compile import compile_query
from vantage.vql.tree import Call, Expr, children

pytest.importorskip("chdb", reason="pip install 'vantage[chdb]'")

LONG = bool(os.environ.get("VANTAGE_TEST_LONG"))
QUERIES = 100_000 if LONG else 300
LEAST = 20  # times that each production, node and function must have been asked
SHUFFLES = 40
VALUES = (0.0, -0.0, 1.0, 2.5, 0.1, -7.25, 5e-324, 1e-300, 1e300, -1e300, 123456789.123, 1e15 + 0.3, 7e22, -3.0)
Rows = list[tuple[Any, ...]]


def batches(chance: random.Random) -> Iterator[Batch]:
    """Twenty series over three weeks with gaps, the same moment twice, odd values and texts; traces of spans."""
    colors = ("rot", "Grün %_ä", "", "ß", "it's", "\\")
    series = [
        a_series(
            f"svc{n % 3}", f"m{n % 4}", list(Kind)[n % len(Kind)], unit=("", "s")[n % 2],
            environment=("prod", "tést")[n % 5 == 0],
            tags={"n": str(n % 6), "ü": "ß" * (n % 2), "color": colors[n % 6]},
        )
        for n in range(20)
    ]  # fmt: skip
    for day in range(21):
        rows = []
        start = NOW_MS - (21 - day) * DAY_MS
        for item in chance.sample(series, 14):
            at_ms = start + chance.randint(0, DAY_MS // 2)
            for _ in range(chance.randint(5, 40)):
                at_ms = min(at_ms + chance.choice([0, 1, 1000, 60_000, 900_000]), NOW_MS)
                value = chance.choice(
                    [float(chance.randint(-5, 50)), round(chance.lognormvariate(3, 1), 2)] * 4 + [chance.choice(VALUES)]
                )
                rows.append((item, at_ms, value))
        rows += [(series[n % 20], NOW_MS - chance.randint(0, 4_000_000), float(n % 7)) for n in range(40)]
        linked = sorted(chance.sample(range(len(rows)), len(rows) // 10))
        links = encode_exemplars(
            np.array(linked, np.uint32), [f"t-{n % 50}" for n in linked], [f"s{n % 9}" for n in linked]
        )
        yield build_batch(rows, exemplars=links if linked else NO_EXEMPLARS, spans=tuple(spans(chance, start)))


def spans(chance: random.Random, start: int) -> Iterator[Any]:
    for n in range(30):
        yield a_span(
            f"t-{n % 50}", f"s{n}", "" if n % 3 else f"s{n // 3}", service=f"svc{n % 3}", name=f"op {n % 5}",
            start_ms=min(start + chance.randint(0, DAY_MS), NOW_MS), duration_ms=chance.choice([0, 1, 2.5, 40, 9000]),
            status=chance.choice(list(SpanStatus)), service_version=str(n % 2),
            attributes={"http.route": f"/{n % 3}", "naïve": "🙂" * (n % 3)},
        )  # fmt: skip


def cell_key(cell: Any, *, exact: bool) -> tuple[Any, ...]:
    """Cells of one column in some order, equal ones together."""
    if cell is None:
        return (2,)
    if isinstance(cell, (int, float)):
        return (0, float(cell) if exact else float(f"{cell:.6e}"))
    return (1, str(sorted(cell.items())) if isinstance(cell, dict) else cell)


def in_order(rows: Rows, query: Query) -> Rows:
    """Sorted by what is equal to the last bit; what is not, comes last."""
    places = sorted(range(len(query.exact)), key=lambda index: not query.exact[index])
    return sorted(rows, key=lambda row: [cell_key(row[index], exact=query.exact[index]) for index in places])


SUMS_OVERFLOW_FROM = 1e300  # thousands of such numbers have a mean, and no sum


def difference(ours: Rows, rows: Rows, query: Query) -> str:
    """'' when two answers are the same."""
    if len(ours) != len(rows):
        return f"{len(ours)} rows and {len(rows)} rows"
    if not query.ordered:
        ours, rows = in_order(ours, query), in_order(rows, query)
    for index, (own, other) in enumerate(zip(ours, rows, strict=True)):
        for column, (a, b) in enumerate(zip(own, other, strict=True)):
            same = a == b or (
                not query.exact[column]
                and isinstance(a, (int, float)) and isinstance(b, (int, float)) and math.isclose(a, b, rel_tol=1e-9)
            )  # fmt: skip
            if b is None and isinstance(a, float) and abs(a) >= SUMS_OVERFLOW_FROM and not query.exact[column]:
                continue  # the sum of a mean overflowed: docs/vql.md says so
            if not same or (type(a) is not type(b) and not {type(a), type(b)} <= {int, float}):
                return f"row {index}, column {column}: {a!r} and {b!r}"
    return ""


async def answer(store: TelemetryStore, text: str) -> Rows:
    return list((await store.select(compile_query(text, now_ms=NOW_MS).query, deadline_s=30)).rows())


async def depends_on_order(query: Query, ours: Rows, shuffled: MemoryStore, chance: random.Random) -> bool:
    """Whether additions in another order give another answer: then no two engines need agree on it."""
    for _ in range(SHUFFLES):
        chance.shuffle(shuffled._rows)
        chance.shuffle(shuffled._spans)
        if difference(ours, await answer(shuffled, query.text), query):
            return True
    return False


def counted(text: str, seen: Counter[str]) -> None:
    """Count the nodes and functions of a query's tree."""
    select = compile_query(text, now_ms=NOW_MS).query.select
    left: list[Expr] = [
        *(item.expr for item in select.items),
        *select.group_by,
        *(item.expr for item in select.order_by),
    ]
    left += [part for part in (select.where, select.having) if part is not None]
    while left:
        expr = left.pop()
        seen[type(expr).__name__] += 1
        if isinstance(expr, Call):
            seen[expr.function] += 1
        left += children(expr)


@pytest.fixture(scope="module")
def server() -> Iterator[ClickHouseServer]:
    with running_clickhouse() as server:
        yield server


@pytest.mark.timeout(4 * 3600 if LONG else 300)
@pytest.mark.parametrize("engine", ["chdb", "server"])
async def test_both_engines_give_the_same_answers(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = "chdb:///"
    if engine == "server":
        pytest.importorskip("clickhouse_driver", reason="pip install 'vantage[clickhouse]'")
        server: ClickHouseServer = request.getfixturevalue("server")
        url = server.new_database()
    seed = int(os.environ.get("VANTAGE_TEST_SEED") or time.time_ns() % 2**32)
    print(f"seed {seed}")
    chance, grammar = random.Random(seed), Grammar(seed)
    stored = list(batches(chance))
    shuffled = MemoryStore(clock=MovedClock())
    for batch in stored:
        await shuffled.write(batch)
    seen: Counter[str] = Counter()
    unstable = 0
    async with (
        EmbeddedStore(tmp_path / "embedded", clock=MovedClock(), telemetry=Telemetry()) as embedded,
        store_of(url, tmp_path / "clickhouse", clock=MovedClock(), telemetry=Telemetry()) as clickhouse,
    ):
        for index, batch in enumerate(stored):
            assert await embedded.write(batch)
            assert await clickhouse.write(batch)
            if index in (6, 15):
                await embedded.seal()
        answered = empty = 0
        for _ in range(QUERIES):
            query = grammar.query()
            counted(query.text, seen)
            ours, expected = await answer(embedded, query.text), await answer(clickhouse, query.text)
            if result := difference(ours, expected, query):
                if not await depends_on_order(query, ours, shuffled, chance):
                    pytest.fail(f"seed {seed}, query {answered}, {result}:\n{query.text}")
                unstable += 1
            answered += 1
            empty += not ours
            if answered % 5000 == 0:
                print(f"{answered} queries", flush=True)
    print(f"{answered} queries, {empty} without rows, {unstable} depend on the order of additions")
    print("productions:", dict(sorted(grammar.used.items())))
    print("nodes and functions:", dict(sorted(seen.items())))
    rare = {name: count for name, count in (grammar.used | seen).items() if count < LEAST}
    assert not rare, f"asked too seldom: {rare}"
    spelled = {name for name in TEXT_FUNCTIONS if not any(name in item for item in (*grammar.used, *seen))}
    assert not spelled, f"never asked: {spelled}"
    assert unstable <= QUERIES * 0.05
    assert empty <= QUERIES * 0.5
