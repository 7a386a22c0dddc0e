"""Bytes at random to every route and every kind of path: the server never fails, and no answer is 5xx but 503.

The seed is printed: VANTAGE_TEST_SEED repeats a run. Short in ``make test``, ten minutes in ``make test-long``.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.server import Server, serving

LONG = bool(os.environ.get("VANTAGE_TEST_LONG"))
RUN_S = 600.0 if LONG else 4.0
ANSWER_S = 3.0
PER_CONNECTION_MAX = 8
QUIET = {
    "VANTAGE_INGEST_RATE_LIMIT": "0",
    "VANTAGE_API_RATE_LIMIT": "0",
    "VANTAGE_SELF_TELEMETRY": "false",
    "VANTAGE_HEADER_TIMEOUT_S": "1",
    "VANTAGE_BODY_TIMEOUT_S": "1",
    "VANTAGE_QUERY_TIMEOUT_S": "5",
}
LAST = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
METHODS = b"GET POST HEAD OPTIONS PUT DELETE PATCH TRACE CONNECT get PROPFIND".split()
PAGES = [
    *("/", "/services", "/services/one", "/traces", "/traces/t1", "/traces/", "/explore", "/vql", "/settings", "/map"),
    *("/login", "/logout", "/schema", "/metrics", "/schema/openapi.json", "/ws/metrics", "/ws/pages", "/favicon.ico"),
    *("/v1/metrics", "/v1/spans", "/v1/metrics/", "/v1/traces", "/static/js/live.js", "/static/css/vantage.css"),
    *("/static", "/static/"),
]
PIECES = [
    *b"%00 %ff % %2e%2e%2f ../ // / \\ %c0%af %F0%9F%98%80 %u0041 ; # ? & = + %0a%0d ' \" <x> {} * . -1 0 NaN".split(),
    *b"1e999 now-1h now null \xc3\xa9 \xff \x00 nan inf -9223372036854775809 2026-01-01 %7B%22a%22".split(),
    *(b" ", b"\t", b"9" * 40, b"a" * 300, b"a" * 5000, b"a/" * 600),
]
NAMES = b"""
service metric start end step agg group_by tag where range limit q cursor trace_id status min_duration max_duration
environment key next sort name version
""".split()
HEADERS = [
    *b"""
