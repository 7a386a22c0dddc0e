"""The page of one trace: lines, details, errors, search, flame graph, and all of its state in the URL."""

import itertools
import random
import re
from collections.abc import AsyncIterator
from html import unescape
from typing import Any

import msgspec
import pytest
from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide
from litestar.testing import AsyncTestClient

from tests.support.context_writes import write_batch
from tests.support.samples import NOW_MS, MovedClock
from vantage.core.batch import build_batch
from vantage.core.span import Span, SpanKind, SpanStatus
from vantage.query.context import QueryContext
from vantage.query.trace_window import LINES_MAX
from vantage.resources import static_dir, templates_dir
from vantage.storage.memory import MemoryStore
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.telemetry import Telemetry
from vantage.web.pages import trace
from vantage.web.render import Renderer
from vantage.web.views import SharedViews

Client = AsyncTestClient[Litestar]
HOSTILE = "<script>alert('x')</script>\u202e\U0001f600\"'"
TRACEBACK = "Traceback (most recent call last):\n  File \"<app>.py\", line 3, in pay\nKeyError: 'k'\n"
ELEMENTS_MAX = 4000


@pytest.fixture
async def context() -> AsyncIterator[QueryContext]:
    clock = MovedClock()
    async with MemoryMetadataStore(clock) as metadata:
        yield QueryContext(MemoryStore(clock=clock), metadata, clock, Telemetry(), cache_nbytes_max=32 << 20)


@pytest.fixture
async def client(context: QueryContext) -> AsyncIterator[Client]:
    renderer = Renderer(templates=templates_dir(), static=static_dir(), clock=context.clock)
    app = Litestar(
        trace.handlers,
        dependencies={"context": Provide(lambda: context, sync_to_thread=False)},
        state=State({"renderer": renderer, "views": SharedViews(itertools.count().__next__)}),
        openapi_config=None,
    )
    async with AsyncTestClient(app) as client:
        yield client


def span(span_id: str, parent: str = "", *, start_ms: float = 0, duration_ms: float = 50, **other: Any) -> Span:
    settings = {"name": f"op {span_id}", "kind": SpanKind.SERVER, "service_name": "api", **other}
    return Span(
        trace_id="t-1",
        span_id=span_id,
        parent_span_id=parent,
        start_ns=(NOW_MS - 600_000) * 1_000_000 + int(start_ms * 1_000_000),
        duration_ns=int(duration_ms * 1_000_000),
        **settings,
    )


async def page_of(client: Client, query: str = "") -> str:
    answer = await client.get(f"/traces/t-1{query}")
    assert answer.status_code == 200
    return answer.text


async def fill(context: QueryContext, *spans: Span) -> None:
    await write_batch(context, build_batch([], spans=spans))


def large(count: int, seed: int = 1) -> list[Span]:
    chance = random.Random(seed)
    return [
        span(
            f"s{number}",
            f"s{chance.randrange(max(0, number - 50), number)}" if number else "",
            start_ms=number / 10,
            duration_ms=chance.randint(1, 500),
            status=SpanStatus.ERROR if number in (700, 1500) else SpanStatus.OK,
        )
        for number in range(count)
    ]


