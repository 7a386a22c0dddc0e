"""The demo's world holds what its pages are to show, and the server takes all of it."""

from __future__ import annotations

import gzip
import itertools
import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from tests.support.context_writes import write_batch
from tests.support.ingest import packed_format
from vantage.core.arrays import F64, I64
from vantage.core.clock import SystemClock
from vantage.core.errors import ForbiddenError, InputError, UnauthorizedError, UnavailableError
from vantage.core.timerange import TimeRange
from vantage.demo import remove_demo, run_demo, send
from vantage.demo.scenario import HOUR_MS, MINUTE_MS, Scenario
from vantage.demo.shop import SERVICES
from vantage.demo.traffic import BATCH_NBYTES_MAX, Column, Traffic, bodies
from vantage.ingest.wire.decoded import DecodedRequest
from vantage.query.context import QueryContext
from vantage.query.http_semconv import split_buckets
from vantage.query.overview import read_overview
from vantage.storage.memory import MemoryStore
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.telemetry import Telemetry

START_MS = 1_763_989_200_000  # a Monday, 13:00 UTC
SEED = 7


@pytest.fixture(scope="module")
def world() -> Scenario:
    return Scenario(seed=SEED, start_ms=START_MS)


@pytest.fixture(scope="module")
def history(world: Scenario) -> Traffic:
    return history_of(world)


@pytest.fixture(scope="module")
def received(history: Traffic) -> list[DecodedRequest]:
    return [receive(body) for body in bodies(history, new_batch_id=counted())]


class MovedClock(SystemClock):
    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        return self._now_ms


def history_of(world: Scenario) -> Traffic:
    traffic = Traffic()
    for window in world.windows(world.history_start_ms, world.start_ms):
        world.traffic(*window, into=traffic)
    return traffic


def counted() -> Any:
    numbers = itertools.count()
    return lambda: f"batch-{next(numbers)}"


def receive(body: bytes) -> DecodedRequest:
    decoded = packed_format().receive(body, batch_id="", now_ms=START_MS, oldest_ms=0)
    assert (decoded.rejected, decoded.errors) == (0, [])
    return decoded


def requests(traffic: Traffic, service: str) -> tuple[I64, F64, I64]:
    """Times, durations and statuses of a service's requests."""
    times, values, statuses = [], [], []
    for origin, recorded in traffic.items():
        for name, column in recorded.columns.items():
            if origin.service == service and name.metric == "http.request.duration":
                times += column.times_ms
                values += column.values
                statuses += [int(dict(name.tags)["status"])] * len(column.values)
    return np.array(times), np.array(values), np.array(statuses)


def counted_requests(traffic: Traffic, *services: str) -> tuple[I64, F64, I64]:
    """Times, numbers of requests and statuses of the counter of some services, or of all."""
    times, values, statuses = [], [], []
    for origin, recorded in traffic.items():
        for name, column in recorded.columns.items():
            if name.metric == "http.requests" and origin.service in (services or {origin.service}):
                times += column.times_ms
                values += column.values
                statuses += [int(dict(name.tags)["status"])] * len(column.values)
    return np.array(times), np.array(values), np.array(statuses)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(world: Scenario) -> None:
    def live(seed: int) -> list[bytes]:
        traffic = Scenario(seed=seed, start_ms=START_MS).traffic(START_MS, START_MS + 5000)
        return list(bodies(traffic, new_batch_id=counted()))

    assert live(SEED) == live(SEED)
    assert live(SEED) != live(SEED + 1)


def test_a_window_does_not_depend_on_those_before_it(world: Scenario) -> None:
    fresh = Scenario(seed=SEED, start_ms=START_MS)
    fresh.traffic(START_MS, START_MS + 1000)
    assert fresh.traffic(START_MS + 1000, START_MS + 2000) == world.traffic(START_MS + 1000, START_MS + 2000)


