"""``vantage serve`` on ClickHouse's engine: the API, the pages, a kill in the middle, another start."""

from __future__ import annotations

import contextlib
import http.client
import threading
from pathlib import Path

import pytest

from tests.support.server import Server, serving, vantage

pytest.importorskip("chdb", reason="pip install 'vantage[chdb]'")

ENVIRON = {"VANTAGE_STORE_URL": "chdb:///", "VANTAGE_SELF_TELEMETRY": "no"}


def batch(value: float) -> dict[str, object]:
    return {"service_name": "api", "metrics": [{"metric_name": "m", "value": value, "tags": {"k": "it's"}}]}


def test_what_was_answered_202_is_read_back_and_survives_a_kill(tmp_path: Path) -> None:
    data = tmp_path / "data"
    server = Server(data, environ=ENVIRON).wait_ready()
    try:
        assert server.send(batch(1.5), idempotency_key="b1").status == 202
        assert server.send(batch(1.5), idempotency_key="b1").status == 202
        assert server.total("api", "m") == (1, 1.5)
        for page in ("/", "/services/api", "/api/services", "/api/storage", "/health/ready"):
            assert server.get(page).status == 200, page
        recorded: list[int] = []

        def send() -> None:
            with contextlib.suppress(OSError, http.client.HTTPException):  # the server is gone
                for number in range(1000):
                    if server.send(batch(1.0), idempotency_key=f"n{number}").status == 202:
                        recorded.append(number)  # noqa: PERF401 - looked at meanwhile

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        while len(recorded) < 10:
            sender.join(0.05)
        server.kill()
        sender.join(10)
    finally:
        server.stop()
    with serving(data, environ=ENVIRON) as again:
        stored, _ = again.total("api", "m")
        assert len(recorded) + 1 <= stored <= len(recorded) + 2  # one may have been kept and not answered
        assert again.send(batch(1.0), idempotency_key=f"n{recorded[-1]}").status == 202
        assert again.total("api", "m")[0] == stored
        assert "Traceback" not in again.output, again.output


def test_doctor_says_what_it_does_not_look_at(tmp_path: Path) -> None:
    done = vantage("doctor", "--data", str(tmp_path / "data"), environ=ENVIRON)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ClickHouse's engine in" in done.stdout
    assert "segments" not in done.stdout
