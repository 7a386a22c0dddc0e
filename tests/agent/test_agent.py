"""The agent in a process: what it records arrives, and the process never suffers for it."""

from __future__ import annotations

import gzip
import logging
import math
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

import vantage_agent
from tests.agent.receiver import Receiver, answer, misbehaving, read_request
from tests.support.wait import BUSY_S
from vantage_agent import _exporter
from vantage_agent._batch_maker import RECORDED_SAMPLE
from vantage_agent._buffer import Buffer
from vantage_agent._config import make_config
from vantage_agent._exporter import Exporter
from vantage_agent._worker import WorkerNumber

NONSENSE: list[Any] = [None, "twelve", b"", object(), [], {}, math.nan, math.inf, 10**400, 1j, "\ud800", -(10**30)]


def without_address(value: object) -> str:
    """Name a case by its value. Each worker must call it the same."""
    return "an object" if type(value) is object else repr(value)


def start(receiver: Receiver, **more: Any) -> None:
    vantage_agent.init_agent("my-api", receiver.url, instance="a-1", **more)


def test_what_is_recorded_arrives_as_the_server_reads_it(receiver: Receiver) -> None:
    start(receiver, environment="staging", service_version="2.4.0", api_key="secret")
    vantage_agent.record_metric(
        name="http.request.duration",
        value=123,
        metric_type="histogram",
        unit="ms",
        tags={"endpoint": "/api/users"},
        timestamp_ms=1_703_001_234_567,
        trace_id="abc-123",
        span_id="span-001",
    )
    vantage_agent.counter("orders.placed", tags={"shop": "köln"})
    vantage_agent.gauge("queue.depth", 7)
    vantage_agent.histogram("query.duration", 1.5)
    assert vantage_agent.flush()
    (sent,) = receiver.sent
    assert sent.path == "/v1/metrics"
    assert sent.headers["Content-Type"] == "application/vnd.vantage.v1+msgpack"
    assert sent.headers["X-API-Key"] == "secret"
    received = sent.received
    assert (received.accepted, received.rejected) == (4, 0)
    kinds = {series.metric: series.kind.value for series in received.batch.series}
    assert kinds == {
        "http.request.duration": "histogram",
        "orders.placed": "counter",
        "queue.depth": "gauge",
        "query.duration": "histogram",
    }
    first = received.batch.series[0]
    assert (first.service, first.environment, first.unit) == ("my-api", "staging", "ms")
    assert dict(first.tags) == {"endpoint": "/api/users", "service_version": "2.4.0", "instance": "a-1"}
    assert received.batch.time_ms[0] == 1_703_001_234_567
    assert received.batch.exemplars.rows() == [(0, "abc-123", "span-001")]
    assert abs(received.batch.time_ms[1] - time.time() * 1000) < 60_000


def test_spans_arrive(receiver: Receiver) -> None:
    start(receiver)
    vantage_agent.record_span(
        "GET /users",
        trace_id="ab" * 16,
        span_id="cd" * 8,
        start_ns=1_703_001_234_567_000_000,
        duration_ns=5_000_000,
        kind="server",
        status="error",
        attributes={"http.route": "/users", "http.response.status_code": 503},
    )
    vantage_agent.record_span("x", trace_id="?", span_id="cd", start_ns=1, duration_ns=1)
    assert vantage_agent.flush()
    received = receiver.sent[0].received
    assert received.rejected == 0
    (span,) = received.batch.spans
    assert (span.name, span.kind.value, span.is_error) == ("GET /users", "server", True)
    assert span.attributes["http.response.status_code"] == "503"
    assert receiver.sent[0].packed["dropped"] == {"invalid": 1}


def test_samples_are_sent_without_a_flush(receiver: Receiver) -> None:
    start(receiver, flush_interval_s=0.05)
    vantage_agent.gauge("a", 1)
    receiver.wait_for(1)
    vantage_agent.gauge("a", 2)
    receiver.wait_for(2)
    assert receiver.values("a") == [1, 2]


