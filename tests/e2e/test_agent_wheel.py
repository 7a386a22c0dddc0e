"""The agent as the server itself offers it: installed from its address, it sends to it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server import Server, serving
from tests.support.wait import TIMEOUT_S, wait_until
from vantage.web.api.agent_wheel import WHEEL_NAME, agent_wheel

SEND = """
import sys
from vantage_agent import counter, flush, init_agent
init_agent(service_name="installed", collector_url=sys.argv[1], auto_instrument="all")
counter("orders", 3)
assert flush()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    environ = {"VANTAGE_API_KEY": "a-key-of-twenty-letters", "VANTAGE_SELF_TELEMETRY": "false"}
    with serving(tmp_path_factory.mktemp("wheel") / "data", environ=environ) as server:
        yield server


def test_an_application_installs_it_without_a_key_and_sends(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "site"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index")
    address = f"{server.url}/agent/{WHEEL_NAME}"
    environ = {"PATH": "/usr/bin:/bin", "NO_PROXY": "*", "no_proxy": "*"}
    subprocess.run([*pip, "--target", str(target), address], check=True, timeout=TIMEOUT_S, env=environ)
    assert (target / "bin" / "vantage-agent").is_file()
    environ |= {"PYTHONPATH": str(target), "VANTAGE_AGENT_API_KEY": "a-key-of-twenty-letters"}
    command = [sys.executable, "-S", "-c", SEND, server.url]
    subprocess.run(command, check=True, timeout=TIMEOUT_S, env=environ, cwd=tmp_path)
    key = {"X-API-Key": "a-key-of-twenty-letters"}
    wait_until(lambda: server.get("/api/metrics?service=installed", **key).json()["metrics"])


def test_the_listing_leads_to_it(server: Server) -> None:
    listing = server.get("/agent/")
    assert listing.status == 200
    assert f'href="{WHEEL_NAME}"' in listing.body.decode()


@pytest.mark.parametrize("name", ["vantage_agent-9.9.9-py3-none-any.whl", "..%2F..%2Fetc%2Fpasswd", "x"])
def test_other_files_are_not_there_and_the_right_one_is_named(server: Server, name: str) -> None:
    answer = server.get(f"/agent/{name}")
    assert answer.status == 404
    assert WHEEL_NAME in answer.json()["detail"] or "%2F" in name


def test_the_same_package_is_the_same_wheel() -> None:
    first = agent_wheel()
    agent_wheel.cache_clear()
    assert agent_wheel() == first
