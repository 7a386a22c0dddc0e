"""The search for traces: every condition, durations drawn, and what slow and failed traces have in common."""

import itertools
import re
from collections.abc import AsyncIterator
from html import unescape
from typing import Any

import msgspec
import pytest
from litestar import Litestar, Request, Response, get
from litestar.datastructures import State
from litestar.di import NamedDependency, Provide
from litestar.testing import AsyncTestClient

from tests.support.context_writes import write_batch
from tests.support.samples import NOW_MS, MovedClock, a_span
from vantage.core.batch import Batch
from vantage.core.errors import InputError, StoreTimeout, VantageError
from vantage.core.span import Span, SpanStatus
from vantage.query.context import QueryContext
from vantage.resources import static_dir, templates_dir
from vantage.storage.memory import MemoryStore
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.telemetry import Telemetry
from vantage.web.pages.traces import DOTS_MAX, traces_page
from vantage.web.render import Renderer
from vantage.web.views import SharedViews

Client = AsyncTestClient[Litestar]
HOSTILE = "<script>alert('x')</script>\u202e\U0001f600\"'\n"


@get("/traces", include_in_schema=False)
async def traces(request: Request[Any, Any, Any], context: NamedDependency[QueryContext]) -> Response[Any]:
    return await traces_page(request, context)


def on_error(request: Request[Any, Any, Any], error: VantageError) -> Response[str]:
    return Response(str(error), status_code=400 if isinstance(error, InputError) else 500)


@pytest.fixture
async def context() -> AsyncIterator[QueryContext]:
    clock = MovedClock()
    async with MemoryMetadataStore(clock) as metadata:
        yield QueryContext(MemoryStore(clock=clock), metadata, clock, Telemetry())


@pytest.fixture
async def client(context: QueryContext) -> AsyncIterator[Client]:
    renderer = Renderer(templates=templates_dir(), static=static_dir(), clock=context.clock)
    app = Litestar(
        [traces],
        dependencies={"context": Provide(lambda: context, sync_to_thread=False)},
        state=State({"renderer": renderer, "views": SharedViews(itertools.count().__next__)}),
        exception_handlers={VantageError: on_error},
        openapi_config=None,
    )
    async with AsyncTestClient(app) as client:
        yield client


async def page_of(client: Client, query: str = "") -> str:
    answer = await client.get(f"/traces?range=1h&{query}")
    assert answer.status_code == 200
    return answer.text


async def fill(context: QueryContext, *spans: Span) -> None:
    await write_batch(context, Batch(spans=spans))


def rows(page: str) -> list[str]:
    return re.findall(r'<tr id="trace-([^"]+)"', page)


def dots(page: str) -> list[Any]:
    (text,) = re.findall(r'data-scatter="(.*?)"', page, re.DOTALL)
    *items, last = msgspec.json.decode(unescape(text))
    assert last is None
    return items


def text_of(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


def shop(*, zones: int = 60) -> list[Span]:
    """Return spans of 60 traces: every tenth is slow and, like few others, in zone b; every twelfth failed."""
    spans = []
    for number in range(zones):
        slow, failed = number % 10 == 0, number % 12 == 0
        status = SpanStatus.ERROR if failed else SpanStatus.OK
        start_ms, trace_id = NOW_MS - 1000 * (number + 1), f"t{number:02}"
        spans += [
            a_span(trace_id, "a", start_ms=start_ms, duration_ms=900 if slow else 20 + number % 7, name="GET /cart"),
            a_span(trace_id, "b", "a", start_ms=start_ms, service="db", name="SELECT", status=status,
                   attributes={"zone": "b" if slow else "a", "error.code": "7" if failed else ""}),
        ]  # fmt: skip
    return spans


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("operation=SELECT", ["slow", "fast"]),
        ("operation=SEL", []),
        ("operation=SELECT&service=api", []),
        ("min_duration=0.5s", ["slow"]),
        ("max_duration=100ms", ["fast"]),
        ("min_duration=1us&max_duration=25.5ms", ["fast"]),
        ("attribute=user:1&attribute=zone:b", ["slow"]),
        ("attribute=user:1&attribute=zone:a", []),
        ("attribute=user:1&attribute=", ["slow", "fast"]),
    ],
)
async def test_conditions_narrow_the_list(
    client: Client, context: QueryContext, query: str, expected: list[str]
) -> None:
    for trace_id, duration_ms, zone in (("fast", 15, "a"), ("slow", 700, "b")):
        attributes = {"user": "1"} | ({"zone": zone} if zone == "b" else {})
        root = a_span(trace_id, "a", duration_ms=duration_ms, start_ms=NOW_MS - 1000 - duration_ms)
        call = a_span(trace_id, "b", "a", service="db", name="SELECT", duration_ms=5, attributes=attributes)
        await fill(context, root, call)
    assert sorted(rows(await page_of(client, query))) == sorted(expected)


