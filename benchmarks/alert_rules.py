"""``--only alerts``: a thousand rules on ten million samples while data arrives, against each rule reading for itself,
and what that does to writes."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.targets import Target, print_targets
from vantage.alerting.evaluate import AlertEvaluator, data_time_ms
from vantage.alerting.observe import observe
from vantage.alerting.reading import Lasting, Reading
from vantage.core.alert_rule import Aggregation, MetricValue, Ratio, RequestValue, Rule, Threshold
from vantage.core.batch import Batch
from vantage.core.clock import SystemClock
from vantage.core.sample import Kind
from vantage.core.series import Series, make_series
from vantage.core.turns import Turns
from vantage.query.context import QueryContext
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.metadata.store import SqlMetadataStore
from vantage.telemetry import Telemetry

SAMPLES: Final = 10_000_000
SERVICES: Final = 50
METRICS: Final = 8  # of a service, beside the duration of its requests
HISTORY_MS: Final = 6 * 3_600_000
BATCH_SAMPLES: Final = 20_000
ARRIVING: Final = 200  # samples of a write
PAUSE_S: Final = 0.02
PASSES: Final = 5
PASSES_QUICK: Final = 2
EVERY_S: Final = 15.0
RULES: Final = 1000
DURATION: Final = "http.request.duration"


def bench_alerts(work: Path, *, quick: bool) -> None:
    """Measure on a store in this process."""
    asyncio.run(_bench(work / "alerts", SAMPLES // (20 if quick else 1), PASSES_QUICK if quick else PASSES))


def rules(count: int) -> list[Rule]:
    """Return rules of many kinds, spread over the services, none of which fires."""
    aggregations: tuple[Aggregation, ...] = ("avg", "max", "p95", "count", "min")
    made = []
    for number in range(count):
        service = f"service-{number % SERVICES:02d}"
        metric, agg = f"metric.{number // SERVICES % METRICS}", aggregations[number % len(aggregations)]
        if number % 10 < 6:
            condition: Threshold | Ratio = Threshold(MetricValue(service, metric, agg), above=1e9)
        elif number % 10 < 7:
            part, total = MetricValue(service, metric, group_by=("host",)), MetricValue(service, metric, "max")
            condition = Ratio(part, total, above=1e9)
        elif number % 10 < 9:
            condition = Threshold(RequestValue("p95", service), above=1e9)
        else:
            condition = Threshold(RequestValue("errors", service), above=2.0)
        made.append(Rule(f"rule {number:04d}", condition, every="5s"))
    return made


async def _bench(folder: Path, samples: int, passes: int) -> None:
    clock, telemetry, turns = SystemClock(), Telemetry(), Turns()
    folder.mkdir(parents=True)
    async with (
        EmbeddedStore(folder / "data", clock=clock, telemetry=telemetry, turns=turns) as store,
        SqlMetadataStore(f"sqlite:///{folder / 'metadata.db'}", clock) as metadata,
    ):
        series = _series()
        await _fill(store, series, clock.now_ms(), samples)
        context = QueryContext(store, metadata, clock, telemetry, cache_nbytes_max=32 << 20)
        print(f"\n### Alert rules on {samples} samples of {SERVICES} services\n")
        print("| rules | pass, ms | CPU, ms | each for itself, CPU ms | ratio | p99 of a write, ms | with rules, ms |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        measured = {}
        for count in (RULES // 10, RULES):
            chosen = rules(count)
            await metadata.alerts.apply_rules(
                chosen, removed=[item.rule.name for item in await metadata.alerts.rules()], actor="bench"
            )
            measured[count] = await _measure(context, store, metadata, series, turns, chosen, passes=passes)
        many, few = measured[RULES], measured[RULES // 10]
        print_targets(
            [
                Target(19, "1000 rules evaluated", many[0] / 1000, 5.0, None, "s"),
                Target(19, "p99 of a write beside 1000 rules, against without", many[3], 1.5, None),
                Target(19, "of a core at 100 rules", few[1] / 1000 / EVERY_S, 0.1, None),
            ]
        )


async def _measure(
    context: QueryContext,
    store: EmbeddedStore,
    metadata: SqlMetadataStore,
    series: tuple[Series, ...],
    turns: Turns,
    chosen: Sequence[Rule],
    *,
    passes: int,
) -> tuple[float, float, float, float]:
    """Return the wall time and CPU time of a pass in ms, the CPU time of reading for each rule, and the ratio of the
    p99 of writes with evaluation to that without."""
    evaluator = AlertEvaluator(context, metadata, turns=turns, default_rules=())
    wall_ms, cpu_ms, quiet, busy = [], [], [], []
    for _ in range(passes):
        quiet += await _writing(context, store, series, asyncio.sleep(EVERY_S))
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        busy += await _writing(context, store, series, evaluator.evaluate())
        wall_s = time.perf_counter() - began_s
        wall_ms.append(wall_s * 1000)
        cpu_ms.append((time.process_time() - began_cpu_s) * 1000)
        busy += await _writing(context, store, series, asyncio.sleep(EVERY_S - wall_s))
    began_cpu_s = time.process_time()
    reading_ms = 0.0
    for rule in chosen:
        reading = Reading(context, at_ms=data_time_ms(context), lasting=Lasting())
        await observe(reading, rule)
        reading.close()
    reading_ms = (time.process_time() - began_cpu_s) * 1000
    wall, cpu = statistics.median(wall_ms), statistics.median(cpu_ms)
    p99_quiet, p99_busy = (float(np.quantile(times, 0.99)) * 1000 for times in (quiet, busy))
    ratio = p99_busy / p99_quiet
    print(
        f"| {len(chosen)} | {wall:.0f} | {cpu:.0f} | {reading_ms:.0f} | {cpu / reading_ms:.3f} | {p99_quiet:.1f} "
        f"| {p99_busy:.1f} ({ratio:.2f} times) |"
    )
    return wall, cpu, reading_ms, ratio


async def _writing(
    context: QueryContext, store: EmbeddedStore, series: tuple[Series, ...], work: object
) -> list[float]:
    """Write until the work is done, and return how long each write took, in seconds."""
    task = asyncio.ensure_future(work)  # type: ignore[call-overload]
    chance = np.random.default_rng(5)
    times = []
    while not task.done():
        now_ms = context.clock.now_ms()
        index = chance.integers(0, len(series), ARRIVING).astype(np.uint32)
        batch = Batch(series, index, np.full(ARRIVING, now_ms), chance.lognormal(3, 0.5, ARRIVING))
        began_s = time.perf_counter()
        await store.write(batch)
        times.append(time.perf_counter() - began_s)
        context.on_written(batch)
        await asyncio.sleep(PAUSE_S)
    await task
    return times


def _series() -> tuple[Series, ...]:
    made = []
    for number in range(SERVICES):
        names = {"service": f"service-{number:02d}", "environment": "prod"}
        for status in ("200", "500"):
            tags = {"http.route": "/a", "status": status}
            made.append(make_series(metric=DURATION, kind=Kind.HISTOGRAM, unit="ms", tags=tags, **names))
        for metric in range(METRICS):
            for host in range(4):
                tags = {"host": f"h{host}"}
                made.append(make_series(metric=f"metric.{metric}", kind=Kind.GAUGE, unit="", tags=tags, **names))
    return tuple(made)


async def _fill(store: EmbeddedStore, series: tuple[Series, ...], now_ms: int, samples: int) -> None:
    chance = np.random.default_rng(19)
    for start in range(0, samples, BATCH_SAMPLES):
        size = min(BATCH_SAMPLES, samples - start)
        time_ms = now_ms - HISTORY_MS + (start + np.arange(size)) * (HISTORY_MS - 1000) // samples
        index = chance.integers(0, len(series), size).astype(np.uint32)
        await store.write(Batch(series, index, time_ms, chance.lognormal(3, 0.5, size)))
