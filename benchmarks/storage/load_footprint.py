"""``--only footprint``: a server with many samples: its memory, and the latency of requests."""

from __future__ import annotations

import http.client
import json
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlencode

import numpy as np

from benchmarks.baselines.key import KEY
from benchmarks.payloads import RATES, vantage
from benchmarks.rounds import CONNECTIONS, PYTHON, Running, Subject
from benchmarks.storage.data import CPU, DURATION, SERIES, SERVICES, Plan, trace_ids
from benchmarks.storage.stream import REQUEST_SAMPLES
from benchmarks.storage.subject import HOUR_MS, SERVICE

STORED_SAMPLES: Final = 20_000_000
QUICK_SAMPLES: Final = 3_000_000  # enough that the full load includes sealing
PAGE_LOOKS: Final = 3  # at each page
RESIDENT_MUST, RESIDENT_AIM = 350e6, 200e6
LATER_SAMPLES: Final = 60_000_000  # at most, sent after those
SETTLE_S: Final = 15.0
WARM_REQUESTS: Final = 500
ROUNDS: Final = 3
SECONDS: Final = 10
LOOK_S: Final = 0.05
NEAR_S: Final = 0.5  # a request this close to a change in the segments counts as sent while sealing
QUIET_REQUESTS_MIN: Final = 300
_ENVIRON: Final = {**RATES, "VANTAGE_API_RATE_LIMIT": "0"}


@dataclass(slots=True)
class FolderWatch:
    """Watches the server's memory and its segments, from a thread."""

    running: Running
    segments: Path
    resident: list[int] = field(default_factory=list)
    changed_s: list[float] = field(default_factory=list)

    @contextmanager
    def on(self) -> Iterator[Self]:
        over = threading.Event()
        thread = threading.Thread(target=self._look, args=(over,))
        thread.start()
        try:
            yield self
        finally:
            over.set()
            thread.join()

    def _look(self, over: threading.Event) -> None:
        last = self._state()
        while not over.wait(LOOK_S):
            self.resident.append(self.running.watched.memory_info().rss)
            if (now := self._state()) != last:
                last = now
                self.changed_s.append(time.perf_counter())

    def _state(self) -> list[tuple[str, int, int]]:
        files = []
        for path in sorted(self.segments.glob("*")):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            files.append((path.name, stat.st_size, stat.st_mtime_ns))
        return files


@dataclass(frozen=True, slots=True)
class Sent:
    """The result of a load of many requests. ``sealing[i]``: the segments changed near request ``i``."""

    per_s: float
    end_ms: int
    latency_ms: np.ndarray[Any, np.dtype[np.float64]]
    sealing: np.ndarray[Any, np.dtype[np.bool_]]
    resident: list[int]

    def p99_ms(self) -> float:
        return float(np.quantile(self.latency_ms, 0.99))

    def quiet_p99_ms(self) -> float | None:
        """Return the p99 of requests away from sealing; None when they are too few."""
        quiet = self.latency_ms[~self.sealing]
        return float(np.quantile(quiet, 0.99)) if len(quiet) >= QUIET_REQUESTS_MIN else None


