"""``make bench``: accepting, storing, latency, text queries, the embedded store, pages, a browser, the service map,
anomalies, alert rules, roles, idle servers, agents.

``ARGS=--quick`` for a short run. Rate limits are raised on every server that has any, to measure the work.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import psutil

from benchmarks.agents.run import bench_agent
from benchmarks.alert_rules import bench_alerts
from benchmarks.anomalies import bench_anomalies
from benchmarks.comparisons import bench_compare
from benchmarks.pages import bench_pages
from benchmarks.payloads import PACKED, RATES, json_requests, packed, request, uvicorn, vantage
from benchmarks.rounds import CONNECTIONS, PYTHON, Running, Subject, interleave
from benchmarks.service_map import bench_map
from benchmarks.storage.load_footprint import bench_footprint
from benchmarks.storage.run import bench_embedded
from benchmarks.tail import bench_tail
from benchmarks.targets import Target, print_targets
from vantage.vql.text.compile import compile_query

PARTS = (
    "accepting",
    "storing",
    "tail",
    "vql",
    "embedded",
    "footprint",
    "pages",
    "browser",
    "map",
    "compare",
    "anomalies",
    "alerts",
    "pipeline",
    "idle",
    "agent",
)
PIPELINE_PACKAGES = ("chdb", "clickhouse_driver", "confluent_kafka", "pytest")
BROWSER_PACKAGES = ("playwright", "pytest")
PIPELINE_PROGRAMS = ("java", "mvn", "npm")
SEED_QUERY = """-- Get average response time for an endpoint over last hour
SELECT
    avg(value) as avg_response_time,
    toStartOfMinute(timestamp) as minute
FROM metrics
WHERE
    service_name = 'my-api'
    AND metric_name = 'http.request.duration'
    AND timestamp >= now() - INTERVAL 1 HOUR
