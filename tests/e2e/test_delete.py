"""``vantage delete``: on a server and in a folder, after a confirmation, and of what was named alone."""

from __future__ import annotations

import json
import os
import pty
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.load import NO_RATES
from tests.support.server import Server, serving, vantage

QUIET = {**NO_RATES, "VANTAGE_SELF_TELEMETRY": "false"}


def fill(server: Server) -> None:
    """Send 2 samples, a span and a deployment of each of three services by environment."""
    for service, environment in (("shop", "prod"), ("shop", "test"), ("other", "prod")):
        resource = {"service_name": service, "environment": environment, "service_version": "1"}
        metrics = [{"metric_name": "m", "value": 1, "tags": {"n": str(n)}} for n in range(2)]
        assert server.send({**resource, "metrics": metrics}).status == 202
        ids = {"trace_id": f"{service}-{environment}", "span_id": "s", "name": "n"}
        span = {**ids, "start_ns": time.time_ns(), "duration_ns": 1}
        assert server.send({**resource, "spans": [span]}, "/v1/spans").status == 202


def remaining(server: Server) -> dict[tuple[str, str], int]:
    """Return how many samples and spans each service and environment has."""
    counts: dict[tuple[str, str], int] = {}
    for line in server.get("/api/export").body.splitlines():
        row = json.loads(line)
        key = (row["service_name"], row["environment"])
        counts[key] = counts.get(key, 0) + 1
    return counts


def confirmed(answer: str, *arguments: str) -> tuple[int, str]:
    """Run the command on a terminal, where somebody types an answer; return exit status and output."""
    controller, terminal = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "vantage", "delete", *arguments],
            stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        os.write(controller, f"{answer}\n".encode())
        output, _ = process.communicate(timeout=60)
        return process.returncode, output
    finally:
        os.close(controller)
        os.close(terminal)


def test_a_server_deletes_what_is_named_and_nothing_else(tmp_path: Path) -> None:
    with serving(tmp_path / "data", environ=QUIET) as server:
        fill(server)
        done = vantage("delete", "--service", "shop", "--environment", "test", "--yes", "--url", server.url)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("deleted 2 samples, 1 spans, 2 series and 1 deployments: about ")
        assert remaining(server) == {("shop", "prod"): 3, ("other", "prod"): 3}
        assert vantage("delete", "--environment", "prod", "--yes", "--url", server.url).returncode == 0
        assert remaining(server) == {}


def test_a_folder_is_deleted_from_when_no_server_uses_it(tmp_path: Path) -> None:
    data = tmp_path / "data"
    command = ("delete", "--service", "shop", "--yes", "--data", str(data))
    with serving(data, environ=QUIET) as server:
        fill(server)
        in_use = vantage(*command)
        assert in_use.returncode == 1
        assert "is in use by another Vantage process" in in_use.stderr
        assert in_use.stderr.count("\n") == 1
        assert len(remaining(server)) == 3
    done = vantage(*command)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("deleted 4 samples, 2 spans, 4 series and 2 deployments: about ")
    with sqlite3.connect(data / "metadata.db") as db:
        audit = db.execute("SELECT actor, subject FROM audit WHERE action='data.delete'").fetchall()
    assert audit == [("cli", "shop")]
    with serving(data, environ=QUIET) as server:
        assert remaining(server) == {("other", "prod"): 3}
    absent = vantage("delete", "--service", "shop", "--yes", "--data", str(tmp_path / "absent"))
    assert absent.stderr == f"vantage: {tmp_path / 'absent'} is no folder\n"
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("answer", ["", "n", "nope"])
def test_nothing_is_deleted_without_a_yes(tmp_path: Path, answer: str) -> None:
    with serving(tmp_path / "data", environ=QUIET) as server:
        fill(server)
        status, output = confirmed(answer, "--service", "shop", "--url", server.url)
        assert status == 1
        assert output.endswith("for good? [y/N] nothing was deleted\n")
        assert "of service 'shop' on http://127.0.0.1:" in output
        assert len(remaining(server)) == 3


def test_a_yes_deletes(tmp_path: Path) -> None:
    with serving(tmp_path / "data", environ=QUIET) as server:
        fill(server)
        status, output = confirmed("yes", "--environment", "prod", "--url", server.url)
        assert status == 0
        assert "deleted 4 samples" in output
        assert list(remaining(server)) == [("shop", "test")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--service", "shop"), "give --yes"),
        (("--yes",), "give --service, --environment, or both"),
        (("--service", "shop", "--yes", "--url", "http://127.0.0.1:1", "--data", "x"), "not both"),
        (("--service", "shop", "--yes", "--url", "http://127.0.0.1:1"), "cannot be reached"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments: tuple[str, ...], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vantage", "delete", *arguments],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_key_without_the_scope_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    secret = vantage("keys", "create", "reader", "--scope", "read", "--data", str(data)).stdout.strip()
    with serving(data, environ=QUIET) as server:
        done = vantage("delete", "--service", "shop", "--yes", "--url", server.url, "--api-key", secret)
    assert done.returncode == 1
    assert "does not allow that" in done.stderr
    assert secret not in done.stderr
