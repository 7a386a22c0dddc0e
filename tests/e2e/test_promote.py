"""``vantage promote``: the data folder of a stopped server goes to ClickHouse, and returns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.clickhouse_server import ClickHouseServer, running_clickhouse
from tests.support.load import NO_RATES
from tests.support.server import Server, serving, vantage
from tests.support.wait import wait_until

pytest.importorskip("clickhouse_driver", reason="pip install 'vantage[clickhouse]'")
QUIET = {**NO_RATES, "VANTAGE_SELF_TELEMETRY": "false"}
HOURS = 6


@pytest.fixture(scope="module")
def clickhouse() -> Iterator[ClickHouseServer]:
    with running_clickhouse() as server:
        yield server


def send(server: Server, value: float, *, hours_ago: int = 0, batch_id: str = "") -> None:
    at_ms = int(time.time() * 1000) - hours_ago * 3_600_000
    batch: dict[str, Any] = {
        "service_name": "shop",
        "metrics": [{"metric_name": "m", "value": value, "timestamp": at_ms}],
    }
    if batch_id:
        batch["batch_id"] = batch_id
    assert server.send(batch).status == 202
    span = {"trace_id": f"t{value}", "span_id": "s", "name": "n", "start_ns": at_ms * 1_000_000, "duration_ns": 1}
    assert server.send({"service_name": "shop", "spans": [span]}, "/v1/spans").status == 202


def exported(server: Server) -> list[str]:
    """Return every sample and span as a line, sorted."""
    return sorted(json.dumps(json.loads(line), sort_keys=True) for line in server.get("/api/export").body.splitlines())


def fill(data: Path) -> list[str]:
    with serving(data, environ=QUIET) as server:
        for hour in range(HOURS):
            send(server, hour, hours_ago=hour)
        send(server, 99, batch_id="sent-twice")
        return exported(server)


def test_a_folder_goes_to_clickhouse_is_served_from_there_and_returns(
    clickhouse: ClickHouseServer, tmp_path: Path
) -> None:
    data, url = tmp_path / "data", clickhouse.new_database()
    before = fill(data)
    done = vantage("promote", "--to", url, "--data", str(data))
    assert done.returncode == 0, done.stderr
    assert f"promoted to 127.0.0.1:{clickhouse.port}/" in done.stdout
    assert "promotion.json" in vantage("config", "--data", str(data)).stdout
    assert "ClickHouse answers" in vantage("doctor", "--data", str(data)).stdout
    with serving(data, environ=QUIET) as server:
        assert exported(server) == before
        # Sent before the switch, and again by a client that missed the answer.
        metric = {"metric_name": "m", "value": 99, "timestamp": 0}
        server.send({"service_name": "shop", "batch_id": "sent-twice", "metrics": [metric]})
        assert exported(server) == before
        send(server, 7)
        send(server, 8, hours_ago=3)
        after = exported(server)
        assert len(after) == len(before) + 4
        busy = vantage("promote", "--back", "--data", str(data))
        assert busy.returncode == 1
        assert "stop that one" in busy.stderr
    done = vantage("promote", "--back", "--data", str(data))
    assert done.returncode == 0, done.stderr
    assert "with 4 samples and spans that came since" in done.stdout
    with serving(data, environ=QUIET) as server:
        assert exported(server) == after
    assert vantage("promote", "--abandon", "--data", str(data)).returncode == 0
    assert (
        vantage("promote", "--status", "--data", str(data)).stdout == "not promoted: the data is in the data folder\n"
    )


def test_a_promotion_that_is_killed_is_continued(clickhouse: ClickHouseServer, tmp_path: Path) -> None:
    data, url = tmp_path / "data", clickhouse.new_database()
    fill(data)
    environ = {name: text for name, text in os.environ.items() if not name.startswith("VANTAGE_")}
    command = [sys.executable, "-m", "vantage", "promote", "--data", str(data)]
    process = subprocess.Popen([*command, "--to", url], env=environ, cwd=tmp_path)
    wait_until((data / "promotion.json").exists)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert "run it again" in vantage("promote", "--status", "--data", str(data)).stdout
    with serving(data, environ=QUIET) as server:  # still from the folder
        send(server, 5, hours_ago=2)
        before = exported(server)

    def continued() -> bool:
        clickhouse.revive()  # this build aborts when a client dies in the middle of an insert, and takes its time
        done = vantage("promote", "--data", str(data))
        assert done.returncode == 0 or "cannot be reached" in done.stderr, done.stderr
        return done.returncode == 0

    wait_until(continued)
    with serving(data, environ=QUIET) as server:
        assert exported(server) == before


def test_what_cannot_be_promoted_is_refused_in_one_line(clickhouse: ClickHouseServer, tmp_path: Path) -> None:
    data = tmp_path / "data"
    fill(data)

    def refused(*arguments: str, environ: dict[str, str] | None = None) -> str:
        done = vantage("promote", "--data", str(data), *arguments, environ=environ)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert "secret" not in done.stderr + done.stdout
        return done.stderr

    assert "give --to clickhouse://" in refused()
    assert "give --to clickhouse://" in refused("--to", "http://u:secret@127.0.0.1/d")
    assert "127.0.0.1:1" in refused("--to", "clickhouse://u:secret@127.0.0.1:1/d")
    assert "names another store" in refused(environ={"VANTAGE_STORE_URL": "clickhouse://u:secret@127.0.0.1/d"})
    assert "nothing to return from" in refused("--back")
    newer, used = clickhouse.new_database(), clickhouse.new_database()
    assert vantage("migrate", "--data", str(data), environ={"VANTAGE_STORE_URL": newer}).returncode == 0
    clickhouse.query(f"INSERT INTO {newer.rpartition('/')[2]}.schema_migrations (version, name) VALUES (9000, 'later')")
    assert "newer Vantage" in refused("--to", newer)
    other = tmp_path / "other"
    fill(other)
    assert vantage("promote", "--to", used, "--data", str(other)).returncode == 0
    assert "has other data" in refused("--to", used)
    assert not (data / "promotion.json").exists()
    contradiction = vantage("config", "--data", str(other), environ={"VANTAGE_STORE_URL": newer})
    assert contradiction.returncode == 1
    assert "contradicts" in contradiction.stderr
