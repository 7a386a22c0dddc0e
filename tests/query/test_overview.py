"""Requests, errors and durations, and the overview made of them."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.context_writes import record_deployment, write_batch
from vantage.core.batch import build_batch
from vantage.core.deployment import Deployment
from vantage.core.sample import Kind
from vantage.core.series import Series, make_series
from vantage.core.sketch import RELATIVE_ERROR
from vantage.core.span import Span, SpanKind, SpanStatus
from vantage.core.timerange import TimeRange
from vantage.query import overview
from vantage.query.context import QueryContext
from vantage.query.endpoints import read_endpoints
from vantage.query.http_semconv import QUANTILES_ALL, Buckets, split_buckets
from vantage.query.overview import Overview, read_overview, read_service
from vantage.query.red import RedStats, read_red
from vantage.storage.memory import MemoryStore
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.telemetry import Telemetry

STEP_MS = 60_000
START_MS = 1_795_453_200_000  # on a whole step
END_MS = START_MS + 10 * STEP_MS
NOW_MS = END_MS
BUCKETS = Buckets(START_MS, END_MS, STEP_MS)


class FixedClock:
    def now_ms(self) -> int:
        return NOW_MS

    def monotonic_s(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        return None


@pytest.fixture
async def context() -> AsyncIterator[QueryContext]:
    clock = FixedClock()
    async with MemoryMetadataStore(clock) as metadata:
        yield QueryContext(MemoryStore(clock=clock), metadata, clock, Telemetry())


def counter(service: str, **tags: str) -> Series:
    return make_series(service=service, environment="test", metric="http.requests", kind=Kind.COUNTER, tags=tags)


def durations(service: str, unit: str = "ms", version: str = "", **tags: str) -> Series:
    return make_series(
        service=service,
        environment="test",
        metric="http.request.duration",
        kind=Kind.HISTOGRAM,
        unit=unit,
        tags=tags,
        service_version=version,
    )


def gauge(service: str) -> Series:
    return make_series(service=service, environment="", metric="queue.depth", kind=Kind.GAUGE)


def server_span(
    service: str, at_ms: int, duration_ms: float, *, kind: SpanKind = SpanKind.SERVER, **other: Any
) -> Span:
    return Span(
        trace_id=f"t{at_ms}", span_id=f"s{at_ms}", service_name=service, name="GET /", start_ns=at_ms * 1_000_000,
        duration_ns=int(duration_ms * 1e6), kind=kind, environment="test", **other,
    )  # fmt: skip


async def write(context: QueryContext, *rows: tuple[Series, int, float], spans: tuple[Span, ...] = ()) -> None:
    """Rows of ``(series, bucket, value)``; each lies in the middle of its bucket."""
    placed = [(series, START_MS + bucket * STEP_MS + STEP_MS // 2, value) for series, bucket, value in rows]
    await write_batch(context, build_batch(placed, spans=spans))


def red_of(overview: Overview, service: str) -> RedStats:
    red = next(row.red for row in overview.services if row.name == service)
    assert red is not None
    return red


def approximately(expected: Any) -> Any:
    """Return what equals quantiles of sketches."""
    return pytest.approx(expected, rel=RELATIVE_ERROR)


async def test_the_counter_is_the_number_of_requests_even_beside_a_histogram(context: QueryContext) -> None:
    await write(
        context, (counter("api", status="200"), 2, 90), (counter("api", status="503"), 2, 30), (durations("api"), 2, 5)
    )
    red = red_of(await read_overview(context, BUCKETS), "api")
    assert red.source == "metrics"
    assert red.requests == 120
    assert red.rates_per_s[2] == 2.0
    assert red.error_ratios[2] == red.error_ratio == 0.25
    assert red.p95_ms == 5


async def test_without_a_counter_observations_are_the_requests(context: QueryContext) -> None:
    await write(context, *((durations("api"), 0, float(ms)) for ms in range(1, 102)))
    red = red_of(await read_overview(context, BUCKETS), "api")
    assert red.requests == 101
    assert red.p95_ms == red.p95s_ms[0] == approximately(96)
    assert red.error_ratio == 0


async def test_the_error_ratio_is_the_histograms_when_the_counter_has_no_status(context: QueryContext) -> None:
    await write(
        context, (counter("api"), 0, 50), (durations("api", status="200"), 0, 1), (durations("api", status="500"), 0, 1)
    )
    red = red_of(await read_overview(context, BUCKETS), "api")
    assert (red.requests, red.error_ratio) == (50, 0.5)


@pytest.mark.parametrize(
    ("tags", "ratio"),
    [
        ({"status": "500"}, 1.0),
        ({"status": "599"}, 1.0),
        ({"status": "5xx"}, 1.0),
        ({"http.response.status_code": "502"}, 1.0),
        ({"status_code": "503"}, 1.0),
        ({"error": "true"}, 1.0),
        ({"status": "404"}, 0.0),
        ({"status": "50"}, 0.0),
        ({"status": "5000"}, 0.0),
        ({"error": "false"}, 0.0),
        ({}, 0.0),
    ],
)
async def test_what_counts_as_an_error(context: QueryContext, tags: dict[str, str], ratio: float) -> None:
    await write(context, (counter("api", **tags), 0, 1))
    assert red_of(await read_overview(context, BUCKETS), "api").error_ratio == ratio


async def test_an_empty_bucket_is_a_gap_and_never_zero(context: QueryContext) -> None:
    await write(context, (durations("api", status="200"), 1, 10), (durations("api", status="200"), 3, 10))
    red = red_of(await read_overview(context, BUCKETS), "api")
    assert red.rates_per_s == (None, 1 / 60, None, 1 / 60, *[None] * 6)
    assert red.error_ratios == (None, 0.0, None, 0.0, *[None] * 6)
    assert red.p95s_ms == (None, 10.0, None, 10.0, *[None] * 6)


@pytest.mark.parametrize(("unit", "value"), [("s", 0.25), ("ms", 250), ("", 250), ("us", 250_000), ("ns", 250_000_000)])
async def test_durations_are_milliseconds_whatever_their_unit(context: QueryContext, unit: str, value: float) -> None:
    await write(context, (durations("api", unit=unit), 0, value))
    assert red_of(await read_overview(context, BUCKETS), "api").p95_ms == pytest.approx(250)


async def test_a_service_without_request_metrics_is_measured_by_its_server_spans(context: QueryContext) -> None:
    spans = (
        server_span("api", START_MS + 1, 10),
        server_span("api", START_MS + 2, 30, status=SpanStatus.ERROR),
        server_span("api", START_MS + 3, 9000, kind=SpanKind.INTERNAL),
    )
    await write(context, (gauge("api"), 0, 1), spans=spans)
    red = red_of(await read_overview(context, BUCKETS), "api")
    assert (red.source, red.requests, red.error_ratio, red.p95_ms) == ("spans", 2, 0.5, approximately(29))
    assert red.rates_per_s[0] == 2 / 60


async def test_a_service_with_neither_shows_the_rate_of_its_samples(context: QueryContext) -> None:
    await write(context, *((gauge("worker"), bucket, 1.0) for bucket in range(4, 10)))
    red = red_of(await read_overview(context, BUCKETS), "worker")
    assert (red.source, red.requests, red.error_ratio, red.p95_ms) == ("samples", 6, None, None)
    assert red.rates_per_s[3:5] == (None, 1 / 60)


async def test_a_service_just_started_is_not_diluted_by_the_range(context: QueryContext) -> None:
    await write(context, (counter("api"), 8, 90))
    assert red_of(await read_overview(context, BUCKETS), "api").rate_per_s == pytest.approx(1.0)


async def test_the_current_bucket_counts_the_time_that_has_passed(context: QueryContext) -> None:
    await write(context, (counter("api"), 0, 60))
    cut = Buckets(START_MS, START_MS + 45_000, STEP_MS)
    assert red_of(await read_overview(context, cut), "api").rates_per_s == (60 / 45,)


async def test_the_first_moments_of_a_bucket_give_no_rate(context: QueryContext) -> None:
    at_ms = START_MS + 9 * STEP_MS
    await write_batch(context, build_batch([(counter("api"), at_ms - 1, 60), (counter("api"), at_ms + 1, 60)]))
    early = Buckets(START_MS, at_ms + 5000, STEP_MS)
    red = red_of(await read_overview(context, early), "api")
    assert red.rates_per_s[-2:] == (1.0, None)
    assert red.requests == 120


async def test_the_change_of_p95_compares_the_halves(context: QueryContext) -> None:
    await write(context, (durations("api"), 1, 100), (durations("api"), 8, 150), (durations("new"), 8, 150))
    overview = await read_overview(context, BUCKETS)
    assert red_of(overview, "api").p95_change == pytest.approx(0.5)
    assert red_of(overview, "new").p95_change is None


async def test_services_with_errors_come_first_and_vantage_last(context: QueryContext) -> None:
    await write(
        context,
        (gauge("vantage"), 0, 1),
        (gauge("a-quiet"), 0, 1),
        (counter("b-fine", status="200"), 0, 1),
        (counter("c-failing", status="500"), 0, 1),
    )
    overview = await read_overview(context, BUCKETS)
    assert [row.name for row in overview.services] == ["c-failing", "b-fine", "a-quiet", "vantage"]
    assert overview.services[-1].is_self
    assert (overview.totals.services, overview.totals.services_failing, overview.only_self) == (3, 1, False)


async def test_totals_weigh_errors_by_requests(context: QueryContext) -> None:
    await write(
        context,
        (counter("big", status="200"), 0, 90),
        (counter("small", status="500"), 0, 10),
        (durations("small"), 0, 70),
    )
    totals = (await read_overview(context, BUCKETS)).totals
    assert totals.error_ratio == pytest.approx(0.1)
    rate, no_rate = totals.rates_per_s[:2]
    assert rate == pytest.approx(100 / 60)
    assert no_rate is None
    assert totals.slowest is not None
    assert totals.slowest.name == "small"


async def test_a_service_seen_only_before_the_range_is_listed_without_figures(context: QueryContext) -> None:
    await write_batch(context, build_batch([(durations("old", version="1.0"), START_MS - 86_400_000, 1)]))
    row = (await read_overview(context, BUCKETS)).services[0]
    assert (row.name, row.red, row.last_seen_ms) == ("old", None, START_MS - 86_400_000)
    assert (row.environments, row.versions) == (("test",), ("1.0",))


async def test_the_version_seen_last_stands_first(context: QueryContext) -> None:
    await write(context, (durations("api", version="2.0"), 1, 1), (durations("api", version="1.9"), 5, 1))
    assert (await read_overview(context, BUCKETS)).services[0].versions == ("1.9", "2.0")


async def test_recent_deployments_are_shown_latest_first(context: QueryContext) -> None:
    for version, at_ms in (("1", START_MS), ("2", START_MS + 1)):
        await record_deployment(context, Deployment("api", "test", version, at_ms, "detected"), actor="system")
    assert [deployment.version for deployment in (await read_overview(context, BUCKETS)).deployments] == ["2", "1"]


async def test_the_overview_of_an_empty_store_is_empty(context: QueryContext) -> None:
    overview = await read_overview(context, BUCKETS)
    assert (overview.services, overview.only_self, overview.totals.rate_per_s) == ((), True, None)


async def test_one_service_alone_has_more_quantiles(context: QueryContext) -> None:
    await write(context, *((durations("api"), 0, float(ms)) for ms in range(1, 102)))
    row = await read_service(context, BUCKETS, service="api")
    assert row is not None
    assert row.red is not None
    assert row.red.approximate
    assert (row.red.p50_ms, row.red.p95_ms, row.red.p99_ms) == approximately((51, 96, 100))
    assert (row.red.p50s_ms[0], row.red.p99s_ms[0]) == approximately((51, 100))


async def test_the_exact_figures_can_be_read_as_well(context: QueryContext) -> None:
    await write(context, *((durations("api"), 0, float(ms)) for ms in range(1, 102)))
    red = (await read_red(context, BUCKETS, services={"api": START_MS}, quantiles=QUANTILES_ALL, exact=True))["api"]
    assert (red.approximate, red.p50_ms, red.p95_ms, red.p99_ms) == (False, 51, 96, 100)


async def test_an_unknown_service_is_none(context: QueryContext) -> None:
    assert await read_service(context, BUCKETS, service="nobody") is None


async def test_endpoints_are_split_by_route_and_method(context: QueryContext) -> None:
    await write(
        context,
        (durations("api", endpoint="/a", method="GET", status="200"), 0, 10),
        (durations("api", endpoint="/a", method="GET", status="500"), 0, 30),
        (durations("api", endpoint="/b", method="POST", status="200"), 0, 5),
    )
    result = await read_endpoints(context, BUCKETS, service="api", source="metrics")
    assert [(endpoint.method, endpoint.route, endpoint.requests, endpoint.error_ratio) for endpoint in result] == [
        ("GET", "/a", 2, 0.5),
        ("POST", "/b", 1, 0),
    ]
    assert result[0].p95_ms == approximately(29)


async def test_endpoints_of_a_service_with_only_spans_are_its_operations(context: QueryContext) -> None:
    await write(context, spans=(server_span("api", START_MS + 1, 10),))
    result = await read_endpoints(context, BUCKETS, service="api", source="spans")
    assert [(endpoint.route, endpoint.requests, endpoint.p95_ms) for endpoint in result] == [("GET /", 1, 10)]


@pytest.mark.parametrize(
    ("attributes", "method", "route"),
    [
        ({"http.route": "/users/{id}", "http.request.method": "GET"}, "GET", "/users/{id}"),
        ({"url.template": "/users/{id}", "http.method": "POST"}, "POST", "/users/{id}"),
        ({"http.route": "/a", "url.template": "/b", "http.request.method": "GET", "http.method": "PUT"}, "GET", "/a"),
        ({"http.route": "/a"}, "", "/a"),
        ({"http.request.method": "GET"}, "GET", "/"),
        ({"http.request.method": "POST"}, "POST", "GET /"),
        ({}, "", "GET /"),
    ],
)
async def test_spans_name_their_endpoint_by_attributes(
    context: QueryContext, attributes: dict[str, str], method: str, route: str
) -> None:
    await write(context, spans=(server_span("api", START_MS + 1, 10, attributes=attributes),))
    (endpoint,) = await read_endpoints(context, BUCKETS, service="api", source="spans")
    assert (endpoint.method, endpoint.route) == (method, route)


async def test_endpoints_of_spans_have_their_own_errors_and_durations(context: QueryContext) -> None:
    get, post = ({"http.route": "/a", "http.request.method": method} for method in ("GET", "POST"))
    spans = (
        server_span("api", START_MS + 1, 10, attributes=get),
        server_span("api", START_MS + 2, 30, attributes=get, status=SpanStatus.ERROR),
        server_span("api", START_MS + 3, 5, attributes=post),
    )
    await write(context, spans=spans)
    result = await read_endpoints(context, BUCKETS, service="api", source="spans")
    assert [(endpoint.method, endpoint.route, endpoint.requests, endpoint.error_ratio) for endpoint in result] == [
        ("GET", "/a", 2, 0.5),
        ("POST", "/a", 1, 0),
    ]
    assert result[0].p95_ms == approximately(29)


def test_buckets_start_on_a_multiple_of_the_step_and_end_with_the_range() -> None:
    time_range = TimeRange(START_MS + 1234, START_MS + 3_600_000)
    buckets = split_buckets(time_range, points=60, now_ms=time_range.end_ms)
    assert (buckets.start_ms, buckets.end_ms, buckets.step_ms) == (START_MS, START_MS + 3_600_000, 60_000)
    assert buckets.count == len(buckets.starts_ms()) == 60


def test_the_last_bucket_is_complete_unless_it_is_the_present_one() -> None:
    end_ms = START_MS + 3_600_000 + 1234
    before = split_buckets(TimeRange(START_MS, end_ms), points=60, now_ms=end_ms + 3_600_000)
    assert (before.step_ms, before.end_ms) == (120_000, START_MS + 3_600_000 + 120_000)
    assert split_buckets(TimeRange(START_MS, end_ms), points=60, now_ms=end_ms - 1).end_ms == end_ms


async def test_many_services_are_paged_and_searched_and_the_totals_are_of_all(
    context: QueryContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "SERVICES_SHOWN_MAX", 2)
    for name in ("API-a", "api-b", "api-c", "web"):
        await write_batch(context, build_batch([(gauge(name), NOW_MS - 1000, 1.0)]))

    async def names(**options: Any) -> tuple[list[str], int, int, int]:
        page = await read_overview(context, BUCKETS, **options)
        assert page.totals.services == 4
        return [row.name for row in page.services], page.matching, page.page, page.pages

    assert await names() == (["API-a", "api-b"], 4, 1, 2)
    assert await names(page=2) == (["api-c", "web"], 4, 2, 2)
    assert await names(page=99) == (["api-c", "web"], 4, 2, 2)
    assert await names(text="Api", page=2) == (["api-c"], 3, 2, 2)
    assert await names(text="nothing") == ([], 0, 1, 1)
