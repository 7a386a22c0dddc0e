"""Live updates over a real WebSocket: contents, delay, limits and slow readers."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as open_socket

from tests.support.samples import NOW_MS, MovedClock, a_batch, a_series
from tests.support.server import Server, serving
from tests.support.wait import BUSY_S, TIMEOUT_S, wait_until
from vantage.core.batch import Batch, build_batch
from vantage.query.live import PENDING_MAX, SERIES_MAX, LiveUpdates, messages
from vantage.telemetry import Telemetry
from vantage.web.edits import applied

WITHIN_S = 2.0
QUIET = {"VANTAGE_SELF_TELEMETRY": "false", "VANTAGE_INGEST_RATE_LIMIT": "0"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("live") / "data", environ=QUIET) as server:
        yield server
        assert "Traceback" not in server.output, server.output


def listen(server: Server, path: str, **options: Any) -> contextlib.AbstractContextManager[ClientConnection]:
    return open_socket(server.url.replace("http", "ws") + path, **options)


def heard(listening: ClientConnection, seconds: float, *, least: int = 0) -> list[dict[str, Any]]:
    """Return the first ``least`` messages, and all that come within so many seconds after them."""
    messages = [json.loads(listening.recv(timeout=TIMEOUT_S)) for _ in range(least)]
    end_s = time.monotonic() + seconds
    with contextlib.suppress(TimeoutError):
        while (left := end_s - time.monotonic()) > 0:
            messages.append(json.loads(listening.recv(timeout=left)))
    return messages


def send(server: Server, service: str, *values: float, metric: str = "m", **other: Any) -> None:
    metrics = [{"metric_name": metric, "value": value, **other} for value in values]
    assert server.send({"service_name": service, "environment": "test", "metrics": metrics}).status == 202


def test_an_update_tells_a_second_of_one_series_within_two_seconds(server: Server) -> None:
    with listen(server, "/ws/metrics?service=shape") as listening:
        started = time.monotonic()
        send(server, "shape", 1.0, 5.0, 3.0, tags={"k": "v"}, unit="ms", metric_type="histogram")
        update = json.loads(listening.recv(timeout=WITHIN_S + BUSY_S))
        assert time.monotonic() - started < WITHIN_S + BUSY_S
    data = update["data"]
    assert update["type"] == "metric_update"
    assert abs(data.pop("timestamp") - time.time() * 1000) < 10_000
    assert data == {
        "service": "shape", "environment": "test", "metric": "m", "kind": "histogram", "unit": "ms",
        "tags": {"k": "v"}, "value": 3.0, "count": 3, "sum": 9.0, "min": 1.0, "max": 5.0,
    }  # fmt: skip


def test_a_series_is_told_at_most_once_a_second_and_nothing_is_lost_on_the_way(server: Server) -> None:
    with listen(server, "/ws/metrics?service=often&metric=m") as listening:
        started_s, sent, received, updates = time.monotonic(), 0, 0, 0
        while time.monotonic() < started_s + 3.2:
            send(server, "often", 1.0)
            sent += 1
            time.sleep(0.02)
        while received < sent:
            received += json.loads(listening.recv(timeout=TIMEOUT_S))["data"]["count"]
            updates += 1
        took_s = time.monotonic() - started_s
    assert received == sent
    assert 2 <= updates <= took_s + 1


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        ("", {("f1", "a"), ("f1", "b"), ("f2", "a")}),
        ("?service=f1", {("f1", "a"), ("f1", "b")}),
        ("?metric=a", {("f1", "a"), ("f2", "a")}),
        ("?service=f1&metric=b", {("f1", "b")}),
        ("?service=nobody", set()),
    ],
)
def test_service_and_metric_choose_what_comes(server: Server, requested: str, expected: set[tuple[str, str]]) -> None:
    with listen(server, f"/ws/metrics{requested}") as listening:
        for service, metric in (("f1", "a"), ("f1", "b"), ("f2", "a")):
            send(server, service, 1.0, metric=metric)
        updates = heard(listening, 1.4, least=len(expected))
    assert {(update["data"]["service"], update["data"]["metric"]) for update in updates} == expected


def test_a_socket_carries_two_hundred_series_and_says_that_there_are_more(server: Server) -> None:
    with listen(server, "/ws/metrics?service=many") as listening:
        metrics = [{"metric_name": "m", "value": 1, "tags": {"n": str(i)}} for i in range(250)]
        server.send({"service_name": "many", "metrics": metrics})
        messages = heard(listening, 1.5, least=SERIES_MAX + 1)
    updates = [message for message in messages if message["type"] == "metric_update"]
    (limited,) = [message for message in messages if message["type"] == "limited"]
    assert (len(updates), limited["series"]) == (SERIES_MAX, 50)


def test_pages_hear_which_services_changed(server: Server) -> None:
    with listen(server, "/ws/pages") as listening:
        send(server, "p1", 1.0)
        span = {"trace_id": "t", "span_id": "s", "name": "op", "start_ns": time.time_ns(), "duration_ns": 1}
        server.send({"service_name": "p2", "spans": [span]}, "/v1/spans")
        messages = heard(listening, 1.5, least=1)
    assert {message["type"] for message in messages} == {"changed"}
    services = {service for message in messages for service in message["services"]}
    assert services == {"*", "p1", "p2"}, "first of all everything, since the page may be older than its socket"


def test_connections_are_counted_while_they_are_open(server: Server) -> None:
    def count() -> float:
        return server.counts()["vantage_api_websocket_connections"]

    wait_until(lambda: count() == 0)
    with listen(server, "/ws/metrics"), listen(server, "/ws/pages"):
        wait_until(lambda: count() == 2)
    wait_until(lambda: count() == 0)


def test_a_page_that_is_watched_is_pushed_what_changes_of_it(server: Server) -> None:
    send(server, "pushed", 1.0)
    url = "/services/pushed?range=5m"
    with listen(server, "/ws/pages") as listening:
        listening.send("not a message")
        listening.send(b"\xff\xfe")
        listening.send(json.dumps({"type": "watch", "url": url, "service": "pushed"}))
        text, etag, changes = "", "", 0
        while changes < 2:
            received = listening.recv(timeout=TIMEOUT_S)
            if isinstance(received, str):
                assert json.loads(received)["type"] in ("changed", "heartbeat")
                continue
            message = json.loads(gzip.decompress(received))
            assert message["url"] == url
            if "text" in message:
                text = message["text"]
            else:
                assert message["has"] == etag
                text = applied(text, message["change"]["edits"])
                changes += 1
            etag = message["etag"]
            send(server, "pushed", 2.0, metric=f"metric-{changes}")
        assert 'id="view"' in text
        assert "metric-0" in text


@pytest.mark.parametrize("path", ["/ws/metrics", "/ws/pages"])
def test_a_foreign_origin_is_refused(server: Server, path: str) -> None:
    for origin in ("https://evil.example.com", "null"):
        with pytest.raises(InvalidStatus) as refused, listen(server, path, origin=origin):
            pass
        assert refused.value.response.status_code == 403


def test_what_a_reader_sends_is_ignored(server: Server) -> None:
    with listen(server, "/ws/metrics?service=chatty") as listening:
        for text in ("hello", "{", '{"type":"subscribe"}', b"\xff\x00"):
            listening.send(text)
        send(server, "chatty", 1.0)
        assert json.loads(listening.recv(timeout=WITHIN_S + BUSY_S))["type"] == "metric_update"


def test_an_address_without_a_websocket_refuses_one(server: Server) -> None:
    for path in ("/ws/nothing", "/v1/metrics", "/api/services"):
        with pytest.raises((InvalidStatus, ConnectionClosed)), listen(server, path) as listening:
            listening.recv(timeout=5)


def test_a_slow_reader_is_told_what_it_lost_and_slows_nobody(server: Server) -> None:
    """The reader's socket has a tiny buffer and reads nothing while tens of thousands of updates come."""
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    narrow.connect(server.address)
    tags = {f"k{j}": "x" * 500 for j in range(30)}
    metrics = [{"metric_name": "m", "value": 1, "tags": {"n": str(i), **tags}} for i in range(SERIES_MAX)]
    body = gzip.compress(json.dumps({"service_name": "slow", "metrics": metrics}).encode())
    with listen(
        server, "/ws/metrics?service=slow", sock=narrow, max_queue=1, compression=None, close_timeout=0.2
    ) as listening:
        slowest_s = 0.0

        def is_dropping() -> bool:
            nonlocal slowest_s
            started = time.monotonic()
            assert server.send(body, Content_Encoding="gzip").status == 202
            slowest_s = max(slowest_s, time.monotonic() - started)
            return server.counts()["vantage_live_dropped_updates_total"] > 0

        wait_until(is_dropping, every_s=0.5)
        dropped = 0
        end_s = time.monotonic() + 10
        while not dropped and time.monotonic() < end_s:
            message = json.loads(listening.recv(timeout=10))
            dropped = message["count"] if message["type"] == "dropped" else 0
    assert slowest_s < BUSY_S  # a sender that waited for the reader would wait for as long as it reads nothing
    assert dropped > 0
    assert server.counts()["vantage_live_dropped_updates_total"] >= dropped


