"""``/health/score`` and ``/health/history``: the shape of the answers, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.context_writes import write_batch
from tests.support.pages import Client, page_client, page_context
from tests.support.samples import NOW_MS, a_series
from vantage.core.batch import build_batch
from vantage.core.sample import Kind
from vantage.query.context import QueryContext
from vantage.web.api import health_score


@pytest.fixture
async def context() -> AsyncIterator[QueryContext]:
    async with page_context() as context:
        requests = a_series("my-api", "http.requests", Kind.COUNTER, tags={"status": "200"})
        failed = a_series("my-api", "http.requests", Kind.COUNTER, tags={"status": "500"})
        times = range(NOW_MS - 600_000, NOW_MS, 60_000)
        rows = [(requests, at_ms, 998.0) for at_ms in times] + [(failed, at_ms, 2.0) for at_ms in times]
        await write_batch(context, build_batch(rows))
        yield context


@pytest.fixture
async def client(context: QueryContext) -> AsyncIterator[Client]:
    async with page_client(context, health_score.handlers) as client:
        yield client


async def test_the_score_with_its_factors(client: Client) -> None:
    answer = (await client.get("/health/score/my-api")).json()
    assert (answer["service_name"], answer["health_score"], answer["status"]) == ("my-api", 98, "HEALTHY")
    factors = answer["factors"]
    assert list(factors) == ["request_rate", "error_rate", "response_time", "availability"]
    assert factors["error_rate"] == {
        "score": 95, "value": pytest.approx(0.2), "weight": 0.25, "detail": "0.2 % of 10k requests failed.",
        "baseline": None,
    }  # fmt: skip
    assert factors["response_time"]["score"] is None
    assert factors["availability"]["value"] == 100
    assert answer["reason"] == factors["error_rate"]["detail"]
    assert answer["end"] - answer["start"] >= 900_000


async def test_all_services_the_worst_first(context: QueryContext, client: Client) -> None:
    failed = a_series("bad", "http.requests", Kind.COUNTER, tags={"status": "500"})
    rows = [(failed, NOW_MS - 60_000, 9.0), (a_series("gauges"), NOW_MS - 60_000, 1.0)]
    await write_batch(context, build_batch(rows))
    answer = (await client.get("/health/score")).json()
    scores = [(service["service_name"], service["health_score"]) for service in answer["services"]]
    assert scores == [("bad", 0), ("my-api", 98), ("gauges", None)]
    assert answer["omitted"] == 0
    assert (await client.get("/health/score?window=1s")).status_code == 400


async def test_history(client: Client) -> None:
    answer = (await client.get("/health/history/my-api?start=now-1h&step=15m")).json()
    assert answer["step"] == 900
    assert [point["status"] for point in answer["points"][:3]] == ["UNKNOWN"] * 3
    assert answer["points"][-1]["health_score"] == 98
    automatic = (await client.get("/health/history/my-api")).json()
    assert automatic["step"] == 900
    assert len(automatic["points"]) in (96, 97)


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/health/score/nobody", 404, "service: no service"),
        ("/health/score/my-api?environment=x", 404, "environment: no service"),
        ("/health/score/my-api?window=1s", 400, "window: must last"),
        ("/health/score/my-api?window=soon", 400, "window: is not a duration"),
        ("/health/score/my-api?window=999999999999w", 400, "window: must last"),
        ("/health/score/my-api?end=yesterday", 400, "end: is no time"),
        ("/health/score/my-api?weights=speed:1", 400, "weights: has no factor"),
        ("/health/history/my-api?step=7m", 400, "step: must be a multiple"),
        ("/health/history/my-api?start=1970-01-01&step=5m", 400, "step: makes more than"),
        ("/health/history/my-api?start=1970-01-01", 400, "start: lies too far"),
        ("/health/history/my-api?start=now&end=now-1h", 400, "end: must lie after start"),
        ("/health/history/my-api?start=now-1h&end=9999-12-31", 400, "start: lies too far"),
        ("/health/history/nobody", 404, "service: no service"),
    ],
)
async def test_what_is_refused(client: Client, path: str, status: int, text: str) -> None:
    answer = await client.get(path)
    assert answer.status_code == status
    assert text in " ".join(answer.text.split()).replace("&#39;", "'")
