"""What an adversary found once, and must not find again."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.sync.client import connect as open_socket

from tests.support.ingest import series_cache
from tests.support.samples import a_series
from tests.support.server import Server, serving, vantage
from tests.support.wait import BUSY_S, wait_until
from vantage.core.batch import Batch, build_batch
from vantage.core.clock import SystemClock
from vantage.core.errors import InputError
from vantage.core.live_update import updates_of
from vantage.core.sample import Kind
from vantage.core.series import make_series
from vantage.ingest.body import unpack
from vantage.ingest.wire.packed import MEDIA_TYPE
from vantage.query import live
from vantage.query.live import FOLLOWED_TICKS, SERIES_MAX, Feed
from vantage.telemetry import Telemetry
from vantage.web.api.live import payload_of, text_frame
from vantage.web.limits import TrustedProxies

ENVIRON = {"VANTAGE_INGEST_RATE_LIMIT": "0", "VANTAGE_API_RATE_LIMIT": "0", "VANTAGE_HEADER_TIMEOUT_S": "1"}
HOST = b"Host: localhost\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("defects") / "data", environ=ENVIRON) as server:
        yield server
        assert "Traceback" not in server.output, server.output


def answer_of(connection: socket.socket) -> bytes:
    """Everything until the server hangs up."""
    result = b""
    while part := connection.recv(65536):
        result += part
    return result


def memory_peak_mib(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status")
    if not status.exists():
        pytest.skip("needs /proc to see a process' memory")
    match = re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
    assert match is not None
    return int(match[1]) >> 10


def test_trailers_are_bounded_like_headers(server: Server) -> None:
    with server.connect() as connection:
        connection.settimeout(10)
        connection.sendall(
            b"POST /v1/metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + HOST + b"\r\n2\r\n{}\r\n0\r\n"
        )
        line = b"X-Trailer: " + b"a" * 1000 + b"\r\n"
        with pytest.raises(OSError):  # noqa: PT011 - reset or broken pipe, as the system likes
            for _ in range(20_000):
                connection.sendall(line)


def test_short_trailers_and_many_small_chunks_are_welcome(server: Server) -> None:
    body = json.dumps({"service_name": "chunks", "metrics": [{"metric_name": "m", "value": 1}] * 800}).encode()
    chunks = b"".join(b"1;ext=%d\r\n%c\r\n" % (at, byte) for at, byte in enumerate(body))
    head = b"POST /v1/metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n"
    with server.connect() as connection:
        connection.settimeout(10)
        connection.sendall(head + b"Content-Type: application/json\r\n" + HOST + b"\r\n" + chunks)
        connection.sendall(b"0\r\nX-Trailer: a\r\n\r\n")
        answer = answer_of(connection)
    assert answer.startswith(b"HTTP/1.1 202"), answer


def test_an_empty_line_between_requests_does_not_occupy_a_connection(server: Server) -> None:
    with server.connect() as connection:
        connection.settimeout(10)
        connection.sendall(b"GET /health/live HTTP/1.1\r\n" + HOST + b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(b"\r\n")
        started = time.monotonic()
        answer_of(connection)
        assert time.monotonic() - started < BUSY_S


def test_a_connection_is_reused_for_the_next_request(server: Server) -> None:
    connection = http.client.HTTPConnection(*server.address, timeout=10)
    for wait_s in (0, 1.5, 0):  # longer than headers may take
        time.sleep(wait_s)
        connection.request("GET", "/health/live")
        assert connection.getresponse().read()
    connection.close()


def test_an_invalid_envelope_is_not_cached() -> None:
    cache = series_cache()
    assert cache.known(("json", "a" * 5000, "", "", "")) is not cache.known(("json", "a" * 5000, "", "", ""))
    assert cache.known(("json", "a", "", "", "")) is cache.known(("json", "a", "", "", ""))


def test_reasons_of_an_agent_cannot_fill_our_metrics(server: Server) -> None:
    for number in range(20):
        reasons = {f"r{number}-{i}\n": 1 for i in range(16)}
        body = msgspec.msgpack.encode({"resource": {"service_name": "x"}, "dropped": reasons})
        assert server.request("POST", "/v1/metrics", body, {"Content-Type": MEDIA_TYPE}).status == 202
    reported = {name: count for name, count in server.counts().items() if "agent" in name and "reason" in name}
    totals = {name: count for name, count in reported.items() if "_created" not in name}
    assert len(totals) <= 33
    assert sum(totals.values()) == 320


def test_a_small_body_that_unpacks_to_a_large_one_does_not_stop_the_loop(server: Server) -> None:
    sample = b'{"metric_name":"!","value":1},'
    body = gzip.compress(b'{"metrics":[' + (sample * 250_000).rstrip(b",") + b"]}")
    assert len(body) < 32_000
    statuses: list[int] = []

    def send() -> None:
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        statuses.append(server.request("POST", "/v1/metrics", body, headers).status)

    sending = threading.Thread(target=send)
    answered = 0
    sending.start()
    while sending.is_alive():
        assert server.get("/health/live").status == 200
        answered += 1
    sending.join()
    assert statuses == [202]
    assert answered > 5  # one, or two, when the loop decodes


def test_a_timeseries_fills_only_the_groups_it_returns(server: Server) -> None:
    for batch in range(8):
        metrics = [{"metric_name": "m", "value": 1, "tags": {"u": f"{batch}-{i}"}} for i in range(1000)]
        assert server.send({"service_name": "groups", "metrics": metrics}).status == 202
    before = memory_peak_mib(server)
    path = "/api/metrics/timeseries?service=groups&metric=m&group_by=u&step=1s&start=now-3h"
    result = server.get(path).json()
    assert len(result["series"]) == 200
    assert "8000 series match" in result["warnings"][0]
    assert memory_peak_mib(server) - before < 400  # all 8000 would be 700


def test_a_revoked_key_ends_its_websocket(tmp_path: Path) -> None:
    data, admin = tmp_path / "data", "k" * 32
    secret = vantage("keys", "create", "reader", "--scope", "read", "--data", str(data)).stdout.strip()
    with (
        serving(data, environ={**ENVIRON, "VANTAGE_API_KEY": admin, "VANTAGE_SELF_TELEMETRY": "false"}) as server,
        open_socket(
            server.url.replace("http", "ws") + "/ws/metrics", additional_headers={"X-API-Key": secret}
        ) as listening,
    ):
        sample = {"service_name": "s", "metrics": [{"metric_name": "m", "value": 1}]}
        server.send(sample, X_API_Key=admin)
        listening.recv(timeout=5)
        listed = vantage("keys", "list", "--data", str(data)).stdout
        key_id = next(line.split()[0] for line in listed.splitlines() if "reader" in line)
        assert vantage("keys", "revoke", key_id, "--data", str(data)).returncode == 0
        wait_until(lambda: server.get("/api/services", **{"X-API-Key": secret}).status == 401)
        server.send(sample, X_API_Key=admin)
        with pytest.raises(ConnectionClosed) as closed:
            listening.recv(timeout=5)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008


def test_a_network_of_ipv6_has_one_rate() -> None:
    proxies = TrustedProxies(())
    assert proxies.client("2001:db8:1:2:3::4", {}) == proxies.client("2001:db8:1:2:ffff::1", {})
    assert proxies.client("2001:db8:1:2::1", {}) != proxies.client("2001:db8:1:3::1", {})
    assert proxies.client("::ffff:192.0.2.1", {}) == proxies.client("192.0.2.1", {}) == "192.0.2.1"


def test_a_batch_is_summed_once_for_all_who_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Batch] = []
    summed = updates_of
    monkeypatch.setattr(live, "updates_of", lambda batches: (calls.extend(batches), summed(batches))[1])
    updates = live.LiveUpdates(clock=SystemClock(), telemetry=Telemetry())
    sample = make_series(service="s", environment="e", metric="m", kind=Kind.GAUGE)
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(updates.subscribe()) for _ in range(3)]
        for values in ((5.0, 1.0), (9.0,)):
            updates.publish(build_batch([(sample, 1_795_453_200_000 + i, value) for i, value in enumerate(values)]))
        assert len(calls) == 2
        for reader in readers:
            assert reader.feed is not None
            (result,) = reader.feed.current.values()
            assert (result.count, result.total, result.low, result.high) == (3, 15.0, 1.0, 9.0)


def test_an_update_is_one_object_for_all_who_listen_and_so_encoded_once() -> None:
    updates = live.LiveUpdates(clock=SystemClock(), telemetry=Telemetry())
    sample = make_series(service="s", environment="e", metric="m", kind=Kind.GAUGE)
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(updates.subscribe()) for _ in range(3)]
        updates.publish(build_batch([(sample, 1_795_453_200_000, 1.0)]))
        updates.tick()
        assert len({id(reader.drain()[0][0]) for reader in readers}) == 1
    assert not updates._feeds


@pytest.mark.parametrize("length", [0, 1, 100, 110, 124, 125, 126, 127, 60_000, 65_535, 65_536, 100_000])
def test_a_frame_is_that_of_the_protocol(length: int) -> None:
    message = "x" * length
    payload = msgspec.json.encode(message)
    assert text_frame(message) == Frame(Opcode.TEXT, payload).serialize(mask=False)
    assert payload_of(text_frame(message)) == payload


def test_many_tiny_gzip_members_are_refused_at_once() -> None:
    tiny = gzip.compress(b"")
    with pytest.raises(InputError, match="gzip members"):
        unpack(tiny * (1_000_000 // len(tiny)), "gzip")
    assert unpack(gzip.compress(b"a") * 3, "gzip") == b"aaa"


def test_a_silent_series_makes_room_for_a_new_one() -> None:
    reader = Feed("", "")
    old = [a_series(tags={"n": str(n)}) for n in range(SERIES_MAX)]
    new = a_series(tags={"n": "new"})
    assert all(reader.matches(sample) for sample in old)
    assert not reader.matches(new)
    for _ in range(2 * FOLLOWED_TICKS):
        assert reader.matches(old[0])
        reader.tick()
    assert reader.matches(new)