async def test_a_short_span_does_not_make_a_long_trace_short(client: Client, context: QueryContext) -> None:
    await fill(context, a_span("long", "a", duration_ms=900), a_span("long", "b", "a", duration_ms=5))
    page = await page_of(client, "max_duration=100ms")
    assert rows(page) == []
    assert "None of the 1 latest that match is short enough" in text_of(page)


async def test_the_form_preserves_what_was_typed(client: Client, context: QueryContext) -> None:
    await fill(context, a_span())
    page = await page_of(client, "operation=x&max_duration=2s&attribute=a:b&attribute=c:d")
    for field in ('name="operation" value="x"', 'name="max_duration" value="2s"', 'name="attribute" value="c:d"'):
        assert field in page
    assert page.count('name="attribute"') == 2 + 3  # of the form for a range, and two fields with an empty one
    assert "operation=x&amp;max_duration=2s&amp;attribute=a%3Ab&amp;attribute=c%3Ad&amp;range=15m" in page


async def test_operations_are_completed_from_the_latest_traces(client: Client, context: QueryContext) -> None:
    await fill(context, *shop())
    assert re.findall(r'<option value="([^"]*)"></option>', await page_of(client)) == ["GET /cart", "SELECT"]
    assert re.findall(r'<option value="([^"]*)"></option>', await page_of(client, "service=db")) == ["SELECT"]


@pytest.mark.parametrize("name", ["min_duration", "max_duration"])
@pytest.mark.parametrize("text", ["long", "-5", "1e9", "5 parsecs", "9" * 20])
async def test_an_invalid_duration_has_a_message_at_its_field(client: Client, name: str, text: str) -> None:
    page = await page_of(client, f"{name}={text}")
    assert "is not a duration" in page
    assert 'aria-invalid="true"' in page


