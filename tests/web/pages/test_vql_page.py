"""The page for VQL: rows, charts, mistakes where they are, and nothing of what was stored as markup."""

import re
from collections.abc import AsyncIterator
from html import unescape

import msgspec
import pytest

from tests.support.context_writes import write_batch
from tests.support.pages import Client, page_client, page_context
from tests.support.samples import NOW_MS, a_series
from vantage.core.batch import build_batch
from vantage.core.sample import Kind
from vantage.query.context import QueryContext
from vantage.query.saved_queries import SavedQueries
from vantage.web.pages import vql

HOSTILE = "<script>alert('x')</script>\u202e\U0001f600\"'"


@pytest.fixture
async def context() -> AsyncIterator[QueryContext]:
    async with page_context() as context:
        yield context


@pytest.fixture
async def client(context: QueryContext) -> AsyncIterator[Client]:
    saved = SavedQueries(context.metadata, context.clock)  # type: ignore[arg-type]
    async with page_client(context, vql.handlers, saved_queries=saved) as client:
        yield client


async def fill(context: QueryContext) -> None:
    for label in (HOSTILE, "plain"):
        series = a_series("api", "m", Kind.GAUGE, tags={"label": label})
        rows = [(series, NOW_MS - 60_000 * number, float(number)) for number in range(1, 6)]
        await write_batch(context, build_batch(rows))


async def show(client: Client, query: str, **params: str) -> str:
    response = await client.get("/vql", params={"query": query, **params})
    assert response.status_code == 200
    return response.text


async def test_rows_are_a_table_and_times_make_a_chart(client: Client, context: QueryContext) -> None:
    await fill(context)
    page = await show(
        client, "SELECT toStartOfMinute(timestamp) AS minute, tags['label'] AS label, max(value) AS most FROM metrics"
        " GROUP BY minute, label ORDER BY minute, label"
    )  # fmt: skip
    assert "10 rows in" in page
    assert "<script>alert" not in page
    (points,) = re.findall(r'data-points="(.*?)"', page)
    (options,) = re.findall(r'data-chart="(.*?)"', page)
    labels = [line["label"] for line in msgspec.json.decode(unescape(options))["lines"]]
    assert sorted(labels) == sorted([HOSTILE, "plain"])
    times, *lines = msgspec.json.decode(unescape(points))
    assert times == sorted(times)
    assert lines == [[5.0, 4.0, 3.0, 2.0, 1.0]] * 2


async def test_every_kind_of_cell_is_shown(client: Client, context: QueryContext) -> None:
    await fill(context)
    page = await show(client, "SELECT timestamp, tags, trace_id, value > 2 AS large, value FROM metrics LIMIT 3")
    assert '<span class="soft">(empty)</span>' in page
    assert "label=plain" in page or unescape(page).count(f"label={HOSTILE}")
    assert "data-points" not in page, "a map is no line"
    empty = await show(client, "SELECT value FROM metrics WHERE service_name = 'nobody'")
    assert "No rows." in empty
    assert "<td" not in (await show(client, ""))


@pytest.mark.parametrize(
    ("query", "at"),
    [
        ("SELECT foo FROM metrics", 7),
        ("SELECT value FROM", None),
        ("SELECT \U0001f600 FROM metrics", 7),
        ("DROP TABLE x", 0),
    ],
    ids=["unknown", "ends early", "emoji", "no select"],
)  # fmt: skip
@pytest.mark.parametrize("explain", ["", "1"], ids=["run", "explain"])
async def test_a_mistake_is_shown_where_it_is(client: Client, query: str, at: int | None, explain: str) -> None:
    page = await show(client, query, explain=explain)
    assert 'role="alert"' in page
    places = re.findall(r'data-wrong-at="(\d+)"', page)
    assert not at or places == [str(at)]
    assert f">{query}</textarea>" in unescape(page)


async def test_explain_says_what_would_be_read(client: Client, context: QueryContext) -> None:
    await fill(context)
    page = await show(client, "SELECT count() FROM metrics", explain="1")
    assert "What would be read" in page
    assert "/vql/data" not in page


async def test_rows_are_sent_as_a_file(client: Client, context: QueryContext) -> None:
    await fill(context)
    query = "SELECT value FROM metrics WHERE tags['label'] = 'plain' ORDER BY value"
    response = await client.get("/vql/data", params={"query": query})
    assert response.text == "value\r\n1.0\r\n2.0\r\n3.0\r\n4.0\r\n5.0\r\n"
    for wrong in ({"query": query, "format": "xls"}, {"query": "SELECT"}, {}):
        assert (await client.get("/vql/data", params=wrong)).status_code == 400


async def test_examples_run(client: Client, context: QueryContext) -> None:
    await fill(context)
    for query in vql.EXAMPLES.values():
        assert "query-problem" not in await show(client, query)
