"""The same answers from ClickHouse's engine as from the columns in memory."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.storage.clickhouse.queries import queries
from tests.support.chance import Chance
from tests.support.world import MovedClock
from vantage.core.sketch import RELATIVE_ERROR
from vantage.storage.clickhouse.store import ClickHouseStore
from vantage.storage.memory import MemoryStore
from vantage.storage.ports import TelemetryStore
from vantage.telemetry import Telemetry
from vantage.vql.table import Table

pytest.importorskip("chdb", reason="pip install 'vantage[chdb]'")

SEED = 3


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[tuple[TelemetryStore, TelemetryStore]]:
    """Two stores that were sent the same."""
    clock, chance = MovedClock(), Chance(SEED)
    async with (
        MemoryStore(clock=clock) as memory,
        ClickHouseStore(tmp_path, clock=clock, telemetry=Telemetry()) as clickhouse,
    ):
        for _ in range(25):
            batch = chance.batch()
            await memory.write(batch)
            await clickhouse.write(batch)
        yield memory, clickhouse


def differences(ours: Table, theirs: Table, *, tolerance: float) -> list[tuple[Any, Any]]:
    assert ours.columns == theirs.columns
    assert ours.truncated == theirs.truncated
    assert len(ours) == len(theirs)
    return [
        (one, other)
        for one, other in zip(ours.rows(), theirs.rows(), strict=True)
        if not all(same(a, b, tolerance=tolerance) for a, b in zip(one, other, strict=True))
    ]


def same(one: object, other: object, *, tolerance: float) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=tolerance, abs_tol=1e-12)
    return type(one) is type(other) and one == other


async def test_every_query_has_the_same_answer_on_both(stores: tuple[TelemetryStore, TelemetryStore]) -> None:
    memory, clickhouse = stores
    wrong = {}
    for name, query in queries().items():
        found = await clickhouse.select(query, deadline_s=30)
        wanted = await memory.select(query, deadline_s=30)
        # Both sketches are within their error of the value, and so of each other within the sum.
        tolerance = 2 * RELATIVE_ERROR if name == "sketches" else 1e-9
        if different := differences(found, wanted, tolerance=tolerance):
            wrong[name] = different[:2]
    assert not wrong, f"seed {SEED}"


async def test_explain_tells_what_is_read_of_the_table(stores: tuple[TelemetryStore, TelemetryStore]) -> None:
    memory, clickhouse = stores
    for name in ("aggregates", "spans", "top_tags"):
        found = list((await clickhouse.explain(queries()[name], deadline_s=30)).rows())
        ((tier, chunks, rows),) = found
        assert tier == ("spans" if name == "spans" else "samples")
        assert chunks > 0
        assert rows > 0
    nobody = await clickhouse.explain(queries()["aggregates_of_nothing"], deadline_s=30)
    assert list(nobody.rows()) == [("samples", 0, 0)]
