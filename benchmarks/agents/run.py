"""Row 9: microseconds of CPU time that an agent adds to one request or call: in the thread that handles it, and in the
process.

Each agent runs the same calls in a process of its own, in interleaved rounds; a round's difference to the process
without an agent is one measurement. Other agents have an environment of their own, created on first use, so that their
dependencies do not mix with Vantage's.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

from benchmarks.agents.agents import NAMES
from benchmarks.agents.applications import FRAMEWORKS, SERVERS

ROOT: Final = Path(__file__).resolve().parents[2]
VENV: Final = ROOT / ".cache" / "agents"
PACKAGES: Final = (
    "flask",
    "fastapi",
    "requests",
    "httpx",
    *(f"opentelemetry-instrumentation-{name}" for name in FRAMEWORKS),
    "opentelemetry-sdk",
)
OPTIONAL: Final = ("sentry-sdk", "elastic-apm", "ddtrace")
CALLS, ROUNDS = 200, 101
MUST_US: Final = 15.0
AIM_US: Final = {True: 8.0, False: 12.0}
# What OpenTelemetry added on the machine on which the microseconds of the targets were set.
PEER_US: Final = {"flask": 211, "fastapi": 248, "requests": 101, "httpx": 129}
PEER_SHARE: Final = {True: 1 / 10, False: 1 / 6}  # of what OpenTelemetry adds


@dataclass
class Child:
    """One framework under one agent."""

    agent: str
    process: subprocess.Popen[str]
    took_us: list[float] = field(default_factory=list)  # per call in each round, in its own thread
    process_us: list[float] = field(default_factory=list)  # in all threads

    def run(self, calls: int) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{calls}\n")
        self.process.stdin.flush()
        took_s, process_s = self.process.stdout.readline().split()
        self.took_us.append(float(took_s) / calls * 1e6)
        self.process_us.append(float(process_s) / calls * 1e6)


@contextmanager
def null_server() -> Iterator[str]:
    """Run a server that accepts anything; yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = b'{"accepted":1,"rejected":0,"errors":[]}'
            self.send_response(202)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST  # noqa: N815  # names that http.server looks for

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def make_environment() -> tuple[Path, list[str]]:
    """Return the Python with the other agents, and the names of those that could not be installed."""
    python = VENV / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, *PACKAGES], check=True)
    missing = [name for name in OPTIONAL if subprocess.run([*install, name], capture_output=True).returncode]
    return python, missing


def start(python: Path, framework: str, agent: str, url: str) -> Child | None:
    """Start a child; None when the agent does not support the framework."""
    command = [str(python), "-m", "benchmarks.agents.child", framework, agent, url]
    environ = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environ
    )
    assert process.stdout is not None
    # Agents may print while they start.
    while line := process.stdout.readline():
        if line.strip() == "ready":
            return Child(agent, process)
    process.wait()
    return None


def measure(python: Path, framework: str, url: str, *, calls: int, rounds: int) -> dict[str, Child]:
    children = [child for name in NAMES if (child := start(python, framework, name, url)) is not None]
    try:
        for _ in range(rounds):
            for child in random.sample(children, len(children)):
                child.run(calls)
    finally:
        for child in children:
            child.process.terminate()
            child.process.wait()
    return {child.agent: child for child in children}


def added_us(child: Child, base: Child) -> tuple[float, float]:
    """Return the added time in the calling thread, the median of the rounds, and in the process, their mean: an agent's
    thread works once in many rounds."""
    differences = [took - base_us for took, base_us in zip(child.took_us, base.took_us, strict=True)]
    return statistics.median(differences), statistics.mean(child.process_us) - statistics.mean(base.process_us)


def bench_agent(*, quick: bool) -> None:
    calls, rounds = (100, 15) if quick else (CALLS, ROUNDS)
    python, missing = make_environment()
    rows: dict[str, dict[str, tuple[float, float]]] = {name: {} for name in NAMES}
    base_us: dict[str, float] = {}
    with null_server() as url:
        for framework in FRAMEWORKS:
            children = measure(python, framework, url, calls=calls, rounds=rounds)
            base_us[framework] = statistics.median(children["none"].took_us)
            for name, child in children.items():
                rows[name][framework] = added_us(child, children["none"])
    print("\n### 9 Agents: µs added to one request or call, in its thread / in the process\n")
    print(f"| | {' | '.join(FRAMEWORKS)} |")
    print("| --- |" + " --- |" * len(FRAMEWORKS))
    print(f"| a request without any | {' | '.join(f'{base_us[name]:.0f}' for name in FRAMEWORKS)} |")
    for name in NAMES[1:]:
        cells = ("{:.1f} / {:.1f}".format(*rows[name][key]) if key in rows[name] else "–" for key in FRAMEWORKS)
        print(f"| {name} | {' | '.join(cells)} |")
    if missing:
        print(f"\nCould not be installed: {', '.join(missing)}.")
    print("\n| target | must | aim | this run |")
    print("| --- | --- | --- | --- |")
    for framework in FRAMEWORKS:
        is_server = framework in SERVERS
        ours, in_process = rows["vantage"][framework]
        peer, _ = rows["opentelemetry"][framework]
        share = PEER_SHARE[is_server]
        scaled = ours / peer * PEER_US[framework]
        print(
            f"| 9 {framework}, µs | {verdicts(MUST_US, ours)} | {verdicts(AIM_US[is_server], ours)} | {ours:.1f} |\n"
            f"| 9 {framework}, µs in the process | {verdicts(MUST_US, in_process)} | – | {in_process:.1f} |\n"
            f"| 9 {framework}, µs on the targets' machine, by OpenTelemetry's | {verdicts(MUST_US, scaled)} "
            f"| {verdicts(AIM_US[is_server], scaled)} | {scaled:.1f} |\n"
            f"| 9 {framework}, OpenTelemetry = 1 | {verdicts(share, ours / peer)} | – | {ours / peer:.3f} |"
        )
    print(
        f"\n{rounds} rounds of {calls} calls. In its thread: the median of a round's difference to the process without."
    )
    print("In the process: the difference of the means.")


def verdicts(limit: float, value: float) -> str:
    return f"≤ {limit:.3g}: {'met' if value <= limit else '**missed**'}"
