"""``make bench``: accepting, storing, the packed format, and an idle server. ``ARGS=--quick`` for a short look.

Rate limits are raised on every server that has any: here it is the work that counts, not the limit.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import msgspec
import psutil

from benchmarks.baselines.key import KEY
from benchmarks.rounds import CONNECTIONS, PYTHON, Contestant, Loader, Running, interleave

RATES = {"VANTAGE_INGEST_RATE_LIMIT": "0", "VANTAGE_API_KEY": KEY, "VANTAGE_LOG_LEVEL": "warning"}
PACKED = "application/vnd.vantage.v1+msgpack"


def payload(samples: int) -> bytes:
    """The documented payload: ten series, a trace on every sample."""
    now_ms = int(time.time() * 1000)
    metrics = [
        {
            "timestamp": now_ms - samples + i,
            "service_name": "my-api",
            "metric_name": "http.request.duration",
            "metric_type": "histogram",
            "value": 123.45 + i % 7,
            "tags": {"endpoint": f"/api/users/{i % 10}", "method": "GET"},
            "trace_id": f"abc{i // 5:04d}",
            "span_id": f"span{i:03d}",
        }
        for i in range(samples)
    ]
    return json.dumps({"metrics": metrics, "service_name": "my-api", "environment": "production"}).encode()


def packed(samples: int) -> bytes:
    """The same samples in the packed format, as the agent sends them: trace links on one sample in twenty."""
    now_ms = int(time.time() * 1000)
    series = [
        ["http.request.duration", "histogram", "ms", {"endpoint": f"/api/users/{i}", "method": "GET"}]
        for i in range(10)
    ]
    columns = [
        [
            which,
            [now_ms - samples + i for i in range(which, samples, 10)],
            [123.45 + i % 7 for i in range(which, samples, 10)],
            [[0, f"abc{which:04d}", "span001"]] if which % 2 == 0 else [],
        ]
        for which in range(10)
    ]
    resource = {"service_name": "my-api", "environment": "production", "service_version": "1", "instance": "a"}
    return msgspec.msgpack.encode({"resource": resource, "series": series, "samples": columns})


def request(body: bytes, media_type: str) -> bytes:
    head = (
        f"POST /v1/metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {media_type}\r\nX-API-Key: {KEY}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def uvicorn(module: str, port: int) -> list[str]:
    return [
        *(PYTHON, "-m", "uvicorn", module, "--port", str(port), "--loop", "uvloop", "--http", "httptools"),
        *("--no-access-log", "--no-proxy-headers", "--log-level", "warning"),
    ]


def vantage(data: Path, port: int) -> list[str]:
    return [PYTHON, "-m", "vantage", "serve", "--port", str(port), "--data", str(data)]


def table(title: str, contestants: list[Contestant], base: Contestant) -> None:
    print(f"\n### {title}\n")
    print("| | req/s | thousand samples/s | p50 / p99 ms | CPU µs/request | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for one in contestants:
        print(
            f"| {one.name} | {one.median('per_s'):.0f} | {one.median('samples_per_s') / 1000:.0f} "
            f"| {one.median('p50_ms'):.1f} / {one.median('p99_ms'):.1f} | {one.median('cpu_us'):.0f} "
            f"| {one.median('samples_per_s') / base.median('samples_per_s'):.2f} |"
        )


def bench_accepting(rounds: int, seconds: float, work: Path) -> None:
    body = request(payload(100), "application/json")

    def usual_server(port: int) -> list[str]:
        return uvicorn("benchmarks.baselines.usual:app", port)

    usual = Contestant("usual design", usual_server, lambda *_: body, 100)
    bare = Contestant("FastAPI + pydantic alone", usual_server, lambda *_: body, 100, {"USUAL_BARE": "1"})
    floor = Contestant("bare floor", lambda port: uvicorn("benchmarks.baselines.floor:app", port), lambda *_: body, 100)
    ours = Contestant(
        "Vantage", lambda port: [PYTHON, "-m", "benchmarks.baselines.accept", str(port)], lambda *_: body, 100
    )
    contestants = [usual, bare, floor, ours]
    for one in interleave(contestants, rounds=rounds, seconds=seconds, log=work / "accepting.log"):
        one.stop()
    table("1 Accepting over HTTP, nothing stored (100 samples a request)", contestants, usual)
    paired = [a["per_s"] / b["per_s"] for a, b in zip(ours.results, floor.results, strict=True)]
    print(f"\nVantage against the floor: {statistics.median(paired):.0%} (median of {len(paired)} rounds)")


def bench_storing(rounds: int, seconds: float, work: Path) -> None:
    body = request(payload(100), "application/json")
    pack, large = request(packed(100), PACKED), request(packed(1000), PACKED)

    def ours(name: str, sent: bytes, samples: int, **environ: str) -> Contestant:
        folder = work / name.replace(" ", "-").replace(",", "")
        return Contestant(name, lambda port: vantage(folder, port), lambda *_: sent, samples, {**RATES, **environ})

    usual = Contestant(
        "usual design, FULL",
        lambda port: uvicorn("benchmarks.baselines.usual:app", port),
        lambda *_: body,
        100,
        {"USUAL_DB": str(work / "usual.db")},
    )
    full = ours("Vantage, FULL", body, 100)
    normal = ours("Vantage, NORMAL", body, 100, VANTAGE_SYNCHRONOUS="NORMAL")
    small = ours("Vantage, FULL, packed 100", pack, 100)
    thousand = ours("Vantage, FULL, packed 1000", large, 1000)
    contestants = [usual, full, normal, small, thousand]
    running = interleave(contestants, rounds=rounds, seconds=seconds, log=work / "storing.log")
    loader = Loader()
    try:
        half = loader.load(running[1], seconds * 2, rate=full.median("per_s") / 2)
    finally:
        loader.close()
        for one in running:
            one.stop()
    table("2 and 3 Durable end to end, answered after the commit", contestants, usual)
    print(f"\np99 at saturation: {full.median('p99_ms') / usual.median('p99_ms'):.2f} of the usual design's")
    print(f"p99 at half load: {half['p99_ms']:.1f} ms ({half['per_s']:.0f} req/s)")
    for one in (small, thousand):
        print(
            f"{one.name} against JSON: {one.median('samples_per_s') / full.median('samples_per_s'):.2f} × the samples/s"
        )


def bench_idle(seconds: float, work: Path) -> None:
    one = Running(
        Contestant(
            "idle", lambda port: vantage(work / "idle", port), lambda *_: b"", 0, {"VANTAGE_LOG_LEVEL": "warning"}
        ),
        work / "idle.log",
    )
    time.sleep(seconds)
    before_s = one.cpu_s()
    time.sleep(20)
    share = (one.cpu_s() - before_s) / 20
    resident = one.watched.memory_info().rss
    one.stop()
    print(f"\n### 10 Idle server, {seconds:.0f} s after start, self-telemetry on\n")
    print(f"{resident / 1e6:.0f} MB resident, {share:.2%} of a core")


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--only", choices=["accepting", "storing", "idle"], help="one of them")
    arguments = parser.parse_args()
    rounds, seconds = (3, 2.0) if arguments.quick else (7, 4.0)
    work = Path(tempfile.mkdtemp(prefix="vantage-bench-"))
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    print(f"{platform.machine()}, {os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, ", end="")
    print(
        f"Python {platform.python_version()}; {CONNECTIONS} connections, {rounds} interleaved rounds of {seconds:g} s"
    )
    try:
        if arguments.only in (None, "accepting"):
            bench_accepting(rounds, seconds, work)
        if arguments.only in (None, "storing"):
            bench_storing(rounds, seconds, work)
        if arguments.only in (None, "idle"):
            bench_idle(60.0 if not arguments.quick else 15.0, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
