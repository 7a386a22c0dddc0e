"""The page of a service and its parts: latency, routes in any order, exceptions, slowest traces, versions, processes;
hostile names are inert, and no parameter is a fault of the server's."""

import re
from collections.abc import AsyncIterator
from html import unescape
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.support.context_writes import record_deployment, write_batch
from tests.support.pages import FRAGMENT, Client, page_client, page_context, text_of
from tests.support.samples import NOW_MS, a_series, a_span
from vantage.core.batch import Batch, build_batch
from vantage.core.deployment import DETECTED, Deployment
from vantage.core.errors import BusyError
from vantage.core.sample import Kind
from vantage.core.span import SpanStatus
from vantage.query import runtime
from vantage.query.context import QueryContext
from vantage.query.endpoints import PAGE
from vantage.storage.memory import MemoryStore
from vantage.storage.ports import SpanFilter, SpanList
from vantage.web.pages import service, service_parts

HOSTILE = "<script>alert('x')</script>\u202e\U0001f600\"'"
SERVICE = "<b>\u202e'\"&?#%\\ api"
URL = "/services/" + "".join(f"%{byte:02x}" for byte in SERVICE.encode())
PARTS = tuple(service_parts.PARTS)


@pytest.fixture
async def context() -> AsyncIterator[QueryContext]:
    async with page_context() as context:
        yield context


@pytest.fixture
async def client(context: QueryContext) -> AsyncIterator[Client]:
    async with page_client(context, [*service.handlers, *service_parts.handlers]) as client:
        yield client


async def fill(context: QueryContext, name: str = "api", *, routes: int = 3, count: int = 600) -> None:
    chance = np.random.default_rng(1)
    rows = []
    for number in range(count):
        tags = {"endpoint": f"/r{number % routes}", "method": "GET", "status": "500" if number % 10 == 0 else "200"}
        series = a_series(name, "http.request.duration", Kind.HISTOGRAM, tags=tags, unit="ms", service_version="1")
        rows.append((series, NOW_MS - 1 - int(chance.integers(0, 3_500_000)), float(chance.lognormal(3, 1))))
    await write_batch(context, build_batch(rows))


async def get(client: Client, url: str, *, status: int = 200) -> str:
    response = await client.get(url)
    assert response.status_code == status, response.text[-500:]
    return response.text


def routes_of(page: str) -> list[str]:
    return [unescape(route) for route in re.findall(r'<a class="route"[^>]*>(.*?)</a>', page)]


async def test_the_heatmap_has_every_request_and_says_so_without_a_script(
    client: Client, context: QueryContext
) -> None:
    await fill(context)
    page = await get(client, "/services/api?range=1h")
    (options,) = re.findall(r'data-heatmap="(.*?)"', page)
    (cells,) = re.findall(r'data-cells="(.*?)"', page, re.DOTALL)
    view = msgspec.json.decode(unescape(options))
    lines = cells.split("\n")
    assert view["columns"] <= len(lines) == 61
    counts = [line.split(",")[1:] for line in lines if line]
    assert sum(int(count or 0) for line in counts for count in line) == 600
    assert all(int(line.split(",")[0]) + len(line.split(",")) - 1 <= len(view["edges"]) - 1 for line in lines if line)
    assert view["traces"] == "/traces?service=api"
    table = page[page.index("heat-table") :]
    bands = [int(number) for number in re.findall(r'data-label="Requests">(\d+)<', table[: table.index("</table>")])]
    assert sum(bands) == 600
    (url, *_) = re.findall(r'href="(/traces\?[^"]*max_duration[^"]*)"', table)
    assert "service=api" in unescape(url)
    assert "range=1h" in unescape(url)


@pytest.mark.parametrize(("url", "text"), [
    ("/services/api?range=1h&exact=1", "drawn from durations within 1 %"),
    ("/services/api?range=5m", "ranges of half an hour and more"),
])  # fmt: skip
async def test_a_range_without_cells_says_why(client: Client, context: QueryContext, url: str, text: str) -> None:
    await fill(context)
    page = await get(client, url)
    assert "data-heatmap" not in page
    assert text in text_of(page)


