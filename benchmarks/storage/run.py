"""``--only embedded``: every subject loads the same data, and then all run the same queries in turn."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from benchmarks.storage import report
from benchmarks.storage.data import WINDOW_SAMPLES, Plan, trace_ids
from benchmarks.storage.results import Result, Run, Subject
from benchmarks.storage.subject import Loaded, ResultRows

ROUNDS: Final = 7
TOLERANCE: Final = 1e-9
QUICK_SAMPLES: Final = 1_000_000
SAMPLES: Final = 10_000_000
SLOW_SAMPLES_MAX: Final = 20_000_000
_BENCH: Final = "`make bench` installs it: pip install -r requirements/bench.txt"


def _module(name: str) -> Callable[[], str]:
    return lambda: "" if find_spec(name) else _BENCH


def _package(name: str, *modules: str) -> Callable[[], str]:
    def missing() -> str:
        if not shutil.which(name):
            return f"apt-get install {name}"
        return "" if all(find_spec(module) for module in modules) else _BENCH

    return missing


VANTAGE: Final = Subject("vantage", "Vantage", queries=("hour", "day", "day raw", "top", "trace"))
ROWS: Final = Subject("rows", "row table in SQLite", slow=True)
VICTORIA: Final = Subject(
    "victoria", "VictoriaMetrics", _package("victoria-metrics"), exact=False, queries=("hour", "day", "top")
)
ON_CLICKHOUSE: Final = Subject(
    "vantage-chdb",
    "Vantage on ClickHouse (chdb)",
    _module("chdb"),
    queries=("hour", "day", "day raw", "top", "trace"),
)
COMMON: Final = Subject("clickhouse", "ClickHouse, common table", _module("chdb"), slow=True)
SUBJECTS: Final = (
    VANTAGE,
    ON_CLICKHOUSE,
    ROWS,
    COMMON,
    Subject("clickhouse-lean", "ClickHouse, lean tables", _module("chdb")),
    VICTORIA,
    Subject(
        "prometheus",
        "Prometheus",
        _package("prometheus", "cramjam"),
        slow=True,
        exact=False,
        queries=("hour", "day", "top"),
    ),
)


class Child:
    """A subject's process."""

    def __init__(self, subject: Subject, work: Path) -> None:
        self.subject = subject
        self._log = work / f"{subject.name}.err"
        with self._log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.storage.process", subject.name, str(work / subject.name)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def order(self, action: str, **details: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": action, **details}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise RuntimeError(f"{self.subject.title} failed: {self._log.read_text(errors='replace')[-3000:]}")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(120)


def load(subject: Subject, plan: Plan, work: Path) -> Loaded:
    child = Child(subject, work)
    try:
        reply = child.order("load", plan=plan.json())
    finally:
        child.end()
    return Loaded(**reply)


def measure(
    plan: Plan, work: Path, *, subjects: Sequence[Subject] = SUBJECTS, queries: Sequence[str] = VANTAGE.queries
) -> Run:
    """Measure all subjects that are installed and not too slow."""
    run = Run(plan, {}, {})
    for subject in subjects:
        if missing := subject.missing():
            run.not_measured[subject.title] = missing
        elif subject.slow and plan.samples > SLOW_SAMPLES_MAX:
            run.not_measured[subject.title] = "too slow for so many samples"
        else:
            started = time.monotonic()
            run.results[subject.name] = Result(subject, load(subject, plan, work))
            _log(f"{subject.title}: loaded {plan.samples:,} samples in {time.monotonic() - started:.0f} s")
    children: list[Child] = []
    try:
        for result in run.results.values():
            child = Child(result.subject, work)
            children.append(child)
            result.open_ms = child.order("open", plan=plan.json())["ms"]
        results = {
            query: _run_query(query, plan, run, [child for child in children if query in child.subject.queries])
            for query in queries
        }
        for child in children:
            child.order("close")
    finally:
        for child in children:
            child.end()
    for name, rows in results.pop("day raw", {}).items():
        results["day"][f"{name}, of samples"] = rows
    for query, by_name in results.items():
        _compare(query, by_name)
    return run


