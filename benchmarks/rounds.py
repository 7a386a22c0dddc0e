"""Interleaved rounds: every subject runs once in each round, so that a noisy minute affects all of them."""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

CONNECTIONS = 16
PYTHON = sys.executable


@dataclass
class Subject:
    """A server to load. ``command`` starts it on a port; ``request`` is sent repeatedly, or each of several in turn."""

    name: str
    command: Callable[[int], Sequence[str]]
    request: Callable[[str, int], bytes | Sequence[bytes]]
    samples: int
    environ: Mapping[str, str] = field(default_factory=dict)
    results: list[dict[str, float]] = field(default_factory=list)

    def median(self, key: str) -> float:
        return statistics.median(result[key] for result in self.results)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Running:
    """A subject's server on the first core."""

    def __init__(self, subject: Subject, log: Path) -> None:
        self.subject = subject
        self.port = free_port()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                subject.command(self.port),
                env={**os.environ, **subject.environ},
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )
        self.watched = psutil.Process(self._process.pid)
        if (os.cpu_count() or 1) > 1:
            self.watched.cpu_affinity([0])
        end_s = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > end_s or self._process.poll() is not None:
                    raise RuntimeError(f"{subject.name} did not start; see {log}") from None
                time.sleep(0.1)
        time.sleep(1.0)

    def cpu_s(self) -> float:
        times = self.watched.cpu_times()
        return times.user + times.system

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Loader:
    """The load process, on the second core."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [PYTHON, "-m", "benchmarks.load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def load(self, running: Running, seconds: float, rate: float | None = None) -> dict[str, float]:
        request = running.subject.request("127.0.0.1", running.port)
        requests = [request] if isinstance(request, bytes) else request
        order: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": running.port,
            "requests": [request.hex() for request in requests],
            "connections": CONNECTIONS,
            "seconds": seconds,
            "rate": rate,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        before_s = running.cpu_s()
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        result: dict[str, float] = json.loads(self._process.stdout.readline())
        if result["failed"]:
            raise RuntimeError(f"{running.subject.name}: {result['failed']} requests failed")
        result["cpu_us"] = (running.cpu_s() - before_s) / max(1, result["requests"]) * 1e6
        result["samples_per_s"] = result["per_s"] * running.subject.samples
        return result

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


def interleave(subjects: Sequence[Subject], *, rounds: int, seconds: float, log: Path) -> list[Running]:
    """Start all, load each in turn, ``rounds`` times after one warm-up. Return the servers, still running."""
    running = [Running(subject, log) for subject in subjects]
    loader = Loader()
    try:
        for server in running:
            loader.load(server, 1.0)
        for _ in range(rounds):
            for server in running:
                server.subject.results.append(loader.load(server, seconds))
    finally:
        loader.close()
    return running