def text_of(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


def lines(page: str) -> list[str]:
    return re.findall(r'<li class="span" id="span-([^"]+)"', page)


def links(page: str) -> dict[str, str]:
    """Return the URL of each link by its text."""
    pairs = re.findall(r'<a[^>]* href="([^"]*)"[^>]*>(.*?)</a>', page, re.DOTALL)
    return {text_of(text): unescape(url) for url, text in pairs}


async def test_a_trace_is_a_waterfall_with_orphans_marked(client: Client, context: QueryContext) -> None:
    await fill(
        context,
        span("root"),
        span("child", "root", duration_ms=20, attributes={"db.system": "sqlite"}),
        span("lost", "gone", service_name="other"),
    )
    page = await page_of(client)
    text = text_of(page)
    assert "missing parent the span gone has not been received" in text
    assert text.index("missing parent") < text.index("op lost")
    assert "<h1>op root</h1>" in page
    assert lines(page) == ["root", "child", "lost"]
    assert "db.system" not in page


async def test_a_selected_span_has_its_details_below_its_line(client: Client, context: QueryContext) -> None:
    await fill(context, span("root"), span("child", "root", duration_ms=20, attributes={"db.system": "sqlite"}))
    text = text_of(await page_of(client, "?span=root"))
    assert "Self time 30 ms (60 %)" in text
    assert "No attributes" in text
    child = await page_of(client, "?span=child")
    assert "db.system sqlite" in text_of(child)
    assert 'href="?span=child#span-child"' in child
    assert 'name="span" value="" aria-expanded="true"' in child  # the same button closes it
    assert "The trace has no span nothing" in text_of(await page_of(client, "?span=nothing"))


async def test_the_exception_of_a_span_is_shown_as_it_was_written(client: Client, context: QueryContext) -> None:
    attributes = {"exception.type": "KeyError", "exception.message": "'k'", "exception.stacktrace": TRACEBACK}
    await fill(context, span("root", attributes=attributes, status=SpanStatus.ERROR))
    assert "1 failed span op root" in text_of(await page_of(client)).replace("api op", "op")
    assert "KeyError 'k'" in text_of(await page_of(client))
    page = await page_of(client, "?span=root")
    (written,) = re.findall(r"<pre[^>]*>(.*?)</pre>", page, re.DOTALL)
    assert unescape(written) == TRACEBACK
    assert page.count("Traceback") == 1
    assert text_of(page).index("Stack trace") < text_of(page).index("exception.type KeyError")


@pytest.mark.parametrize("name", ["exception.type", "exception.message", "exception.stacktrace"])
async def test_an_exception_may_lack_parts(client: Client, context: QueryContext, name: str) -> None:
    await fill(context, span("root", attributes={name: "KeyError"}, status=SpanStatus.ERROR))
    assert "1 failed span" in text_of(await page_of(client))
    assert "KeyError" in text_of(await page_of(client, "?span=root"))


async def test_the_critical_path_is_marked_and_summed_up(client: Client, context: QueryContext) -> None:
    await fill(
        context,
        span("root", duration_ms=100),
        span("slow", "root", start_ms=10, duration_ms=60, service_name="db", name="SELECT"),
        span("beside", "root", start_ms=10, duration_ms=30, service_name="db", name="SELECT"),
    )
    page = await page_of(client)
    text = text_of(page)
    assert "db SELECT 60 ms 60 % 90 ms 2" in text
    assert "api op root 40 ms 40 % 40 ms 1" in text
    assert page.count('class="bar-path" x=') == 3  # two of the root, one of the slow child
    assert "60 ms on the critical path" in text
    assert "30 ms on the critical path" not in text


async def test_clocks_that_disagree_are_marked_and_shifted_on_request(client: Client, context: QueryContext) -> None:
    await fill(context, span("root"), span("late", "root", start_ms=5000, service_name="other", duration_ms=30))
    page = await page_of(client, "?span=late")
    assert "clock 4.99 s ahead" in text_of(page)
    assert "Starts after 5 s" in text_of(page)
    placed = text_of(await page_of(client, links(page)["Shift them into place"]))
    assert "ahead" not in placed
    assert "Starts after 10 ms" in placed
    assert "as if all clocks agreed" in placed


async def test_a_large_trace_is_a_page_of_lines_from_which_all_can_be_reached(
    client: Client, context: QueryContext
) -> None:
    await fill(context, *large(3000))
    page = await page_of(client)
    assert 100 < len(lines(page)) <= LINES_MAX
    assert len(re.findall(r"<[a-z]", page)) < ELEMENTS_MAX
    assert f"{len(lines(page))} of 3000 spans are drawn" in text_of(page)
    assert 'href="/api/traces/t-1"' in page
    seen: list[str] = []
    url = links(page)["Open everything"]
    while url:
        page = await page_of(client, url)
        seen += lines(page)
        url = links(page).get("Next", "")
    assert sorted(seen) == sorted(f"s{number}" for number in range(3000))
    assert "Page 15 of 15, 3k lines" in text_of(page)


async def test_subtrees_are_opened_and_closed_by_buttons_of_a_form(client: Client, context: QueryContext) -> None:
    await fill(context, span("root"), span("a", "root"), span("b", "a", status=SpanStatus.ERROR), span("c", "root"))
    assert 'name="fold" value="close.a"' in await page_of(client)
    closed = await page_of(client, "?fold=close.a")
    assert lines(closed) == ["root", "a", "c"]
    assert "+1 1 error" in text_of(closed)
    assert '<input type="hidden" name="fold" value="close.a">' in closed
    again = await page_of(client, "?fold=close.a&fold=open.a")
    assert lines(again) == ["root", "a", "b", "c"]
    assert '<input type="hidden" name="fold" value="open.a">' in again
    assert "close.a" in again  # of the button
    assert 'type="hidden" name="fold" value="close.a"' not in again


async def test_a_subtree_can_be_drawn_alone(client: Client, context: QueryContext) -> None:
    await fill(context, span("root", duration_ms=100), span("a", "root", start_ms=50, duration_ms=10), span("b", "a"))
    page = await page_of(client, "?span=a")
    alone = await page_of(client, links(page)["Only this and the 1 below it"])
    assert lines(alone) == ["a", "b"]
    assert "Only a part, 2 spans: all of the trace / op root / op a" in text_of(alone)
    assert lines(await page_of(client, links(alone)["all of the trace"])) == ["root", "a", "b"]


async def test_errors_are_steps_in_a_large_trace(client: Client, context: QueryContext) -> None:
    await fill(context, *large(3000))
    page = await page_of(client)
    assert "2 failed spans" in text_of(page)
    first = await page_of(client, links(page)["› Next error"].partition("#")[0])
    assert "error 1 of 2" in text_of(first)
    second = await page_of(client, links(first)["› Next error"].partition("#")[0])
    assert "error 2 of 2" in text_of(second)
    assert "› Next error" not in links(second)
    assert "‹ Previous error" in links(second)
    assert {"s700", "s1500"} == {re.findall(r'id="span-(\w+)">\s*<div class="row row-selected', text)[0]
                                 for text in (first, second)}  # fmt: skip
    assert lines(await page_of(client, "?only=errors"))[-1] in ("s700", "s1500")


async def test_a_search_lists_matches_below_the_spans_above_them(client: Client, context: QueryContext) -> None:
    await fill(context, span("root"), span("a", "root"), span("b", "a", attributes={"user": "Zoë"}), span("c", "root"))
    page = await page_of(client, "?q=ZO%C3%8B")
    assert lines(page) == ["root", "a", "b"]
    assert "1 span matches, with the spans above them" in text_of(page)
    assert page.count("row-context") == 2
    assert "0 spans match" in text_of(await page_of(client, "?q=nothing"))


async def test_the_flame_graph_is_drawn_on_the_server(client: Client, context: QueryContext) -> None:
    await fill(
        context,
        span("root", duration_ms=100),
        *(span(f"q{number}", "root", start_ms=number * 10, duration_ms=10, name="SELECT") for number in range(5)),
    )
    page = await page_of(client, "?view=flame")
    assert 'aria-current="page">Flame graph' in page
    assert "SELECT ×5" in text_of(page)
    assert 'x="0.000%" y="24" width="50.000%"' in page
    assert "api: SELECT, 50 ms in 5 spans and below, 50 ms self time" in page
    narrow = await page_of(client, "?view=flame&at=q3")
    assert 'y="0" width="100.000%"' in narrow
    assert "op root, 100 ms" not in narrow


async def test_a_large_flame_graph_is_bounded(client: Client, context: QueryContext) -> None:
    await fill(context, *large(3000))
    page = await page_of(client, "?view=flame")
    assert len(re.findall(r"<[a-z]", page)) < ELEMENTS_MAX
    assert "too short or too deep to be drawn" in page


async def test_hostile_texts_are_text(client: Client, context: QueryContext) -> None:
    attributes = {HOSTILE: HOSTILE, "exception.type": HOSTILE, "exception.message": HOSTILE}
    await fill(
        context,
        span("a:b", name=HOSTILE, service_name=HOSTILE.replace("/", ""), instance=HOSTILE, attributes=attributes,
             status=SpanStatus.ERROR),
        span("c", "a:b", name=" ", service_name=" "),
    )  # fmt: skip
    for query in ("", "?span=a:b", "?view=flame", f"?q={HOSTILE}&only=errors", f"?span={HOSTILE}&at={HOSTILE}"):
        page = await page_of(client, query.replace("<", "%3C").replace("#", ""))
        assert "<script>alert" not in page
        assert "&lt;script&gt;" in page


@pytest.mark.parametrize(
    "query",
    [
        "view=%00&clocks=&all=9&page=-1&page=x",
        "page=999999999999999999999999&fold=&fold=open.&fold=.&fold=close.%F0%9F%98%80",
        "span=~&at=root~1&at=&shares=none&only=x",
        "span=root&span=&page=%D9%A3",
        "&".join(f"fold=open.s{number}" for number in range(500)),
        "q=" + "x" * 5000 + "&span=" + "y" * 5000,
    ],
)
async def test_any_parameters_give_a_page(client: Client, context: QueryContext, query: str) -> None:
    await fill(context, span("root"), span("a", "root"))
    assert "op root" in await page_of(client, f"?{query}")


async def test_lines_for_missing_parents_are_not_counted_as_spans(client: Client, context: QueryContext) -> None:
    await fill(context, *(span(f"s{number}", f"gone{number}", start_ms=number) for number in range(500)))
    page = await page_of(client)
    assert len(lines(page)) == page.count('class="missing"') == LINES_MAX
    assert "200 of 500 spans are drawn" in text_of(page)
    assert "Page 1 of 3" in text_of(page)


async def test_a_trace_that_is_over_is_read_once(
    client: Client, context: QueryContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    read = context.store.trace

    async def counted(trace_id: str) -> Any:
        reads.append(trace_id)
        return await read(trace_id)

    monkeypatch.setattr(context.store, "trace", counted)
    await fill(context, span("root"))
    assert lines(await page_of(client)) == ["root"]
    await page_of(client, "?span=root")
    assert reads == ["t-1"]
    late = build_batch([], spans=(span("late", "root"),))
    await write_batch(context, late)
    context.on_written(late)
    assert lines(await page_of(client)) == ["root", "late"]
    recent = msgspec.structs.replace(span("new"), trace_id="t-2", start_ns=NOW_MS * 1_000_000)
    await fill(context, recent)
    for _ in range(2):
        await client.get("/traces/t-2")
    assert reads.count("t-2") == 2
