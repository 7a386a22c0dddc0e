"""Exemplars of a metric: the traces behind a point, the same on both stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.samples import NOW_MS, MovedClock, a_series
from vantage.core.batch import build_batch
from vantage.core.exemplars import encode_exemplars
from vantage.core.timerange import TimeRange
from vantage.query.context import QueryContext
from vantage.query.exemplars import EXEMPLARS_MAX, find_exemplars
from vantage.query.timeseries_query import TimeseriesQuery
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.memory import MemoryStore
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.telemetry import Telemetry

RANGE = TimeRange(NOW_MS - 10_000, NOW_MS)
GET = a_series(tags={"method": "GET"})
POST = a_series(tags={"method": "POST"})


@pytest.fixture(params=["memory", "embedded"])
async def context(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[QueryContext]:
    clock = MovedClock()
    made: Any = (
        MemoryStore(clock=clock)
        if request.param == "memory"
        else EmbeddedStore(tmp_path / "data", clock=clock, telemetry=Telemetry())
    )
    async with made as store:
        rows = [
            (GET, NOW_MS - 5000, 1.0, "t1", "s1"),
            (GET, NOW_MS - 4000, 9.0, "t2", ""),
            (GET, NOW_MS - 3000, 99.0, "", ""),
            (POST, NOW_MS - 2000, 5.0, "t3", "s3"),
            (POST, NOW_MS - 20_000, 50.0, "early", ""),
            (a_series("other"), NOW_MS - 2000, 70.0, "t4", ""),
        ]
        linked = [i for i, row in enumerate(rows) if row[3]]
        exemplars = encode_exemplars(linked, [rows[i][3] for i in linked], [rows[i][4] for i in linked])
        await store.write(build_batch([row[:3] for row in rows], exemplars=exemplars))
        yield QueryContext(store, MemoryMetadataStore(clock), clock, Telemetry())


async def traces(context: QueryContext, *, limit: int = 10, **other: Any) -> list[str]:
    query = TimeseriesQuery("api", "m", RANGE, **other)
    return [exemplar.trace_id for exemplar in await find_exemplars(context, query, limit=limit)]


async def test_those_of_the_largest_values_come_first_and_only_of_the_range(context: QueryContext) -> None:
    assert await traces(context) == ["t2", "t3", "t1"]
    assert await traces(context, limit=1) == ["t2"]


async def test_tags_select_series(context: QueryContext) -> None:
    assert await traces(context, tags=(("method", "POST"),)) == ["t3"]


async def test_an_exemplar_has_its_time_value_span_and_tags(context: QueryContext) -> None:
    query = TimeseriesQuery("api", "m", RANGE, tags=(("method", "POST"),))
    (exemplar,) = await find_exemplars(context, query, limit=EXEMPLARS_MAX)
    assert (exemplar.time_ms, exemplar.value, exemplar.span_id) == (NOW_MS - 2000, 5.0, "s3")
    assert dict(exemplar.tags) == {"method": "POST"}


async def test_a_metric_without_exemplars_has_none(context: QueryContext) -> None:
    assert await find_exemplars(context, TimeseriesQuery("api", "nothing", RANGE), limit=5) == []
