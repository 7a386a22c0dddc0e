"""Explore: what is shown is what VQL answers; fields that are wrong say so; hostile names are inert."""

import csv
import io
import re
from collections.abc import AsyncIterator
from html import unescape
from typing import Any

import msgspec
import pytest

from tests.support.context_writes import write_batch
from tests.support.pages import Client, page_client, page_context
from tests.support.samples import NOW_MS
from vantage.core.batch import build_batch
from vantage.core.sample import Kind
from vantage.core.series import Series, make_series
from vantage.query.context import QueryContext
from vantage.query.vql import run_vql
from vantage.web.pages import explore

HOSTILE = "<script>alert('x')</script>\u202e\U0001f600\"'"
RANGE = {"start": str(NOW_MS - 600_000), "end": str(NOW_MS)}


@pytest.fixture
async def context() -> AsyncIterator[QueryContext]:
    async with page_context() as context:
        yield context


@pytest.fixture
async def client(context: QueryContext) -> AsyncIterator[Client]:
    async with page_client(context, explore.handlers) as client:
        yield client


def series(service: str, metric: str, kind: Kind = Kind.HISTOGRAM, **tags: str) -> Series:
    return make_series(service=service, environment="test", metric=metric, kind=kind, unit="ms", tags=tags)


async def fill(context: QueryContext) -> None:
    rows = []
    for number in range(200):
        at_ms = NOW_MS - 1000 - number * 2900
        route = ("/pay", "/it's", "/\\")[number % 3]
        rows.append((series("api", "request", route=route, method="GET"), at_ms, 10.0 + number % 7))
        rows.append((series("api", "hits", Kind.COUNTER, route=route), at_ms, 1.0 + number % 2))
        rows.append((series("api", "queue", Kind.GAUGE), at_ms, float(number)))
        rows.append((series("api", "total", Kind.CUMULATIVE), at_ms, 1000.0 - number))
    await write_batch(context, build_batch(rows))


def texts_of(page: str) -> list[str]:
    return [unescape(text) for text in re.findall(r"<code>(SELECT.*?)</code>", page, re.DOTALL)]


def points_of(page: str) -> list[list[float | None]]:
    (points,) = re.findall(r'data-points="(.*?)"', page)
    return msgspec.json.decode(unescape(points))


@pytest.mark.parametrize(
    ("metric", "agg", "by", "tag", "where"),
    [
        ("request", "p95", ["route"], "", ""),
        ("request", "count", [], "route:/it's", ""),
        ("request", "avg", ["method"], "route:/\\", "value > 12 AND tags['method'] = 'GET'"),
        ("request", "rate", [], "", ""),
        ("hits", "rate", ["route"], "", ""),
        ("hits", "sum", ["environment"], "", ""),
        ("queue", "last", [], "", ""),
        ("queue", "max", [], "", ""),
    ],
)
async def test_the_text_of_a_question_has_the_same_numbers(
    client: Client, context: QueryContext, metric: str, agg: str, by: list[str], tag: str, where: str
) -> None:
    await fill(context)
    params = {**RANGE, "a.service": "api", "a.metric": metric, "a.agg": agg, "a.by": by, "a.tag": tag, "a.where": where}
    page = (await client.get("/explore", params=params)).text
    times, *lines = points_of(page)
    drawn = sorted(value for line in lines for value in line if value is not None)
    (text,) = texts_of(page)
    table = (await run_vql(context, text, {})).table
    assert len(table) == len(drawn) > 1
    assert sorted(table.column("value")) == pytest.approx(drawn)
    assert set(table.column("time")) <= {int(at_s * 1000) for at_s in times if at_s is not None}


async def test_the_growth_of_a_running_total_is_drawn_and_has_no_text(client: Client, context: QueryContext) -> None:
    await fill(context)
    params = {**RANGE, "a.service": "api", "a.metric": "total", "a.agg": "rate"}
    page = (await client.get("/explore", params=params)).text
    assert any(value is not None for value in points_of(page)[1])
    assert texts_of(page) == []
    assert "which VQL does not know" in page