async def test_any_parameters_give_a_page(client: Client, context: QueryContext) -> None:
    await fill(context, *shop())
    for query in (
        "min_duration=999999999999w&max_duration=999999999999w&compare=slow",
        "&".join(f"attribute=k{n}:v" for n in range(50)) + "&compare=x",
        "attribute=:&attribute=%00:&operation=%00&service=%F0%9F%98%80&status=none",
        "q=" + "x" * 3000 + "&operation=" + "y" * 3000,
    ):
        await page_of(client, query)
    for cursor in ("x", "LTEuYQ", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTkuYQ"):  # -1.a and a number of 26 digits
        assert (await client.get(f"/traces?cursor={cursor}")).status_code == 400


def lines_of_dots(page: str) -> list[str]:
    (text,) = re.findall(r'data-scatter="(.*?)"', page, re.DOTALL)
    return str(text).splitlines()


async def test_each_trace_is_a_dot_and_a_new_one_moves_no_other(client: Client, context: QueryContext) -> None:
    await fill(context, *shop())
    page = await page_of(client)
    points = {point[3]: point for point in dots(page)}
    assert len(points) == 60
    assert points["t00"] == [NOW_MS - 1000, 900_000_000, 1, "t00", points["t00"][4], "api", "GET /cart"]
    assert "60 traces." in text_of(page)
    await fill(context, a_span("new", start_ms=NOW_MS - 1))
    later = await page_of(client)
    pairs = zip(lines_of_dots(page), lines_of_dots(later), strict=True)
    assert len([before for before, after in pairs if before != after]) == 1
    assert len(dots(later)) == 61


async def test_dots_are_bounded_and_the_page_says_so(client: Client, context: QueryContext) -> None:
    await fill(context, *(a_span(f"t{number}", start_ms=NOW_MS - 1000 - number) for number in range(DOTS_MAX + 5)))
    page = await page_of(client)
    assert len(dots(page)) == DOTS_MAX
    assert f"The newest {DOTS_MAX} that match; there may be more" in text_of(page)


async def test_where_few_of_the_latest_are_short_enough_older_ones_are_a_page_away(
    client: Client, context: QueryContext
) -> None:
    long = [a_span(f"t{n}", "a", start_ms=NOW_MS - 1000 - n, duration_ms=500) for n in range(DOTS_MAX)]
    short = [a_span(f"t{n}", "b", "a", start_ms=NOW_MS - 1000 - n, duration_ms=1) for n in range(DOTS_MAX)]
    await fill(context, *long, *short, a_span("old", start_ms=NOW_MS - 9000, duration_ms=1))
    page = await page_of(client, "max_duration=10ms")
    assert rows(page) == []
    (older,) = re.findall(r'href="(/traces\?[^"]*cursor=[^"]+)"', page)
    assert rows((await client.get(unescape(older))).text) == ["old"]


async def test_slow_traces_are_compared_on_request(client: Client, context: QueryContext) -> None:
    await fill(context, *shop())
    assert "have in common" not in await page_of(client)
    page = await page_of(client, "compare=slow")
    assert 'data-live=""' in page
    assert "What slow traces have in common" in text_of(page)
    assert "attribute zone = b in 6 of 6 in 0 of 54" in text_of(page)
    assert "6 slow traces, of 900 ms and more, against 54 others; 120 spans were read." in text_of(page)
    (url,) = re.findall(r'class="trait" href="([^"]*zone[^"]*)"', page)
    listed = rows((await client.get(unescape(url))).text)
    assert listed == [f"t{number}" for number in ("00", "10", "20", "30", "40", "50")]


async def test_failed_traces_are_compared_on_request(client: Client, context: QueryContext) -> None:
    await fill(context, *shop())
    text = text_of(await page_of(client, "compare=failed"))
    assert "attribute error.code = 7 in 5 of 5 in 0 of 55" in text
    assert "No trace matches" in text_of(await page_of(client, "compare=failed&q=zzz"))


async def test_a_comparison_without_two_sides_says_so(client: Client, context: QueryContext) -> None:
    assert "No trace matches" in text_of(await page_of(client, "compare=slow"))
    await fill(context, a_span("t1"), a_span("t2"))
    assert "None of the 2 traces failed" in text_of(await page_of(client, "compare=failed"))
    assert "None of the 2 traces is slow" in text_of(await page_of(client, "compare=slow"))


async def test_a_comparison_that_takes_too_much_leaves_the_page(
    client: Client, context: QueryContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(context, *shop())

    async def too_slow(*_: Any, **__: Any) -> Any:
        raise StoreTimeout("the query took longer than 30 s")

    monkeypatch.setattr(context.store, "spans_of", too_slow)
    page = await page_of(client, "compare=slow")
    assert "The traces were not compared" in page
    assert len(rows(page)) == 50


async def test_hostile_names_are_text(client: Client, context: QueryContext) -> None:
    spans = []
    for number in range(20):
        odd = number < 5
        attributes = {HOSTILE: HOSTILE} if odd else {"k": "v"}
        name, service = (HOSTILE, HOSTILE.replace("/", "")) if odd else ("x", "api")
        spans.append(a_span(f"t{number}", duration_ms=900 if odd else 1, name=name, service=service,
                            attributes=attributes, status=SpanStatus.ERROR if odd else SpanStatus.OK))  # fmt: skip
    await fill(context, *spans)
    for query in ("", "compare=slow", "compare=failed"):
        page = await page_of(client, query)
        assert "<script>alert" not in page
        assert "&lt;script&gt;" in page
        assert len(dots(page)) == 20
