"""A request that crosses applications is one trace, in the right order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastapi
import flask
import httpx
import pytest
import requests

import vantage_agent
from tests.agent.instrumentation.recorded import Recorded
from tests.agent.instrumentation.servers import serving_asgi, serving_wsgi
from tests.agent.receiver import Receiver

Start = Callable[..., Recorded]
HOME = str(Path(vantage_agent.__file__).parents[1])


def applications(order: list[str]) -> tuple[flask.Flask, fastapi.FastAPI]:
    """A front in Flask that asks, through requests, an inner application in FastAPI, which asks itself, through
    httpx, in the end."""
    front, inner = flask.Flask("front"), fastapi.FastAPI()

    @front.get("/front/<name>")
    def ask(name: str) -> str:
        return requests.get(f"{order[0]}/inner/{name}", timeout=5).text

    @inner.get("/inner/{name}")
    async def middle(name: str) -> str:
        async with httpx.AsyncClient(trust_env=False) as client:
            return (await client.get(f"{order[0]}/last")).text

    @inner.get("/last")
    def last() -> str:
        return "ok"

    return front, inner


def chain(spans: list[dict[str, Any]]) -> list[str]:
    """Names from the root down; each span has one child."""
    by_parent = {span.get("parent_span_id"): span for span in spans}
    names, span = [], by_parent.get(None)
    while span is not None:
        names.append(span["name"])
        span = by_parent.get(span["span_id"])
    return names


EXPECTED = [
    "GET /front/<name>",
    "GET 127.0.0.1",
    "GET /inner/{name}",
    "GET 127.0.0.1",
    "GET /last",
]


@pytest.mark.parametrize("rate", [1.0, 0.0])
def test_a_request_through_three_applications_is_one_trace(start: Start, rate: float) -> None:
    recorded = start("all", trace_sample_rate=rate)
    addresses: list[str] = []
    front, inner = applications(addresses)
    with serving_asgi(inner) as inner_url:
        addresses.append(inner_url)
        with serving_wsgi(front) as url:
            assert "ok" in requests.Session().request("GET", f"{url}/front/x", timeout=5).text
    spans = [span for span in recorded.spans if span["attributes"].get("server.port") != url.rpartition(":")[2]]
    outer = next(span for span in spans if span["name"] == EXPECTED[0])
    outer.pop("parent_span_id")  # the call of this test
    assert len({span["trace_id"] for span in spans}) == 1
    assert chain(spans) == EXPECTED
    assert [span["kind"] for span in spans] == ["server", "client", "server", "client", "server"]


def test_processes_that_are_run_with_the_agent_make_one_trace(receiver: Receiver, tmp_path: Path) -> None:
    (tmp_path / "inner.py").write_text(
        textwrap.dedent("""
            import socket, uvicorn, fastapi
            app = fastapi.FastAPI()

            @app.get("/inner/{name}")
            async def inner(name: str) -> str:
                return name

            taken = socket.socket()
            taken.bind(("127.0.0.1", 0))
            print(taken.getsockname()[1], flush=True)
            uvicorn.Server(uvicorn.Config(app, log_level="error")).run([taken])
        """)
    )
    environ = {
        **os.environ,
        "PYTHONPATH": HOME,
        "VANTAGE_AGENT_COLLECTOR_URL": receiver.url,
        "VANTAGE_AGENT_TRACE_SAMPLE_RATE": "1",
    }
    run = [sys.executable, "-m", "vantage_agent", "run", "--", sys.executable]
    with subprocess.Popen(
        [*run, "inner.py"], cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as inner:
        assert inner.stdout is not None
        port = inner.stdout.readline().strip()
        try:
            code = f"import requests; print(requests.get('http://127.0.0.1:{port}/inner/x', timeout=10).text)"
            front = subprocess.run(
                [*run, "-c", code], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=30
            )
            assert front.stdout.strip() == '"x"', front.stderr
        finally:
            inner.send_signal(signal.SIGINT)
            inner.wait(20)
    spans = [span for sent in receiver.sent for span in sent.packed.get("spans", ())]
    client = next(span for span in spans if span["kind"] == "client")
    server = next(span for span in spans if span["kind"] == "server")
    assert (server["trace_id"], server["parent_span_id"]) == (client["trace_id"], client["span_id"])
    assert server["name"] == "GET /inner/{name}"
