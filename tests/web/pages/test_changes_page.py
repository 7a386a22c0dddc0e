"""``/changes`` and ``/api/changes``: what is shown can be made again from the page, and anything has an answer."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import AsyncIterator
from html import unescape
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.context_writes import write_batch
from tests.support.pages import Client, page_client, page_context, text_of
from tests.support.samples import NOW_MS, a_series
from vantage.core.batch import build_batch
from vantage.core.sample import Kind
from vantage.query.context import QueryContext
from vantage.query.vql import run_vql
from vantage.web.api import changes as changes_api
from vantage.web.pages import changes, overview, service

MINUTE_MS = 60_000
CUT_MS = NOW_MS // 300_000 * 300_000 - 1_800_000
WINDOW = f"start={CUT_MS}&end={NOW_MS}"
HOSTILE = "<script>alert('x')<\\script>\u202e\U0001f600\"' OR 1=1"


@pytest.fixture
async def context() -> AsyncIterator[QueryContext]:
    async with page_context() as context:
        yield context


@pytest.fixture
async def client(context: QueryContext) -> AsyncIterator[Client]:
    handlers = [*changes.handlers, *changes_api.handlers, *overview.handlers, *service.handlers]
    async with page_client(context, handlers) as client:
        yield client


async def write_traffic(context: QueryContext, name: str = "api", tag: str = "z1") -> None:
    """Write requests that double at CUT_MS, of which more fail, and a gauge that triples."""
    rows: list[Any] = []
    for number, at_ms in enumerate(range(CUT_MS - 7_200_000, NOW_MS, MINUTE_MS)):
        is_after = at_ms >= CUT_MS
        for status, count in (("200", 100 + number % 7), ("500", 20 + number % 3 if is_after else 1 + number % 2)):
            series = a_series(name, "http.requests", Kind.COUNTER, tags={"status": status})
            rows.append((series, at_ms, float(count * (1 + is_after))))
        value = (30.0 if is_after else 10.0) + number % 3
        rows.append((a_series(name, "queue", tags={"zone": tag}, unit="ms"), at_ms, value))
    await write_batch(context, build_batch(rows))


def snippets_of(part: str) -> list[str]:
    return [unescape(text) for text in re.findall(r"<pre[^>]*><code>(.*?)</code></pre>", part, re.DOTALL)]


def run(snippet: str) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(snippet, {})  # what the page says that people can run
    return output.getvalue().strip()


async def test_each_effect_is_made_again_from_the_page(context: QueryContext, client: Client) -> None:
    await write_traffic(context)
    page = (await client.get(f"/changes?service=api&{WINDOW}")).text
    parts = re.split(r'<details class="moved" data-effect="([\d.]+)" data-p="([^"]+)">', page)[1:]
    shown = list(zip(parts[::3], parts[1::3], parts[2::3], strict=True))
    assert len(shown) >= 4
    for effect, p, part in shown:
        *queries, snippet = snippets_of(part)
        again_effect, again_p = run(snippet).split()
        assert again_effect == effect
        assert float(again_p) == pytest.approx(float(p), rel=0.01)
        points = [float(value) for text in re.findall(r"np\.array\(\[(.*?)\]\)", snippet) for value in text.split(",")]
        for query in queries:
            rows = list((await run_vql(context, query, {})).table.rows())
            assert [value for _, value in rows] == pytest.approx(points), query


async def test_what_moved_is_listed_with_figures_and_links(context: QueryContext, client: Client) -> None:
    await write_traffic(context)
    page = (await client.get(f"/changes?{WINDOW}")).text
    text = text_of(page)
    assert re.search(r"api queue 11 ms → 31 ms \+182 %", text)
    assert re.search(r"api errors 1\.43 % → 16\.9 % ×11\.8", text)
    assert "Choose a service to see which routes, versions and tags moved" in text
    assert f'href="/services/api?start={CUT_MS}' in page
    answer = (await client.get(f"/api/changes?{WINDOW}")).json()
    assert {(change["what"], change["metric"]) for change in answer["changes"]} == {
        ("requests", "http.requests"), ("errors", "http.requests"), ("metric", "queue"),
    }  # fmt: skip
    queue = next(change for change in answer["changes"] if change["metric"] == "queue")
    assert (queue["before"], queue["after"], queue["tag"], queue["is_beyond_chance"]) == (11, 31, None, True)
    assert (answer["moved"], answer["compared"]) == (3, 3)


async def test_hostile_names_are_inert_and_their_queries_run(context: QueryContext, client: Client) -> None:
    await write_traffic(context, HOSTILE, HOSTILE)
    page = (await client.get(f"/changes?service={quote(HOSTILE)}&{WINDOW}")).text
    assert "<script>alert" not in page
    part = page[page.index('class="moved-value"') :]
    rows = list((await run_vql(context, snippets_of(part)[0], {})).table.rows())
    assert len(rows) in (30, 31)


async def test_other_pages_lead_here(context: QueryContext, client: Client) -> None:
    await write_traffic(context)
    assert f'href="/changes?start={CUT_MS}&amp;end={NOW_MS}"' in (await client.get(f"/?{WINDOW}")).text
    page = (await client.get("/services/api?range=1h")).text
    assert 'href="/changes?range=1h&amp;service=api"' in page


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("", 200, "beyond chance"),
        ("against=yesterday", 200, "beyond chance"),
        ("range=7d", 200, "beyond chance"),
        ("range=7d&against=day", 200, "This cannot be compared: start: lies more than a day before end"),
        ("start=0&end=1", 200, "This cannot be compared: start: has nothing before it"),
        ("start=now-90d", 200, "This cannot be compared: start: lies more than 31 days before end"),
        ("start=x", 400, "start: is no time"),
        ("service=nobody", 404, "service: no service"),
    ],
)
async def test_any_parameter_has_an_answer(
    context: QueryContext, client: Client, query: str, status: int, text: str
) -> None:
    await write_traffic(context)
    answer = await client.get(f"/changes?{query}")
    assert answer.status_code == status
    assert text in text_of(answer.text)


@pytest.mark.parametrize(
    ("query", "status"),
    [("", 200), ("service=nobody", 200), ("against=day", 200), ("against=x", 400), ("start=x", 400),
     ("start=now-90d", 400), ("start=now&end=now-1h", 400)],
)  # fmt: skip
async def test_any_query_has_an_answer(client: Client, query: str, status: int) -> None:
    assert (await client.get(f"/api/changes?{query}")).status_code == status