def _run_query(query: str, plan: Plan, run: Run, children: Sequence[Child]) -> dict[str, ResultRows]:
    """Run a query in each process: once, then a warm-up and the rounds, in turn. Return the rows of the first time."""
    ids = iter(trace_ids(plan, ROUNDS + 2) if query == "trace" else [""] * (ROUNDS + 2))
    results: dict[str, ResultRows] = {}
    for turn, trace_id in enumerate(ids):
        for child in children:
            request = {"name": query, "trace_id": trace_id}
            reply = child.order("query", query=request, with_rows=turn == 0)
            if turn == 0:
                results[child.subject.name] = [tuple(row) for row in reply["rows"]]
            if turn != 1:
                run.results[child.subject.name].query_ms.setdefault(query, []).append(reply["ms"])
    _log(f"{query}: {len(next(iter(results.values())))} rows")
    return results


def _compare(query: str, results: dict[str, ResultRows]) -> None:
    """Raise RuntimeError when two results differ by more than rounding."""
    inexact = {subject.name for subject in SUBJECTS if not subject.exact}
    base_name, base = next(iter(results.items()))
    for name, rows in results.items():
        width = {"hour": 2, "day": 3, "top": 0}[query] if name in inexact else None
        left, right = _comparable(query, base, width), _comparable(query, rows, width)
        same = len(left) == len(right) and all(_is_close(a, b) for a, b in zip(left, right, strict=True))
        if not same:
            odd = next(((a, b) for a, b in zip(left, right, strict=False) if not _is_close(a, b)), None)
            raise RuntimeError(f"{query}: {base_name} and {name} differ: {len(left)} and {len(right)} rows, {odd}")


def _comparable(query: str, result: ResultRows, width: int | None) -> ResultRows:
    """Return the columns that can be compared, sorted; only ``top`` has an order of its own."""
    rows = [row[:width] for row in result]
    return rows if query == "top" else sorted(rows)


def _is_close(left: tuple[Any, ...], right: tuple[Any, ...]) -> bool:
    return all(
        math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE) if isinstance(a, float | int) else a == b
        for a, b in zip(left, right, strict=True)
    )


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def counts(samples: int | None, *, quick: bool) -> tuple[int, ...]:
    """Return the numbers of samples to measure, in complete windows: the requested one, and a tenth if large enough."""
    most = max(QUICK_SAMPLES, samples or (QUICK_SAMPLES if quick else SAMPLES))
    in_windows = [count // WINDOW_SAMPLES * WINDOW_SAMPLES for count in (most // 10, most)]
    return tuple(count for count in in_windows if count >= QUICK_SAMPLES)


def bench_embedded(samples: int | None, work: Path, *, quick: bool) -> None:
    end_ms = int(time.time()) // 300 * 300_000
    runs, variants = [], []
    for count in counts(samples, quick=quick):
        folder = work / f"embedded-{count}"
        folder.mkdir()
        runs.append(measure(Plan(count, end_ms), folder))
        shutil.rmtree(folder)
    for count, share in ((runs[-1].plan.samples, 0.0), (QUICK_SAMPLES, 1.0)):
        folder = work / f"traced-{share}"
        folder.mkdir()
        plan = Plan(count, end_ms, traced=share)
        variants.append((plan, load(VANTAGE, plan, folder)))
        shutil.rmtree(folder)
    # Above, most ids of the common table are empty, and quick to scan: here every sample has one.
    folder = work / "traced-clickhouse"
    folder.mkdir()
    traced = measure(
        Plan(runs[-1].plan.samples, end_ms, traced=1.0), folder, subjects=(ON_CLICKHOUSE, COMMON), queries=("trace",)
    )
    shutil.rmtree(folder)
    for run in runs:
        report.tables(run)
    report.variants([*((run.plan, run.results["vantage"].loaded) for run in runs), *variants])
    report.targets(runs)
    report.traced(traced)
