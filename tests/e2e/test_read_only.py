"""A data folder that can only be read: what is stored is served, and nothing is written, logged or lost meanwhile."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.mounts import read_only
from tests.support.server import Server, serving, vantage
from tests.support.wait import wait_until

ENVIRON = {"VANTAGE_SELF_TELEMETRY": "false", "VANTAGE_HEAD_BYTES_MAX": str(1 << 20), "VANTAGE_INGEST_RATE_LIMIT": "0"}
BATCHES = 12
SAMPLES = 2000
TRACE = "ab" * 16
BATCH: dict[str, Any] = {"service_name": "api", "metrics": [{"metric_name": "m", "value": 1}] * SAMPLES}
READS = (
    "/", "/services/api", "/traces", f"/traces/{TRACE}", "/api/services", "/api/storage", "/api/deployments",
    "/alerts", "/alerts/rules", "/alerts/channels", "/api/alerts",
)  # fmt: skip
READ_ONLY = "the data folder is read-only"


def fill(server: Server) -> None:
    """Store samples in segments and in the journal, and a trace."""
    for number in range(BATCHES):
        assert wait_until(lambda n=number: server.send(BATCH, Idempotency_Key=f"b{n}").status == 202)
    wait_until(lambda: list((server.data / "segments").glob("*.samples.db")))
    wait_until(lambda: not server.counts()["vantage_store_generations_waiting"])
    span = {
        "trace_id": TRACE, "span_id": "cd" * 8, "name": "GET /", "service_name": "api",
        "start_ns": time.time_ns(), "duration_ns": 1000,
    }  # fmt: skip
    assert server.send({"spans": [span]}, "/v1/spans").status == 202


def total(server: Server, **headers: str) -> int:
    answer = server.send(
        {"query": "SELECT count() AS n FROM metrics WHERE service_name = 'api' AND timestamp >= '2020-01-01'"},
        "/vql/execute",
        **headers,
    )
    assert answer.status == 200, answer
    return int(answer.json()["rows"][0][0])


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Sizes and times of the files with data: beside them SQLite notes who reads, where it can."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith("-shm")
    }


@pytest.fixture(params=["stopped", "killed", "killed, without shared memory"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    with serving(folder, environ=ENVIRON) as server:
        fill(server)
        server.process.send_signal(signal.SIGTERM if request.param == "stopped" else signal.SIGKILL)
        server.wait_exit()
    if "without" in request.param:
        for path in folder.rglob("*-shm"):
            path.unlink()
    return folder


def test_a_read_only_folder_is_served_and_left_as_it_is(data: Path) -> None:
    before = state(data)
    with read_only(data) as made, serving(data, environ=ENVIRON) as server:
        assert total(server) == BATCHES * SAMPLES
        for path in READS:
            assert server.get(path, Accept="text/html").status == 200, path
        assert len(server.get(f"/api/traces/{TRACE}").json()["spans"]) == 1
        assert server.get("/api/export").body.count(b"\n") >= BATCHES * SAMPLES
        health = server.get("/health")
        assert (health.status, health.json()["status"]) == (200, "read_only")
        assert health.json()["warnings"][0].startswith(READ_ONLY)
        assert server.get("/health/ready").status == 200
        assert READ_ONLY[1:] in server.get("/", Accept="text/html").body.decode()
        refused = (
            server.send(BATCH),
            server.send({"service": "api", "version": "2"}, "/api/deployments"),
            server.request("DELETE", "/api/data?service=api"),
        )
        for answer in refused:
            assert answer.status == 503
            assert answer.json()["detail"].startswith(READ_ONLY)
            assert "retry-after" in answer.headers
        doctor = vantage("doctor", "--data", str(data)).stdout
        assert f"FAIL  data folder: {data}: {READ_ONLY}" in doctor
        assert doctor.count("FAIL") == 1, doctor
        assert READ_ONLY in vantage("keys", "create", "late", "--data", str(data)).stderr
        assert state(data) == before
        logged = [line for line in server.output.splitlines() if '"level": "warning"' in line or '"error"' in line]
        assert len(logged) == 1, server.output
        assert READ_ONLY in logged[0]

        made.end()
        assert server.send(BATCH).status == 202, "without a restart"
        assert total(server) == (BATCHES + 1) * SAMPLES
        assert server.get("/health").json()["status"] == "up"
        assert server.send({"service": "api", "version": "2"}, "/api/deployments").status == 201
    with serving(data, environ=ENVIRON) as again:
        assert total(again) == (BATCHES + 1) * SAMPLES


def test_keys_work_in_a_read_only_folder(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    secret = vantage("keys", "create", "reader", "--scope", "read", "--data", str(folder)).stdout.strip()
    with serving(folder, environ=ENVIRON):
        pass
    with read_only(folder):
        assert "reader" in vantage("keys", "list", "--data", str(folder)).stdout
        with serving(folder, environ=ENVIRON) as server:
            assert server.get("/api/services").status == 401
            assert server.get("/api/services", Authorization=f"Bearer {secret}").status == 200


def test_a_folder_that_becomes_read_only_while_it_is_served_is_read_until_it_can_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with serving(folder, environ=ENVIRON) as server:
        fill(server)
        with read_only(folder) as made:
            answer = wait_until(lambda: (a := server.send(BATCH, Idempotency_Key="late")).status == 503 and a)
            assert answer.json()["detail"].startswith(READ_ONLY)
            stored = total(server)
            assert server.get("/health").json()["status"] == "read_only"
            for path in READS:
                assert server.get(path, Accept="text/html").status == 200, path
            made.end()
            assert server.send(BATCH, Idempotency_Key="later").status == 202
            assert total(server) == stored + SAMPLES
        assert server.output.count('"level": "error"') == 0, server.output


def test_a_read_only_folder_can_be_backed_up(tmp_path: Path, data: Path) -> None:
    with read_only(data):
        made = vantage("backup", str(tmp_path / "copy"), "--data", str(data))
        assert made.returncode == 0, made.stderr
    assert vantage("restore", str(tmp_path / "copy"), "--data", str(tmp_path / "restored")).returncode == 0
    with serving(tmp_path / "restored", environ=ENVIRON) as server:
        assert total(server) == BATCHES * SAMPLES
