"""Pages about health: every number on the page of a score can be made again from that page; reasons elsewhere."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import AsyncIterator
from html import unescape
from typing import Any

import pytest

from tests.support.context_writes import write_batch
from tests.support.pages import Client, page_client, page_context, text_of
from tests.support.samples import HOUR_MS, NOW_MS, a_series, a_span
from vantage.core.batch import build_batch
from vantage.core.sample import Kind
from vantage.core.span import SpanStatus
from vantage.query.context import QueryContext
from vantage.query.health import read_health
from vantage.query.vql import run_vql
from vantage.web.pages import health, overview, service

MINUTE_MS = 60_000
HOUR_START_MS = NOW_MS // HOUR_MS * HOUR_MS
HOSTILE = "<script>alert('x')<\\script>\u202e\U0001f600\"' OR 1=1"


@pytest.fixture
async def context() -> AsyncIterator[QueryContext]:
    async with page_context(cache_nbytes_max=10_000_000) as context:
        yield context


@pytest.fixture
async def client(context: QueryContext) -> AsyncIterator[Client]:
    async with page_client(context, [*health.handlers, *overview.handlers, *service.handlers]) as client:
        yield client


async def write_service(context: QueryContext, name: str = "api", *, unit: str = "ms", failed: float = 24.0) -> None:
    """Write twelve hours, and a quarter of an hour with failures, slower, in minutes of which four are empty."""
    factor = {"ms": 1.0, "s": 1e-3}[unit]
    good, bad = (a_series(name, "http.requests", Kind.COUNTER, tags={"status": code}) for code in ("200", "503"))
    times = a_series(name, "http.request.duration", Kind.HISTOGRAM, unit=unit)
    rows: list[Any] = []
    for ago in range(1, 13):
        at_ms = HOUR_START_MS - ago * HOUR_MS + 1
        rows += [(good, at_ms, 3600.0 * (9 + ago % 3)), (times, at_ms, (180.0 + ago) * factor)]
    for ago in (0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13):
        at_ms = NOW_MS - ago * MINUTE_MS - 1
        rows += [(good, at_ms, 576.0), (bad, at_ms, failed)]
        rows += [(times, at_ms, (100.0 + 10 * n) * factor) for n in range(15)]
    await write_batch(context, build_batch(rows))


def panels_of(page: str) -> dict[str, str]:
    parts = re.split(r'<section class="panel" id="\w+" data-factor="(\w+)"', page)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def snippets_of(panel: str) -> list[str]:
    return [unescape(text) for text in re.findall(r"<pre[^>]*><code>(.*?)</code></pre>", panel, re.DOTALL)]


def run(snippet: str) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(snippet, {})  # what the page says that people can run
    return output.getvalue().strip()


@pytest.mark.parametrize("unit", ["ms", "s"])
async def test_each_number_is_made_again_from_the_page(context: QueryContext, client: Client, unit: str) -> None:
    await write_service(context, unit=unit)
    page = (await client.get("/services/api/health")).text
    result = await read_health(context, "api")
    panels = panels_of(page)
    assert list(panels) == ["request_rate", "error_rate", "response_time", "availability"]
    by_factor: dict[str, list[list[Any]]] = {}
    for name, panel in panels.items():
        factor = next(item for item in result.health.factors if item.name == name)
        assert factor.score is not None
        assert f">{factor.score}</strong>" in panel
        *queries, snippet = snippets_of(panel)
        assert run(snippet) == str(factor.score), snippet
        by_factor[name] = [list((await run_vql(context, query, {})).table.rows()) for query in queries]
    window = result.window
    assert by_factor["request_rate"][0] == [(window.requests,)]
    rates = [rate for _, rate in by_factor["request_rate"][1]]
    assert rates == pytest.approx(result.hours.rate.tolist())
    ((requests, failed),) = by_factor["error_rate"][0]
    assert 100 * failed / requests == pytest.approx(result.health.factor("error_rate").value)
    ((p95_ms, durations),) = by_factor["response_time"][0]
    assert (p95_ms, durations) == (pytest.approx(window.p95_ms, rel=0.02), window.durations)
    assert [value for _, value in by_factor["response_time"][1]] == pytest.approx(
        result.hours.p95_ms.tolist(), rel=0.011
    )
    assert len(by_factor["availability"][0]) == int((window.units.requests > 0).sum())
    total = snippets_of(page.split('data-factor="request_rate"')[0])
    assert run(total[-1]) == str(result.health.score)


async def test_the_score_is_the_sum_that_the_page_shows(context: QueryContext, client: Client) -> None:
    await write_service(context)
    text = text_of((await client.get("/services/api/health?weights=error_rate:3,availability:1")).text)
    assert "0.75 × 38 + 0.25 × 31 = 36.25" in text
    assert "no score" not in text


async def test_a_cap_is_explained(context: QueryContext, client: Client) -> None:
    await write_service(context, failed=500.0)
    text = text_of((await client.get("/services/api/health")).text)
    assert "At most 40 above the worst of request rate, error rate and availability: error rate 0 + 40 = 40." in text


async def test_without_data_it_says_so(context: QueryContext, client: Client) -> None:
    await write_batch(context, build_batch([(a_series("gauges"), NOW_MS - 1000, 1.0)]))
    page = await client.get("/services/gauges/health")
    assert page.status_code == 200
    assert "There is nothing to judge" in text_of(page.text)
    assert (await client.get("/services/nobody/health")).status_code == 404


async def test_spans_are_explained_with_spans(context: QueryContext, client: Client) -> None:
    spans = [
        a_span(f"t{n}", f"s{n}", service="traced", start_ms=NOW_MS - 1000 * n - 1, duration_ms=50,
               status=SpanStatus.ERROR if n % 10 == 0 else SpanStatus.OK)
        for n in range(200)
    ]  # fmt: skip
    await write_batch(context, build_batch((), spans=tuple(spans)))
    panels = panels_of((await client.get("/services/traced/health")).text)
    query, snippet = snippets_of(panels["error_rate"])
    assert list((await run_vql(context, query, {})).table.rows()) == [(200, 20)]
    assert run(snippet) == "19"


async def test_hostile_names_are_inert_and_their_queries_run(context: QueryContext, client: Client) -> None:
    name = HOSTILE.replace("/", "|")
    await write_service(context, name)
    path = "/services/" + "".join(f"%{byte:02x}" for byte in name.encode())
    page = (await client.get(f"{path}/health")).text
    assert "<script>alert" not in page
    query, _ = snippets_of(panels_of(page)["error_rate"])
    assert list((await run_vql(context, query, {})).table.rows()) == [(7200, 288)]
    for url in ("/", path):
        assert "<script>alert" not in (await client.get(url)).text


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("window=1s", "window: must last"),
        ("window=x", "window: is not a duration"),
        ("end=x", "end: is no time"),
        ("weights=x", "weights: has no factor"),
        ("environment=x", "environment: no service"),
        ("end=9999-12-31", ""),
        ("end=0", ""),
        ("end=1", ""),
        ("window=7d", ""),
    ],
)
async def test_any_parameter_has_an_answer(context: QueryContext, client: Client, query: str, text: str) -> None:
    await write_service(context)
    answer = await client.get(f"/services/api/health?{query}")
    assert answer.status_code == (200 if not text else 404 if "no service" in text else 400)
    assert text in text_of(answer.text)


async def test_the_overview_has_scores_and_reasons(context: QueryContext, client: Client) -> None:
    await write_service(context)
    await write_batch(context, build_batch([(a_series("gauges"), NOW_MS - 1000, 1.0)]))
    page = (await client.get("/?range=1h")).text
    text = text_of(page)
    assert 'href="/services/api/health"' in page
    assert re.search(r"api test Available in \d+ of \d+ minutes: 4 without requests\. \d+ degraded", text)
    assert "gauges" in text
    assert "– unknown" in text


async def test_the_overview_waits_little_for_scores(
    context: QueryContext, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write_service(context)
    monkeypatch.setattr(health, "WAIT_S", 0.0)
    page = await client.get("/?range=1h")
    assert "api test – 8.78/s" in text_of(page.text)
    monkeypatch.undo()
    assert "degraded" in (await client.get("/?range=1h")).text


async def test_the_overview_of_the_past_is_judged_at_its_end(context: QueryContext, client: Client) -> None:
    await write_service(context)
    end_ms = HOUR_START_MS - 6 * HOUR_MS
    page = (await client.get(f"/?start={end_ms - HOUR_MS}&end={end_ms}")).text
    assert f'href="/services/api/health?end={end_ms}"' in page
    assert "unhealthy" in text_of(page)


async def test_the_page_of_a_service_shows_the_factors(context: QueryContext, client: Client) -> None:
    await write_service(context)
    text = text_of((await client.get("/services/api?range=1h")).text)
    for part in ("Request rate", "4 % of 7.2k requests failed.", "How this came about", "Scores of 24 hours"):
        assert part in text
