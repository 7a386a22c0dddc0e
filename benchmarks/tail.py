"""``--only tail``: how long requests take at half load, alone and beside sealing, viewers and a long query."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.payloads import RATES, SERVICES, json_requests, vantage
from benchmarks.rounds import PYTHON, Loader, Running, Subject
from benchmarks.targets import Target, print_targets
from benchmarks.viewers import VIEWERS

FILL_WINDOWS: Final = 3
_ENVIRON: Final = {**RATES, "VANTAGE_API_RATE_LIMIT": "0"}


@contextmanager
def viewers(running: Running, done: list[dict[str, Any]]) -> Iterator[None]:
    """Have pages viewed at and a query run until the context ends; adds to ``done`` what was done. Raises RuntimeError
    when a page failed."""
    process = subprocess.Popen(
        [PYTHON, "-m", "benchmarks.viewers", str(running.port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield
    finally:
        out, _ = process.communicate()
    done.append(json.loads(out))
    if done[-1]["failed"]:
        raise RuntimeError(f"pages beside the load: {done[-1]['failed'][0]}")


def bench_tail(rounds: int, seconds: float, work: Path) -> None:
    requests = json_requests(100, services=SERVICES)
    folder = work / "tail"
    running = Running(
        Subject("tail", lambda port: vantage(folder, port), lambda *_: requests, 100, _ENVIRON), work / "tail.log"
    )
    loader = Loader()
    alone, busy = [], []
    viewed: list[dict[str, Any]] = []
    try:
        filled = [loader.load(running, seconds) for _ in range(FILL_WINDOWS)]
        rate = statistics.median(load["per_s"] for load in filled) / 2
        for _ in range(rounds):
            alone.append(loader.load(running, seconds, rate=rate))
            with viewers(running, viewed):
                busy.append(loader.load(running, seconds, rate=rate))
    finally:
        loader.close()
        running.stop()
    print(f"\n### 2 and 12 At half load, {rate:.0f} requests/s of 100 samples with ids; sealing and merging go on\n")
    print("| | p50 / p99 ms, medians of the rounds | p99 of each round |")
    print("| --- | --- | --- |")
    for name, loads in (("alone", alone), (f"beside {VIEWERS} viewers and a long query", busy)):
        p50_ms, p99_ms = (statistics.median(load[key] for load in loads) for key in ("p50_ms", "p99_ms"))
        each = ", ".join(f"{load['p99_ms']:.1f}" for load in loads)
        print(f"| {name} | {p50_ms:.1f} / {p99_ms:.1f} | {each} |")
    pages, queries = (sum(done[key] for done in viewed) for key in ("pages", "queries"))
    page_ms, query_ms = (statistics.median(done[key] for done in viewed) for key in ("page_ms", "query_ms"))
    print(
        f"\nMeanwhile {pages} pages, {page_ms:.0f} ms each at the median, and {queries} queries of {query_ms:.0f} ms."
    )
    p99_ms = statistics.median(load["p99_ms"] for load in busy)
    ratio = statistics.median(b["p99_ms"] / a["p99_ms"] for a, b in zip(alone, busy, strict=True))
    print_targets(
        [
            Target(2, "p99 at half load, beside all of that", p99_ms, 25, 10, "ms"),
            Target(12, "p99 beside all of that, against without viewers and queries", ratio, 1.5, 1.0),
        ]
    )
