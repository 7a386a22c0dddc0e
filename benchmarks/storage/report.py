"""The tables of a run, and which targets it met."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchmarks.storage.data import SERIES, Plan
from benchmarks.storage.results import Result, Run
from benchmarks.storage.subject import Loaded

DAY_MS: Final = 86_400_000
MANY_SAMPLES: Final = 10_000_000  # beyond it parts are merged while samples are inserted
NEAR: Final = 0.9  # not slower: two runs of the same code differ by more
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
    for title, reason in run.not_measured.items():
        print(f"\nNot measured: {title} ({reason})")


def _row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |")


def _heading(*cells: str) -> None:
    _row("", *cells)
    _row(*["---"] * (len(cells) + 1))


def _inserts(run: Run) -> None:
    _heading("thousand inserts/s, acknowledged", "sealed, merged or compacted", "CPU µs/sample", "ratio")
    base = run.results.get("rows")
    for result in run.results.values():
        loaded = result.loaded
        _row(
            result.subject.title,
            f"{run.plan.samples / loaded.insert_s / 1000:.0f}",
            f"{run.plan.samples / (loaded.insert_s + loaded.finish_s) / 1000:.0f}",
            f"{loaded.insert_cpu_s / run.plan.samples * 1e6:.2f} + {loaded.finish_cpu_s / run.plan.samples * 1e6:.2f}",
            f"{_per_s(run, result) / _per_s(run, base):.2f}" if base else "–",
        )
    print("\nRatio: Vantage sealed, the others acknowledged; only Vantage and the row table wait for the disk.")
    for result in run.results.values():
        if result.loaded.note:
            print(f"\n{result.subject.title}: {result.loaded.note}")


def _per_s(run: Run, result: Result) -> float:
    """Return inserts per second until acknowledged; Vantage's with sealing, which it cannot defer for long."""
    seconds = result.loaded.insert_s
    if result.subject.name == "vantage":
        seconds += result.loaded.finish_s
    return run.plan.samples / seconds


def _bytes(run: Run) -> None:
    print()
    _heading("bytes/sample in total", "of which samples", "exemplars", "ratio")
    base = run.results.get("rows")
    for result in run.results.values():
        sizes = result.loaded.sizes
        _row(
            result.subject.title,
            *(_each(sizes[part], run.plan) if part in sizes else "–" for part in ("total", "samples", "exemplars")),
            f"{sizes['total'] / base.loaded.sizes['total']:.3f}" if base else "–",
        )


def _each(size: int, plan: Plan) -> str:
    return f"{size / plan.samples:.2f}"


def _queries(run: Run) -> None:
    print("\nMedian ms, and the first time in brackets, without opening.\n")
    _heading(*_HEADINGS.values())
    for result in run.results.values():
        _row(result.subject.title, *(_took(result, query) for query in _HEADINGS))
        if "day raw" in result.query_ms:
            _row(f"{result.subject.title}, of samples", "", _took(result, "day raw"), "", "")
    ours = run.results["vantage"]
    for name in ("rows", "victoria"):
        if other := run.results.get(name):
            _row(
                f"Vantage, {other.subject.title} = 1",
                *(f"{ratio:.3f}" if (ratio := _ratio(ours, other, query)) else "–" for query in _HEADINGS),
            )
    peak_mb = ours.loaded.peak_nbytes / 1e6
    print(f"\nVantage opens in {ours.open_ms:.0f} ms; while loading its process took at most {peak_mb:.0f} MB.")
    print("PromQL has no quantile over several series: there p95 is the average of each series', and not compared.")
    print("All other results are the same to nine digits.")


def _took(result: Result, query: str) -> str:
    if query not in result.query_ms:
        return "–"
    return f"{_ms(result.median_ms(query))} ({_ms(result.first_ms(query))})"


def _ms(took_ms: float) -> str:
    return f"{took_ms:.0f}" if took_ms >= 100 else f"{took_ms:.1f}" if took_ms >= 1 else f"{took_ms:.2f}"


def _ratio(result: Result, base: Result, query: str) -> float | None:
    if query not in result.query_ms or query not in base.query_ms:
        return None
    return result.median_ms(query) / base.median_ms(query)


def variants(loads: Sequence[tuple[Plan, Loaded]]) -> None:
    print("\n### 4 Vantage's bytes/sample on disk\n")
    parts = ("samples", "exemplars", "rollups", "journal", "total")
    _heading(*parts)
    for plan, loaded in sorted(loads, key=lambda entry: (entry[0].samples, entry[0].traced)):
        title = f"{million(plan.samples)}, {plan.traced:.0%} traced"
        _row(title, *(_each(loaded.sizes[part], plan) for part in parts))