def test_a_buffer_that_fills_is_sent_before_the_interval_is_over(receiver: Receiver) -> None:
    start(receiver, flush_interval_s=600)
    for i in range(6000):
        vantage_agent.gauge("a", i)
    receiver.wait_for(1)


def test_a_buffer_that_fills_while_a_batch_is_sent_is_sent_right_after() -> None:
    bodies = []

    def behave(connection: socket.socket, nth: int) -> None:
        while body := read_request(connection):
            bodies.append(body)
            time.sleep(0.3)
            answer(connection)

    with misbehaving(behave) as server:
        vantage_agent.init_agent("my-api", server.url, flush_interval_s=600)
        for i in range(5000):
            vantage_agent.gauge("a", i)
        wait_for(lambda: bodies)
        for i in range(6000):
            vantage_agent.gauge("a", i)
        wait_for(lambda: len(bodies) >= 3)
        vantage_agent.shutdown()


def wait_for(condition: Callable[[], object], timeout_s: float = 10) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_losses_are_counted_and_sent_where_the_buffer_drops(receiver: Receiver) -> None:
    receiver.answers = [(503, {"Retry-After": "1"}, b"")]
    start(receiver, flush_interval_s=0.05)
    vantage_agent.gauge("a", -1)
    receiver.wait_for(1)
    for i in range(12_000):
        vantage_agent.gauge("a", i)
    receiver.wait_for(3)
    assert vantage_agent.flush(5)
    lost = receiver.sent[2].packed["dropped"]["buffer_full"]
    assert 2000 <= lost <= 2100  # room is made for a hundred at a time
    assert sorted(receiver.values("a")) == [-1, -1, *range(lost, 12_000)]


def test_a_second_start_changes_nothing(receiver: Receiver) -> None:
    start(receiver)
    vantage_agent.init_agent("other", "http://127.0.0.1:1")
    vantage_agent.gauge("a", 1)
    assert vantage_agent.flush()
    assert receiver.sent[0].packed["resource"]["service_name"] == "my-api"