def test_five_services_run_on_two_instances_each(history: Traffic) -> None:
    names = {"storefront", "checkout", "catalog", "payments", "recommendations"}
    assert {service.name for service in SERVICES} == names
    assert {(origin.service, origin.instance) for origin in history} == set(itertools.product(names, (1, 2)))


def test_history_is_modest_in_size_and_dense_where_it_is_recent(history: Traffic) -> None:
    times, _, _ = requests(history, "storefront")
    last, first = (times >= START_MS - 10 * MINUTE_MS).sum(), (times < START_MS - 350 * MINUTE_MS).sum()
    assert history.samples <= 300_000
    assert last > 4 * first > 0


@pytest.mark.parametrize("hours", [0.1, 1, 24, 168])
def test_history_of_any_length_is_modest(hours: float) -> None:
    world = Scenario(seed=SEED, start_ms=START_MS, history_hours=hours)
    assert len(list(world.windows(world.history_start_ms, world.start_ms))) < 2000
    assert history_of(world).samples <= 300_000


def test_requests_are_counted_at_their_true_rate_however_thin_the_durations_are(
    history: Traffic, world: Scenario
) -> None:
    times, counts, _ = counted_requests(history)
    for hour in range(6):
        start_ms = world.history_start_ms + hour * HOUR_MS
        within = (times >= start_ms) & (times < start_ms + HOUR_MS)
        expected = np.mean([world.rate(start_ms + minute * MINUTE_MS) for minute in range(60)])
        assert counts[within].sum() / 3600 == pytest.approx(expected, rel=0.03), hour


def test_where_every_duration_is_told_there_are_as_many_as_requests(history: Traffic, world: Scenario) -> None:
    recent_ms = world.start_ms - 15 * MINUTE_MS
    for service in SERVICES:
        recorded, _, _ = requests(history, service.name)
        times, counts, _ = counted_requests(history, service.name)
        assert (recorded >= recent_ms).sum() == counts[times >= recent_ms].sum()


