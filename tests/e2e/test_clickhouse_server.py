"""``vantage serve`` on a ClickHouse server: answers, an outage, kills of either, migrations and checks by commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clickhouse_server import ClickHouseServer, running_clickhouse
from tests.support.server import Server, serving, vantage
from tests.support.wait import wait_until

pytest.importorskip("clickhouse_driver", reason="pip install 'vantage[clickhouse]'")


@pytest.fixture(scope="module")
def server() -> Iterator[ClickHouseServer]:
    with running_clickhouse() as server:
        yield server


@pytest.fixture
def environ(server: ClickHouseServer) -> dict[str, str]:
    return {"VANTAGE_STORE_URL": server.new_database(), "VANTAGE_SELF_TELEMETRY": "no"}


def batch(value: float) -> dict[str, object]:
    return {"service_name": "api", "metrics": [{"metric_name": "m", "value": value, "tags": {"k": "it's"}}]}


def test_a_202_survives_a_kill_of_vantage_and_of_the_server(
    server: ClickHouseServer, environ: dict[str, str], tmp_path: Path
) -> None:
    ours = Server(tmp_path / "data", environ=environ).wait_ready()
    try:
        for number in range(10):
            assert ours.send(batch(1.0), idempotency_key=f"b{number}").status == 202
        assert ours.total("api", "m") == (10, 10.0)
        for page in ("/", "/services/api", "/api/services", "/api/storage", "/health/ready"):
            assert ours.get(page).status == 200, page
        server.kill()
        assert ours.send(batch(1.0), idempotency_key="b10").status == 503
        assert ours.get("/health/ready").status == 503
        server.start()
        assert ours.send(batch(1.0), idempotency_key="b10").status == 202
        assert ours.total("api", "m") == (11, 11.0)
        wait_until(lambda: ours.get("/health/ready").status == 200)
        ours.kill()
    finally:
        ours.stop()
    with serving(tmp_path / "data", environ=environ) as again:
        assert again.total("api", "m") == (11, 11.0)
        assert again.send(batch(1.0), idempotency_key="b10").status == 202
        assert again.total("api", "m") == (11, 11.0)
        assert "Traceback" not in again.output, again.output


def test_commands_migrate_and_check_a_server(environ: dict[str, str], tmp_path: Path) -> None:
    data = ("--data", str(tmp_path / "data"))
    checked = vantage("doctor", *data, environ=environ)
    assert "store: ClickHouse answers;" in checked.stdout, checked.stdout + checked.stderr
    assert "migrations to apply" in checked.stdout
    planned = vantage("migrate", "--dry-run", *data, environ=environ)
    assert "ClickHouse: 0001_samples would be applied" in planned.stdout, planned.stderr
    assert "ClickHouse: 0001_samples applied" in vantage("migrate", *data, environ=environ).stdout
    assert "ClickHouse: nothing to do" in vantage("migrate", *data, environ=environ).stdout
    assert "ClickHouse answers; schema is current" in vantage("doctor", *data, environ=environ).stdout


@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["migrate"], ["doctor"]])
def test_an_unreachable_server_is_one_line_without_the_password(command: list[str], tmp_path: Path) -> None:
    environ = {"VANTAGE_STORE_URL": "clickhouse://me:geheim@127.0.0.1:1/db"}
    done = vantage(*command, "--data", str(tmp_path / "data"), environ=environ)
    output = done.stdout + done.stderr
    assert done.returncode == 1
    assert "ClickHouse cannot be reached at 127.0.0.1:1: Connection refused" in output
    assert "geheim" not in output
    assert "Traceback" not in output
