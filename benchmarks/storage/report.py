"""The tables of a run, and which targets it met."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from benchmarks.storage.data import SERIES, Plan
from benchmarks.storage.subject import Loaded

if TYPE_CHECKING:
    from benchmarks.storage.run import Result, Run

DAY_MS: Final = 86_400_000
NEAR: Final = 0.9  # what counts as no slower: two runs of the same differ by more
_HEADINGS: Final = {
    "hour": "1 h, one metric, avg and p95 a minute",
    "day": "24 h, all services, avg in 5 min",
    "top": "top 10 by p95, 1 h",
    "trace": "trace id",
}


def million(samples: int) -> str:
    return f"{samples / 1e6:g} million"


def tables(run: Run) -> None:
    plan = run.plan
    print(
        f"\n### 4 to 7 Embedded store: {million(plan.samples)} samples, {SERIES} series,"
        f" {(plan.end_ms - plan.start_ms) / 3_600_000:.1f} h, {plan.traced:.0%} traced\n"
    )
    _inserts(run)
    _bytes(run)
    _queries(run)
    for title, reason in run.left_out.items():
        print(f"\nNot measured: {title} ({reason})")


def _row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |")


def _heading(*cells: str) -> None:
    _row("", *cells)
    _row(*["---"] * (len(cells) + 1))


def _inserts(run: Run) -> None:
    _heading("thousand inserts/s, answered", "sealed, merged or compacted", "CPU µs/sample", "ratio")
    base = run.results.get("rows")
    for result in run.results.values():
        loaded = result.loaded
        _row(
            result.peer.title,
            f"{run.plan.samples / loaded.insert_s / 1000:.0f}",
            f"{run.plan.samples / (loaded.insert_s + loaded.finish_s) / 1000:.0f}",
            f"{loaded.insert_cpu_s / run.plan.samples * 1e6:.2f} + {loaded.finish_cpu_s / run.plan.samples * 1e6:.2f}",
            f"{_per_s(run, result) / _per_s(run, base):.2f}" if base else "–",
        )
    print("\nThe ratio is that of Vantage sealed and the others answered; only it and the row table wait for the disk.")
    for result in run.results.values():
        if result.loaded.note:
            print(f"\n{result.peer.title}: {result.loaded.note}")


def _per_s(run: Run, result: Result) -> float:
    """Inserts a second until they are answered; Vantage's with the sealing, which it cannot put off for long."""
    seconds = result.loaded.insert_s
    if result.peer.name == "vantage":
        seconds += result.loaded.finish_s
    return run.plan.samples / seconds


def _bytes(run: Run) -> None:
    print()
    _heading("bytes/sample in all", "of which samples", "trace links", "ratio")
    base = run.results.get("rows")
    for result in run.results.values():
        sizes = result.loaded.sizes
        _row(
            result.peer.title,
            *(_each(sizes[part], run.plan) if part in sizes else "–" for part in ("total", "samples", "trace links")),
            f"{sizes['total'] / base.loaded.sizes['total']:.3f}" if base else "–",
        )


def _each(size: int, plan: Plan) -> str:
    return f"{size / plan.samples:.2f}"


def _queries(run: Run) -> None:
    print("\nMedian ms, and the first time in brackets. Opening is not part of it.\n")
    _heading(*_HEADINGS.values())
    for result in run.results.values():
        _row(result.peer.title, *(_took(result, question) for question in _HEADINGS))
        if "day raw" in result.asked_ms:
            _row(f"{result.peer.title}, of samples", "", _took(result, "day raw"), "", "")
    ours = run.results["vantage"]
    for name in ("rows", "victoria"):
        if other := run.results.get(name):
            _row(
                f"Vantage, {other.peer.title} = 1",
                *(f"{found:.3f}" if (found := _ratio(ours, other, question)) else "–" for question in _HEADINGS),
            )
    peak_mb = ours.loaded.peak_nbytes / 1e6
    print(f"\nVantage opens in {ours.open_ms:.0f} ms; while loading its process held at most {peak_mb:.0f} MB.")
    print("PromQL has no quantile over several series: there p95 is that of each, averaged, and not compared.")
    print("All other answers are the same to nine digits.")


def _took(result: Result, question: str) -> str:
    if question not in result.asked_ms:
        return "–"
    return f"{_ms(result.median_ms(question))} ({_ms(result.first_ms(question))})"


def _ms(took_ms: float) -> str:
    return f"{took_ms:.0f}" if took_ms >= 100 else f"{took_ms:.1f}" if took_ms >= 1 else f"{took_ms:.2f}"


def _ratio(one: Result, other: Result, question: str) -> float | None:
    if question not in one.asked_ms or question not in other.asked_ms:
        return None
    return one.median_ms(question) / other.median_ms(question)


