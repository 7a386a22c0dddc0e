"""Everything harmful at once, for half an hour, on a server that may use 600 MB: it stays up and loses nothing."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.load import NO_RATES, RUN, printed_seed
from tests.support.memory_group import memory_group
from tests.support.server import Server, vantage

LIMIT_MB = 600
CALM_MB_MAX = 300
SOAK_S = float(os.environ.get("VANTAGE_TEST_SOAK_S", "1800"))
LIVE_S_MAX = 5.0
GOOD_SAMPLES = 500
JSON_GZIP = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
Harm = Callable[["Soak"], None]


class Soak:
    """A server under attack: each harm is a thread that repeats it, and one client counts what was acknowledged."""

    def __init__(self, server: Server, seed: int) -> None:
        self.server = server
        self.seed = seed
        self.stopping = threading.Event()
        self.acknowledged = 0
        self.worst_live_s = 0.0
        self.highest_mb = 0.0
        self.answers: dict[str, int] = {}
        self._local = threading.local()
        self._lock = threading.Lock()

    @property
    def chance(self) -> random.Random:
        """The calling thread's source of chance."""
        if not hasattr(self._local, "chance"):
            self._local.chance = random.Random(self.seed + threading.get_ident() % 1000)
        return self._local.chance

    def send(self, path: str, payload: Any, **headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.request("POST", path, gzip.compress(json.dumps(payload).encode(), 1), {**JSON_GZIP, **named})

    def request(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> int:
        status = self.server.request(method, path, body, headers).status
        with self._lock:
            key = f"{path.partition('?')[0][:30]} {status}"
            self.answers[key] = self.answers.get(key, 0) + 1
        return status

    def repeat(self, harm: Harm) -> None:
        while not self.stopping.is_set():
            with suppress(OSError, http.client.HTTPException):
                harm(self)

    def watch(self) -> None:
        """Measure how long ``/health/live`` takes, and the memory of the process."""
        while not self.stopping.wait(0.5):
            start_s = time.monotonic()
            with suppress(OSError, http.client.HTTPException):
                self.server.get("/health/live")
            self.worst_live_s = max(self.worst_live_s, time.monotonic() - start_s)
            self.highest_mb = max(self.highest_mb, resident_mb(self.server))

    def acknowledge(self, batch: int) -> None:
        """Send a batch until it is answered 202, as a client does that keeps what it has."""
        now_ms = int(time.time() * 1000)
        samples = [{"metric_name": "good", "value": i, "timestamp": now_ms + i} for i in range(GOOD_SAMPLES)]
        while not self.stopping.is_set():
            with suppress(OSError, http.client.HTTPException):
                payload = {"service_name": "shop", "metrics": samples}
                if self.send("/v1/metrics", payload, Idempotency_Key=f"good-{batch}") == 202:
                    self.acknowledged += GOOD_SAMPLES
                    return
            time.sleep(0.2)


def resident_mb(server: Server) -> float:
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def spans_with_large_attributes(soak: Soak) -> None:
    first = soak.chance.randrange(1 << 40)
    spans = [
        {
            "trace_id": f"t{first + number}",
            "span_id": "s",
            "name": "n",
            "start_ns": time.time_ns(),
            "duration_ns": 1,
            "attributes": {f"k{key}": chr(97 + (number + key) % 26) * 2048 for key in range(63)},
        }
        for number in range(60)
    ]
    if soak.send("/v1/spans", {"service_name": "large", "spans": spans}) == 503:
        soak.stopping.wait(1)
    soak.stopping.wait(0.2)


def services_and_versions(soak: Soak) -> None:
    first = soak.chance.randrange(1 << 40)
    spans = [
        {
            "service_name": f"service-{first + number}" if number % 2 else "versions",
            "service_version": f"{first + number}",
            "trace_id": f"t{first + number}",
            "span_id": "s",
            "name": "n",
            "start_ns": time.time_ns(),
            "duration_ns": 1,
        }
        for number in range(1000)
    ]
    soak.send("/v1/spans", {"spans": spans})
    soak.stopping.wait(0.3)


def spans_of_one_large_trace(soak: Soak) -> None:
    first = soak.chance.randrange(1 << 40)
    spans = [
        {
            "trace_id": "large",
            "span_id": f"s{first + number}",
            "parent_span_id": f"s{first + number // 2}" if number else "",
            "name": "n",
            "start_ns": time.time_ns(),
            "duration_ns": 1000,
        }
        for number in range(5000)
    ]
    soak.send("/v1/spans", {"service_name": "traces", "spans": spans})
    for path in ("/traces/large", "/api/traces/large", "/traces?service=large", "/"):
        soak.request("GET", path, None, {"Accept": "text/html", "Accept-Encoding": "gzip"})
        soak.stopping.wait(0.5)


def new_series(soak: Soak) -> None:
    first = soak.chance.randrange(1 << 40)
    samples = [
        {"metric_name": f"m{number % 300}", "value": number, "tags": {f"key{number % 40}": f"{first + number}" * 8}}
        for number in range(2000)
    ]
    soak.send("/v1/metrics", {"service_name": "series", "metrics": samples})
    soak.stopping.wait(0.5)


QUERIES = (
    "SELECT " + ", ".join(f"quantile(0.{n:02})(value + {n})" for n in range(1, 60)) + " FROM metrics",
    "SELECT count() FROM spans WHERE " + " OR ".join(f"trace_id LIKE '%{n}%zi'" for n in range(60)),
    "SELECT uniq(trace_id), uniq(concat(trace_id, 'a')), uniq(concat(span_id, name)) FROM spans",
    "SELECT * FROM metrics ORDER BY value LIMIT 10000",
    "SELECT service_name, count() FROM spans GROUP BY concat(trace_id, span_id, service_name), service_name",
    "SELECT max(concat(trace_id, lower(trace_id))) FROM spans",
)


def dear_queries(soak: Soak) -> None:
    query = json.dumps({"query": soak.chance.choice(QUERIES)}).encode()
    soak.request("POST", "/vql/execute", query, {"Content-Type": "application/json"})


def answers_that_nobody_reads(soak: Soak) -> None:
    query = json.dumps({"query": "SELECT * FROM spans LIMIT 10000"}).encode()
    post = (
        b"POST /vql/execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    )
    asset = b"GET /schema/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with ExitStack() as open_sockets:
        for request in [post % len(query) + query, b"GET /api/export HTTP/1.1\r\nHost: localhost\r\n\r\n"] + 20 * [
            asset
        ]:
            connection = open_sockets.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(soak.server.address)
            connection.sendall(request)
        soak.stopping.wait(20)


def upgrade(soak: Soak, extra: bytes = b"") -> socket.socket:
    connection = soak.server.connect()
    connection.sendall(
        b"GET /ws/metrics HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" + extra + b"\r\n"
    )
    return connection


def frame(opcode: int, data: bytes) -> bytes:
    """Return a WebSocket frame with a mask of zeros (RFC 6455, 5.2)."""
    assert len(data) < 126
    return bytes((opcode, 0x80 | len(data))) + bytes(4) + data


def websockets_that_flood(soak: Soak) -> None:
    floods = (frame(0x89, b"p" * 125) * 500, frame(0x01, b"") + frame(0x00, b"") * 5000)
    with upgrade(soak) as connection:
        connection.settimeout(1)
        flood = soak.chance.choice(floods)
        for _ in range(100):
            connection.sendall(flood)
    soak.stopping.wait(0.2)


def upgrades_that_are_left_alone(soak: Soak) -> None:
    with ExitStack() as open_sockets:
        for number in range(30):
            open_sockets.enter_context(upgrade(soak, b"Content-Length: 5\r\n" if number % 2 else b""))
        soak.stopping.wait(15)


def bytes_without_sense(soak: Soak) -> None:
    chance = soak.chance
    paths = ("/v1/metrics", "/v1/spans", "/vql/execute", "/login", "/api/traces?cursor=%00", "/static/%00", "/x/" * 900)
    for _ in range(50):
        body = chance.choice((b"[" * 100_000, b'{"a":' * 20_000, chance.randbytes(2000), b"null", b"a=b&" * 50_000))
        soak.request(
            chance.choice(("GET", "POST", "PUT")), chance.choice(paths), body, {"Content-Type": "application/json"}
        )
    with soak.server.connect() as connection:
        connection.settimeout(1)
        connection.sendall(b"POST /v1/metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n")
        for _ in range(10):
            connection.sendall(b"a")
            soak.stopping.wait(0.3)


HARMS: tuple[Harm, ...] = (
    spans_with_large_attributes,
    services_and_versions,
    spans_of_one_large_trace,
    new_series,
    dear_queries,
    answers_that_nobody_reads,
    websockets_that_flood,
    upgrades_that_are_left_alone,
    bytes_without_sense,
)


def attack(soak: Soak) -> None:
    """Run all harms, two clients with dear queries among them, and the client that counts."""
    threads = [threading.Thread(target=soak.repeat, args=(harm,)) for harm in (*HARMS, dear_queries)]
    threads.append(threading.Thread(target=soak.watch))
    for thread in threads:
        thread.start()
    end_s, batch = time.monotonic() + SOAK_S, 0
    while time.monotonic() < end_s and soak.server.process.poll() is None:
        soak.acknowledge(batch)
        batch += 1
        time.sleep(0.05)
    soak.stopping.set()
    for thread in threads:
        thread.join(60)


@pytest.mark.long
@pytest.mark.timeout(SOAK_S + 600)
def test_everything_harmful_at_once_takes_nothing_away(tmp_path: Path) -> None:
    with memory_group(LIMIT_MB << 20) as processes, ExitStack() as cleanup:
        into_group = f"import os; open({str(processes)!r}, 'w').write(str(os.getpid())); {RUN}"
        server = Server(tmp_path / "data", environ=NO_RATES, program=("-c", into_group))
        cleanup.callback(server.stop)
        soak = Soak(server.wait_ready(), printed_seed())
        attack(soak)
        ended = server.process.poll()
        time.sleep(0 if ended is not None else 60)
        calm_mb = resident_mb(server) if ended is None else 0.0
        print(
            f"highest {soak.highest_mb:.0f} MB, a minute after {calm_mb:.0f} MB; worst live {soak.worst_live_s:.2f} s"
        )
        print(f"acknowledged {soak.acknowledged}; answers {soak.answers}")
        assert ended is None, server.output[-2000:]
        assert calm_mb < CALM_MB_MAX
        assert soak.worst_live_s < LIVE_S_MAX
        refused = {key for key in soak.answers if key[-3] == "5" and not key.endswith(("503", "504"))}
        assert not refused
    # By a process that may use more memory than a query of that server.
    query = "SELECT count() AS n FROM metrics WHERE metric_name = 'good' AND timestamp >= '2020-01-01'"
    done = vantage("query", "--data", str(server.data), "--format", "json", query, timeout_s=300)
    assert json.loads(done.stdout) == [{"n": soak.acknowledged}], done.stdout + done.stderr