GROUP BY minute
ORDER BY minute DESC
"""


def table(title: str, subjects: list[Subject], base: Subject) -> None:
    print(f"\n### {title}\n")
    print("| | req/s | thousand samples/s | p50 / p99 ms | CPU µs/request | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for subject in subjects:
        print(
            f"| {subject.name} | {subject.median('per_s'):.0f} | {subject.median('samples_per_s') / 1000:.0f} "
            f"| {subject.median('p50_ms'):.1f} / {subject.median('p99_ms'):.1f} | {subject.median('cpu_us'):.0f} "
            f"| {subject.median('samples_per_s') / base.median('samples_per_s'):.2f} |"
        )


def bench_accepting(rounds: int, seconds: float, work: Path) -> None:
    requests = json_requests(100)

    def common_server(port: int) -> list[str]:
        return uvicorn("benchmarks.baselines.fastapi_sqlite:app", port)

    common = Subject("common design", common_server, lambda *_: requests, 100)
    bare = Subject("FastAPI + pydantic alone", common_server, lambda *_: requests, 100, {"COMMON_BARE": "1"})
    floor = Subject(
        "bare floor", lambda port: uvicorn("benchmarks.baselines.floor:app", port), lambda *_: requests, 100
    )
    ours = Subject(
        "Vantage", lambda port: [PYTHON, "-m", "benchmarks.baselines.accept", str(port)], lambda *_: requests, 100
    )
    subjects = [common, bare, floor, ours]
    for server in interleave(subjects, rounds=rounds, seconds=seconds, log=work / "accepting.log"):
        server.stop()
    table("1 Accepting over HTTP, nothing stored (100 samples per request)", subjects, common)
    share = statistics.median(a["per_s"] / b["per_s"] for a, b in zip(ours.results, floor.results, strict=True))
    print_targets([Target(1, "of the bare floor", share, 0.60, 0.75, at_least=True)])


def bench_storing(rounds: int, seconds: float, work: Path) -> None:
    traced, plain = json_requests(100), json_requests(100, traced=False)
    pack, large = request(packed(100), PACKED), request(packed(1000), PACKED)

    def ours(name: str, sent: bytes | list[bytes], samples: int, **environ: str) -> Subject:
        folder = work / name.replace(" ", "-").replace(",", "")
        return Subject(name, lambda port: vantage(folder, port), lambda *_: sent, samples, {**RATES, **environ})

    def common_design(name: str, **environ: str) -> Subject:
        file = {"COMMON_DB": str(work / f"{name.replace(' ', '-')}.db"), **environ}
        return Subject(
            name, lambda port: uvicorn("benchmarks.baselines.fastapi_sqlite:app", port), lambda *_: traced, 100, file
        )

    common = common_design("common design, FULL")
    bare = common_design("FastAPI + pydantic + row inserts alone, FULL", COMMON_BARE="1")
    full = ours("Vantage, FULL", traced, 100)
    normal = ours("Vantage, NORMAL", traced, 100, VANTAGE_SYNCHRONOUS="NORMAL")
    without = ours("Vantage, FULL, without ids", plain, 100)
    small = ours("Vantage, FULL, packed 100", pack, 100)
    thousand = ours("Vantage, FULL, packed 1000", large, 1000)
    subjects = [common, bare, full, normal, without, small, thousand]
    for server in interleave(subjects, rounds=rounds, seconds=seconds, log=work / "storing.log"):
        server.stop()
    table("2 and 3 Durable end to end, acknowledged after the commit", subjects, common)

    def ratio(a: Subject, b: Subject, key: str = "samples_per_s") -> float:
        return statistics.median(x[key] / y[key] for x, y in zip(a.results, b.results, strict=True))

    print_targets(
        [
            Target(2, "samples/s of FastAPI + pydantic + row inserts alone", ratio(full, bare), 5, 6.5, at_least=True),
            Target(2, "samples/s of the common design", ratio(full, common), 5, 6.5, at_least=True),
            Target(2, "p99 at saturation, of FastAPI's alone", ratio(full, bare, "p99_ms"), 1 / 4, 1 / 8),
            Target(2, "p99 at saturation, of the common design's", ratio(full, common, "p99_ms"), 1 / 4, 1 / 8),
            Target(3, "samples/s of JSON, packed, 100 a request", ratio(small, full), 2, None, at_least=True),
            Target(3, "samples/s of JSON, packed, 1000 a request", ratio(thousand, full), 6, None, at_least=True),
        ]
    )


def bench_idle(seconds: float, work: Path) -> None:
    server = Running(
        Subject("idle", lambda port: vantage(work / "idle", port), lambda *_: b"", 0, {"VANTAGE_LOG_LEVEL": "warning"}),
        work / "idle.log",
    )
    time.sleep(seconds)
    before_s = server.cpu_s()
    time.sleep(20)
    share = (server.cpu_s() - before_s) / 20
    resident = server.watched.memory_info().rss
    server.stop()
    print(f"\n### 10 Idle server, {seconds:.0f} s after start, self-telemetry on\n")
    print("| target | must | aim | this run |\n| --- | --- | --- | --- |")
    verdicts = [f"≤ {limit}: {'met' if resident <= limit * 1e6 else '**missed**'}" for limit in (120, 100)]
    print(f"| 10 MB resident | {' | '.join(verdicts)} | {resident / 1e6:.0f} |")
    print(f"| 10 share of a core | < 0.5 %: {'met' if share < 0.005 else '**missed**'} | | {share:.2%} |")


def bench_pipeline(rounds: int, seconds: float, work: Path, *, quick: bool) -> None:
    """Measure the split roles, with the servers that the tests run. Their imports wait: other parts need none of it."""
    missing = [f"the package {name}" for name in PIPELINE_PACKAGES if find_spec(name) is None]
    missing += [f"the program {name}" for name in PIPELINE_PROGRAMS if shutil.which(name) is None]
    if missing:
        print(f"\nNot measured: the pipeline needs {', '.join(missing)}")
        return
    import pytest

    from benchmarks.pipeline.run import bench_all

    try:
        bench_all(rounds, seconds, work, quick=quick)
    except pytest.skip.Exception as reason:  # a server that could not be fetched
        print(f"\nNot measured: {reason}")


def bench_in_browser(rounds: int, seconds: float, work: Path, *, quick: bool) -> None:
    """Measure in Chromium, where there is one. Its imports wait as well."""
    missing = [f"the package {name}" for name in BROWSER_PACKAGES if find_spec(name) is None]
    if not missing:
        from tests.support.browser import CHROMIUM

        missing = [] if CHROMIUM else ["Chromium (apt-get install chromium)"]
    if missing:
        print(f"\nNot measured: the browser part needs {', '.join(missing)}")
        return
    from benchmarks.browser import bench_browser

    bench_browser(rounds, seconds, work, quick=quick)


def bench_vql(rounds: int) -> None:
    """Measure parsing and checking alone."""
    took_ms = []
    for _ in range(50 * rounds + 1):
        began_s = time.perf_counter()
        compile_query(SEED_QUERY, now_ms=1_795_000_000_000)
        took_ms.append((time.perf_counter() - began_s) * 1000)
    first_ms, rest = took_ms[0], sorted(took_ms[1:])
    print("\n### A query's text, parsed and checked\n")
    print(f"median {statistics.median(rest):.2f} ms, p99 {rest[len(rest) * 99 // 100]:.2f} ms (must: 3)", end="")
    print(f"; the first one, which loads the parser, {first_ms:.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--only", choices=PARTS, help="run one part")
    parser.add_argument("--samples", type=int, help="samples in the embedded store (10 million)")
    arguments = parser.parse_args()
    parts = PARTS if arguments.only is None else (arguments.only,)
    quick = arguments.quick
    rounds, seconds = (3, 2.0) if quick else (7, 4.0)
    work = Path(tempfile.mkdtemp(prefix="vantage-bench-"))
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    print(f"{platform.machine()}, {os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, ", end="")
    print(f"load average {os.getloadavg()[0]:.0f}, Python {platform.python_version()}; ", end="")
    print(f"{CONNECTIONS} connections, {rounds} interleaved rounds of {seconds:g} s")
    run: dict[str, Callable[[], None]] = {
        "accepting": lambda: bench_accepting(rounds, seconds, work),
        "storing": lambda: bench_storing(rounds, seconds, work),
        "tail": lambda: bench_tail(rounds, seconds * 3, work),
        "vql": lambda: bench_vql(rounds),
        "embedded": lambda: bench_embedded(arguments.samples, work, quick=quick),
        "footprint": lambda: bench_footprint(work, quick=quick),
        "pages": lambda: bench_pages(work, quick=quick),
        "browser": lambda: bench_in_browser(rounds, seconds, work, quick=quick),
        "map": lambda: bench_map(work, quick=quick),
        "compare": lambda: bench_compare(work, quick=quick),
        "anomalies": lambda: bench_anomalies(quick=quick),
        "alerts": lambda: bench_alerts(work, quick=quick),
        "pipeline": lambda: bench_pipeline(rounds, seconds, work, quick=quick),
        "agent": lambda: bench_agent(quick=quick),
        "idle": lambda: bench_idle(15.0 if quick else 60.0, work),
    }
    try:
        for part in parts:
            run[part]()
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