def variants(found: Sequence[tuple[Plan, Loaded]]) -> None:
    print("\n### 4 Vantage's bytes/sample on disk\n")
    parts = ("samples", "trace links", "rollups", "journal", "total")
    _heading(*parts)
    for plan, loaded in sorted(found, key=lambda each: (each[0].samples, each[0].traced)):
        title = f"{million(plan.samples)}, {plan.traced:.0%} traced"
        _row(title, *(_each(loaded.sizes[part], plan) for part in parts))


def targets(runs: Sequence[Run]) -> None:
    """Judged by the largest run that every contestant took part in."""
    whole = [run for run in runs if "rows" in run.results]
    run = (whole or list(runs))[-1]
    ours, base, peer = (run.results.get(name) for name in ("vantage", "rows", "victoria"))
    assert ours is not None
    print(f"\n### Targets, with {million(run.plan.samples)} samples\n")
    _row("target", "must", "aim", "this run")
    _row(*["---"] * 4)
    _target("4 bytes/sample of metric columns", ours.loaded.sizes["samples"] / run.plan.samples, 3, 2.3)
    if base:
        _target("5 inserts against the row table", _per_s(run, ours) / _per_s(run, base), 3, 5, least=True)
    first, last = runs[0], runs[-1]
    if first is not last:
        slower = _per_s(last, last.results["vantage"]) / _per_s(first, first.results["vantage"])
        name = f"5 inserts, {million(last.plan.samples)} against {million(first.plan.samples)}"
        _target(name, slower, NEAR, NEAR, least=True)
    _target("6 1 h, one metric, ms", ours.median_ms("hour"), 5, 2)
    if peer:
        _target("6 24 h, all services, VictoriaMetrics = 1", _ratio(ours, peer, "day"), 3, 1)
        _target("6 top 10 by p95, VictoriaMetrics = 1", _ratio(ours, peer, "top"), 1, 0.5)
    _target("6 trace id, ms", ours.median_ms("trace"), 5, 2)
    _on_clickhouse(run)
    if first is not last:
        for question in _HEADINGS:
            _history(question, first, last)


def _on_clickhouse(run: Run) -> None:
    """Beside the usual table, with as many ids in it."""
    ours, usual = run.results.get("vantage-chdb"), run.results.get("clickhouse")
    if ours is None:
        return
    _target("8 bytes/sample of metric columns, ClickHouse", ours.loaded.sizes["samples"] / run.plan.samples, 5, 4)
    if usual is None:
        return
    _target("8 24 h, ClickHouse: times as fast as the usual table", _ratio(usual, ours, "day"), 4, 6, least=True)
    raw = usual.median_ms("day") / ours.median_ms("day raw")
    _target("8 the same of samples", raw, 4, 6, least=True)


def traced(run: Run) -> None:
    """Of samples that all have an id of their own."""
    ours, usual = run.results.get("vantage-chdb"), run.results.get("clickhouse")
    print(f"\n### 8 A trace among {million(run.plan.samples)} samples that all have one\n")
    if ours is None or usual is None:
        print("Not measured: " + "; ".join(f"{title} ({reason})" for title, reason in run.left_out.items()))
        return
    _heading("bytes/sample in all", "of which samples", "trace id, ms")
    for result in (ours, usual):
        sizes = result.loaded.sizes
        parts = [_each(sizes[part], run.plan) if part in sizes else "–" for part in ("total", "samples")]
        _row(result.peer.title, *parts, _took(result, "trace"))
    print()
    _row("target", "must", "aim", "this run")
    _row(*["---"] * 4)
    _target("8 trace id: times as fast as the usual table", _ratio(usual, ours, "trace"), 50, 200, least=True)


def _history(question: str, first: Run, last: Run) -> None:
    name = f"7 {_HEADINGS[question]}: {million(last.plan.samples)} against {million(first.plan.samples)}"
    if question == "day" and first.plan.end_ms - first.plan.start_ms < DAY_MS:
        _row(name, "–", "–", f"not told: {million(first.plan.samples)} are less than 24 h")
        return
    _target(name, _ratio(last.results["vantage"], first.results["vantage"], question), 1.5, 1.1)


def _target(name: str, found: float | None, must: float, aim: float, *, least: bool = False) -> None:
    """``least``: the more the better."""
    if found is None:
        _row(name, "–", "–", "not measured")
        return
    sign = "≥" if least else "≤"
    met = [found >= limit if least else found <= limit for limit in (must, aim)]
    verdicts = [
        f"{sign} {limit:g}: {'met' if is_met else '**missed**'}" for limit, is_met in zip((must, aim), met, strict=True)
    ]
    _row(name, *verdicts, f"{found:.2f}")
