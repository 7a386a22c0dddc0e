"""Two unchanged applications, run by ``vantage-agent run``: their requests are one trace in a real Vantage."""

from __future__ import annotations

import urllib.request
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.support.environments import applications
from tests.support.load import NO_RATES
from tests.support.programs import free_port, listening
from tests.support.server import Server, serving

AGENT = Path(__file__).resolve().parents[2] / "src"
FRONT = """
import httpx
from fastapi import FastAPI

app = FastAPI()


@app.get("/orders/{order_id}")
async def order(order_id: int) -> dict[str, int]:
    async with httpx.AsyncClient() as client:
        answer = await client.get("http://127.0.0.1:PORT/anything/pay", params={"card": "4711"})
    return {"order": order_id, "payment": answer.status_code}
"""


def running(
    python: Path, name: str, server: Server, folder: Path, port: int, *program: str
) -> AbstractContextManager[None]:
    """A program under the agent."""
    command = [str(python), "-m", "vantage_agent", "run", "--service-name", name, "--collector-url", server.url, "--"]
    environ = {"PYTHONPATH": str(AGENT)}
    return listening([*command, str(python), "-m", *program], port, folder=folder, environ=environ)


@pytest.mark.timeout(600)  # the environment is made within
def test_a_request_through_two_programs_is_one_trace(tmp_path: Path) -> None:
    python = applications()
    front, back = free_port(), free_port()
    (tmp_path / "front.py").write_text(FRONT.replace("PORT", str(back)))
    with serving(tmp_path / "data", environ={**NO_RATES, "VANTAGE_SELF_TELEMETRY": "false"}) as server:
        with (
            running(python, "payments", server, tmp_path, back, "gunicorn", "-b", f"127.0.0.1:{back}", "httpbin:app"),
            running(python, "shop", server, tmp_path, front, "uvicorn", "--port", str(front), "front:app"),
        ):
            urllib.request.urlopen(f"http://127.0.0.1:{front}/orders/7", timeout=30).read()
        (result,) = server.get("/api/traces?service=shop").json()["traces"]
        trace = server.get(f"/api/traces/{result['trace_id']}").json()
        recorded = [
            (item["service"], item["name"], item["kind"], item["depth"], item["status"]) for item in trace["spans"]
        ]
        assert recorded == [
            ("shop", "GET /orders/{order_id}", "server", 0, "unset"),
            ("shop", "GET 127.0.0.1", "client", 1, "unset"),
            ("payments", "GET /anything/<path:anything>", "server", 2, "unset"),
        ]
        starts = [item["start_ns"] for item in trace["spans"]]
        assert starts == sorted(starts)
        assert "4711" not in str(trace)
        edges = server.get("/api/edges?start=now-1h&end=now").json()["edges"]
        assert [(edge["caller"], edge["callee"]) for edge in edges] == [("shop", "payments")]
        metrics: dict[str, Any] = {name: server.total(name, "http.request.duration") for name in ("shop", "payments")}
        assert {name: count for name, (count, _) in metrics.items()} == {"shop": 1, "payments": 1}
        assert server.total("shop", "http.client.request.duration")[0] == 1
