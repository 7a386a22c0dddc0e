"""The same answers from ClickHouse's engine as from the columns in memory."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.storage.clickhouse.queries import queries
from tests.support.clickhouse_stores import chdb_store
from tests.support.random_batches import RandomBatches
from tests.support.samples import NOW_MS, MovedClock, a_batch, a_series
from vantage.core.sample import Kind
from vantage.core.sketch import RELATIVE_ERROR
from vantage.storage.memory import MemoryStore
from vantage.storage.ports import TelemetryStore
from vantage.telemetry import Telemetry
from vantage.vql.check import CheckedSelect
from vantage.vql.table import Table
from vantage.vql.text.compile import compile_query

pytest.importorskip("chdb", reason="pip install 'vantage[chdb]'")

SEED = 3


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[tuple[TelemetryStore, TelemetryStore]]:
    """Two stores that were sent the same."""
    clock, chance = MovedClock(), RandomBatches(SEED)
    async with (
        MemoryStore(clock=clock) as memory,
        chdb_store(tmp_path, clock=clock, telemetry=Telemetry(), synchronous="NORMAL") as clickhouse,
    ):
        for _ in range(25):
            batch = chance.batch()
            await memory.write(batch)
            await clickhouse.write(batch)
        yield memory, clickhouse


def differences(query: CheckedSelect, ours: Table, table: Table, *, tolerance: float) -> list[tuple[Any, Any]]:
    """Compare rows in order if some were cut off; otherwise in any order that ORDER BY allows."""
    cut = len(ours) == query.limit
    assert ours.columns == table.columns
    assert ours.truncated == table.truncated
    assert len(ours) == len(table)
    return [
        (actual, other)
        for actual, other in zip(in_order(ours, cut=cut), in_order(table, cut=cut), strict=True)
        if not all(same(a, b, tolerance=tolerance) for a, b in zip(actual, other, strict=True))
    ]


def in_order(table: Table, *, cut: bool) -> list[tuple[Any, ...]]:
    return (
        list(table.rows())
        if cut
        else sorted(
            table.rows(), key=lambda row: [(actual is None, str(type(actual)), one_of(actual)) for actual in row]
        )
    )


def one_of(value: object) -> Any:
    if isinstance(value, dict):
        return sorted(value.items())
    return 0 if value is None else value


def same(actual: object, other: object, *, tolerance: float) -> bool:
    if isinstance(actual, float) and isinstance(other, float):
        return math.isclose(actual, other, rel_tol=tolerance, abs_tol=1e-12)
    return type(actual) is type(other) and actual == other


async def test_every_query_has_the_same_answer_on_both(stores: tuple[TelemetryStore, TelemetryStore]) -> None:
    memory, clickhouse = stores
    wrong = {}
    for name, query in queries().items():
        if name == "sketches":  # of few values the two kinds of sketches interpolate differently: see below
            continue
        result = await clickhouse.select(query, deadline_s=30)
        expected = await memory.select(query, deadline_s=30)
        if different := differences(query, result, expected, tolerance=1e-9):
            wrong[name] = different[:2]
    assert not wrong, f"seed {SEED}"


async def test_explain_estimates_what_is_read_of_the_table(stores: tuple[TelemetryStore, TelemetryStore]) -> None:
    _, clickhouse = stores
    for name in ("aggregates", "spans", "top_tags"):
        result = list((await clickhouse.explain(queries()[name], deadline_s=30)).rows())
        ((tier, chunks, rows),) = result
        assert tier == ("spans" if name == "spans" else "samples")
        assert chunks > 0
        assert rows > 0
    nobody = await clickhouse.explain(queries()["aggregates_of_nothing"], deadline_s=30)
    assert list(nobody.rows()) == [("samples", 0, 0)]


async def test_a_quantile_of_sketches_is_within_their_error(tmp_path: Path) -> None:
    values = np.random.default_rng(SEED).lognormal(3, 1, 5000)
    async with chdb_store(tmp_path, clock=MovedClock(), telemetry=Telemetry()) as store:
        actual = a_series(metric="m1", kind=Kind.HISTOGRAM)
        for sample in np.split(values, 10):  # in several states, which are merged
            await store.write(a_batch(*sample.tolist(), series=actual))
        await store.write(a_batch(1.0, 2.0, series=a_series(metric="m2", kind=Kind.GAUGE)))
        result = dict((await store.select(queries()["sketches"], deadline_s=30)).rows())
    assert result["m1"] == pytest.approx(float(np.median(values)), rel=RELATIVE_ERROR)
    assert result["m2"] is None


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("count() + 9223372036854775807", -(1 << 63) + 1),
        ("0 - 9223372036854775807 - count()", (1 << 63) - 1),
        ("-(0 - 9223372036854775806 - count())", -(1 << 63)),
        ("abs(0 - 9223372036854775806 - count())", -(1 << 63)),
    ],
)
async def test_integers_wrap_around_beyond_64_bits(tmp_path: Path, expression: str, answer: int) -> None:
    query = compile_query(f"SELECT {expression} FROM metrics WHERE timestamp >= 0", now_ms=NOW_MS).query
    clock = MovedClock()
    async with (
        MemoryStore(clock=clock) as memory,
        chdb_store(tmp_path, clock=clock, telemetry=Telemetry()) as ours,
    ):
        for store in (memory, ours):
            await store.write(a_batch(1.0, 2.0))
            assert list((await store.select(query, deadline_s=30)).rows()) == [(answer,)]
