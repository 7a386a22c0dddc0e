"""``--only embedded``: every contestant loads the same data, and then all are asked in turn."""

from __future__ import annotations

import json
import math
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from benchmarks.storage import report
from benchmarks.storage.data import WINDOW_SAMPLES, Plan, trace_ids
from benchmarks.storage.subject import Answer, Loaded

ROUNDS: Final = 7
TOLERANCE: Final = 1e-9
QUICK_SAMPLES: Final = 1_000_000
SAMPLES: Final = 10_000_000
SLOW_SAMPLES_MAX: Final = 20_000_000
_BENCH: Final = "`make bench` installs it: pip install -r requirements/bench.txt"


@dataclass(frozen=True, slots=True)
class Peer:
    """A contestant. ``slow`` ones are left out of long runs; ``exact`` says which answers can be compared whole."""

    name: str
    title: str
    missing: Callable[[], str] = lambda: ""
    slow: bool = False
    exact: bool = True
    questions: tuple[str, ...] = ("hour", "day", "top", "trace")


def _module(name: str) -> Callable[[], str]:
    return lambda: "" if find_spec(name) else _BENCH


def _package(name: str, *modules: str) -> Callable[[], str]:
    def missing() -> str:
        if not shutil.which(name):
            return f"apt-get install {name}"
        return "" if all(find_spec(module) for module in modules) else _BENCH

    return missing


VANTAGE: Final = Peer("vantage", "Vantage", questions=("hour", "day", "day raw", "top", "trace"))
ROWS: Final = Peer("rows", "row table in SQLite", slow=True)
VICTORIA: Final = Peer(
    "victoria", "VictoriaMetrics", _package("victoria-metrics"), exact=False, questions=("hour", "day", "top")
)
ON_CLICKHOUSE: Final = Peer(
    "vantage-chdb",
    "Vantage on ClickHouse (chdb)",
    _module("chdb"),
    questions=("hour", "day", "day raw", "top", "trace"),
)
USUAL: Final = Peer("clickhouse", "ClickHouse, usual table", _module("chdb"), slow=True)
PEERS: Final = (
    VANTAGE,
    ON_CLICKHOUSE,
    ROWS,
    USUAL,
    Peer("clickhouse-lean", "ClickHouse, lean tables", _module("chdb")),
    VICTORIA,
    Peer(
        "prometheus",
        "Prometheus",
        _package("prometheus", "cramjam"),
        slow=True,
        exact=False,
        questions=("hour", "day", "top"),
    ),
)


@dataclass(slots=True)
class Result:
    """Of one contestant. ``asked_ms[question]``: the first time, and then those of the rounds."""

    peer: Peer
    loaded: Loaded
    open_ms: float = 0.0
    asked_ms: dict[str, list[float]] = field(default_factory=dict)

    def first_ms(self, question: str) -> float:
        return self.asked_ms[question][0]

    def median_ms(self, question: str) -> float:
        return statistics.median(self.asked_ms[question][1:])


@dataclass(slots=True)
class Run:
    plan: Plan
    results: dict[str, Result]
    left_out: dict[str, str]


class Child:
    """A contestant's process."""

    def __init__(self, peer: Peer, work: Path) -> None:
        self.peer = peer
        self._log = work / f"{peer.name}.err"
        with self._log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.storage.process", peer.name, str(work / peer.name)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def order(self, what: str, **details: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": what, **details}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise RuntimeError(f"{self.peer.title} failed: {self._log.read_text(errors='replace')[-3000:]}")
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(120)


def load(peer: Peer, plan: Plan, work: Path) -> Loaded:
    child = Child(peer, work)
    try:
        found = child.order("load", plan=plan.json())
    finally:
        child.end()
    return Loaded(**found)


def measure(
    plan: Plan, work: Path, *, peers: Sequence[Peer] = PEERS, questions: Sequence[str] = VANTAGE.questions
) -> Run:
    """All contestants that are here and not too slow."""
    run = Run(plan, {}, {})
    for peer in peers:
        if missing := peer.missing():
            run.left_out[peer.title] = missing
        elif peer.slow and plan.samples > SLOW_SAMPLES_MAX:
            run.left_out[peer.title] = "too slow for so many samples"
        else:
            started = time.monotonic()
            run.results[peer.name] = Result(peer, load(peer, plan, work))
            _print_results(f"{peer.title}: loaded {plan.samples:,} samples in {time.monotonic() - started:.0f} s")
    children: list[Child] = []
    try:
        for result in run.results.values():
            child = Child(result.peer, work)
            children.append(child)
            result.open_ms = child.order("open", plan=plan.json())["ms"]
        answers = {
            question: _ask(question, plan, run, [child for child in children if question in child.peer.questions])
            for question in questions
        }
        for child in children:
            child.order("close")
    finally:
        for child in children:
            child.end()
    for name, answer in answers.pop("day raw", {}).items():
        answers["day"][f"{name}, of samples"] = answer
    for question, given in answers.items():
        _compare(question, given)
    return run