def targets(runs: Sequence[Run]) -> None:
    """Print the targets, for the largest run with every subject."""
    complete = [run for run in runs if "rows" in run.results]
    run = (complete or list(runs))[-1]
    ours, base, peer = (run.results.get(name) for name in ("vantage", "rows", "victoria"))
    assert ours is not None
    print(f"\n### Targets, with {million(run.plan.samples)} samples\n")
    _row("target", "must", "aim", "this run")
    _row(*["---"] * 4)
    sizes = ours.loaded.sizes
    _target("4 bytes/sample of metric columns", sizes["samples"] / run.plan.samples, 2.4, 1.8)
    _target("4 bytes/sample of all but the journal", (sizes["total"] - sizes["journal"]) / run.plan.samples, 3.5, 2.6)
    if base:
        _target("5 inserts against the row table", _per_s(run, ours) / _per_s(run, base), 10, 10, least=True)
    first, last = runs[0], runs[-1]
    if first is not last:
        slower = _per_s(last, last.results["vantage"]) / _per_s(first, first.results["vantage"])
        name = f"5 inserts, {million(last.plan.samples)} against {million(first.plan.samples)}"
        _target(name, slower, 0.8 if last.plan.samples > MANY_SAMPLES else NEAR, NEAR, least=True)
    if peer:
        _target("6 1 h, one metric, VictoriaMetrics = 1", _ratio(ours, peer, "hour"), 1, 0.5)
        _target("6 24 h, all services, VictoriaMetrics = 1", _ratio(ours, peer, "day"), 0.5, 0.5)
        _target("6 top 10 by p95, VictoriaMetrics = 1", _ratio(ours, peer, "top"), 0.8, 0.5)
    _target("6 trace id, ms", ours.median_ms("trace"), 3, 1.5)
    _on_clickhouse(run)
    if first is not last:
        for query in _HEADINGS:
            _history(query, first, last)


def _on_clickhouse(run: Run) -> None:
    """Compare with the common table, with the same number of ids."""
    ours, common = run.results.get("vantage-chdb"), run.results.get("clickhouse")
    if ours is None:
        return
    _target("8 bytes/sample of metric columns, ClickHouse", ours.loaded.sizes["samples"] / run.plan.samples, 5, 4)
    if common is None:
        return
    _target("8 24 h, ClickHouse: times as fast as the common table", _ratio(common, ours, "day"), 4, 6, least=True)
    raw = common.median_ms("day") / ours.median_ms("day raw")
    _target("8 the same of samples", raw, 4, 6, least=True)


def traced(run: Run) -> None:
    """Print the figures for samples that all have an id."""
    ours, common = run.results.get("vantage-chdb"), run.results.get("clickhouse")
    print(f"\n### 8 A trace among {million(run.plan.samples)} samples that all have one\n")
    if ours is None or common is None:
        print("Not measured: " + "; ".join(f"{title} ({reason})" for title, reason in run.not_measured.items()))
        return
    _heading("bytes/sample in total", "of which samples", "trace id, ms")
    for result in (ours, common):
        sizes = result.loaded.sizes
        parts = [_each(sizes[part], run.plan) if part in sizes else "–" for part in ("total", "samples")]
        _row(result.subject.title, *parts, _took(result, "trace"))
    print()
    _row("target", "must", "aim", "this run")
    _row(*["---"] * 4)
    _target("8 trace id: times as fast as the common table", _ratio(common, ours, "trace"), 50, 200, least=True)


def _history(query: str, first: Run, last: Run) -> None:
    name = f"7 {_HEADINGS[query]}: {million(last.plan.samples)} against {million(first.plan.samples)}"
    if query == "day" and first.plan.end_ms - first.plan.start_ms < DAY_MS:
        _row(name, "–", "–", f"not comparable: {million(first.plan.samples)} are less than 24 h")
        return
    _target(name, _ratio(last.results["vantage"], first.results["vantage"], query), 1.5, 1.1)


def _target(name: str, value: float | None, must: float, aim: float, *, least: bool = False) -> None:
    """Print a target. ``least``: more is better."""
    if value is None:
        _row(name, "–", "–", "not measured")
        return
    sign = "≥" if least else "≤"
    met = [value >= limit if least else value <= limit for limit in (must, aim)]
    verdicts = [
        f"{sign} {limit:g}: {'met' if is_met else '**missed**'}" for limit, is_met in zip((must, aim), met, strict=True)
    ]
    _row(name, *verdicts, f"{value:.2f}")