class Stream:
    """The process that sends the data of a plan."""

    def __init__(self, plan: Plan, running: Running, segments: Path) -> None:
        self._running = running
        self._segments = segments
        self._process = subprocess.Popen(
            [PYTHON, "-m", "benchmarks.storage.stream", plan.json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def send(self, requests: int, rate: float | None = None) -> Sent:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        path = self._segments.parent / "answer.json"
        order = {
            "host": "127.0.0.1",
            "port": self._running.port,
            "connections": CONNECTIONS,
            "result": str(path),
        }
        with FolderWatch(self._running, self._segments).on() as watch:
            self._process.stdin.write(json.dumps({**order, "requests": requests, "rate": rate}) + "\n")
            self._process.stdin.flush()
            if self._process.stdout.readline() != "sent\n":
                raise RuntimeError("the process that sends has ended")
        result = json.loads(path.read_text())
        if result["failed"] or result["requests"] != requests:
            raise RuntimeError(f"{result['failed']} of {requests} requests failed, {result['requests']} got a response")
        sent_s, took_s = np.array(result["sent_s"]), np.array(result["latencies_s"])
        changes = np.array(watch.changed_s)
        first = np.searchsorted(changes, sent_s - NEAR_S)
        sealing = first < np.searchsorted(changes, sent_s + took_s + NEAR_S)
        return Sent(result["per_s"], result["end_ms"], took_s * 1000, sealing, watch.resident)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


class QueryLoop(threading.Thread):
    """Runs the same queries as ``embedded``, through the HTTP API, repeatedly."""

    def __init__(self, port: int, end_ms: int, trace_id: str) -> None:
        super().__init__()
        self._over = threading.Event()
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._query_paths = _query_paths(end_ms, trace_id)
        self._failed: Exception | None = None
        self.took_ms: dict[str, list[float]] = {name: [] for name in self._query_paths}

    def run(self) -> None:
        try:
            while not self._over.is_set():
                for name, paths in self._query_paths.items():
                    started = time.perf_counter()
                    for path in paths:
                        self._get(path)
                    self.took_ms[name].append((time.perf_counter() - started) * 1000)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            self._failed = error

    def _get(self, path: str) -> None:
        self._connection.request("GET", path, headers={"X-API-Key": KEY})
        response = self._connection.getresponse()
        data = response.read()
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status} {data[:300]!r}")

    def stop(self) -> None:
        """Stop. Raises the error of a failed query."""
        self._over.set()
        self.join()
        self._connection.close()
        if self._failed is not None:
            raise self._failed


def _query_paths(end_ms: int, trace_id: str) -> dict[str, list[str]]:
    """Return the paths of each query. The API returns one service per request: a query of all takes one for each."""

    def path(service: str, metric: str, hours: int, step: str, agg: str, **more: str) -> str:
        params = {"service": service, "metric": metric, "start": end_ms - hours * HOUR_MS, "end": end_ms}
        return "/api/metrics/timeseries?" + urlencode({**params, "step": step, "agg": agg, **more})

    services = [f"service-{i:02d}" for i in range(SERVICES)]
    return {
        "1 h": [path(SERVICE, DURATION, 1, "1m", agg) for agg in ("avg", "p95")],
        "24 h": [path(service, CPU, 24, "5m", "avg") for service in services],
        "p95 by route": [path(service, DURATION, 1, "1h", "p95", group_by="route") for service in services],
        "trace": [f"/api/traces/{trace_id}"],
    }


def bench_footprint(work: Path, *, quick: bool) -> None:
    stored = QUICK_SAMPLES if quick else STORED_SAMPLES
    rounds = 1 if quick else ROUNDS
    plan = Plan(stored + LATER_SAMPLES, int(time.time()) // 300 * 300_000)
    trace_id = trace_ids(plan, 1)[0]
    folder = work / "footprint"
    running = Running(
        Subject("footprint", lambda port: vantage(folder, port), lambda *_: b"", 0, _ENVIRON), work / "footprint.log"
    )
    stream = Stream(plan, running, folder / "segments")
    alone, busy, took_ms = [], [], []
    paged: list[int] = []
    try:
        stream.send(WARM_REQUESTS)
        filled = stream.send(stored // REQUEST_SAMPLES - WARM_REQUESTS)  # without a pause, in which it could seal
        saturation = filled.per_s
        rate = min(saturation / 2, LATER_SAMPLES / REQUEST_SAMPLES / SECONDS / 2 / rounds)
        time.sleep(SETTLE_S)
        full = running.watched.memory_info().rss
        with FolderWatch(running, folder / "segments").on() as watch:
            _look_at_pages(running.port, filled.end_ms)
        paged = watch.resident
        for _ in range(rounds):
            alone.append(stream.send(int(rate * SECONDS), rate))
            queries = QueryLoop(running.port, alone[-1].end_ms, trace_id)
            queries.start()
            try:
                busy.append(stream.send(int(rate * SECONDS), rate))
            finally:
                queries.stop()
            took_ms.append(queries.took_ms)
        time.sleep(SETTLE_S)
        final = running.watched.memory_info().rss
    finally:
        stream.close()
        running.stop()
    print(f"\n### 11 and 12 Server with {stored / 1e6:g} million samples, {SERIES} series, {plan.traced:.0%} traced\n")
    print(
        f"Filled with {saturation * REQUEST_SAMPLES / 1000:.0f} thousand samples/s (packed, 1000 a request); then"
        f" {rate:.0f} requests/s, {SECONDS} s alone and {SECONDS} s with queries, {rounds} times.\n"
    )
    _memory(filled, full, paged, alone, busy, final)
    _latencies(alone, busy, took_ms)


def _look_at_pages(port: int, end_ms: int) -> None:
    """Look at the pages of a day, one after the other."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    day = urlencode({"start": end_ms - 24 * HOUR_MS, "end": end_ms})
    for path in (f"/?{day}", f"/services/{SERVICE}?{day}", f"/traces?{day}", "/api/services") * PAGE_LOOKS:
        connection.request("GET", path, headers={"X-API-Key": KEY, "Accept": "text/html"})
        response = connection.getresponse()
        data = response.read()
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status} {data[:300]!r}")
    connection.close()


def _memory(filled: Sent, full: int, paged: list[int], alone: list[Sent], busy: list[Sent], final: int) -> None:
    print("| MB resident | median | peak |")
    print("| --- | --- | --- |")
    periods = [("while filling", filled.resident), ("while pages of 24 h are looked at", paged)]
    for name, sent in (("at half load", alone), ("at half load, with queries", busy)):
        periods.append((name, [nbytes for load in sent for nbytes in load.resident]))
    for name, resident in periods:
        print(f"| {name} | {np.median(resident) / 1e6:.0f} | {max(resident) / 1e6:.0f} |")
    print(f"| {SETTLE_S:.0f} s after filling | {full / 1e6:.0f} | |")
    print(f"| {SETTLE_S:.0f} s after the end | {final / 1e6:.0f} | |")
    peak = max(nbytes for _, resident in periods for nbytes in resident)
    must, aim = _verdict(peak, RESIDENT_MUST), _verdict(peak, RESIDENT_AIM)
    print("\n| target | must | aim | this run |\n| --- | --- | --- | --- |")
    print(
        f"| 11 MB resident, at most | ≤ {RESIDENT_MUST / 1e6:.0f}: {must} | ≤ {RESIDENT_AIM / 1e6:.0f}: {aim} ", end=""
    )
    print(f"| {peak / 1e6:.0f} |")


def _latencies(alone: list[Sent], busy: list[Sent], took_ms: list[dict[str, list[float]]]) -> None:
    print("\n| ingest, medians of the rounds | p50 / p99 ms | of requests while sealing |")
    print("| --- | --- | --- |")
    for name, sent in (("at half load", alone), ("and with queries", busy)):
        p50_ms = statistics.median(float(np.median(load.latency_ms)) for load in sent)
        p99_ms = statistics.median(load.p99_ms() for load in sent)
        print(f"| {name} | {p50_ms:.1f} / {p99_ms:.1f} | {np.mean([load.sealing.mean() for load in sent]):.0%} |")
    quiet_ms = [load.quiet_p99_ms() for load in alone]
    base_ms = [load.p99_ms() if quiet is None else quiet for load, quiet in zip(alone, quiet_ms, strict=True)]
    print(f"\nWithout queries and away from sealing: p99 {statistics.median(base_ms):.1f} ms")
    if None in quiet_ms:
        print("In rounds with too few requests away from sealing, the p99 of all requests is used.")
    ratio = statistics.median(load.p99_ms() / base for load, base in zip(busy, base_ms, strict=True))
    print(
        f"p99 with queries and sealing, against without: {ratio:.2f}; must be ≤ 1.5: {_verdict(ratio, 1.5)}; ", end=""
    )
    print(f"aim ≤ 1: {_verdict(ratio, 1.0)}")
    medians = ", ".join(
        f"{name} {np.median([ms for took in took_ms for ms in took[name]]):.0f} ms" for name in took_ms[0]
    )
    print(f"The queries meanwhile, through the API, one request per service: {medians}")


def _verdict(value: float, limit: float) -> str:
    return "met" if value <= limit else "**missed**"