Accept: text/html
Accept: application/json
Accept: */*;q=zz
Accept: \xff
Accept-Encoding: gzip
Accept-Encoding: \xff
Accept-Language: \xff
Authorization: Bearer
Authorization: \xe9 \xe9
Connection: Upgrade
Connection: close
Content-Encoding: br
Content-Encoding: gzip
Content-Encoding: zstd
Content-Length: 5
Content-Type: \xff/\xff; charset=utf-9
Content-Type: application/json
Content-Type: application/json; charset=nope
Content-Type: application/msgpack
Content-Type: application/vnd.vantage.v1+msgpack
Content-Type: application/x-www-form-urlencoded
Content-Type: multipart/form-data; boundary=x
Cookie: =;;;=
Cookie: vantage_session=a.b.c
Expect: 100-continue
Expect: what
HX-Current-URL: %ff
HX-Request: true
HX-Target: \xff
Host: localhost
If-Modified-Since: x
If-None-Match: *
Origin: http://localhost
Origin: null
Range: bytes=-1,5-2
Range: bytes=0-
Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==
Sec-WebSocket-Version: 13
TE: trailers
Transfer-Encoding: identity
Upgrade: h2c
Upgrade: websocket
X-API-Key: \xff
X-Forwarded-For: ,,,
X-HTTP-Method-Override: DELETE
X-Request-Id: \xff
""".strip().split(b"\n"),
    b"Cookie: " + b"a=b;" * 500,
    b"Idempotency-Key: " + b"a" * 80,
]
GOOD = {
    "service_name": "one",
    "metrics": [{"metric_name": "m", "value": 1.5, "tags": {"k": "v"}}],
    "spans": [
        {"trace_id": "t1", "span_id": "s1", "name": "n", "start_ns": 1_795_453_200_000_000_000, "duration_ns": 5}
    ],
    "query": "SELECT * FROM metrics LIMIT 5",
    "params": {"a": 1},
    "version": "1",
    "service": "one",
}


class Requests:
    """Requests at random, most of them nearly right."""

    def __init__(self, rng: random.Random, paths: list[str]) -> None:
        self._rng = rng
        self._paths = [path.encode() for path in paths]

    def pick(self) -> bytes:
        rng = self._rng
        body = self._body() if rng.random() < 0.5 else b""
        headers = rng.sample(HEADERS, rng.randrange(4))
        if rng.random() < 0.97:
            headers.insert(0, b"Host: localhost")
        if body and rng.random() < 0.9:
            headers.append(b"Content-Length: %d" % len(body))
        elif body:
            headers.append(b"Transfer-Encoding: chunked")
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        if rng.random() < 0.5:
            headers.append(b"Content-Type: application/json")
        method = b"GET" if rng.random() < 0.4 else b"POST" if rng.random() < 0.5 else rng.choice(METHODS)
        request = b"%b %b HTTP/1.1\r\n%b\r\n\r\n%b" % (method, self._target(), b"\r\n".join(headers), body)
        return self._mutated(request) if rng.random() < 0.15 else request

    def _target(self) -> bytes:
        rng = self._rng
        path = rng.choice(self._paths)
        if rng.random() < 0.3:
            path = re.sub(rb"\{[^}]*\}", lambda _: rng.choice(PIECES), path)
        else:
            path = re.sub(rb"\{[^}]*\}", lambda _: rng.choice([b"one", b"t1", b"m"]), path)
        if rng.random() < 0.3:
            at = rng.randrange(len(path) + 1)
            path = path[:at] + rng.choice(PIECES) + path[at:]
        for number in range(rng.choice([0, 0, 1, 2, 5])):
            value = b"".join(rng.choices(PIECES, k=rng.randrange(3))) if rng.random() < 0.6 else b"one"
            path += (b"&" if number else b"?") + rng.choice(NAMES) + b"=" + value
        return path

    def _body(self) -> bytes:
        rng = self._rng
        body = json.dumps(self._changed(GOOD)).encode()
        kind = rng.random()
        if kind < 0.1:
            body = rng.choice(
                [b"[" * 50_000, b'{"a":' * 20_000, b'{"query":"' + b"(" * 5000 + b'"}', b"\xff" * 100, b"null"]
            )
        elif kind < 0.2:
            body = gzip.compress(body)[: rng.choice([20, 1000])]
        elif kind < 0.3:
            body = b"&".join(name + b"=" + rng.choice(PIECES) for name in NAMES)
        return self._mutated(body) if rng.random() < 0.3 else body

    def _changed(self, value: object) -> object:
        rng = self._rng
        if rng.random() < 0.08:
            return rng.choice([None, True, -1, 2**70, 1e308, "", "\x00", "\ud800", "x" * 3000, [], {}, [[]], {"a": {}}])
        if isinstance(value, dict):
            return {name: self._changed(item) for name, item in value.items() if rng.random() > 0.05}
        if isinstance(value, list):
            return [self._changed(item) for item in value]
        return value

    def _mutated(self, data: bytes) -> bytes:
        rng = self._rng
        changed = bytearray(data)
        for _ in range(rng.choice([1, 1, 2, 8])):
            at = rng.randrange(len(changed) + 1)
            action = rng.random()
            if action < 0.4 and at < len(changed):
                changed[at] = rng.randrange(256)
            elif action < 0.7:
                changed[at:at] = rng.choice(PIECES)
            else:
                del changed[at : at + rng.randrange(1, 20)]
        return bytes(changed)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("fuzz") / "data", environ=QUIET) as server:
        assert server.send(GOOD).status == 202
        assert server.send(GOOD, "/v1/spans").status == 202
        yield server


def exchange(server: Server, data: bytes) -> bytes:
    """Send bytes, and return what the server answers until it closes the connection."""
    answer = b""
    with contextlib.suppress(ConnectionError, TimeoutError), server.connect() as connection:
        connection.settimeout(ANSWER_S)
        connection.sendall(data + LAST)
        while part := connection.recv(1 << 16):
            answer += part
    return answer


def run(server: Server, make: Callable[[], bytes], seed: int) -> None:
    end_s = time.monotonic() + RUN_S
    count = 0
    while time.monotonic() < end_s:
        data = make()
        answer = exchange(server, data)
        count += 1
        faults = [status for status in re.findall(rb"HTTP/1\.1 (5\d\d)", answer) if status != b"503"]
        assert not faults, f"seed {seed}: {faults} to {data[:4000]!r}: {answer[-600:]!r}"
        assert server.process.poll() is None, f"seed {seed}: the server ended after {data[:4000]!r}"
        assert "Traceback" not in server.output, f"seed {seed}: {data[:4000]!r}: {server.output[-3000:]}"
    print(f"seed {seed}: {count} connections")
    assert server.get("/health/live").status == 200


@pytest.mark.timeout(RUN_S + 120)
def test_bytes_at_random_to_every_route_are_never_a_fault_of_the_server(server: Server) -> None:
    seed = int(os.environ.get("VANTAGE_TEST_SEED") or random.randrange(1 << 32))
    rng = random.Random(seed)
    document = server.get("/schema/openapi.json").json()
    requests = Requests(rng, [*document["paths"], *PAGES])
    run(server, lambda: b"".join(requests.pick() for _ in range(rng.randrange(1, PER_CONNECTION_MAX))), seed)


@pytest.mark.timeout(RUN_S + 120)
def test_paths_at_random_never_leave_the_static_files(server: Server) -> None:
    seed = int(os.environ.get("VANTAGE_TEST_SEED") or random.randrange(1 << 32))
    rng = random.Random(seed)
    files = sorted(path.relative_to("static").as_posix().encode() for path in Path("static").rglob("*"))

    def make() -> bytes:
        path = b"/".join(rng.choice([rng.choice(files), rng.choice(PIECES)]) for _ in range(rng.randrange(1, 4)))
        method = rng.choice([b"GET", b"HEAD", b"POST"])
        return b"%b /static/%b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % (method, path)

    run(server, make, seed)