def test_a_series_counts_once_a_window_and_windows_fit_the_steps_of_charts(history: Traffic, world: Scenario) -> None:
    for recorded in history.values():
        for name, column in recorded.columns.items():
            if name.metric == "http.requests":
                assert len(set(column.times_ms)) == len(column.times_ms)
                assert min(column.values) >= 1
    times, _, _ = counted_requests(history)
    for back_minutes, step_ms in ((20, 5_000), (60, 15_000), (360, 60_000)):
        started = times >= world.start_ms - back_minutes * MINUTE_MS
        assert len(np.unique(times[started] // step_ms)) == back_minutes * MINUTE_MS // step_ms


@pytest.mark.parametrize("hours", [1, 6, 24])
async def test_the_overview_tells_true_rates_errors_and_durations_over_every_range(
    received: list[DecodedRequest], world: Scenario, hours: int
) -> None:
    clock = MovedClock(START_MS)
    async with MemoryMetadataStore(clock) as metadata:
        context = QueryContext(MemoryStore(clock=clock), metadata, clock, Telemetry())
        for item in received:
            await write_batch(context, item.batch)
        buckets = split_buckets(TimeRange(START_MS - hours * HOUR_MS, START_MS), points=60, now_ms=START_MS)
        overview = await read_overview(context, buckets)
    told_hours = min(hours, 6)
    expected = np.mean([world.rate(START_MS - minute * MINUTE_MS) for minute in range(told_hours * 60)])
    assert overview.totals.rate_per_s == pytest.approx(expected, rel=0.03)
    rates = [rate for rate in overview.totals.rates_per_s[:-1] if rate is not None][1:]
    assert max(rates) < 1.6 * min(rates)
    results = {row.name: row.red for row in overview.services if row.red}
    ratio = results["payments"].error_ratio or 0
    assert ratio == pytest.approx(0.7 * 3 / 60 / told_hours, rel=0.2, abs=0.003)  # the burst
    assert 0 < (results["catalog"].error_ratio or 0) < 0.004
    assert 45 < (results["catalog"].p95_ms or 0) < 55
    assert 300 < (results["checkout"].p95_ms or 0) < 500


def test_counted_errors_are_those_of_the_durations(history: Traffic, world: Scenario) -> None:
    times, counts, statuses = counted_requests(history, "payments")
    during = (times >= world.burst_ms) & (times < world.burst_ms + 3 * MINUTE_MS)
    failed = statuses == 503
    assert counts[during & failed].sum() > 0.5 * counts[during].sum()
    assert counts[~during & (statuses >= 500)].sum() < 0.01 * counts[~during].sum()


def test_live_requests_are_counted_every_second(world: Scenario) -> None:
    traffic = world.traffic(START_MS, START_MS + 1000)
    _, counts, _ = counted_requests(traffic)
    assert counts.sum() == sum(len(requests(traffic, service.name)[0]) for service in SERVICES) > 0


@pytest.mark.parametrize("hour", range(0, 168, 5))
def test_live_traffic_is_20_to_60_requests_a_second(hour: int) -> None:
    time_ms = START_MS + hour * HOUR_MS
    assert 20 <= Scenario(seed=SEED, start_ms=START_MS).rate(time_ms) <= 60


def test_days_have_a_rhythm(world: Scenario) -> None:
    night, noon = START_MS + 14 * HOUR_MS, START_MS + 2 * HOUR_MS
    assert world.rate(noon) > 1.6 * world.rate(night)
    saturday = START_MS + 5 * 24 * HOUR_MS
    assert np.mean([world.rate(saturday + i * HOUR_MS) for i in range(24)]) < np.mean(
        [world.rate(START_MS + i * HOUR_MS) for i in range(24)]
    )


def test_the_next_version_of_checkout_is_slower(history: Traffic, world: Scenario) -> None:
    versions = {origin.version for origin in history if origin.service == "checkout"}
    assert versions == {"2.4.0", "2.5.0"}
    times, durations, _ = requests(history, "checkout")
    before, after = durations[times < world.deployed_ms], durations[times > world.deployed_ms + 10_000]
    assert world.deployed_ms == START_MS - 50 * MINUTE_MS
    ratio = np.percentile(after, 95) / np.percentile(before, 95)
    assert 1.5 <= ratio <= 3, ratio
    times, durations, _ = requests(history, "catalog")
    ratio = np.percentile(durations[times > world.deployed_ms], 95) / np.percentile(
        durations[times < world.deployed_ms], 95
    )
    assert 0.85 < ratio < 1.15


def test_payments_fail_for_three_minutes_and_so_do_their_callers(history: Traffic, world: Scenario) -> None:
    for service, status in (("payments", 503), ("checkout", 502), ("storefront", 502)):
        times, _, statuses = requests(history, service)
        during = (times >= world.burst_ms) & (times < world.burst_ms + 3 * MINUTE_MS)
        assert (statuses[during] == status).sum() > 50
        assert (statuses[during] == status).mean() > 20 * (statuses[~during] == status).mean()
    times, _, statuses = requests(history, "payments")
    during = (times >= world.burst_ms) & (times < world.burst_ms + 3 * MINUTE_MS)
    assert (statuses[during] == 503).mean() > 0.5
    assert (statuses[~during] >= 500).mean() < 0.01


def test_the_burst_comes_again_every_40_minutes_of_live_traffic(world: Scenario) -> None:
    def failures(minute: float) -> int:
        start_ms = START_MS + int(minute * MINUTE_MS)
        _, _, statuses = requests(world.traffic(start_ms, start_ms + 30_000), "payments")
        return int((statuses == 503).sum())

    assert failures(10) == failures(30) == failures(70) == 0
    assert min(failures(16), failures(56)) > 5


def test_every_sample_and_span_lies_within_the_history(received: list[DecodedRequest], world: Scenario) -> None:
    for item in received:
        if item.batch.samples:
            assert world.history_start_ms <= int(item.batch.time_ms.min())
            assert int(item.batch.time_ms.max()) < world.start_ms
        for span in item.batch.spans:
            assert world.history_start_ms <= span.start_ms < world.start_ms + 10_000


def test_the_server_accepts_every_batch_in_full(history: Traffic, received: list[DecodedRequest]) -> None:
    assert sum(item.batch.samples for item in received) == history.samples
    assert {series.environment for batch in received for series in batch.batch.series} == {"demo"}
    assert {span.environment for batch in received for span in batch.batch.spans} == {"demo"}
    sizes = [len(body) for body in bodies(history, new_batch_id=counted())]
    assert max(sizes) <= BATCH_NBYTES_MAX
    assert len(sizes) < 100


def test_metrics_have_their_units_and_kinds(received: list[DecodedRequest]) -> None:
    results = {(series.metric, series.kind.value, series.unit) for batch in received for series in batch.batch.series}
    assert results == {
        ("http.requests", "counter", "{request}"),
        ("http.request.duration", "histogram", "ms"),
        ("process.cpu.percent", "gauge", "%"),
        ("process.memory.rss", "gauge", "By"),
        ("payments.queue.depth", "gauge", "{charge}"),
        ("catalog.cache.hit_ratio", "gauge", "1"),
        ("orders.placed", "counter", "{order}"),
    }


def test_traces_are_whole(received: list[DecodedRequest]) -> None:
    spans = [span for item in received for span in item.batch.spans]
    assert len(spans) > 1000
    by_trace: dict[str, dict[str, Any]] = {}
    for span in spans:
        assert (len(span.trace_id), len(span.span_id)) == (32, 16)
        assert span.span_id not in by_trace.setdefault(span.trace_id, {})
        by_trace[span.trace_id][span.span_id] = span
    services: Counter[int] = Counter()
    for trace in by_trace.values():
        roots = [span for span in trace.values() if not span.parent_span_id]
        assert [(root.service_name, root.kind.value) for root in roots] == [("storefront", "server")]
        services[len({span.service_name for span in trace.values()})] += 1
        for span in trace.values():
            if span.parent_span_id:
                parent = trace[span.parent_span_id]
                assert parent.start_ns <= span.start_ns
                assert span.start_ns + span.duration_ns <= parent.start_ns + parent.duration_ns + 10_000
    assert set(services) <= {2, 3, 4}
    assert len(services) >= 2


def test_few_samples_are_linked_and_each_link_leads_to_its_span(received: list[DecodedRequest]) -> None:
    known = {(span.trace_id, span.span_id) for item in received for span in item.batch.spans}
    linked = [(trace_id, span_id) for item in received for _, trace_id, span_id in item.batch.exemplars.rows()]
    assert set(linked) <= known
    assert 0.01 < len(linked) / sum(item.batch.samples for item in received) < 0.1


def test_a_column_too_long_for_one_batch_is_split_with_its_links(world: Scenario) -> None:
    traffic = world.traffic(START_MS, START_MS + 1000)
    recorded = next(iter(traffic.values()))
    count = 120_000
    links = [(at, "t", f"s{at}") for at in (0, 9_999, 10_000, 119_999)]
    name = next(iter(recorded.columns))
    recorded.columns = {name: Column([START_MS] * count, [float(i) for i in range(count)], links)}
    sent = list(bodies(traffic, new_batch_id=counted()))
    assert max(map(len, sent)) <= BATCH_NBYTES_MAX
    results = {
        (span_id, float(item.batch.value[position]))
        for item in map(receive, sent)
        for position, _, span_id in item.batch.exemplars.rows()
        if span_id in {"s0", "s9999", "s10000", "s119999"}
    }
    assert results == {("s0", 0.0), ("s9999", 9999.0), ("s10000", 10000.0), ("s119999", 119999.0)}


class FakeServer:
    """Sends the given responses, then 202; records every request."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.sent: list[tuple[str, str, dict[str, str], bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.sent.append((self.command, self.path, dict(self.headers), body))
                status, headers, text = outer.answers.pop(0) if outer.answers else (202, {}, b"{}")
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(text))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)

            do_DELETE = do_POST  # noqa: N815  # named by http.server

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake_server = FakeServer()
    yield fake_server
    fake_server.close()


def test_history_is_sent_packed_and_compressed(server: FakeServer) -> None:
    assert run_demo(server.url, api_key="secret", once=True, history_hours=0.5, seed=SEED) == 0
    assert {(method, path) for method, path, _, _ in server.sent} == {("POST", "/v1/metrics")}
    headers = server.sent[0][2]
    assert headers["X-API-Key"] == "secret"
    assert headers["Content-Type"] == "application/vnd.vantage.v1+msgpack"
    received = [
        packed_format().receive(gzip.decompress(body), batch_id="", now_ms=2 * START_MS, oldest_ms=0)
        for *_, body in server.sent
    ]
    assert sum(item.rejected for item in received) == 0
    assert len({item.batch.batch_id for item in received}) == len(received)


def test_live_traffic_flows_until_it_is_stopped(server: FakeServer) -> None:
    stop = threading.Event()
    thread = threading.Thread(
        target=run_demo, args=(server.url,), kwargs={"api_key": None, "stop": stop, "history_hours": 0.01}
    )
    thread.start()
    threading.Event().wait(3.5)
    stop.set()
    thread.join(5)
    assert not thread.is_alive()
    services = {
        json.dumps(packed_format().receive(
            gzip.decompress(body), batch_id="", now_ms=2 * START_MS, oldest_ms=0
        ).batch.series[0].service)
        for *_, body in server.sent
    }  # fmt: skip
    assert len(services) == 5
    assert len(server.sent) < 60


def test_a_busy_server_gets_the_same_batch_again(server: FakeServer) -> None:
    server.answers = [(429, {"Retry-After": "0"}, b""), (503, {"Retry-After": "0"}, b"")]
    assert run_demo(server.url, api_key=None, once=True, history_hours=0.01) == 0
    assert server.sent[0][3] == server.sent[1][3] == server.sent[2][3]


def test_requests_stay_below_the_servers_rate(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0

    class Moving(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            nonlocal now_s
            now_s += timeout or 0
            return False

    class Monotonic(SystemClock):
        def monotonic_s(self) -> float:
            return now_s

    monkeypatch.setattr(send, "REQUESTS_A_MINUTE_MAX", 20)
    decoded = send.Server(server.url, api_key=None, clock=Monotonic(), stop=Moving())
    for _ in range(21):
        decoded.request("POST", "/v1/metrics")
    decoded.close()
    assert now_s == 60


@pytest.mark.parametrize(
    ("status", "error"), [(401, UnauthorizedError), (403, ForbiddenError), (400, InputError), (404, InputError)]
)
def test_a_refusal_is_told_in_one_line(server: FakeServer, status: int, error: type[Exception]) -> None:
    server.answers = [(status, {}, b'{"detail":"because"}')]
    with pytest.raises(error, match="because") as raised:
        run_demo(server.url, api_key=None, once=True, history_hours=0.01)
    assert "\n" not in str(raised.value)


def test_a_server_that_is_away_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send, "PATIENCE_AT_FIRST_S", 0.1)
    with pytest.raises(UnavailableError, match="is the server running"):
        run_demo("http://127.0.0.1:9", api_key=None, once=True, history_hours=0.01)


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://x", "http://x:y"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="url"):
        run_demo(url, api_key=None)


def test_the_demo_is_removed_by_its_environment(server: FakeServer) -> None:
    server.answers = [(200, {}, b'{"samples": 5}')]
    assert remove_demo(server.url, api_key="k") == {"samples": 5}
    assert server.sent[0][:2] == ("DELETE", "/api/data?environment=demo")
