"""The map: nodes and edges as the script gets them, the same as a table, hostile names, and nothing to draw."""

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
from vantage.core.span import Span, SpanKind, SpanStatus
from vantage.query.context import QueryContext
from vantage.web.pages import service_map

HOSTILE = "<script>alert('x')<\\script>\u202e\U0001f600\"'"


@pytest.fixture
async def context() -> AsyncIterator[QueryContext]:
    async with page_context() as context:
        yield context


@pytest.fixture
async def client(context: QueryContext) -> AsyncIterator[Client]:
    async with page_client(context, service_map.handlers) as client:
        yield client


def span_of(trace_id: str, service: str, kind: SpanKind, **other: Any) -> Span:
    start_ns = (NOW_MS - 60_000) * 1_000_000
    span_id = "a" if kind is SpanKind.CLIENT else "b"
    parent = "" if kind is SpanKind.CLIENT else "a"
    return Span(trace_id, span_id, service, "op", start_ns, 10_000_000, parent_span_id=parent, kind=kind, **other)


def call(number: int, caller: str, callee: str, *, failed: bool = False) -> list[Span]:
    trace_id, status = f"t-{abs(hash((caller, callee)))}-{number}", SpanStatus.ERROR if failed else SpanStatus.OK
    server = span_of(trace_id, callee, SpanKind.SERVER, status=status)
    return [span_of(trace_id, caller, SpanKind.CLIENT), server]


def graph_of(page: str) -> Any:
    (graph,) = re.findall(r'data-map="(.*?)"', page)
    return msgspec.json.decode(unescape(graph))


async def test_calls_are_edges_with_the_health_of_their_services(client: Client, context: QueryContext) -> None:
    spans = [span for n in range(10) for span in call(n, "web", "shop") + call(n, "shop", "pay", failed=n < 5)]
    database = span_of("t-db", "pay", SpanKind.CLIENT, attributes={"db.system.name": "postgresql"})
    await write_batch(context, build_batch((), spans=(*spans, database)))
    page = (await client.get("/map?range=1h")).text
    graph = graph_of(page)
    levels = {node["name"]: node["level"] for node in graph["nodes"].values()}
    assert levels == {"web": "idle", "shop": "ok", "pay": "bad", "postgresql": "external"}
    edges = {(edge["from"], edge["to"]): edge for edge in graph["edges"]}
    assert edges["service:shop", "service:pay"]["level"] == "bad"
    assert edges["service:web", "service:shop"]["text"].split(",")[1:] == [" 0 % errors", " 10 ms"]
    assert edges["service:pay", "external:postgresql"]["kind"] == "external"
    assert graph["nodes"]["service:shop"]["href"] == "/services/shop?range=1h"
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))
    assert "shop → pay" in text
    assert "50 %" in text


async def test_hostile_names_are_inert(client: Client, context: QueryContext) -> None:
    await write_batch(context, build_batch((), spans=tuple(call(0, HOSTILE, "shop"))))
    page = (await client.get("/map?range=1h")).text
    assert "<script>alert" not in page
    assert HOSTILE in {node["name"] for node in graph_of(page)["nodes"].values()}


async def test_more_services_than_can_be_read_are_left_out_and_counted(client: Client, context: QueryContext) -> None:
    spans = [span for n in range(service_map.NODES_MAX + 9) for span in call(n, f"caller-{n:03}", "shop")]
    await write_batch(context, build_batch((), spans=tuple(spans)))
    page = (await client.get("/map?range=1h")).text
    assert len(graph_of(page)["nodes"]) == service_map.NODES_MAX
    assert "10 more are not drawn" in page


async def test_without_calls_it_says_what_makes_them(client: Client, context: QueryContext) -> None:
    page = (await client.get("/map")).text
    assert "No calls between services in this range" in page
    assert "data-map" not in page