async def test_queries_and_their_formula_and_the_time_before(client: Client, context: QueryContext) -> None:
    await fill(context)
    params = {
        **RANGE, "a.service": "api", "a.metric": "hits", "a.agg": "sum", "b.service": "api", "b.metric": "request",
        "b.agg": "count", "formula": "a / b * 100", "compare": "1h",
    }  # fmt: skip
    page = (await client.get("/explore", params=params)).text
    assert len(texts_of(page)) == 2
    _, line = points_of(page)
    there = [value for value in line if value is not None]
    assert len(there) > 1
    assert all(100 <= value <= 200 for value in there)
    for chip in ("a", "b", "formula"):
        assert f'<span class="chip">{chip}</span>' in page
    later = {**params, "start": str(NOW_MS + 3_000_000), "end": str(NOW_MS + 3_600_000)}
    assert '<span class="chip">a before</span>' in (await client.get("/explore", params=later)).text


async def test_a_new_page_asks_for_the_durations_of_the_first_service(client: Client, context: QueryContext) -> None:
    assert "Nothing has been received yet" in (await client.get("/explore")).text
    await write_batch(context, build_batch([(series("api", "http.request.duration"), NOW_MS - 1, 4.0)]))
    page = (await client.get("/explore")).text
    assert 'value="http.request.duration"' in page
    assert "quantile(0.95)(value)" in unescape(page)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"a.where": "value >"}, "condition: "),
        ({"a.tag": "method"}, "is not in the form key:value"),
        ({"a.metric": "queue", "a.agg": "rate"}, "a gauge has no rate"),
        ({"a.by": ["1", "2", "3", "4", "5", "6"]}, "names more than 5 keys"),
        ({"formula": "a + z"}, "names 'z'"),
        ({"formula": "__import__('os')"}, "is no arithmetic"),
        ({"a.metric": "unknown"}, "has sent no metric"),
        ({"a.agg": "unknown"}, "quantile(0.95)(value)"),
        ({"compare": "unknown"}, "The same as VQL"),
    ],
    ids=str,
)
async def test_a_field_that_is_wrong_says_so_in_the_page(
    client: Client, context: QueryContext, changed: dict[str, Any], says: str
) -> None:
    await fill(context)
    response = await client.get("/explore", params={**RANGE, "a.service": "api", "a.metric": "request", **changed})
    assert response.status_code == 200
    assert says in unescape(response.text)


async def test_hostile_names_are_inert_and_told_apart(client: Client, context: QueryContext) -> None:
    rows = [(series(HOSTILE, "m", label=value), NOW_MS - 5000, 1.0) for value in (HOSTILE, "")]
    await write_batch(context, build_batch(rows))
    params = {**RANGE, "a.service": HOSTILE, "a.metric": "m", "a.by": "label", "a.tag": f"label:{HOSTILE}"}
    for filtered in (True, False):
        page = (await client.get("/explore", params=params if filtered else {**params, "a.tag": ""})).text
        assert "<script>alert" not in page
        assert f"label={HOSTILE}" in unescape(page)
        (text,) = texts_of(page)
        assert len((await run_vql(context, text, {})).table) == (1 if filtered else 2)
    assert "label=(none)" in unescape(page)


async def test_points_are_sent_as_a_file(client: Client, context: QueryContext) -> None:
    await fill(context)
    params = {**RANGE, "a.service": "api", "a.metric": "request", "a.agg": "max", "a.by": "route"}
    response = await client.get("/explore/data", params={**params, "format": "csv"})
    assert response.headers["content-disposition"] == 'attachment; filename="vantage.csv"'
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert {msgspec.json.decode(row["tags"])["route"] for row in rows} == {"/pay", "/it's", "/\\"}
    lines = (await client.get("/explore/data", params={**params, "format": "ndjson"})).text.splitlines()
    assert [msgspec.json.decode(line)["value"] for line in lines] == [float(row["value"]) for row in rows]
    for wrong in ({"format": "xls"}, {"formula": "a +"}, {"a.where": "value >"}):
        assert (await client.get("/explore/data", params={**params, **wrong})).status_code == 400