async def test_routes_are_sorted_by_the_url_and_heads_say_so(client: Client, context: QueryContext) -> None:
    await fill(context, routes=5)
    orders = {}
    for sort in ("route", "requests", "errors", "error_rate", "p50", "p95", "p99", "time"):
        for direction in ("asc", "desc"):
            page = await get(client, f"/services/api?range=1h&sort={sort}&dir={direction}")
            assert page.count("aria-sort=") == 1
            assert f'aria-sort="{direction}ending"' in page
            orders[sort, direction] = routes_of(page)
    assert orders["route", "asc"] == [f"/r{number}" for number in range(5)]
    for sort in ("route", "p50", "p95", "p99", "time"):
        assert orders[sort, "asc"] == orders[sort, "desc"][::-1]
    # The link of the column that sorts turns the order round, and a range keeps the order.
    page = await get(client, "/services/api?range=1h&sort=p95&dir=desc")
    assert "?range=1h&sort=p95&dir=asc" in unescape(page)
    assert "?sort=p95&dir=desc&range=24h" in unescape(page)


async def test_a_thousand_routes_are_paged_and_searched(client: Client, context: QueryContext) -> None:
    await fill(context, routes=1000, count=1000)
    seen: list[str] = []
    for number in range(1, 6):
        page = await get(client, f"/services/api?range=1h&sort=route&page={number}")
        routes = routes_of(page)
        assert len(routes) == PAGE
        assert f"Page {number} of 5" in page
        seen += routes
    assert len(set(seen)) == 1000
    page = await get(client, "/services/api?range=1h&route=R99")
    assert sorted(routes_of(page)) == sorted(["/r99", *(f"/r99{digit}" for digit in range(10))])
    assert "11 of 1k" in text_of(page)
    assert "No route contains this text" in await get(client, "/services/api?range=1h&route=nothing")


async def test_routes_lead_to_their_traces_and_to_explore(client: Client, context: QueryContext) -> None:
    await fill(context, routes=1)
    page = unescape(unescape(await get(client, "/services/api?range=1h")))
    assert "/traces?range=1h&service=api&attribute=http.route%3A%2Fr0" in page
    assert "/explore?range=1h&a.service=api&a.metric=http.request.duration&a.agg=p95" in page
    assert "a.tag=endpoint%3A%2Fr0&a.tag=method%3AGET" in page


@pytest.mark.parametrize(
    "query",
    ["sort=<b>", "sort=p95&dir=sideways", "page=-1", "page=9999999999999999999999", "page=%F0%9F%98%80", "page=0",
     "route=%00%01", "route=" + "x" * 5000, "sort=&dir=&page=&route=", "range=%00", "page=٣", "sort=p95&sort=p50"],
)  # fmt: skip
async def test_any_parameter_is_answered_with_the_page(client: Client, context: QueryContext, query: str) -> None:
    await fill(context)
    page = await get(client, f"/services/api?{query}")
    assert "<b>" not in page
    assert ('role="alert"' in page) == any(text in query for text in ("<b>", "sideways", "-1", "99999", "%F0", "٣"))


async def test_the_page_names_its_parts_and_reads_without_a_script(client: Client, context: QueryContext) -> None:
    await fill(context)
    page = await get(client, "/services/api?range=1h")
    for part in PARTS:
        assert f'data-part="/services/api/{part}?range=1h"' in page
        assert f'href="/services/api/{part}?range=1h"' in page
        complete = await get(client, f"/services/api/{part}?range=1h")
        assert complete.startswith("<!doctype html>")
        fragment = (await client.get(f"/services/api/{part}?range=1h", headers=FRAGMENT)).text
        assert "<main" not in fragment
        assert fragment.strip().startswith(("<div", "<section"))
    fixed = await get(client, f"/services/api?start={NOW_MS - 3_600_000}&end={NOW_MS}")
    assert 'data-every=""' in fixed
    assert 'data-every="30"' in page


