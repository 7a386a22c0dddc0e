"""``--workers``: several processes on one port, that start, serve, die and stop as one."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil
import pytest

from tests.support.clickhouse_server import running_clickhouse
from tests.support.load import NO_RATES
from tests.support.server import Server
from tests.support.wait import wait_until

COUNT: Final = 3


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    pytest.importorskip("clickhouse_driver", reason="pip install 'vantage[clickhouse]'")
    with running_clickhouse() as clickhouse:
        yield {
            **NO_RATES,
            "VANTAGE_STORE_URL": clickhouse.new_database(),
            "VANTAGE_METADATA_URL": f"sqlite:///{tmp_path_factory.mktemp('metadata') / 'm.db'}",
        }


@contextlib.contextmanager
def serving(folder: Path, environ: dict[str, str]) -> Iterator[Server]:
    server = Server(folder / "data", "--role", "api", "--workers", str(COUNT), environ=environ)
    try:
        yield server.wait_ready()
    finally:
        if server.process.poll() is None:
            server.stop()


def processes_of(server: Server) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children()


def seen(server: Server) -> set[str]:
    """Return the labels of the processes whose metrics a scrape shows."""
    return {
        name.partition('process="')[2].partition('"')[0]
        for name in server.counts()
        if name.startswith("vantage_api_websocket_connections")
    }


def test_they_answer_on_one_port_and_stop_as_one(tmp_path: Path, environ: dict[str, str]) -> None:
    with serving(tmp_path, environ) as server:
        children = processes_of(server)
        assert len(children) == COUNT
        assert server.output.count("is ready") == 1
        assert seen(server) == {str(number) for number in range(COUNT)}
        for _ in range(20):
            assert server.send({"query": "SELECT count() FROM metrics"}, "/vql/execute").status == 200
        queries = [
            n for name, n in server.counts().items() if name.startswith("vantage_api_query_duration_seconds_count")
        ]
        assert sum(queries) == 20
        os.kill(children[0].pid, signal.SIGTERM)  # as a supervisor that signals the group
        assert server.stop() == 0
        assert not any(child.is_running() for child in children)
        assert "Traceback" not in server.output


def test_one_that_dies_is_started_again_while_the_others_serve(tmp_path: Path, environ: dict[str, str]) -> None:
    with serving(tmp_path, environ) as server:
        victim = processes_of(server)[0]
        victim.kill()
        wait_until(lambda: len(seen(server)) == COUNT - 1 and server.get("/health/ready").status == 200)
        wait_until(lambda: len(seen(server)) == COUNT)
        assert victim.pid not in {child.pid for child in processes_of(server)}
        assert server.output.count("a process ended, starting it again") == 1


def test_none_outlives_the_first(tmp_path: Path, environ: dict[str, str]) -> None:
    with serving(tmp_path, environ) as server:
        children = processes_of(server)
        server.kill()
        wait_until(lambda: not any(child.is_running() for child in children))


def test_what_keeps_one_from_starting_ends_all_with_one_line(tmp_path: Path, environ: dict[str, str]) -> None:
    broken = environ | {"VANTAGE_METADATA_URL": f"sqlite:///{tmp_path}/no/such/folder/m.db"}
    server = Server(tmp_path / "data", "--role", "api", "--workers", "2", environ=broken)
    assert server.wait_exit() == 1
    assert server.output.count("vantage: ") == 1
    assert "Traceback" not in server.output


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--role", "worker"), "of the role worker start any number"),
        (("--demo",), "--demo is for one process"),
        ((), "--workers above 1 is not possible on the embedded store"),
    ],
)
def test_what_it_is_not_for_is_said(tmp_path: Path, options: tuple[str, ...], reason: str) -> None:
    server = Server(tmp_path / "data", *options, "--workers", "2")
    assert server.wait_exit() == 1
    assert reason in server.output
    assert server.output.count("\n") == 1
