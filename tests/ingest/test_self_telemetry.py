"""The name under which a process reports about itself is its own, and that of its next run."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.support.programs import free_port
from tests.support.server import Server
from tests.support.wait import wait_until
from vantage.ingest.self_telemetry import instance_name

HOST = socket.gethostname()


@pytest.mark.parametrize(
    ("port", "sibling", "name"),
    [
        (9091, None, f"{HOST}:9091"),
        (9092, None, f"{HOST}:9092"),
        (8000, 0, f"{HOST}:8000-0"),
        (8000, 1, f"{HOST}:8000-1"),
        (0, None, f"{HOST}-{os.getpid()}"),
    ],
    ids=["worker", "second worker", "one of two", "two of two", "any port"],  # the same in every process of a run
)
def test_processes_of_one_host_have_names_of_their_own(port: int, sibling: int | None, name: str) -> None:
    assert instance_name(port, sibling=sibling) == name


def test_a_server_reports_under_its_host_and_port(tmp_path: Path) -> None:
    port = free_port()
    server = Server(tmp_path / "data", "--port", str(port)).wait_ready()
    query = {
        "query": "SELECT tags['instance'] AS name, count() FROM metrics WHERE service_name = 'vantage' "
        "GROUP BY tags['instance']"
    }
    try:
        wait_until(lambda: f"{HOST}:{port}" in server.send(query, "/vql/execute").body.decode())
    finally:
        server.stop()