@pytest.mark.parametrize("url", ["/services/nobody/traces", "/services/api/nothing", "/services/nobody"])
async def test_what_is_not_there_is_not_found(client: Client, context: QueryContext, url: str) -> None:
    await fill(context)
    await get(client, url, status=404)


async def test_exceptions_are_grouped_with_a_stack_trace_and_a_trace(client: Client, context: QueryContext) -> None:
    def failed(number: int) -> Any:
        stack = f'Traceback (most recent call last):\n  File "/srv/app/pay.py", line {number}, in pay\nValueError: no'
        attributes = {"exception.type": "ValueError", "exception.message": "no card", "exception.stacktrace": stack}
        return a_span(f"t{number}", start_ms=NOW_MS - 1000 * number, status=SpanStatus.ERROR, attributes=attributes)

    await write_batch(context, Batch(spans=(failed(2), failed(1), failed(3), a_span("fine"))))
    part = await get(client, "/services/api/exceptions?range=1h")
    text = text_of(part)
    assert "Exceptions of 3 failed spans 3 times ValueError no card srv/app/pay.py in pay , line 1" in text
    assert "1 s ago first 3 s ago" in text
    assert 'href="/traces/t1"' in part
    assert "in pay\nValueError: no" in unescape(part)
    assert "No span of this service failed" in await get(client, "/services/api/exceptions?start=1&end=2")


async def test_recent_and_slowest_traces_stand_side_by_side(client: Client, context: QueryContext) -> None:
    spans = [a_span(f"t{n}", start_ms=NOW_MS - 1000 * n - 1, duration_ms=n, name=f"op {n}") for n in range(1, 30)]
    await write_batch(context, Batch(spans=tuple(spans)))
    part = await get(client, "/services/api/traces?range=1h")
    recent, slowest = part.split("Slowest")
    assert re.findall(r'href="/traces/(t\d+)"', recent) == [f"t{n}" for n in range(1, 11)]
    assert re.findall(r'href="/traces/(t\d+)"', slowest) == [f"t{n}" for n in range(29, 19, -1)]


