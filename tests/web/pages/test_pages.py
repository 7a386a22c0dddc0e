"""The pages, over a store in memory: complete and as fragments, with hostile names, and their state in the URL."""

import itertools
import re
from collections.abc import AsyncIterator
from html import unescape
from typing import Any

import numpy as np
import pytest
from litestar import Litestar, Request, Response, get
from litestar.datastructures import State
from litestar.di import NamedDependency, Provide
from litestar.testing import AsyncTestClient

from tests.support.context_writes import record_deployment, write_batch
from vantage.alerting.changes import alert_changes
from vantage.core.batch import build_batch
from vantage.core.deployment import Deployment
from vantage.core.errors import InputError, NotFoundError, VantageError
from vantage.core.exemplars import encode_exemplars
from vantage.core.sample import Kind
from vantage.core.series import Series, make_series
from vantage.core.span import Span, SpanKind, SpanStatus
from vantage.query.administration import Administered
from vantage.query.compare import Comparisons
from vantage.query.context import QueryContext
from vantage.query.detector_runs import Watched
from vantage.query.long_work import LongWork
from vantage.query.saved_queries import SavedQueries
from vantage.resources import static_dir, templates_dir
from vantage.storage.memory import MemoryStore
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.telemetry import Telemetry
from vantage.web.api.health import HealthChecks
from vantage.web.edits import applied
from vantage.web.pages import handlers
from vantage.web.pages.traces import traces_page
from vantage.web.render import Renderer, render
from vantage.web.views import SharedViews

NOTHING_WATCHED = Watched()
NO_NOTICES: Any = None  # the pages of notices are tested in a file of their own
NOW_MS = 1_795_453_200_000
HOSTILE = "<script>alert('x')</script>"
HOSTILE_NAME = "<script>alert('x')<\\script>\""  # a service name contains no slash
FRAGMENT = {"HX-Request": "true", "HX-Request-Type": "partial", "HX-Target": "div#view"}
AnyRequest = Request[Any, Any, Any]
Client = AsyncTestClient[Litestar]


