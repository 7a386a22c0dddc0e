"""The real server in a process of its own, on a free loopback port."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.support.forked import start_program

START_TIMEOUT_S = 90.0  # several at once on a busy machine
_READY = re.compile(r"is ready: (https?://\S+)")


class Server:
    """One run of ``vantage serve``. ``output`` collects both output streams. ``program`` may inject faults."""

    def __init__(
        self,
        data: Path,
        *options: str,
        environ: dict[str, str] | None = None,
        program: tuple[str, ...] = ("-m", "vantage"),
    ) -> None:
        self.data = data
        self.output = ""
        self._ready = threading.Event()
        self.url = ""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("VANTAGE_")}
        self.process = start_program(
            (*program, "serve", "--port", "0", "--data", str(data), *options),
            env={**inherited, "PYTHONUNBUFFERED": "1", **(environ or {})},
            cwd=data.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout:
            for line in self.process.stdout:
                self.output += line
                if match := _READY.search(line):
                    self.url = match[1]
                    self._ready.set()
        self._ready.set()

    def wait_ready(self) -> Server:
        if not self._ready.wait(START_TIMEOUT_S) or not self.url:
            self.stop()
            raise AssertionError(f"the server did not start:\n{self.output}")
        return self

    def wait_exit(self, timeout_s: float = 30.0) -> int:
        status = self.process.wait(timeout_s)
        self._reader.join(5)
        return status

    def kill(self) -> None:
        """Kill the process, as a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        self.wait_exit()

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.wait_exit()
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, headers=headers)

    def send(self, payload: Any, path: str = "/v1/metrics", **headers: str) -> Answer:
        """Post JSON; a ``payload`` of bytes is sent unchanged."""
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.request("POST", path, body, {"Content-Type": "application/json", **named})

    def counts(self, **headers: str) -> dict[str, float]:
        """Return the values of ``/metrics`` by sample name with labels."""
        lines = self.get("/metrics", **headers).body.decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=30)

    def total(self, service: str, metric: str) -> tuple[int, float]:
        """Return the number of samples of a metric, and their sum, through the API."""
        path = f"/api/metrics/timeseries?service={service}&metric={metric}&start=now-7d&end=now&step=7d&agg="
        counts, sums = (
            [point[1] for series in self.get(path + agg).json()["series"] for point in series["points"] if point[1]]
            for agg in ("count", "sum")
        )
        return round(sum(counts)), sum(sums)


class Answer:
    """Status, headers and body of a response."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, {name.lower(): v for name, v in headers.items()}, body

    def json(self) -> Any:
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"<{self.status} {self.body[:300]!r}>"


@contextmanager
def serving(data: Path, *options: str, environ: dict[str, str] | None = None) -> Iterator[Server]:
    """Run a server; yield it when it is ready, and stop it at the end."""
    server = Server(data, *options, environ=environ)
    try:
        yield server.wait_ready()
    finally:
        if server.process.poll() is None:
            server.stop()


def vantage(
    *arguments: str, environ: dict[str, str] | None = None, cwd: Path | None = None, timeout_s: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run a command of the command line to its end."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("VANTAGE_")}
    with start_program(
        ("-m", "vantage", *arguments),
        env={**inherited, **(environ or {})},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=timeout_s)
        except BaseException:
            process.kill()
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