def test_readers_that_vanish_are_forgotten(server: Server) -> None:
    for _ in range(20):
        connection = socket.create_connection(server.address)
        host = f"{server.address[0]}:{server.address[1]}"
        connection.sendall(
            f"GET /ws/metrics HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        assert b"101" in connection.recv(4096)
        connection.close()
    send(server, "after", 1.0)
    wait_until(lambda: server.counts()["vantage_api_websocket_connections"] == 0)


@pytest.fixture
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    environ = {**QUIET, "VANTAGE_API_KEY": "k3y", "VANTAGE_WEBSOCKETS_MAX": "2"}
    with serving(tmp_path_factory.mktemp("guarded") / "data", environ=environ) as server:
        yield server


def test_a_key_is_needed_where_keys_are_in_use_and_their_number_is_bounded(guarded: Server) -> None:
    with pytest.raises(InvalidStatus) as refused, listen(guarded, "/ws/metrics"):
        pass
    assert refused.value.response.status_code == 401
    assert "key" in json.loads(refused.value.response.body)["detail"]
    key = {"additional_headers": {"X-API-Key": "k3y"}}
    with listen(guarded, "/ws/metrics", **key) as first, listen(guarded, "/ws/pages", **key):
        with pytest.raises(InvalidStatus) as refused, listen(guarded, "/ws/metrics", **key):
            pass
        assert refused.value.response.status_code == 503
        assert "too many" in json.loads(refused.value.response.body)["detail"]
        headers = {"X-API-Key": "k3y", "Content-Type": "application/json"}
        guarded.request(
            "POST", "/v1/metrics", b'{"service_name":"a","metrics":[{"metric_name":"m","value":1}]}', headers
        )
        assert json.loads(first.recv(timeout=WITHIN_S + BUSY_S))["type"] == "metric_update"


# ---- the piece behind the socket, in this process: what would take too long to wait for


@pytest.fixture
def live() -> LiveUpdates:
    return LiveUpdates(clock=MovedClock(), telemetry=Telemetry())


async def test_silence_is_broken_by_a_heartbeat(live: LiveUpdates) -> None:
    with live.subscribe() as reader:
        recorded = messages(reader, heartbeat_s=0.01)
        assert [await anext(recorded) for _ in range(2)] == [([], set(), 0)] * 2


async def test_services_that_nobody_asked_for_do_not_break_the_silence(live: LiveUpdates) -> None:
    with live.subscribe(service="api", metric="wanted") as reader:
        live.publish(a_batch(1.0, series=a_series(metric="other")))
        live.tick()
        assert not reader.wake.is_set(), "a message without content would put the heartbeat off"


async def test_updates_wait_for_the_tick_and_are_one_for_each_series(live: LiveUpdates) -> None:
    with live.subscribe() as reader:
        for value in (1.0, 2.0, 4.0):
            live.publish(a_batch(value))
        assert not reader.wake.is_set()
        live.tick()
        ((update,), _, dropped) = reader.drain()
        assert (update.count, update.total, update.low, update.high, dropped) == (3, 7.0, 1.0, 4.0, 0)
        assert reader.drain()[0] == []


async def test_the_latest_sample_is_the_one_of_the_latest_time_not_the_last_sent(live: LiveUpdates) -> None:
    with live.subscribe() as reader:
        live.publish(build_batch([(a_series(), NOW_MS, 1.0), (a_series(), NOW_MS - 5000, 2.0)]))
        live.tick()
        (update,) = reader.drain()[0]
        assert (update.last, update.last_ms) == (1.0, NOW_MS)


async def test_of_what_waits_too_long_the_oldest_is_dropped_and_counted(live: LiveUpdates) -> None:
    series = [a_series(tags={"n": str(i)}) for i in range(SERIES_MAX)]
    ticks = PENDING_MAX // SERIES_MAX + 2
    with live.subscribe() as reader:
        for tick in range(ticks):
            live.publish(build_batch([(item, NOW_MS, float(tick)) for item in series]))
            live.tick()
        updates, _, dropped = reader.drain()
    assert (len(updates), dropped) == (PENDING_MAX, 2 * SERIES_MAX)
    assert min(update.last for update in updates) == 2.0


async def test_a_reader_that_left_is_offered_nothing(live: LiveUpdates) -> None:
    with live.subscribe() as reader:
        pass
    live.publish(a_batch(1.0))
    live.tick()
    assert not reader.pending


async def test_an_empty_batch_is_no_news(live: LiveUpdates) -> None:
    with live.subscribe() as reader:
        live.publish(Batch())
        live.tick()
        assert not reader.wake.is_set()
