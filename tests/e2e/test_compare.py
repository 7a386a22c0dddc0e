"""``vantage compare`` and ``vantage gate`` against a running server, and the verdicts that come by themselves."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from tests.support.server import Server, serving, vantage

METRIC = "http.request.duration"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    environ = {"VANTAGE_SELF_TELEMETRY": "no", "VANTAGE_INGEST_RATE_LIMIT": "0", "VANTAGE_API_RATE_LIMIT": "0"}
    with serving(tmp_path_factory.mktemp("compare") / "data", environ=environ) as server:
        yield server
        assert "Traceback" not in server.output, server.output


def send(server: Server, service: str, version: str, times_ms: list[int], mean: float, *, seed: int = 1) -> None:
    chance = np.random.default_rng(seed)
    metrics = [
        {
            "metric_name": METRIC,
            "metric_type": "histogram",
            "unit": "ms",
            "timestamp": at_ms,
            "value": float(mean * chance.lognormal(0, 0.4)),
            "tags": {"http.route": "/a" if at_ms % 2 else "/b", "status": "200"},
        }
        for at_ms in times_ms
    ]
    assert server.send({"service_name": service, "service_version": version, "metrics": metrics}).status == 202


def recent(count: int, *, length_ms: int = 600_000, seed: int = 2) -> list[int]:
    now_ms = int(time.time() * 1000)
    return sorted((now_ms - np.random.default_rng(seed).integers(1, length_ms, count)).tolist())


def run(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    return vantage(*arguments, "--url", server.url)


@pytest.mark.parametrize(
    ("factor", "code", "word"), [(0.7, 0, "DEPLOY"), (1.4, 1, "ROLLBACK"), (None, 2, "INSUFFICIENT DATA")]
)
def test_the_exit_code_is_the_verdict(
    server: Server, tmp_path: Path, factor: float | None, code: int, word: str
) -> None:
    service = f"exit-{code}"
    send(server, service, "1", recent(600), 100)
    if factor is not None:
        send(server, service, "2", recent(600, seed=3), 100 * factor, seed=4)
    report = tmp_path / "report.md"
    done = run(server, "compare", service, "--candidate-version", "2", "--report", str(report))
    assert (done.returncode, done.stdout.partition(" - ")[0]) == (code, word), done.stdout + done.stderr
    text = report.read_text()
    assert text.startswith(f"# {word}: {service}")
    assert f"]({server.url}/compare/" in text
    if factor is not None:
        assert "| mean of http.request.duration |" in text
        assert "| /a |" in text


def test_windows_of_one_service_are_compared(server: Server) -> None:
    now_ms = int(time.time() * 1000)
    send(server, "windows", "1", [now_ms - 1_200_000 - 900 * number for number in range(600)], 100)
    send(server, "windows", "1", [now_ms - 1000 - 900 * number for number in range(600)], 150, seed=5)
    done = run(
        server, "compare", "windows", "--before", "now-1h..now-15m", "--after", "now-15m..now", "--format", "json"
    )
    document = json.loads(done.stdout)
    assert (done.returncode, document["verdict"], document["kind"]) == (1, "ROLLBACK", "windows")
    low, high = document["change"]["interval_pct"]
    assert low < 50 < high


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "api"], "CANDIDATE: name a second service"),
        (["compare", "api", "--before", "now-1h..now"], "--before and --after belong together"),
        (["compare", "api", "--before", "yesterday", "--after", "now-1h..now"], "is not START..END"),
        (["compare", "api", "api"], "the same as the baseline"),
        (["compare", "api", "b", "--metric", "a b"], "metrics[0]"),
        (["compare", "api", "b", "--report", "/nowhere/report.md"], "cannot be written"),
        (["gate", "--service", "api", "--version", "2", "--for", "soon"], "--for: is not a duration"),
        (["gate", "--service", "api", "--version", "2", "--for", "0s"], "between a second and 7 days"),
        (["gate", "--service", "api", "--version", "2", "--every", "10ms"], "--every"),
    ],
)
def test_what_cannot_be_compared_is_one_line(server: Server, arguments: list[str], message: str) -> None:
    done = run(server, *arguments)
    assert done.returncode != 0
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


class Traffic:
    """Sends samples of versions, a few times a second."""

    def __init__(self, server: Server, service: str, means: dict[str, float]) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(server, service, means))

    def _run(self, server: Server, service: str, means: dict[str, float]) -> None:
        turn = 0
        while not self._stop.wait(0.1):
            now_ms, turn = int(time.time() * 1000), turn + 1
            for version, mean in means.items():
                send(server, service, version, [now_ms - number for number in range(60)], mean, seed=turn)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def gate(server: Server, service: str, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = run(server, "gate", "--service", service, "--version", "2", "--every", "1s", "--format", "json", *arguments)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_a_gate_ends_early_when_a_version_is_clearly_worse(server: Server) -> None:
    began_s = time.monotonic()
    with Traffic(server, "worse", {"1": 100, "2": 200}):
        code, document = gate(server, "worse", "--for", "2m")
    assert (code, document["verdict"], document["kind"]) == (1, "ROLLBACK", "services")
    assert time.monotonic() - began_s < 60
    assert document["settings"]["planned_end"] - document["sides"]["candidate"]["start"] == 120_000
    assert server.get(f"/api/comparisons/{document['id']}").json()["title"] == "gate: worse 2"


def test_a_gate_compares_with_the_time_before_where_nothing_else_serves(server: Server) -> None:
    now_ms = int(time.time() * 1000)
    send(server, "after", "1", [now_ms - 10 * number for number in range(1, 800)], 100)
    with Traffic(server, "after", {"2": 60}):
        code, document = gate(server, "after", "--for", "8s")
    assert (code, document["verdict"], document["kind"]) == (0, "DEPLOY", "windows")


def test_a_gate_without_the_version_has_not_enough_data(server: Server) -> None:
    send(server, "absent", "1", recent(600), 100)
    code, document = gate(server, "absent", "--for", "1s")
    assert (code, document["verdict"]) == (2, "INSUFFICIENT DATA")
    assert "candidate" in document["reason"]