class FixedClock:
    def now_ms(self) -> int:
        return NOW_MS

    def monotonic_s(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        return None


@get("/traces", include_in_schema=False)
async def traces(request: AnyRequest, context: NamedDependency[QueryContext]) -> Response[Any]:
    return await traces_page(request, context)


@get("/login")
async def login(request: AnyRequest) -> Response[str]:
    return await render(request, "login.html", error=request.query_params.get("error", ""), next="/?range=6h")


@get("/schema")
async def schema(request: AnyRequest) -> Response[str]:
    return await render(request, "schema.html", section="api")


def on_error(request: AnyRequest, error: VantageError) -> Response[str]:
    status = 404 if isinstance(error, NotFoundError) else 400 if isinstance(error, InputError) else 500
    renderer: Renderer = request.app.state.renderer
    return renderer.page(request, "error.html", status=status, title="Not found", detail=str(error), request_id="req-1")


@pytest.fixture
async def context() -> AsyncIterator[QueryContext]:
    clock = FixedClock()
    async with MemoryMetadataStore(clock) as metadata:
        yield QueryContext(MemoryStore(clock=clock), metadata, clock, Telemetry())


@pytest.fixture
async def client(context: QueryContext) -> AsyncIterator[Client]:
    renderer = Renderer(templates=templates_dir(), static=static_dir(), clock=FixedClock())
    app = Litestar(
        [*handlers, traces, login, schema],
        dependencies={
            "context": Provide(lambda: context, sync_to_thread=False),
            "health_checks": Provide(lambda: HealthChecks("", "all", {}), sync_to_thread=False),
            "watched": Provide(lambda: NOTHING_WATCHED, sync_to_thread=False),
            "saved_queries": Provide(
                lambda: SavedQueries(MemoryMetadataStore(FixedClock()), FixedClock()), sync_to_thread=False
            ),
            "comparisons": Provide(
                lambda: Comparisons(context, MemoryMetadataStore(FixedClock())), sync_to_thread=False
            ),
            "alerting": Provide(
                lambda: alert_changes(context, MemoryMetadataStore(FixedClock())), sync_to_thread=False
            ),
            "notices": Provide(lambda: NO_NOTICES, sync_to_thread=False),
            "administered": Provide(
                lambda: Administered(MemoryMetadataStore(FixedClock()), (), LongWork(FixedClock())),
                sync_to_thread=False,
            ),
        },
        state=State({"renderer": renderer, "views": SharedViews(itertools.count().__next__)}),
        exception_handlers={VantageError: on_error},
        openapi_config=None,
    )
    async with AsyncTestClient(app) as client:
        yield client


def durations(service: str, **tags: str) -> Series:
    return make_series(
        service=service,
        environment="test",
        metric="http.request.duration",
        kind=Kind.HISTOGRAM,
        unit="ms",
        tags=tags,
        service_version="1.2.3",
    )


async def fill(context: QueryContext, service: str = "api", **tags: str) -> None:
    tags = {"endpoint": "/users", "method": "GET", "status": "200"} | tags
    await write_batch(
        context, build_batch([(durations(service, **tags), NOW_MS - 3000 - 10_000 * i, 40.0) for i in range(30)])
    )


def span(span_id: str, parent: str = "", *, trace_id: str = "t-1", service: str = "api", **other: Any) -> Span:
    settings = {"name": f"op {span_id}", "duration_ns": 50_000_000, "kind": SpanKind.SERVER, **other}
    return Span(
        trace_id=trace_id,
        span_id=span_id,
        parent_span_id=parent,
        service_name=service,
        start_ns=(NOW_MS - 5000) * 1_000_000,
        **settings,
    )


def text_of(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


async def test_a_page_is_complete_and_its_fragment_is_only_the_view(client: Client, context: QueryContext) -> None:
    await fill(context)
    complete = await client.get("/")
    fragment = await client.get("/", headers=FRAGMENT)
    assert complete.text.startswith("<!doctype html>")
    assert "doctype" not in fragment.text
    assert fragment.text.strip().startswith('<div id="view"')
    assert fragment.text.strip() in complete.text
    assert "HX-Request" in complete.headers["vary"]
    assert "HX-Request" in fragment.headers["vary"]


@pytest.mark.parametrize(
    "headers",
    [FRAGMENT | {"HX-Request-Type": "full"}, FRAGMENT | {"HX-History-Restore-Request": "true"}, {}],
    ids=["whole body", "history", "no htmx"],
)
async def test_htmx_gets_the_complete_page_when_it_replaces_the_body(client: Client, headers: dict[str, str]) -> None:
    assert (await client.get("/", headers=headers)).text.startswith("<!doctype html>")


async def test_the_overview_shows_rates_errors_p95_and_when_a_service_was_seen(
    client: Client, context: QueryContext
) -> None:
    await fill(context)
    await record_deployment(context, Deployment("api", "test", "1.2.3", NOW_MS - 60_000, "detected"), actor="system")
    page = text_of((await client.get("/")).text)
    assert "api test 1.2.3 100 healthy 0.102/s 0 % 40 ms 3 s ago" in page
    assert "first seen in the data 1 min ago" in page


@pytest.mark.parametrize("path", ["/", "/services/api"])
async def test_a_page_says_how_exact_its_durations_are_and_offers_the_other(
    client: Client, context: QueryContext, path: str
) -> None:
    await write_batch(context, build_batch([(durations("api"), NOW_MS - 3000, ms) for ms in (39.0, 40.0, 50.0)]))
    page = (await client.get(f"{path}?range=6h")).text
    assert "Durations are within 1 %." in page
    assert 'href="?range=6h&amp;exact=1"' in page
    exact = (await client.get(f"{path}?range=6h&exact=1")).text
    assert "Durations are exact" in exact
    assert 'href="?range=6h"' in exact
    assert "49 ms" in exact  # the p95, interpolated between 40 and 50
    assert "Durations are" not in (await client.get(f"{path}?range=15m")).text


async def test_before_the_first_data_the_overview_explains_how_to_send_it(
    client: Client, context: QueryContext
) -> None:
    own = make_series(service="vantage", environment="", metric="process.rss", kind=Kind.GAUGE)
    await write_batch(context, build_batch([(own, NOW_MS - 1000, 1.0)]))
    page = text_of((await client.get("/")).text)
    assert "Send your first data" in page
    assert "from vantage_agent import init_agent init_agent(" in page
    assert f"curl {str(client.base_url).rstrip('/')}/v1/metrics" in page
    assert "vantage Vantage itself" in page


async def test_the_first_service_ends_the_introduction(client: Client, context: QueryContext) -> None:
    await fill(context)
    assert "Send your first data" not in (await client.get("/")).text


@pytest.mark.parametrize("path", ["/", "/services/{name}", "/traces", "/traces/t-1"])
async def test_hostile_names_are_text_and_nothing_else(client: Client, context: QueryContext, path: str) -> None:
    await fill(context, HOSTILE_NAME, endpoint=HOSTILE, **{HOSTILE[:60]: HOSTILE})
    hostile = span("s-1", service=HOSTILE_NAME, name=HOSTILE, attributes={HOSTILE: HOSTILE}, environment="test")
    await write_batch(context, build_batch([], spans=(hostile,)))
    await record_deployment(
        context, Deployment(HOSTILE_NAME, "test", HOSTILE, NOW_MS - 1000, "reported", HOSTILE), actor="system"
    )
    address = path.format(name="%3Cscript%3Ealert('x')%3C%5Cscript%3E%22")
    answer = await client.get(address)
    assert answer.status_code == 200
    assert "<script>alert" not in answer.text
    assert "&lt;script&gt;alert" in answer.text


async def test_nothing_on_a_page_is_inline(client: Client, context: QueryContext) -> None:
    await fill(context)
    await write_batch(context, build_batch([], spans=(span("s-1"),)))
    for path in ("/", "/services/api", "/traces", "/traces/t-1", "/login", "/schema"):
        page = (await client.get(path)).text
        assert not re.findall(r"<[^>]* style=|<style|<[^>]* on[a-z]+=|javascript:", page), path
        assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", page)), path
        assert not re.findall(r'(?:src|href|action)="(?:https?:)?//', page), path


async def test_assets_carry_a_hash_of_their_content(client: Client) -> None:
    page = (await client.get("/")).text
    assert re.findall(r'href="/static/css/vantage\.css\?v=[0-9a-f]{12}"', page)
    named = re.findall(r'(?:src|href)="/static/([^"?]+)\?', page)
    assert {name for name in named if not name.startswith("vendor/") and not (static_dir() / name).is_file()} == set()


async def test_the_range_is_in_the_url_and_in_links(client: Client, context: QueryContext) -> None:
    await fill(context)
    page = (await client.get("/?range=6h")).text
    assert re.search(r'href="\?range=6h"[^>]*aria-current="true"', page)
    assert 'href="/services/api?range=6h"' in page


async def test_two_moments_in_the_url_stand_still(client: Client, context: QueryContext) -> None:
    await fill(context)
    page = (await client.get(f"/?start={NOW_MS - 3_600_000}&end={NOW_MS}")).text
    assert 'data-live=""' in page
    assert f"start={NOW_MS - 3_600_000}" in page


@pytest.mark.parametrize("query", ["", "range=nonsense", "range=%00"])
@pytest.mark.parametrize(("age_s", "preset"), [(2, "5m"), (299, "5m"), (301, "15m"), (1000, "1h"), (900_000, "1h")])
async def test_without_a_range_it_follows_the_age_of_the_data(
    client: Client, context: QueryContext, query: str, age_s: int, preset: str
) -> None:
    await write_batch(context, build_batch([(durations("api"), NOW_MS - age_s * 1000, 40.0)]))
    for path in ("/", "/services/api", "/explore", "/map"):
        page = (await client.get(f"{path}?{query}")).text
        assert re.search(rf'href="[^"]*range={preset}"[^>]*aria-current="true"', page), path
    page = (await client.get("/?range=6h")).text
    assert re.search(r'href="\?range=6h"[^>]*aria-current="true"', page)


async def test_vantage_itself_is_no_data_while_there_is_other(client: Client, context: QueryContext) -> None:
    await write_batch(context, build_batch([(durations("vantage"), NOW_MS - 7_200_000, 40.0)]))
    assert re.search(r'range=1h"[^>]*aria-current="true"', (await client.get("/")).text)
    await write_batch(context, build_batch([(durations("api"), NOW_MS - 10_000, 40.0)]))
    assert re.search(r'range=5m"[^>]*aria-current="true"', (await client.get("/")).text)


@pytest.mark.parametrize("query", ["start=yesterday", "start=now&end=now-1h", "start=0&end=now"])
async def test_moments_that_are_none_are_refused(client: Client, query: str) -> None:
    assert (await client.get(f"/?{query}")).status_code == 400


async def test_services_redirects_to_the_overview_with_the_range(client: Client) -> None:
    answer = await client.get("/services?range=6h", follow_redirects=False)
    assert answer.headers["location"] == "/?range=6h"


async def test_a_service_has_charts_endpoints_metrics_and_traces(client: Client, context: QueryContext) -> None:
    await fill(context)
    await write_batch(context, build_batch([], spans=(span("s-1"),)))
    page = (await client.get("/services/api")).text
    assert len(re.findall("data-points=", page)) == 3
    assert "GET /users 0.102/s 0 0 % 40 ms 40 ms 40 ms 100 %" in text_of(page)
    assert "http.request.duration histogram ms 1 series" in text_of(page)
    assert "metric=http.request.duration&start=now-5m&end=now&agg=p95" in unescape(page)
    assert 'href="/traces/t-1"' in (await client.get("/services/api/traces")).text
    assert 'data-live="api"' in page


async def test_the_metric_named_in_the_url_is_open(client: Client, context: QueryContext) -> None:
    await fill(context)
    assert (
        'data-metric="http.request.duration" open'
        in (await client.get("/services/api?metric=http.request.duration")).text
    )
    assert 'data-metric="http.request.duration" open' not in (await client.get("/services/api")).text


async def test_a_service_shows_who_calls_it_and_whom_it_calls(client: Client, context: QueryContext) -> None:
    await fill(context)
    calls = span("a", kind=SpanKind.CLIENT, service="web")
    answered = span("b", "a", service="api", duration_ns=4_000_000, status=SpanStatus.ERROR)
    stored = span("c", "b", kind=SpanKind.CLIENT, service="api", attributes={"db.system": "postgresql"})
    await write_batch(context, build_batch([], spans=(calls, answered, stored)))
    page = (await client.get("/services/api?range=1h")).text
    text = text_of(page)
    assert "Called by" in text
    assert 'href="/services/web?range=1h"' in page
    assert "Called by from spans of the last 15 minutes Caller Calls Errors Mean Its own p95" in text
    assert "web 4/h 100 % 4 ms –" in text
    assert "postgresql sends no spans" in text
    assert "/services/postgresql" not in page
    others = text_of((await client.get("/services/web")).text)
    assert "Called by" not in others
    assert "Callee Calls Errors Mean Its own p95 api" in others


async def test_a_fixed_range_has_neighbours_of_its_own(client: Client, context: QueryContext) -> None:
    called = span("b", kind=SpanKind.CLIENT, attributes={"peer.service": "bank"})
    await write_batch(context, build_batch([], spans=(called,)))
    url = "/services/api?start={}&end={}"
    inside = text_of((await client.get(url.format(NOW_MS - 6000, NOW_MS))).text)
    assert "Calls from spans of this range Callee Calls Errors Mean Its own p95 bank" in inside
    outside = text_of((await client.get(url.format(NOW_MS - 666_000, NOW_MS - 606_000))).text)
    assert "bank" not in outside


async def test_a_service_with_too_many_spans_explains_why_callers_are_not_shown(
    client: Client, context: QueryContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def too_many(time_range: Any) -> Any:
        raise InputError("the range holds too many spans")

    await fill(context)
    monkeypatch.setattr(context.store, "edges", too_many)
    answer = await client.get("/services/api")
    assert answer.status_code == 200
    assert "are not shown: the range holds too many spans." in text_of(answer.text)


async def test_a_service_without_neighbours_shows_no_empty_lists(client: Client, context: QueryContext) -> None:
    await fill(context)
    text = text_of((await client.get("/services/api")).text)
    assert "Called by" not in text
    assert "Callee" not in text


async def test_many_neighbours_are_cut_and_counted(client: Client, context: QueryContext) -> None:
    spans = [span(f"s{i}", kind=SpanKind.CLIENT, attributes={"server.address": f"10.0.0.{i}"}) for i in range(25)]
    await write_batch(context, build_batch([], spans=tuple(spans)))
    page = (await client.get("/services/api")).text
    assert "5 more are not shown." in text_of(page)
    assert 'href="/api/edges?service=api"' in page


async def test_an_unknown_service_is_404(client: Client) -> None:
    assert (await client.get("/services/nobody")).status_code == 404


async def test_traces_are_filtered_by_the_form_which_preserves_its_values(
    client: Client, context: QueryContext
) -> None:
    spans = (
        span("s-1", trace_id="fast"),
        span("s-2", trace_id="slow", duration_ns=2_000_000_000, attributes={"http.route": "/a:b"}),
        span("s-3", trace_id="bad", status=SpanStatus.ERROR, service="other"),
    )
    await write_batch(context, build_batch([], spans=spans))

    async def result(query: str) -> list[str]:
        return re.findall(r'id="trace-(\w+)"', (await client.get(f"/traces?{query}")).text)

    assert sorted(await result("")) == ["bad", "fast", "slow"]
    assert await result("min_duration=1s") == ["slow"]
    assert await result("status=error") == ["bad"]
    assert sorted(await result("service=api")) == ["fast", "slow"]
    assert await result("q=op%20S-1") == ["fast"]
    assert await result("attribute=http.route%3A%20/a:b") == ["slow"]
    assert await result("attribute=http.route:/a") == []
    page = (await client.get("/traces?service=api&min_duration=1s&q=op&range=6h")).text
    assert '<option value="api" selected>' in page
    assert 'name="min_duration" value="1s"' in page
    assert 'href="?service=api&amp;min_duration=1s&amp;q=op&amp;range=15m"' in page
    assert 'name="range" value="6h"' in page


async def test_an_invalid_duration_has_a_message_at_the_field(client: Client) -> None:
    answer = await client.get("/traces?min_duration=long")
    assert answer.status_code == 200
    assert "is not a duration" in answer.text


async def test_an_attribute_without_a_value_has_a_message_at_the_field(client: Client) -> None:
    answer = await client.get("/traces?attribute=http.route")
    assert answer.status_code == 200
    assert "write a key and its value" in answer.text
    assert 'name="attribute" value="http.route"' in answer.text


async def test_older_traces_are_a_page_away(client: Client, context: QueryContext) -> None:
    await write_batch(context, build_batch([], spans=tuple(span("s", trace_id=f"t{i:02}") for i in range(60))))
    first = (await client.get("/traces")).text
    older = re.findall(r'href="(/traces\?cursor=[^"]+)"', first)
    second = (await client.get(unescape(older[0]))).text
    assert len(re.findall('id="trace-', first)) == 50
    assert len(re.findall('id="trace-', second)) == 10
    assert 'data-live=""' in second


async def test_before_the_first_span_the_traces_page_explains_how_to_send_one(client: Client) -> None:
    assert "/v1/spans" in (await client.get("/traces")).text
    assert "No trace matches" in (await client.get("/traces?q=x")).text


async def test_a_trace_named_in_the_query_has_a_page_of_its_own(client: Client) -> None:
    answer = await client.get("/traces?trace_id=a:b", follow_redirects=False)
    assert answer.headers["location"] == "/traces/a%3Ab"


async def test_samples_linked_to_a_trace_are_shown_with_it(client: Client, context: QueryContext) -> None:
    links = encode_exemplars(np.array([0], np.uint32), ["t-9"], ["s-9"])
    await write_batch(context, build_batch([(durations("api"), NOW_MS - 1000, 40.0)], exemplars=links))
    page = text_of((await client.get("/traces/t-9")).text)
    assert "Exemplars" in page
    assert "http.request.duration api 40 ms" in page


@pytest.mark.parametrize("trace_id", ["nothing", "%3Cscript%3E", "a" * 65])
async def test_an_unknown_trace_is_404(client: Client, trace_id: str) -> None:
    answer = await client.get(f"/traces/{trace_id}")
    assert answer.status_code == 404
    assert "<script>a" not in answer.text
    assert "req-1" in answer.text


async def test_the_sign_in_page_preserves_the_target_and_shows_the_error(client: Client) -> None:
    page = (await client.get("/login?error=nobody+knows+this+key")).text
    assert 'name="next" value="/?range=6h"' in page
    assert 'role="alert">nobody knows this key' in page
    assert "live.js" not in page


async def test_the_pipeline_page_says_what_to_do_without_a_broker_and_without_workers(client: Client) -> None:
    text = text_of((await client.get("/pipeline")).text)
    assert "This process has no broker" in text
    assert "Pipeline" not in text_of((await client.get("/")).text)
    client.app.state.renderer = Renderer(
        templates=templates_dir(), static=static_dir(), clock=FixedClock(), has_broker=True
    )
    assert "No worker has reported in this range" in text_of((await client.get("/pipeline")).text)
    assert 'href="/pipeline"' in (await client.get("/")).text


async def test_the_pipeline_page_shows_workers_partitions_and_dead_letters(
    client: Client, context: QueryContext
) -> None:
    def own(metric: str, kind: Kind, **tags: str) -> Series:
        names = {"service": "vantage", "environment": "worker", "instance": HOSTILE_NAME}
        return make_series(metric=metric, kind=kind, tags=tags, **names)

    at_ms = NOW_MS - 1000
    await write_batch(
        context,
        build_batch(
            [
                (own("pipeline.messages", Kind.COUNTER), at_ms, 30.0),
                (own("pipeline.rows", Kind.COUNTER), at_ms, 4500.0),
                (own("pipeline.failing", Kind.GAUGE), at_ms, 1.0),
                (own("pipeline.lag", Kind.GAUGE, partition="3"), at_ms, 41.0),
                (own("pipeline.dead_letters", Kind.COUNTER, reason="unreadable"), at_ms, 2.0),
            ]
        ),
    )
    html = (await client.get("/pipeline?range=15m")).text
    assert HOSTILE_NAME not in html
    text = text_of(html)
    assert "Lag 41 messages in 1 partition" in text
    assert "300/s" in text
    assert "cannot store" in text
    assert "2 cannot be read" in text


async def test_a_live_page_gets_what_changed_and_nothing_else(client: Client, context: QueryContext) -> None:
    await fill(context)
    live = {**FRAGMENT, "A-IM": "edits"}
    first = await client.get("/", headers=live)
    same = await client.get("/", headers={**live, "If-None-Match": first.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    await fill(context, status="500")
    changed = await client.get("/", headers={**live, "If-None-Match": first.headers["etag"]})
    assert (changed.status_code, changed.headers["im"]) == (226, "edits")
    complete = await client.get("/", headers=live)
    assert complete.headers["etag"] == changed.headers["etag"]
    assert applied(first.text, changed.json()["edits"]) == complete.text
    assert len(changed.content) < len(complete.content) / 4


async def test_a_page_is_compressed_once_and_only_for_those_who_take_it(client: Client, context: QueryContext) -> None:
    await fill(context)
    plain = await client.get("/", headers={"Accept-Encoding": "identity"})
    packed = await client.get("/", headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.text == plain.text
