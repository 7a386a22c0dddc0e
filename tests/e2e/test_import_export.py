"""Moving data: an export holds everything, an import brings it in once, and what cannot be done is one clear line."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.support.load import NO_RATES, printed_seed
from tests.support.server import Server, serving, vantage
from tests.support.wait import wait_until

QUIET = {**NO_RATES, "VANTAGE_SELF_TELEMETRY": "false"}
YEAR_MS = 365 * 86_400_000
TEXTS = ("", "GET", "ü", "naïve 🙂", 'quo"te\\', "line\nend\ttab\x7f\u2028", "Ω" * 200)


@pytest.fixture
def seed() -> int:
    return printed_seed()


def any_float(chance: random.Random) -> float:
    """Any finite float there is, and often an odd one."""
    if chance.random() < 0.3:
        return chance.choice([0.0, -0.0, 5e-324, -5e-324, 1.7976931348623157e308, 0.1, 1e15 + 0.3, 7e22, 1e-7, 123.0])
    while True:
        value: float = struct.unpack("<d", chance.getrandbits(64).to_bytes(8, "little"))[0]
        if value == value and abs(value) != float("inf"):
            return value


def any_payloads(chance: random.Random, now_ms: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Envelopes of samples and of spans as odd as the limits allow."""
    for _ in range(12):
        resource = {
            "service_name": chance.choice(["api", "Käse & Söhne", "a" * 255]),
            "environment": chance.choice(["", "production", "test/2"]),
            "service_version": chance.choice(["", "2.5.0", "ß"]),
            "instance": chance.choice(["", "host-1"]),
        }
        at_ms = [now_ms, now_ms - chance.randrange(20 * YEAR_MS)]
        metrics = [
            {
                "metric_name": chance.choice(["m", "http.request.duration", "a/b:c-d_e"]),
                "metric_type": chance.choice(["gauge", "counter", "histogram", "cumulative"]),
                "unit": chance.choice(["", "ms", "µs"]),
                "value": any_float(chance),
                "timestamp": chance.choice(at_ms),
                "tags": {chance.choice(TEXTS[1:5]): chance.choice(TEXTS) for _ in range(chance.randrange(4))},
                **chance.choice([{}, {"trace_id": f"t-{chance.randrange(9)}"}, {"trace_id": "0af", "span_id": "b:1"}]),
            }
            for _ in range(chance.randrange(1, 200))
        ]
        yield "/v1/metrics", {**resource, "metrics": metrics}
        spans = [
            {
                "trace_id": f"{chance.getrandbits(128):032x}",
                "span_id": f"{chance.getrandbits(64):016x}",
                "parent_span_id": chance.choice(["", "s.1"]),
                "name": chance.choice(TEXTS[1:]),
                "kind": chance.choice(["internal", "server", "client", "producer", "consumer"]),
                "status": chance.choice(["unset", "ok", "error"]),
                "start_ns": chance.choice(at_ms) * 1_000_000 + chance.randrange(1_000_000),
                "duration_ns": chance.randrange(7 * 86_400_000_000_000),
                "attributes": {chance.choice(TEXTS[1:6]): chance.choice(TEXTS) for _ in range(chance.randrange(5))},
            }
            for _ in range(chance.randrange(1, 60))
        ]
        yield "/v1/spans", {**resource, "spans": spans}


def fill(server: Server, chance: random.Random) -> int:
    sent = 0
    for path, payload in any_payloads(chance, int(time.time() * 1000)):
        answer = server.send(payload, path)
        assert (answer.status, answer.json()["rejected"]) == (202, 0), answer
        sent += answer.json()["accepted"]
    return sent