def _ask(question: str, plan: Plan, run: Run, children: Sequence[Child]) -> dict[str, Answer]:
    """First each of them once, then a warm-up and the rounds, all in turn. The answers are those of the first time."""
    ids = iter(trace_ids(plan, ROUNDS + 2) if question == "trace" else [""] * (ROUNDS + 2))
    answers: dict[str, Answer] = {}
    for turn, trace_id in enumerate(ids):
        for child in children:
            asked = {"name": question, "trace_id": trace_id}
            found = child.order("ask", question=asked, tell=turn == 0)
            if turn == 0:
                answers[child.peer.name] = [tuple(row) for row in found["answer"]]
            if turn != 1:
                run.results[child.peer.name].asked_ms.setdefault(question, []).append(found["ms"])
    _print_results(f"{question}: {len(next(iter(answers.values())))} rows")
    return answers


def _compare(question: str, answers: dict[str, Answer]) -> None:
    """Raises when two answers differ by more than rounding."""
    inexact = {peer.name for peer in PEERS if not peer.exact}
    name, truth = next(iter(answers.items()))
    for other, answer in answers.items():
        width = {"hour": 2, "day": 3, "top": 0}[question] if other in inexact else None
        mine, theirs = _comparable(question, truth, width), _comparable(question, answer, width)
        same = len(mine) == len(theirs) and all(_close(a, b) for a, b in zip(mine, theirs, strict=True))
        if not same:
            odd = next(((a, b) for a, b in zip(mine, theirs, strict=False) if not _close(a, b)), None)
            raise RuntimeError(f"{question}: {name} and {other} differ: {len(mine)} and {len(theirs)} rows, {odd}")


def _comparable(question: str, answer: Answer, width: int | None) -> Answer:
    """The columns that can be compared, in one order; only ``top`` has an order of its own."""
    rows = [row[:width] for row in answer]
    return rows if question == "top" else sorted(rows)


def _close(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return all(
        math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE) if isinstance(a, float | int) else a == b
        for a, b in zip(one, other, strict=True)
    )


def _print_results(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def counts(samples: int | None, *, quick: bool) -> tuple[int, ...]:
    """What to measure: as many samples as asked for, in whole windows, and a tenth of them, unless that is too few."""
    most = max(QUICK_SAMPLES, samples or (QUICK_SAMPLES if quick else SAMPLES))
    whole = [count // WINDOW_SAMPLES * WINDOW_SAMPLES for count in (most // 10, most)]
    return tuple(count for count in whole if count >= QUICK_SAMPLES)


def bench_embedded(samples: int | None, work: Path, *, quick: bool) -> None:
    end_ms = int(time.time()) // 300 * 300_000
    runs, variants = [], []
    for count in counts(samples, quick=quick):
        folder = work / f"embedded-{count}"
        folder.mkdir()
        runs.append(measure(Plan(count, end_ms), folder))
        shutil.rmtree(folder)
    for count, traced in ((runs[-1].plan.samples, 0.0), (QUICK_SAMPLES, 1.0)):
        folder = work / f"traced-{traced}"
        folder.mkdir()
        plan = Plan(count, end_ms, traced=traced)
        variants.append((plan, load(VANTAGE, plan, folder)))
        shutil.rmtree(folder)
    # Most of the usual table's ids are empty above, and quickly looked through: here every sample has one.
    folder = work / "traced-clickhouse"
    folder.mkdir()
    traced = measure(
        Plan(runs[-1].plan.samples, end_ms, traced=1.0), folder, peers=(ON_CLICKHOUSE, USUAL), questions=("trace",)
    )
    shutil.rmtree(folder)
    for run in runs:
        report.tables(run)
    report.variants([*((run.plan, run.results["vantage"].loaded) for run in runs), *variants])
    report.targets(runs)
    report.traced(traced)