def test_settings_come_from_the_environment(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VANTAGE_AGENT_SERVICE_NAME", "from-env")
    monkeypatch.setenv("VANTAGE_AGENT_COLLECTOR_URL", receiver.url + "/behind/proxy/")
    monkeypatch.setenv("VANTAGE_AGENT_API_KEY", "k1")
    monkeypatch.setenv("VANTAGE_AGENT_ENVIRONMENT", "prod")
    monkeypatch.setenv("VANTAGE_AGENT_SERVICE_VERSION", "7")
    vantage_agent.init_agent(environment="argument-wins")
    vantage_agent.gauge("a", 1)
    assert vantage_agent.flush()
    resource = receiver.sent[0].packed["resource"]
    assert (resource["service_name"], resource["environment"], resource["service_version"]) == (
        "from-env",
        "argument-wins",
        "7",
    )
    assert receiver.sent[0].path == "/behind/proxy/v1/metrics"
    assert receiver.sent[0].headers["X-API-Key"] == "k1"


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", "http://x:port", "http://[::1", "nonsense"])
def test_a_setting_that_cannot_be_used_is_one_warning(url: str, caplog: pytest.LogCaptureFixture) -> None:
    vantage_agent.init_agent("my-api", url)
    vantage_agent.gauge("a", 1)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_libraries_that_cannot_be_instrumented_are_named_once(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    start(receiver, auto_instrument=["requests", "cherrypy", "pylons"])
    (record,) = caplog.records
    assert "cherrypy, pylons" in record.getMessage()


def test_an_api_key_is_not_printed() -> None:
    assert "secret" not in repr(make_config({}, api_key="secret"))


@pytest.mark.parametrize("nonsense", NONSENSE, ids=without_address)
@pytest.mark.parametrize(
    "argument", ["name", "value", "metric_type", "tags", "unit", "timestamp_ms", "trace_id", "span_id"]
)
def test_recording_nonsense_never_raises_and_never_spoils_a_batch(
    receiver: Receiver, argument: str, nonsense: Any
) -> None:
    start(receiver)
    vantage_agent.record_metric(**{"name": "a", "value": 1, argument: nonsense})
    vantage_agent.record_metric("good", 1)
    assert vantage_agent.flush()
    received = receiver.sent[0].received  # raises when the body cannot be read
    assert "good" in {series.metric for series in received.batch.series}


@pytest.mark.parametrize("nonsense", NONSENSE, ids=without_address)
@pytest.mark.parametrize(
    "argument",
    ["name", "trace_id", "span_id", "start_ns", "duration_ns", "parent_span_id", "kind", "status", "attributes"],
)
def test_a_nonsense_span_never_raises_and_never_spoils_a_batch(
    receiver: Receiver, argument: str, nonsense: Any
) -> None:
    start(receiver)
    span: dict[str, Any] = {"name": "a", "trace_id": "t", "span_id": "s", "start_ns": 10**18, "duration_ns": 1}
    vantage_agent.record_span(**{**span, argument: nonsense})
    vantage_agent.record_metric("good", 1)
    assert vantage_agent.flush()
    assert receiver.sent[0].received.accepted >= 1


def test_tags_are_copied_when_recorded(receiver: Receiver) -> None:
    start(receiver)
    tags: dict[str, Any] = {"a": 1, "long": "x" * 1000}
    vantage_agent.gauge("m", 1, tags=tags)
    tags["a"] = 2
    assert vantage_agent.flush()
    assert receiver.sent[0].packed["series"][0][3] == {"a": "1", "long": "x" * 512}


def test_without_an_agent_recording_does_nothing() -> None:
    vantage_agent.record_metric("a", 1)
    vantage_agent.record_span("a", trace_id="t", span_id="s", start_ns=1, duration_ns=1)
    assert vantage_agent.flush()
    vantage_agent.shutdown()


def test_a_large_backlog_is_sent_in_batches_below_the_limits(receiver: Receiver) -> None:
    config = make_config({}, service_name="s", collector_url=receiver.url)
    buffer = Buffer(items_max=10_000, nbytes_max=1 << 30)
    for i in range(10_000):
        sample = (f"m{i}", "gauge", "", (("tag", "ü" * 500),), 1_703_001_234_567, float(i), "", "")
        buffer.append(1000, RECORDED_SAMPLE, sample)
    exporter = Exporter(config, buffer, WorkerNumber(), lambda _: False)
    exporter.send_all()
    exporter.close()
    assert sum(sent.received.accepted for sent in receiver.sent) == 10_000
    assert all(len(sent.body) < 8 << 20 for sent in receiver.sent)
    assert all(len(gzip.compress(sent.body)) < 1 << 20 for sent in receiver.sent)


def test_recording_does_not_wait_for_the_network() -> None:
    vantage_agent.init_agent("my-api", "http://192.0.2.1:8000", flush_interval_s=0.05)
    vantage_agent.gauge("a", 1)
    time.sleep(0.2)
    started = time.perf_counter()
    for i in range(20_000):
        vantage_agent.gauge("a", i)
    assert time.perf_counter() - started < BUSY_S
    vantage_agent.shutdown(0.1)


def test_the_agent_imports_the_standard_library_alone() -> None:
    """Beside the rule on import statements: nothing but itself is loaded in a bare interpreter."""
    import subprocess

    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import vantage_agent, vantage_agent.run;"
        "print(*{m.partition('.')[0] for m in sys.modules} - set(sys.stdlib_module_names) - {'__main__'})"
    )
    home = str(_exporter.__file__).rpartition("/vantage_agent/")[0]
    done = subprocess.run([sys.executable, "-ISc", code, home], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["vantage_agent"]