def exported(server: Server, *options: str) -> list[str]:
    done = vantage("export", "--url", server.url, *options)
    assert done.returncode == 0, done.stderr
    return sorted(done.stdout.split("\n")[:-1])  # U+2028 ends no line here


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """What a command that failed says."""
    assert done.returncode == 1, done
    assert not done.stdout
    assert done.stderr.startswith("vantage: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize("name", ["all.ndjson", "all.ndjson.gz", "all.ndjson.zst"])
def test_what_goes_from_one_server_to_another_is_the_same_to_the_last_bit(tmp_path: Path, seed: int, name: str) -> None:
    file = str(tmp_path / name)
    with serving(tmp_path / "data", environ=QUIET) as server:
        sent = fill(server, random.Random(seed))
        before = exported(server)
        assert len(before) == sent
        done = vantage("export", file, "--url", server.url)
        assert (done.returncode, done.stdout) == (0, "")
        assert f"{sent} samples and spans" in done.stderr
    with serving(tmp_path / "other", environ=QUIET) as other:
        for _ in range(2):  # the second time changes nothing
            done = vantage("import", file, "--url", other.url)
            assert (done.returncode, done.stdout, done.stderr) == (0, f"{sent} accepted, 0 rejected\n", "")
            assert exported(other) == before
        assert "Traceback" not in other.output
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [name], "nothing half-made is left"


def test_lines_are_as_ingest_takes_them(tmp_path: Path) -> None:
    sample = {
        "service_name": "api", "environment": "e", "metric_name": "m", "metric_type": "counter", "unit": "s",
        "tags": {"k": "v"}, "service_version": "2", "instance": "i", "timestamp": 1703001234567, "value": -0.0,
        "trace_id": "t", "span_id": "s",
    }  # fmt: skip
    span = {
        "trace_id": "t", "span_id": "s", "service_name": "api", "environment": "e", "name": "n", "kind": "server",
        "status": "ok", "start_ns": 1703001234567000001, "duration_ns": 7, "attributes": {"a": "b"},
    }  # fmt: skip
    with serving(tmp_path / "data", environ=QUIET) as server:
        assert server.send({"metrics": [sample]}).json()["rejected"] == 0
        assert server.send({"spans": [span]}, "/v1/spans").json()["rejected"] == 0
        answer = server.get("/api/export")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/x-ndjson")
    lines = answer.body.decode().splitlines()
    assert [json.loads(line) for line in lines] == [{"type": "sample", **sample}, {"type": "span", **span}]
    assert '"value":-0.0' in lines[0]


def test_an_export_can_be_of_a_service_an_environment_and_a_range(tmp_path: Path) -> None:
    with serving(tmp_path / "data", environ=QUIET) as server:
        for service, environment in (("a", "x"), ("a", "y"), ("b", "x")):
            for back_ms in (0, 3 * YEAR_MS):
                at_ms = int(time.time() * 1000) - back_ms
                sample = {"metric_name": "m", "value": 1, "timestamp": at_ms}
                server.send({"service_name": service, "environment": environment, "metrics": [sample]})
        assert len(exported(server)) == 6
        assert len(exported(server, "--service", "a")) == 4
        assert len(exported(server, "--service", "a", "--environment", "y")) == 2
        assert len(exported(server, "--environment", "x", "--start", "now-1h")) == 2
        assert len(exported(server, "--end", "now-1h")) == 3
        assert exported(server, "--service", "nobody") == []
        assert "start: is no time" in one_line(vantage("export", "--url", server.url, "--start", "yesterday"))


def lines_of(count: int, **changed: Any) -> list[str]:
    at_ms = int(time.time() * 1000)
    fields = {"type": "sample", "service_name": "api", "metric_name": "m", "value": 1.5, **changed}
    return [json.dumps({**fields, "timestamp": at_ms - n}) for n in range(count)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "Input data was truncated"),
        ('{"type":"sample","service_name":"a","metric_name":"m","timestamp":1}', "missing required field `value`"),
        ('{"type":"sample","service_name":"a","metric_name":"m","value":1}', "missing required field `timestamp`"),
        (
            '{"type":"sample","service_name":"a","metric_name":"m","timestamp":1,"value":"x"}',
            "line 5001: value: Expected `float`",
        ),
        ('{"type":"event"}', "line 5001: type: Invalid value"),
        (
            '{"type":"sample","service_name":"a","metric_name":"m","timestamp":1,"value":1,"tags":{"k":7}}',
            "line 5001: tags[...]: Expected `str`",
        ),
        ("[]", "Expected `object`"),
    ],
)
def test_a_line_that_cannot_be_read_is_named_and_nothing_after_it_is_sent(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "some.ndjson"
    file.write_text("\n".join([*lines_of(5000), line, *lines_of(10)]))
    with serving(tmp_path / "data", environ=QUIET) as server:
        recorded = one_line(vantage("import", str(file), "--url", server.url))
        assert "line 5001: " in recorded
        assert said in recorded
        assert len(exported(server)) in (0, 5000), "what went out was a whole batch"
        done = vantage("import", "--skip-invalid", str(file), "--url", server.url)
        assert (done.returncode, done.stdout) == (0, "5010 accepted, 0 rejected, 1 lines skipped\n")
        assert "line 5001: " in done.stderr


def test_what_is_older_than_the_retention_is_told_line_by_line(tmp_path: Path) -> None:
    old = json.dumps({**json.loads(lines_of(1)[0]), "timestamp": int(time.time() * 1000) - 40 * 86_400_000})
    file = tmp_path / "some.ndjson"
    file.write_text("\n".join([*lines_of(2), "", old, *lines_of(1, metric_name="no metric name")]))
    with serving(tmp_path / "data", environ={**QUIET, "VANTAGE_RETENTION_DAYS": "30"}) as server:
        done = vantage("import", str(file), "--url", server.url)
        assert (done.returncode, done.stdout) == (1, "2 accepted, 2 rejected\n")
        assert "line 4 rejected: timestamp: is older than the retention" in done.stderr
        assert "line 5 rejected: metric_name: may hold letters" in done.stderr


def test_equal_lines_are_as_many_samples(tmp_path: Path) -> None:
    """More of them than a batch holds: two batches of one content are not a batch and its repeat."""
    file = tmp_path / "some.ndjson"
    file.write_text("\n".join(lines_of(1) * 12_000))
    with serving(tmp_path / "data", environ=QUIET) as server:
        for _ in range(2):
            assert vantage("import", str(file), "--url", server.url).stdout == "12000 accepted, 0 rejected\n"
        assert server.total("api", "m") == (12_000, 18_000.0)


def test_an_import_goes_through_rates_and_pipes(tmp_path: Path) -> None:
    text = "\n".join(lines_of(1, value=n)[0] for n in range(12_000))
    limited = {**QUIET, "VANTAGE_INGEST_RATE_LIMIT": "120"}
    with serving(tmp_path / "data", environ=limited) as server:
        for _ in range(120):
            server.send({"service_name": "other", "metrics": []})
        done = subprocess.run(
            [sys.executable, "-m", "vantage", "import", "-", "--url", server.url],
            input=gzip.compress(text.encode()), capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.stdout == b"12000 accepted, 0 rejected\n", done.stderr
        assert server.total("api", "m")[0] == 12_000


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress])
def test_packed_files_that_are_damaged_or_cut_short_are_told(tmp_path: Path, pack: Any) -> None:
    packed = pack("\n".join(lines_of(3000)).encode())
    complete, cut, broken = (tmp_path / name for name in ("whole", "cut", "broken"))
    complete.write_bytes(packed + pack(("\n" + "\n".join(lines_of(5))).encode()))
    cut.write_bytes(packed[: len(packed) // 2])
    broken.write_bytes(packed[:20] + bytes(40) + packed[60:])
    with serving(tmp_path / "data", environ=QUIET) as server:
        assert "the file is cut short" in one_line(vantage("import", str(cut), "--url", server.url))
        line = one_line(vantage("import", str(broken), "--url", server.url))
        assert "damaged" in line or "cut short" in line or "line 1" in line
        assert exported(server) == []
        assert vantage("import", str(complete), "--url", server.url).stdout == "3005 accepted, 0 rejected\n"


def test_keys_and_their_scopes_are_needed(tmp_path: Path) -> None:
    file = tmp_path / "some.ndjson"
    file.write_text("\n".join(lines_of(2)))
    with serving(tmp_path / "data", environ={**QUIET, "VANTAGE_API_KEY": "k3y"}) as server:
        assert "requires an API key" in one_line(vantage("import", str(file), "--url", server.url))
        assert "requires an API key" in one_line(vantage("export", "--url", server.url))
        assert vantage("import", str(file), "--url", server.url, "--api-key", "k3y").returncode == 0
        assert len(exported(server, "--api-key", "k3y")) == 2
        assert server.get("/api/export").status == 401


def many(server: Server, count: int = 200) -> None:
    for n in range(count):
        metrics = [{"metric_name": "m", "value": n + i / 7, "tags": {"some": "x" * 200}} for i in range(1000)]
        assert server.send({"service_name": "api", "metrics": metrics}).status == 202


def began(server: Server) -> socket.socket:
    """A client that asks for an export and takes nothing of it."""
    result = socket.socket()
    result.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    result.connect(server.address)
    result.sendall(b"GET /api/export HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert result.recv(12) == b"HTTP/1.1 200"
    return result


def test_slow_clients_hold_up_neither_queries_nor_each_other_and_leave_nothing_behind(tmp_path: Path) -> None:
    with serving(tmp_path / "data", environ=QUIET) as server:
        many(server)
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                stack.enter_context(began(server))
            for _ in range(3):
                assert server.total("api", "m")[0] == 200_000
            refused = server.get("/api/export")
            assert (refused.status, refused.headers["retry-after"]) == (503, "60")
        wait_until(lambda: server.get("/api/export?service=nobody").status == 200)
        assert server.stop() == 0
        assert "Traceback" not in server.output


def test_an_export_that_breaks_off_is_told_and_leaves_no_file(tmp_path: Path) -> None:
    with serving(tmp_path / "data", environ=QUIET) as server:
        many(server)
        file = tmp_path / "all.ndjson"
        process = subprocess.Popen(
            [sys.executable, "-m", "vantage", "export", str(file), "--url", server.url],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        half = tmp_path / "all.ndjson.part"
        wait_until(half.exists, 20, 0.001)
        os.kill(process.pid, signal.SIGSTOP)  # so that there is something left to break off
        server.kill()
        os.kill(process.pid, signal.SIGCONT)
        _, recorded = process.communicate(timeout=30)
        assert process.returncode == 1
        assert "broke the export off" in recorded
        assert not list(tmp_path.glob("all*"))


def test_files_that_cannot_be_read_or_written_are_one_line(tmp_path: Path) -> None:
    with serving(tmp_path / "data", environ=QUIET) as server:
        server.send({"service_name": "api", "metrics": [{"metric_name": "m", "value": 1}]})
        absent = str(tmp_path / "absent" / "file")
        assert "cannot be written" in one_line(vantage("export", absent, "--url", server.url))
        assert "cannot be read" in one_line(vantage("import", absent, "--url", server.url))
        assert "cannot be read" in one_line(vantage("import", str(tmp_path), "--url", server.url))
        (tmp_path / "noise").write_bytes(os.urandom(3 << 20).replace(b"\n", b" "))
        assert "line 1: " in one_line(vantage("import", str(tmp_path / "noise"), "--url", server.url))
