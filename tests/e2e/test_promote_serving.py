"""``vantage promote --url``: a running server moves its data to ClickHouse under load, and goes on there."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clickhouse_server import ClickHouseServer, running_clickhouse
from tests.support.load import NO_RATES, SAMPLES_PER_BATCH, Load, batch, read_back
from tests.support.server import Server, serving, vantage
from tests.support.wait import wait_until

pytest.importorskip("clickhouse_driver", reason="pip install 'vantage[clickhouse]'")
QUIET = {**NO_RATES, "VANTAGE_SELF_TELEMETRY": "false"}


@pytest.fixture(scope="module")
def clickhouse() -> Iterator[ClickHouseServer]:
    with running_clickhouse() as server:
        yield server


def promote(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    return vantage("promote", "--url", server.url, *arguments, timeout_s=200)


def resend(server: Server, numbers: set[int], start_ms: int) -> None:
    """Send batches again with their ids, as clients do that missed the answer."""
    for number in sorted(numbers):
        body = batch(number, start_ms)
        wait_until(lambda body=body, number=number: server.send(body, Idempotency_Key=f"b-{number}").status == 202)


def send_history(server: Server, hours: int) -> None:
    for hour in range(hours):
        at_ms = int(time.time() * 1000) - hour * 3_600_000
        metric = {"metric_name": "old", "value": hour, "timestamp": at_ms}
        span = {"trace_id": f"t{hour}", "span_id": "s", "name": "n", "start_ns": at_ms * 1_000_000, "duration_ns": 1}
        assert server.send({"service_name": "shop", "metrics": [metric]}).status == 202
        assert server.send({"service_name": "shop", "spans": [span]}, "/v1/spans").status == 202


def test_a_server_under_load_is_promoted_and_stores_everything_once(
    clickhouse: ClickHouseServer, tmp_path: Path
) -> None:
    start_ms = (int(time.time()) - 86_400) * 1000  # every sample has a second of its own
    with serving(tmp_path / "data", environ=QUIET) as server:
        process, url = server.process.pid, clickhouse.new_database()
        send_history(server, 5)
        assert "not promoted" in promote(server, "--status").stdout
        load = Load(server, start_ms, 0, pause_s=0.1)
        with load:
            wait_until(lambda: len(load.sent.answered) > 50)
            done = promote(server, "--to", url)
            assert done.returncode == 0, done.stderr + server.output
            assert f"promoted to 127.0.0.1:{clickhouse.port}/" in done.stdout
        assert server.process.poll() is None
        assert server.process.pid == process
        assert len(load.sent.unanswered) <= load.next
        resend(server, load.sent.unanswered | set(range(0, load.next, 7)), start_ms)
        stored = read_back(server, start_ms, load.next)
        assert stored == dict.fromkeys(range(load.next * SAMPLES_PER_BATCH), 1)
        database = url.rpartition("/")[2]
        count = clickhouse.query(f"SELECT count() FROM {database}.samples")
        assert int(count) == load.next * SAMPLES_PER_BATCH + 5
        assert clickhouse.query(f"SELECT sum(count) FROM {database}.rollups_1h") == count
        of_requests = f"{database}.red_1h WHERE level = 'service' AND source != 'spans'"
        assert clickhouse.query(f"SELECT sum(count) FROM {of_requests}") == count
        assert clickhouse.query(f"SELECT count() FROM {database}.spans") == "5"
        assert "not in an embedded store" in promote(server, "--to", url).stderr
    with serving(tmp_path / "data", environ=QUIET) as server:  # and later, too
        assert server.total("shop", "old") == (5, 10)
    done = vantage("promote", "--back", "--data", str(tmp_path / "data"))
    assert done.returncode == 0, done.stderr
    with serving(tmp_path / "data", environ=QUIET) as server:
        assert read_back(server, start_ms, load.next) == stored


def test_a_server_that_is_killed_while_it_copies_continues(clickhouse: ClickHouseServer, tmp_path: Path) -> None:
    data, url = tmp_path / "data", clickhouse.new_database()
    with serving(data, environ=QUIET) as server:
        send_history(server, 40)
        assert server.send({"to": url}, "/api/promotion").status == 200
        wait_until((data / "promotion.json").exists)
        server.kill()
    clickhouse.revive()
    server = Server(data, environ=QUIET)  # its start may switch at once
    try:
        server.wait_ready()

        def state() -> dict[str, object]:
            clickhouse.revive()
            try:
                answered: dict[str, object] = server.get("/api/promotion").json()
            except (OSError, ValueError):  # it starts again
                return {}
            return answered

        wait_until(lambda: state().get("serving"), 60)
        assert server.total("shop", "old") == (40, sum(range(40)))
        assert clickhouse.query(f"SELECT count() FROM {url.rpartition('/')[2]}.samples") == "40"
    finally:
        server.process.send_signal(signal.SIGTERM)
        server.wait_exit()


def test_a_promotion_is_ended_refused_and_waits_for_clickhouse(tmp_path: Path) -> None:
    with running_clickhouse() as clickhouse, serving(tmp_path / "data", environ=QUIET) as server:
        send_history(server, 30)
        url = clickhouse.new_database()

        def refused(*arguments: str) -> str:
            done = promote(server, *arguments)
            assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stdout + done.stderr
            assert "secret" not in done.stderr
            return done.stderr

        assert "clickhouse://" in refused("--to", "http://u:secret@127.0.0.1/d")
        assert "127.0.0.1:1" in refused("--to", "clickhouse://u:secret@127.0.0.1:1/d")
        assert "needs the server to be stopped" in refused("--back")
        assert "no promotion" in refused("--abandon")
        assert server.send({"to": url}, "/api/promotion").status == 200
        clickhouse.kill()
        assert server.send({"to": url}, "/api/promotion").status == 409, server.output
        metric = {"metric_name": "new", "value": 1}
        assert server.send({"service_name": "shop", "metrics": [metric]}).status == 202
        assert server.get("/health/ready").status == 200
        wait_until(lambda: server.get("/api/promotion").json()["problem"], 60)
        clickhouse.start()
        ended = promote(server, "--abandon")
        state = json.loads(server.get("/api/promotion").body)
        if ended.returncode:  # it was quicker
            wait_until(lambda: server.get("/api/promotion").json()["serving"], 60)
        else:
            assert state["phase"] == "none"
            assert clickhouse.query(f"SELECT count() FROM {url.rpartition('/')[2]}.samples") == "0"
        assert server.total("shop", "new") == (1, 1)
