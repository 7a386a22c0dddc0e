"""The process as people and supervisors meet it: starting, refusing to start, stopping, full disks, TLS, commands."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect
from websockets.typing import Origin

from tests.support.certificate import make_certificate
from tests.support.mounts import tmpfs
from tests.support.server import Server, serving, vantage
from tests.support.wait import BUSY_S, wait_until
from vantage.cli import main

BATCH = {"service_name": "api", "metrics": [{"metric_name": "m", "value": 1}]}
STOP_WITHIN_S = 10.0


def refused(*arguments: str, environ: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """The one line that a command which cannot do its work prints."""
    done = vantage(*arguments, environ=environ, cwd=cwd)
    assert done.returncode != 0, done.stdout
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]  # logs are JSON lines
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("vantage: ")
    return lines[0]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("process") / "data") as server:
        yield server
        assert "Traceback" not in server.output, server.output


# ---- refusing to start


def test_a_port_in_use_is_one_line(server: Server, tmp_path: Path) -> None:
    port = str(server.address[1])
    line = refused("serve", "--port", port, "--data", str(tmp_path / "other"))
    assert f"port {port} on 127.0.0.1 is in use" in line


def test_a_second_server_on_one_folder_is_refused_and_the_first_goes_on(server: Server) -> None:
    line = refused("serve", "--port", "0", "--data", str(server.data))
    assert "in use by another Vantage process" in line
    assert server.send(BATCH).status == 202


FILES = {
    "broken.toml": b"port = = 1",
    "unknown.toml": b"api_rate_limits = 1",
    "wrong.toml": b'api_rate_limit = "lots"',
    "latin.toml": b'data = "\xff"',
    "lines": b'{"type": "sample", "service_name": "a", "metric_name": "m", "value": 1, "timestamp": 1700000000000}',
}


@pytest.mark.parametrize(
    ("arguments", "environ", "said"),
    [
        (["serve", "--port", "many"], {}, "--port"),
        (["serve", "--port", "70000"], {}, "port"),
        (["serve", "--prot", "1"], {}, "did you mean --port?"),
        (["serve", "--workers", "2"], {}, "--workers above 1"),
        (["serve", "--role", "boss"], {}, "--role"),
        (["serve", "--role", "ingest"], {}, "needs broker_url (kafka://HOST:9092) and metadata_url"),
        (["serve", "--role", "api"], {"VANTAGE_METADATA_URL": "sqlite:///m.db"}, "needs store_url (clickhouse://"),
        (["serve", "--role", "worker"], {"VANTAGE_KAFKA_BOOTSTRAP_SERVERS": "kafka:9092"}, "'worker' needs store_url"),
        (["serve", "--host", "no.such.host.invalid"], {}, "no.such.host.invalid"),
        (["serve", "--host", "203.0.113.7"], {}, "203.0.113.7"),
        (["serve", "--config", "absent.toml"], {}, "absent.toml cannot be read"),
        (["serve", "--config", "."], {}, "cannot be read"),
        (["serve", "--config", "broken.toml"], {}, "not valid TOML"),
        (["serve", "--config", "unknown.toml"], {}, "did you mean 'api_rate_limit'?"),
        (["serve", "--config", "wrong.toml"], {}, "api_rate_limit"),
        (["serve", "--config", "latin.toml"], {}, "not valid UTF-8"),
        (["serve"], {"VANTAGE_API_RATE_LIMIT": "lots"}, "environment (VANTAGE_API_RATE_LIMIT)"),
        (["serve"], {"VANTAGE_LOG_LEVEL": "loud"}, "log_level"),
        (["serve"], {"VANTAGE_API_KEY_FILE": "absent"}, "VANTAGE_API_KEY_FILE"),
        (["serve"], {"VANTAGE_TRUSTED_PROXIES": "my-proxy"}, "my-proxy"),
        (["serve"], {"VANTAGE_CORS_ORIGINS": "app.example.com"}, "app.example.com"),
        (["serve"], {"VANTAGE_STORE_URL": "mysql://x"}, "mysql"),
        (["serve"], {"VANTAGE_METADATA_URL": "mysql://x"}, "mysql"),
        (["serve"], {"VANTAGE_TLS_KEY": "only-one.pem"}, "must be given together"),
        (["serve"], {"VANTAGE_TLS_KEY": "absent.pem", "VANTAGE_TLS_CERTIFICATE": "absent.pem"}, "tls_certificate"),
        (["serve"], {"VANTAGE_TLS_KEY": "wrong.toml", "VANTAGE_TLS_CERTIFICATE": "wrong.toml"}, "tls_certificate"),
        (["dance"], {}, "dance"),
        (["keys"], {}, "ACTION"),
        (["keys", "create", " "], {}, "name"),
        (["keys", "create", "x", "--expires", "0"], {}, "--expires"),
        (["keys", "create", "x", "--scope", "root"], {}, "--scope"),
        (["keys", "revoke", "nobody"], {}, "no key has this id"),
        (["healthcheck", "--url", "http://127.0.0.1:1"], {}, "cannot be reached"),
        (["healthcheck", "--url", "nonsense"], {}, "must look like"),
        (["demo", "--url", "http://127.0.0.1:1"], {}, "127.0.0.1:1"),
        (["demo", "--url", "http://127.0.0.1:1", "--remove"], {}, "127.0.0.1:1"),
        (["backup"], {}, "DEST"),
        (["backup", "copy", "--data", "absent"], {}, "nothing to back up"),
        (["backup", "copy"], {"VANTAGE_STORE_URL": "mysql://x"}, "mysql"),
        (["backup", "copy"], {"VANTAGE_STORE_URL": "chdb:///ch"}, "this is for the embedded store"),
        (["restore"], {}, "SOURCE"),
        (["restore", "absent"], {}, "absent is no folder"),
        (["restore", "."], {}, "has no backup.json"),
        (["restore", "."], {"VANTAGE_STORE_URL": "sqlite:///elsewhere"}, "store_url"),
        (["restore", "."], {"VANTAGE_STORE_URL": "chdb:///ch"}, "this is for the embedded store"),
        (["export", "--url", "http://127.0.0.1:1"], {}, "http://127.0.0.1:1 cannot be reached"),
        (["export", "--url", "nonsense"], {}, "--url: must look like"),
        (["export", "--url", "http://127.0.0.1:many"], {}, "--url: must look like"),
        (["export", "file", "--sttart", "now"], {}, "did you mean --start?"),
        (["import"], {}, "FILE"),
        (["import", "absent"], {}, "absent cannot be read"),
        (["import", "lines", "--url", "http://127.0.0.1:1"], {}, "http://127.0.0.1:1 cannot be reached"),
        (["doctor", "--deeep"], {}, "did you mean --deep?"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], environ: dict[str, str], said: str,
) -> None:  # fmt: skip
    """In this process: a new one for each would take a second each."""
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("vantage.log.configure", lambda **_: None)
    try:
        status = main(arguments)
    except SystemExit as error:  # how argparse ends
        status = error.code  # type: ignore[assignment]
    printed = capsys.readouterr()
    assert status in (1, 2)
    assert not printed.out
    assert printed.err.startswith("vantage: ")
    assert printed.err.count("\n") == 1, printed.err
    assert said in printed.err


def test_a_data_folder_below_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for command in (["serve", "--port", "0"], ["migrate"], ["keys", "list"]):
        assert "file" in refused(*command, "--data", str(tmp_path / "file" / "data"))


def test_a_read_only_data_folder_without_data_is_one_line(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "data", "ro") as data:
        for command in (["serve", "--port", "0"], ["keys", "list"], ["migrate"]):
            line = refused(*command, "--data", str(data))
            assert "read-only" in line.lower() or "readonly" in line or "unable to open" in line, line
        doctor = vantage("doctor", "--data", str(data))
        assert doctor.returncode == 1
        assert "FAIL  data folder" in doctor.stdout


def test_data_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(data) as server:
        server.send(BATCH)
    journal = data / "journal.db"
    with closing(sqlite3.connect(journal)) as db:
        db.execute("PRAGMA user_version=99")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = hashlib.sha256(journal.read_bytes()).hexdigest()
    assert "nothing was touched" in refused("serve", "--port", "0", "--data", str(data))
    assert hashlib.sha256(journal.read_bytes()).hexdigest() == before


def test_a_corrupted_journal_row_is_reported_and_the_rest_is_served(tmp_path: Path) -> None:
    data = tmp_path / "data"
    quiet = {"VANTAGE_SELF_TELEMETRY": "false"}
    with serving(data, environ=quiet) as server:
        for _ in range(3):
            assert server.send(BATCH).status == 202
    with closing(sqlite3.connect(data / "journal.db")) as db, db:
        db.execute("UPDATE journal SET body = zeroblob(length(body)) WHERE seq = 2")
    doctor = vantage("doctor", "--data", str(data))
    assert doctor.returncode == 1
    assert "1 of 3 commits cannot be read" in doctor.stdout
    with serving(data, environ=quiet) as server:
        assert server.total("api", "m") == (2, 2.0)
        assert server.counts()["vantage_store_damaged_rows"] == 1
        assert '"journal row unreadable, skipped"' in server.output
        assert server.send(BATCH).status == 202


# ---- warnings


def test_unknown_variables_warn_and_a_kubernetes_link_is_ignored(tmp_path: Path) -> None:
    environ = {
        "VANTAGE_PORT": "tcp://10.0.0.1:8000",
        "VANTAGE_API_RATE_LIMITS": "1",
        "VANTAGE_SERVICE_HOST": "10.0.0.1",
        "VANTAGE_AGENT_SERVICE_NAME": "belongs to the agent",
    }
    with serving(tmp_path / "data", environ=environ) as server:
        assert server.send(BATCH).status == 202
    lines = [line for line in server.output.splitlines() if "warning:" in line]
    assert len(lines) == 3, server.output
    assert any("VANTAGE_API_RATE_LIMITS" in line and "did you mean VANTAGE_API_RATE_LIMIT?" in line for line in lines)
    assert any("VANTAGE_PORT" in line and "Kubernetes" in line for line in lines)


def test_listening_beyond_this_machine_without_keys_is_a_loud_warning(tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--host", "0.0.0.0") as server:
        assert "ANYONE WHO CAN REACH THIS ADDRESS" in server.output
    with serving(tmp_path / "data", "--host", "0.0.0.0", environ={"VANTAGE_API_KEY": "k3y"}) as server:
        assert "ANYONE" not in server.output
        assert "keys travel unencrypted" in server.output


def test_an_ipv6_address_can_be_listened_on(tmp_path: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("needs IPv6: enable it for the loopback interface")
    with serving(tmp_path / "data", "--host", "::1") as server:
        assert server.url.startswith("http://[::1]:")
        assert server.send(BATCH).status == 202


# ---- a full disk


def big_batch(number: int) -> dict[str, Any]:
    """As incompressible as a journal row may be: values of random bits."""
    noise = [int.from_bytes(hashlib.sha256(f"{number}.{i}".encode()).digest()[:6]) for i in range(2000)]
    return {"service_name": "api", "metrics": [{"metric_name": "m", "value": value} for value in noise]}


def test_a_full_disk_is_503_until_there_is_room_again(tmp_path: Path) -> None:
    environ = {"VANTAGE_INGEST_RATE_LIMIT": "0", "VANTAGE_SELF_TELEMETRY": "false"}
    with tmpfs(tmp_path / "data", "size=6m") as data, serving(data, environ=environ) as server:
        stored = 0
        assert server.send(big_batch(0)).status == 202
        stored += 2000
        with (data / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(b"\0" * 65_536)
        for number in range(1, 200):
            answer = server.send(big_batch(number), Idempotency_Key=f"b{number}")
            if answer.status != 202:
                break
            stored += 2000
        assert (answer.status, answer.json()["title"]) == (503, "Unavailable"), answer
        assert int(answer.headers["retry-after"]) >= 1
        assert server.get("/health/ready").status == 503
        assert "full" in server.get("/health").json()["dependencies"]["store"]["detail"]
        assert server.total("api", "m")[0] == stored, "reading goes on, and nothing was half-accepted"
        assert server.get("/api/services").status == 200

        (data / "filler").unlink()
        resent = wait_until(
            lambda: (a := server.send(big_batch(number), Idempotency_Key=f"b{number}")).status == 202 and a
        )
        assert resent.json()["accepted"] == 2000
        assert server.total("api", "m")[0] == stored + 2000
        assert server.get("/health/ready").status == 200
        assert "Traceback" not in server.output
        server.kill()
        with serving(data, environ=environ) as again:
            assert again.total("api", "m")[0] == stored + 2000


def fill_up(path: Path) -> None:
    """Take what is left of the disk."""
    with path.open("ab", buffering=0) as filler:
        for nbytes in (65_536, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    filler.write(b"\0" * nbytes)


def test_a_full_disk_is_started_on_again_and_again(tmp_path: Path) -> None:
    environ = {"VANTAGE_INGEST_RATE_LIMIT": "0", "VANTAGE_SELF_TELEMETRY": "false"}
    with tmpfs(tmp_path / "data", "size=8m") as data:
        key = vantage("keys", "create", "all", "--data", str(data)).stdout.strip()
        with serving(data, environ=environ) as server:
            stored = 2000 * sum(server.send(big_batch(n), X_API_Key=key).status == 202 for n in range(20))
            server.kill()
        numbers = iter(range(100, 1000))  # many more than there is room for
        for _ in range(3):
            fill_up(data / "filler")
            with serving(data, environ=environ) as server:
                fill_up(data / "filler")
                assert server.get("/api/services").status == 401
                answer = server.send(
                    {"query": "SELECT count() AS n FROM metrics WHERE service_name = 'api'"},
                    "/vql/execute",
                    X_API_Key=key,
                )
                assert answer.json()["rows"] == [[stored]]
                # What was copied out of the log leaves room in it, which the disk need not give again.
                while (status := server.send(big_batch(next(numbers)), X_API_Key=key).status) == 202:
                    stored += 2000
                assert status == 503
                assert server.get("/api/deployments", **{"X-API-Key": key}).status == 200
                assert "Traceback" not in server.output
        with serving(data, environ=environ) as server:
            fill_up(data / "filler")
            (data / "filler").unlink()
            assert wait_until(lambda: server.send(big_batch(99), X_API_Key=key).status == 202), "without a restart"
            assert server.get("/health/ready").status == 200


# ---- stopping


def test_sigterm_is_told_at_once_and_obeyed_after_the_delay(tmp_path: Path) -> None:
    with serving(tmp_path / "data", environ={"VANTAGE_DRAIN_DELAY_S": "3"}) as server:
        assert server.get("/health/ready").status == 200
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.get("/health/ready").status == 503, 1.0, 0.01)
        assert server.get("/health/ready").json()["status"] == "draining"
        assert server.get("/health/live").status == 200
        while time.monotonic() - started < 1.5:
            assert server.send(BATCH).status == 202, "requests are accepted during the delay"
            time.sleep(0.1)
        assert server.wait_exit(STOP_WITHIN_S) == 0
        assert 2.9 < time.monotonic() - started < 3 + STOP_WITHIN_S
    assert "Traceback" not in server.output


def under_way(server: Server, length: int) -> socket.socket:
    """Begin a request, and return its connection once the server waits for the body."""
    host, port = server.address
    connection = server.connect()
    lines = f"POST /v1/metrics HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{lines}Content-Length: {length}\r\nExpect: 100-continue\r\n\r\n".encode())
    assert connection.recv(4096).startswith(b"HTTP/1.1 100")
    return connection


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_finishes_the_request_under_way(tmp_path: Path, number: signal.Signals) -> None:
    body = json.dumps(BATCH).encode()
    with serving(tmp_path / "data") as server:
        with under_way(server, len(body)) as stored:
            stored.sendall(body[:10])
            server.process.send_signal(number)
            with pytest.raises(subprocess.TimeoutExpired):
                server.process.wait(0.5)
            stored.sendall(body[10:])
            assert stored.recv(4096).startswith(b"HTTP/1.1 202")
        assert server.wait_exit(STOP_WITHIN_S) == 0
    assert "Traceback" not in server.output
    with serving(tmp_path / "data") as server:
        assert server.total("api", "m") == (1, 1.0)


def test_open_connections_do_not_hold_up_a_stop(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server, contextlib.ExitStack() as exit_stack:
        for _ in range(20):
            exit_stack.enter_context(server.connect())
        for path in ("/ws/metrics", "/ws/pages"):
            exit_stack.enter_context(connect(server.url.replace("http", "ws") + path))
        kept_alive = http.client.HTTPConnection(*server.address)
        kept_alive.request("GET", "/health")
        kept_alive.getresponse().read()
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < STOP_WITHIN_S
        kept_alive.close()
    assert "Traceback" not in server.output


def test_a_request_that_never_ends_does_not_hold_up_a_stop_for_long(tmp_path: Path) -> None:
    with serving(tmp_path / "data", environ={"VANTAGE_SHUTDOWN_TIMEOUT_S": "1"}) as server, under_way(server, 100):
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 1 + BUSY_S
    assert "Traceback" not in server.output


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    with serving(tmp_path / "data", environ={"VANTAGE_DRAIN_DELAY_S": "60"}) as server:
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.get("/health/ready").status == 503)
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        server.wait_exit(STOP_WITHIN_S)
        assert time.monotonic() - started < 10
    assert "Traceback" not in server.output


def test_a_second_start_is_quick_and_finds_everything(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        server.send(BATCH)
    started = time.monotonic()
    with serving(tmp_path / "data") as server:
        assert time.monotonic() - started < 10
        assert server.total("api", "m") == (1, 1.0)


# ---- the other commands


def test_doctor_says_ok_beside_a_running_server_and_on_no_folder_at_all(server: Server, tmp_path: Path) -> None:
    for data in (server.data, tmp_path / "absent"):
        done = vantage("doctor", "--data", str(data))
        assert done.returncode == 0, done.stdout
        assert {line[:6] for line in done.stdout.splitlines()} <= {"ok    ", "      "}
        for name in ("configuration", "data folder", "journal", "segments", "metadata", "disk", "clock"):
            assert f"ok    {name}: " in done.stdout
    assert not (tmp_path / "absent").exists(), "looking makes nothing"


def test_doctor_names_what_is_wrong_and_fails(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "journal.db").write_text("this is no database, and long enough to look like one" * 10)
    done = vantage("doctor", "--data", str(data), environ={"VANTAGE_METADATA_URL": f"sqlite:///{data}/journal.db"})
    assert done.returncode == 1
    assert "FAIL  journal" in done.stdout
    assert "FAIL  metadata" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert "FAIL  configuration" in vantage("doctor", environ={"VANTAGE_LOG_LEVEL": "loud"}, cwd=tmp_path).stdout


def test_config_tells_where_each_setting_comes_from_and_no_secret(tmp_path: Path) -> None:
    (tmp_path / "vantage.toml").write_text('host = "127.0.0.2"\nport = 1\ndata = "from-file"\n')
    (tmp_path / ".env").write_text("VANTAGE_PORT=2\nVANTAGE_API_KEY=vtg_t0p-s3cret\n")
    done = vantage(
        "config", "--config", "vantage.toml", "--data", "flagged", environ={"VANTAGE_LOG_LEVEL": "error"}, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "127.0.0.2" in rows["host"]
    assert "vantage.toml" in rows["host"]
    assert "2" in rows["port"].split()[1]
    assert ".env (VANTAGE_PORT)" in rows["port"]
    assert "flagged" in rows["data"]
    assert "--data" in rows["data"]
    assert "environment (VANTAGE_LOG_LEVEL)" in rows["log_level"]
    assert rows["auth"].split()[1:] == ["auto", "default"]
    assert "s3cret" not in done.stdout + done.stderr
    assert "********" in rows["api_key"]


def test_the_example_names_every_setting_and_changes_none(tmp_path: Path) -> None:
    example = vantage("config", "--example").stdout
    (tmp_path / ".env").write_text(example)
    untouched = vantage("config", cwd=tmp_path)
    assert {line.split()[-1] for line in untouched.stdout.splitlines()[1:]} == {"default"}
    (tmp_path / ".env").write_text(example.replace("#VANTAGE", "VANTAGE").replace("VANTAGE_API_KEY=\n", ""))
    every = vantage("config", cwd=tmp_path)
    assert every.returncode == 0, every.stderr
    assert not every.stderr


def test_healthcheck_succeeds_when_ready(server: Server) -> None:
    assert vantage("healthcheck", "--url", server.url).returncode == 0
    assert "404" in refused("healthcheck", "--url", server.url + "/nowhere")


def test_keys_are_made_listed_and_revoked_without_showing_a_secret_twice(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    made = vantage("keys", "create", "ci", "--scope", "ingest", "--expires", "30", "--data", data)
    assert made.returncode == 0, made.stderr
    secret = made.stdout.strip()
    assert secret.startswith("vtg_")
    assert made.stdout.count("\n") == 1, "the secret alone, so that a script can take it"
    vantage("keys", "create", "people", "--data", data)
    listed = vantage("keys", "list", "--data", data).stdout
    assert "ci" in listed
    assert "people" in listed
    assert secret not in listed
    assert "in use by another key" in refused("keys", "create", "ci", "--data", data)
    assert vantage("keys", "revoke", "ci", "--data", data).returncode == 0
    (line,) = [line for line in vantage("keys", "list", "--data", data).stdout.splitlines() if " ci " in line]
    assert line.endswith("revoked")
    for path in (tmp_path / "data").iterdir():
        assert secret.encode() not in path.read_bytes(), f"{path} holds the secret"


def test_migrate_says_first_and_then_does(tmp_path: Path) -> None:
    data = tmp_path / "data"
    planned = vantage("migrate", "--dry-run", "--data", str(data))
    assert planned.returncode == 0, planned.stderr
    assert "would be applied" in planned.stdout
    assert not [path for path in data.glob("*") if path.stat().st_size], "a dry run writes nothing"
    assert "applied" in vantage("migrate", "--data", str(data)).stdout
    for _ in range(2):
        assert "nothing to do" in vantage("migrate", "--data", str(data)).stdout


def test_the_data_folder_is_for_its_owner_alone(server: Server) -> None:
    assert server.data.stat().st_mode & 0o077 == 0


def test_version_and_help_are_printed() -> None:
    assert vantage("--version").stdout.startswith("vantage ")
    helped = vantage("--help")
    assert helped.returncode == 0
    for command in (
        "serve",
        "keys",
        "doctor",
        "config",
        "healthcheck",
        "migrate",
        "demo",
        "backup",
        "restore",
        "delete",
        "export",
        "import",
    ):
        assert command in helped.stdout


# ---- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def test_https_is_served_with_the_given_certificate(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    pem, key = certificate
    environ = {"VANTAGE_TLS_CERTIFICATE": str(pem), "VANTAGE_TLS_KEY": str(key), "VANTAGE_API_KEY": "k3y"}
    with serving(tmp_path / "data", environ=environ) as server:
        assert server.url.startswith("https://")
        trusting = ssl.create_default_context(cafile=str(pem))

        def ask(method: str, path: str, body: str | None = None, **headers: str) -> http.client.HTTPResponse:
            connection = http.client.HTTPSConnection(*server.address, context=trusting, timeout=10)
            with closing(connection):
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
                answer.read()
                return answer

        key_header = {"X-API-Key": "k3y", "Content-Type": "application/json"}
        assert ask("POST", "/v1/metrics", json.dumps(BATCH), **key_header).status == 202
        assert ask("GET", "/api/services", **key_header).status == 200
        signed_in = ask("POST", "/login", "key=k3y", **{"Content-Type": "application/x-www-form-urlencoded"})
        assert "secure" in signed_in.headers["set-cookie"].lower()
        address = server.url.replace("https", "wss") + "/ws/metrics"
        with connect(address, ssl=trusting, additional_headers={"X-API-Key": "k3y"}, origin=Origin(server.url)):
            pass
        with socket.create_connection(server.address, timeout=5) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                assert not plain.recv(100).startswith(b"HTTP/1.1 200")
        checked = vantage("healthcheck", "--url", server.url)
        assert checked.returncode == 0, checked.stderr
        by_name = server.url.replace("127.0.0.1", "localhost")
        for command in (["healthcheck"], ["export", "--api-key", "k3y"]):  # by its address it is this machine's own
            assert vantage(*command, "--url", server.url).returncode == 0
            assert "CERTIFICATE_VERIFY_FAILED" in refused(*command, "--url", by_name)
        assert server.stop() == 0
    assert "Traceback" not in server.output


# ---- logs


def test_logs_are_json_lines_with_request_ids_and_without_secrets(tmp_path: Path) -> None:
    secret = "vtg_abcdefgh12345678"
    with serving(tmp_path / "data", environ={"VANTAGE_DEBUG": "true", "VANTAGE_API_KEY": secret}) as server:
        headers = {"X-API-Key": secret, "X-Request-Id": "of-this-test-1", "Content-Type": "application/json"}
        answer = server.request("GET", f"/api/services?key={secret}", headers=headers)
        assert (answer.status, answer.headers["x-request-id"]) == (200, "of-this-test-1")
        assert server.request("POST", "/v1/metrics", json.dumps(BATCH).encode(), headers).status == 202
        server.request("GET", f"/api/services?token={secret}", headers={"Authorization": f"Bearer {secret}x"})
        server.stop()
    lines = [line for line in server.output.splitlines() if not line.startswith("Vantage ")]
    events = [json.loads(line) for line in lines]
    assert all({"event", "level", "time", "logger"} <= event.keys() for event in events)
    assert [e["route"] for e in events if e.get("request_id") == "of-this-test-1" and "route" in e][:1] == [
        "/api/services"
    ]
    assert secret not in server.output


def test_logs_are_readable_on_request(tmp_path: Path) -> None:
    with serving(tmp_path / "data", environ={"VANTAGE_LOG_FORMAT": "console"}) as server:
        pass
    assert "store opened" in server.output
    assert not [line for line in server.output.splitlines() if line.startswith("{")]


def test_tracebacks_on_a_terminal_show_no_local_variables() -> None:
    program = (
        "import structlog; from vantage import log\n"
        "log.configure(log_format='console', log_level='info')\n"
        "def fails(api_key):\n    raise ValueError('as meant')\n"
        "try:\n    fails('vtg_' + 'abcdefgh12345678')\n"
        "except ValueError:\n    structlog.get_logger().exception('failed')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "ValueError: as meant" in done.stderr
    assert "abcdefgh12345678" not in done.stderr


HANDED_OVER = """
import os, socket, sys
handed = socket.create_server(("127.0.0.1", 0)) if {is_socket} else open(os.devnull)
os.dup2(handed.fileno(), 3)
os.set_inheritable(3, True)
os.environ |= {{"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}}
os.execv(sys.executable, [sys.executable, "-m", "vantage", *sys.argv[1:]])
"""


def test_a_socket_that_systemd_hands_over_is_served(tmp_path: Path) -> None:
    server = Server(tmp_path / "data", program=("-c", HANDED_OVER.format(is_socket=True))).wait_ready()
    assert server.get("/health/ready").status == 200
    assert server.stop() == 0


def test_what_is_handed_over_and_no_socket_is_one_clear_line(tmp_path: Path) -> None:
    server = Server(tmp_path / "data", program=("-c", HANDED_OVER.format(is_socket=False)))
    assert server.wait_exit() == 1
    assert server.output == "vantage: file 3, named by LISTEN_FDS, is no listening socket\n"
