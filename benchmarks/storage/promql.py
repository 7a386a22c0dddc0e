"""VictoriaMetrics and Prometheus: a server on loopback, queried in PromQL over one persistent connection."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import psutil

from benchmarks.rounds import free_port
from benchmarks.storage.data import Plan
from benchmarks.storage.subject import METRIC_OF, SERVICE, TOP, Query, Range, ResultRows

TIMEOUT_S: Final = 300


def promql_name(metric: str) -> str:
    return metric.replace(".", "_")


class Server:
    """A server's process and the connection to it."""

    def __init__(self, command: Sequence[str], port: int, log: Path) -> None:
        with log.open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        self._watched = psutil.Process(self._process.pid)
        end_s = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > end_s or self._process.poll() is not None:
                    raise RuntimeError(f"{command[0]} did not start; see {log}") from None
                time.sleep(0.05)
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        self._connection.connect()
        assert self._connection.sock is not None
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def cpu_s(self) -> float:
        times = self._watched.cpu_times()
        return times.user + times.system

    def send(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> bytes:
        self._connection.request(method, path, body, headers or {})
        response = self._connection.getresponse()
        data = response.read()
        if response.status >= 300:
            raise RuntimeError(f"{path}: {response.status} {data[:500]!r}")
        return data

    def stop(self) -> None:
        self._connection.close()
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class PromqlStore:
    """Runs the queries of a subject. Measures the natural query, the average of the series' averages. Compares the
    average of their samples, which takes twice the work. PromQL has no quantile of several series' samples."""

    binary = ""
    ready = "/health"
    # Ranges that start at the first millisecond of a bucket when evaluated at its last.
    ranges: Mapping[str, str] = {"1m": "1m", "5m": "5m", "1h": "1h"}

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()

    def command(self, port: int) -> list[str]:
        raise NotImplementedError

    def start(self) -> Server:
        server = Server(self.command(self._port), self._port, self._folder.parent / f"{self._folder.name}.log")
        end_s = time.monotonic() + 120
        while True:  # it may listen before it has replayed its log
            try:
                server.send("GET", self.ready)
            except RuntimeError:
                if time.monotonic() > end_s:
                    server.stop()
                    raise
                time.sleep(0.05)
            else:
                return server

    def open(self, plan: Plan) -> None:
        self._range = Range(plan.end_ms)
        self._server = self.start()
        self._paths = {name: self._measured(name) for name in METRIC_OF}

    def _measured(self, name: str) -> list[str]:
        within = self._range
        if name == "hour":
            samples = self._samples(name, "1m")
            texts = (f"avg(avg_over_time({samples}))", f"avg(quantile_over_time(0.95, {samples}))")
            return [self._ranged(text, within.hour_ms, 60_000) for text in texts]
        if name == "day":
            text = f"avg(avg_over_time({self._samples(name, '5m')})) by (service_name)"
            return [self._ranged(text, within.day_ms, 300_000)]
        samples = self._samples(name, "1h")
        text = f"topk({TOP}, avg(quantile_over_time(0.95, {samples})) by (service_name, route))"
        return ["/api/v1/query?" + urlencode({"query": text, "time": _seconds(within.end_ms - 1), "nocache": 1})]

    def _compared(self, name: str) -> str:
        samples, over = self._samples(name, "1m" if name == "hour" else "5m"), "by (service_name)"
        text = f"sum(sum_over_time({samples})) {over} / sum(count_over_time({samples})) {over}"
        if name == "hour":
            return self._ranged(text, self._range.hour_ms, 60_000)
        return self._ranged(text, self._range.day_ms, 300_000)

    def _samples(self, name: str, over: str) -> str:
        of_service = f'{{service_name="{SERVICE}"}}' if name == "hour" else ""
        return f"{promql_name(METRIC_OF[name])}{of_service}[{self.ranges[over]}]"

    def _ranged(self, text: str, start_ms: int, step_ms: int) -> str:
        params = {
            "query": text,
            "start": _seconds(start_ms + step_ms - 1),
            "end": _seconds(self._range.end_ms - 1),
            "step": step_ms // 1000,
            "nocache": 1,
        }
        return "/api/v1/query_range?" + urlencode(params)

    def run_query(self, query: Query) -> Any:
        return [self._server.send("GET", path) for path in self._paths[query.name]]

    def result_rows(self, query: Query, raw: Any) -> ResultRows:
        if query.name == "top":
            rows = [
                (series["metric"]["service_name"], series["metric"]["route"], float(series["value"][1]))
                for series in _result(raw[0])
            ]
            return sorted(rows, key=lambda row: -row[2])
        step_ms = 60_000 if query.name == "hour" else 300_000
        rows = [
            (series["metric"]["service_name"], round(at_s * 1000) + 1 - step_ms, float(value))
            for series in _result(self._server.send("GET", self._compared(query.name)))
            for at_s, value in series["values"]
        ]
        return [row[1:] for row in rows] if query.name == "hour" else rows

    def close(self) -> None:
        self._server.stop()


def _seconds(at_ms: int) -> str:
    return f"{at_ms // 1000}.{at_ms % 1000:03d}"


def _result(data: bytes) -> list[dict[str, Any]]:
    series: list[dict[str, Any]] = json.loads(data)["data"]["result"]
    return series