async def test_a_list_that_is_not_complete_says_so(
    client: Client, context: QueryContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = MemoryStore.list_spans

    async def cut(self: MemoryStore, wanted: SpanFilter) -> SpanList:
        return SpanList((await original(self, wanted)).spans, is_complete=False)

    monkeypatch.setattr(MemoryStore, "list_spans", cut)
    await write_batch(context, Batch(spans=(a_span(status=SpanStatus.ERROR),)))
    assert "of the part of the spans that was read" in await get(client, "/services/api/traces?range=1h")
    assert "of the newest 1 failed span, since" in text_of(await get(client, "/services/api/exceptions?range=1h"))


async def test_versions_are_compared_in_words(client: Client, context: QueryContext) -> None:
    rows = []
    for number in range(2000):
        is_after = number % 2 == 0
        at_ms = NOW_MS - (1 + number * 800 if is_after else 1_800_001 + number * 800)
        tags = {"status": "500" if is_after and number % 8 == 0 else "200"}
        series = a_series(
            "api", "http.request.duration", Kind.HISTOGRAM, tags=tags, unit="ms", service_version="12"[is_after]
        )
        rows.append((series, at_ms, 100.0 if is_after else 50.0))
    await write_batch(context, build_batch(rows))
    await record_deployment(context, Deployment("api", "test", "2", NOW_MS - 1_700_000, DETECTED, "the new one"))
    await record_deployment(context, Deployment("api", "test", "0", NOW_MS - 9_000_000, DETECTED))
    text = text_of(await get(client, "/services/api/deployments?range=1h"))
    assert "2 the new one, 28 min ago ; 28 min each" in text
    assert "0 % → , then 24.9 % +24.9 points more" in text
    assert "points more" in text
    assert "+100 % slower" in text
    assert "Not enough traffic" in text


async def test_processes_are_listed_by_instance(client: Client, context: QueryContext) -> None:
    rows = []
    for worker in ("0", "1"):
        series = a_series(
            "api", "process.memory.rss", Kind.GAUGE, tags={"worker": worker}, unit="bytes", instance=HOSTILE
        )
        rows += [(series, NOW_MS - 15_000 * n - 1, 2e6) for n in range(10)]
    await write_batch(context, build_batch(rows))
    part = await get(client, "/services/api/runtime?range=1h")
    assert f"{HOSTILE} worker 0 2 MB 2 MB" in text_of(part)
    assert "a.metric=process.memory.rss&a.by=instance" in unescape(part)
    assert "<script>alert" not in part


async def test_hostile_names_and_texts_are_inert_everywhere(client: Client, context: QueryContext) -> None:
    tags = {"endpoint": HOSTILE, "method": HOSTILE[:20], "status": "200"}
    series = a_series(SERVICE, "http.request.duration", Kind.HISTOGRAM, tags=tags, unit="ms", service_version=HOSTILE)
    stack = f'  File "{HOSTILE}", line 1, in {HOSTILE}'
    attributes = {"exception.type": HOSTILE, "exception.message": HOSTILE, "exception.stacktrace": stack}
    failed = a_span(service=SERVICE, name=HOSTILE, status=SpanStatus.ERROR, service_version=HOSTILE,
                    attributes=attributes)  # fmt: skip
    rows = [(series, NOW_MS - 60_000 * number - 1, 5.0) for number in range(50)]
    await write_batch(context, build_batch(rows, spans=(failed,)))
    await record_deployment(context, Deployment(SERVICE, "test", HOSTILE, NOW_MS - 60_000, DETECTED, HOSTILE))
    for url in (URL, *(f"{URL}/{part}" for part in PARTS)):
        page = await get(client, f"{url}?range=1h")
        assert "<script>alert" not in page
        assert "<b>" not in page
        assert SERVICE in unescape(page)
    assert HOSTILE in unescape(await get(client, f"{URL}/exceptions?range=1h"))


async def test_a_part_that_cannot_be_read_says_so_and_the_page_stands(
    client: Client, context: QueryContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(*_: object, **__: object) -> object:
        raise BusyError("other queries are under way", retry_after_s=1.0)

    await fill(context)
    monkeypatch.setattr(MemoryStore, "list_spans", busy)
    monkeypatch.setattr(runtime, "timeseries", busy)
    await write_batch(context, build_batch([(a_series("api", "process.threads"), NOW_MS - 1, 1.0)]))
    for part in ("exceptions", "traces", "runtime"):
        assert "are not shown: other queries are under way" in await get(client, f"/services/api/{part}?range=1h")
    assert len(routes_of(await get(client, "/services/api?range=1h"))) == 3


async def test_routes_of_a_live_page_are_read_again_after_some_seconds() -> None:
    handlers = [*service.handlers, *service_parts.handlers]
    async with page_context(cache_nbytes_max=8 << 20) as context, page_client(context, handlers) as client:
        await fill(context, routes=1)
        assert len(routes_of(await get(client, "/services/api?range=1h"))) == 1
        await fill(context, routes=2)
        assert len(routes_of(await get(client, "/services/api?range=1h"))) == 1
        await context.clock.sleep(service.ROUTES_TTL_S + 1)
        assert len(routes_of(await get(client, "/services/api?range=1h"))) == 2


async def test_tabs_share_what_a_part_reads() -> None:
    handlers = [*service.handlers, *service_parts.handlers]
    async with page_context(cache_nbytes_max=8 << 20) as context, page_client(context, handlers) as client:
        url = "/services/api/exceptions?range=1h"
        for number, shown in enumerate((1, 1)):
            span = a_span(f"t{number}", start_ms=NOW_MS - 1000, status=SpanStatus.ERROR)
            await write_batch(context, Batch(spans=(span,)))
            assert f"of {shown} failed" in text_of(await get(client, url))
        await context.clock.sleep(service_parts.PARTS["exceptions"].every_s)
        assert "of 2 failed" in text_of(await get(client, url))
        fixed = f"/services/api/exceptions?start={NOW_MS - 3_600_000}&end={NOW_MS}"
        assert "of 2 failed" in text_of(await get(client, fixed))
