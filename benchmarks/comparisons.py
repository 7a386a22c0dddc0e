"""``--only compare``: comparisons over a day, from rollups and from samples, against a bootstrap of the samples."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.targets import Target, print_targets
from vantage.core.arrays import F64
from vantage.core.batch import Batch
from vantage.core.clock import SystemClock
from vantage.core.sample import Kind
from vantage.core.series import make_series
from vantage.core.timerange import TimeRange
from vantage.query.compare import ComparisonRequest, compare
from vantage.query.compared_data import Side
from vantage.query.context import QueryContext
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.telemetry import Telemetry

DAY_MS: Final = 86_400_000
SAMPLES: Final = 1_000_000
ROUTES: Final = 10
BATCH_SAMPLES: Final = 20_000
LOOKS: Final = 5
RESAMPLES: Final = 200
MUST_MS: Final = 1000.0
DURATION: Final = "http.request.duration"
GAUGE: Final = "queue.wait"


def bench_compare(work: Path, *, quick: bool) -> None:
    """Measure on a store in this process."""
    asyncio.run(_bench(work / "compare", SAMPLES // (10 if quick else 1)))


async def _bench(folder: Path, samples: int) -> None:
    clock = SystemClock()
    now_ms = clock.now_ms()
    async with (
        EmbeddedStore(folder, clock=clock, telemetry=Telemetry(), synchronous="NORMAL") as store,
        MemoryMetadataStore(clock) as metadata,
    ):
        values = await _fill(store, now_ms, samples)
        context = QueryContext(store, metadata, clock, Telemetry())
        print(f"\n### Comparing two versions over a day, {samples} samples of each metric\n")
        print("| metric | read | ms | CPU ms | resampled, CPU ms | ratio |")
        print("| --- | --- | --- | --- | --- | --- |")
        targets = []
        for metric in (DURATION, GAUGE):
            side = Side("api", TimeRange(now_ms - DAY_MS, now_ms), version="1")
            other = Side("api", side.time_range, version="2")
            request = ComparisonRequest(side, other, (metric,), directions={GAUGE: "lower"})
            wall_ms, cpu_ms = [], []
            for _ in range(LOOKS):
                began_s, began_cpu_s = time.perf_counter(), time.process_time()
                result = await compare(context, request)
                wall_ms.append((time.perf_counter() - began_s) * 1000)
                cpu_ms.append((time.process_time() - began_cpu_s) * 1000)
            assert result.verdict.word == "ROLLBACK", result.verdict
            began_cpu_s = time.process_time()
            _resampled(values)
            resampled_ms = (time.process_time() - began_cpu_s) * 1000
            wall, cpu = statistics.median(wall_ms), statistics.median(cpu_ms)
            read = result.data[0][0].read
            print(f"| {metric} | {read} | {wall:.0f} | {cpu:.0f} | {resampled_ms:.0f} | {cpu / resampled_ms:.3f} |")
            targets.append(Target(18, f"two versions, {metric}", wall, MUST_MS, None, "ms"))
        print_targets(targets)


async def _fill(store: EmbeddedStore, now_ms: int, samples: int) -> tuple[F64, F64]:
    """Write both metrics of two versions, and return the values of each version's durations."""
    chance = np.random.default_rng(18)
    names = {"service": "api", "environment": "prod", "unit": "ms", "kind": Kind.HISTOGRAM}
    by_version: list[F64] = []
    for number, version in enumerate(("1", "2")):
        parts = []
        for metric in (DURATION, GAUGE):
            tags = [{"http.route": f"/r{route}", "status": "200"} for route in range(ROUTES)]
            series = tuple(
                make_series(metric=metric, tags=of_route, service_version=version, **names)  # type: ignore[arg-type]
                for of_route in tags
            )
            for start in range(0, samples // 2, BATCH_SAMPLES):
                size = min(BATCH_SAMPLES, samples // 2 - start)
                time_ms = now_ms - DAY_MS + (start + np.arange(size)) * (DAY_MS - 1000) // (samples // 2)
                value = chance.lognormal(4, 0.6, size) * (1 + 0.1 * number)
                index = chance.integers(0, ROUTES, size).astype(np.uint32)
                await store.write(Batch(series, index, time_ms, value))
                parts += [value] if metric == DURATION else []
        by_version.append(np.concatenate(parts))
    return by_version[0], by_version[1]


def _resampled(values: tuple[F64, F64]) -> None:
    """Do as a plain bootstrap of the 95th percentile does, with samples taken as independent."""
    chance = np.random.default_rng(1)
    for side in values:
        for _ in range(RESAMPLES):
            np.quantile(side[chance.integers(0, len(side), len(side))], 0.95)
