"""``--only pipeline``: the split roles as processes, against what they are made of and what they replace.

Everything runs on this machine, so that wall time shows what the machine takes, and CPU time what a role takes.
"""

from __future__ import annotations

import logging
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog

from benchmarks.payloads import PACKED, RATES, packed, request, vantage
from benchmarks.pipeline.moving import Moved, Topic, insert_bare, move
from benchmarks.pipeline.processes import Stage, move_to_second_core
from benchmarks.pipeline.visible import embedded, seconds_until_visible, split
from benchmarks.rounds import Subject, interleave
from benchmarks.storage.data import WINDOW_SAMPLES, Plan
from benchmarks.storage.embedded import SERVER_URL
from benchmarks.storage.results import Subject as StoreSubject
from benchmarks.storage.run import ON_CLICKHOUSE, measure
from tests.support.clickhouse_server import ClickHouseServer, running_clickhouse
from tests.support.kafka_broker import KafkaBroker, running_kafka

ON_SERVER: Final = StoreSubject("vantage-server", "Vantage on a ClickHouse server", queries=ON_CLICKHOUSE.queries)
QUERIES: Final = {"day": "24 h, all services, avg in 5 min", "day raw": "the same of samples", "trace": "trace id"}
TOPICS: Final = {
    "1000 samples a message": Topic(1000),
    "100 samples a message": Topic(100),
    "1000 a message, batch_rows = 50000": Topic(1000, batch_rows=50_000),
}
SHARED: Final = ((1, 1), (2, 1), (4, 1), (2, 2), (4, 2))  # partitions, workers


def bench_all(rounds: int, seconds: float, work: Path, *, quick: bool) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    samples = WINDOW_SAMPLES * (5 if quick else 20)
    plan = Plan(samples, int(time.time()) // 300 * 300_000)
    with running_clickhouse() as clickhouse:
        bench_moving(clickhouse, plan, work, rounds=1 if quick else 3)
        bench_shared(clickhouse, plan, work, rounds=1 if quick else 3)
        with running_kafka() as broker:
            bench_ingest(broker, work, rounds=rounds, seconds=seconds)
            bench_visible(clickhouse, work, posts=20 if quick else 100)
        bench_queries(clickhouse, plan if quick else replace(plan, samples=WINDOW_SAMPLES * 100), work)


def bench_moving(clickhouse: ClickHouseServer, plan: Plan, work: Path, *, rounds: int) -> None:
    bare: list[Moved] = []
    moved: dict[str, list[Moved]] = {name: [] for name in TOPICS}
    for _ in range(rounds):
        bare.append(insert_bare(clickhouse, plan))
        for name, topic in TOPICS.items():
            moved[name].append(move(work, clickhouse, topic, plan))
    print(f"\n### 11 From the broker to ClickHouse: {plan.samples / 1e6:g} million samples, one worker\n")
    print("| | thousand samples/s | a core of the worker (must: 150) | a core of ClickHouse | ratio a core |")
    print("| --- | --- | --- | --- | --- |")
    base = _median([item.per_core_s for item in bare])
    for name, runs in {"bare inserts of five columns": bare, **moved}.items():
        print(
            f"| {name} | {_median([item.per_s for item in runs]) / 1000:.0f} "
            f"| {_median([item.per_core_s for item in runs]) / 1000:.0f} "
            f"| {_median([item.samples / item.clickhouse_cpu_s for item in runs]) / 1000:.0f} "
            f"| {_median([item.per_core_s for item in runs]) / base:.2f} |"
        )
    for name, runs in moved.items():
        print(
            f"\n{name}: {_median([item.broker_nbytes for item in runs]):.1f} bytes/sample in the broker, "
            f"{_median([item.clickhouse_nbytes for item in runs]):.2f} in ClickHouse, merged; "
            f"{_median([item.samples / item.broker_cpu_s for item in runs]) / 1e6:.1f} million samples/s "
            f"a core of the broker, read; a range written in {_median([item.write_s for item in runs]):.2f} s"
        )


def bench_shared(clickhouse: ClickHouseServer, plan: Plan, work: Path, *, rounds: int) -> None:
    runs: dict[tuple[int, int], list[Moved]] = {case: [] for case in SHARED}
    for _ in range(rounds):
        for partitions, workers in SHARED:
            topic = Topic(1000, partitions=partitions, workers=workers)
            runs[partitions, workers].append(move(work, clickhouse, topic, plan))
    print(f"\n### 12 Partitions and workers, with broker and ClickHouse on {os.cpu_count()} cores\n")
    print("| partitions | workers | thousand samples/s | a core of the workers | ratio |")
    print("| --- | --- | --- | --- | --- |")
    base = _median([item.per_s for item in runs[SHARED[0]]])
    for (partitions, workers), items in runs.items():
        per_s = _median([item.per_s for item in items])
        per_core_s = _median([item.per_core_s for item in items])
        print(f"| {partitions} | {workers} | {per_s / 1000:.0f} | {per_core_s / 1000:.0f} | {per_s / base:.2f} |")


def bench_ingest(broker: KafkaBroker, work: Path, *, rounds: int, seconds: float) -> None:
    """The broker shares the second core with the load: in a deployment it has a machine of its own."""
    move_to_second_core(broker._process)
    subjects = []
    for samples in (100, 1000):
        body = request(packed(samples), PACKED)
        for name in ("embedded", "broker"):
            folder = work / f"ingest-{name}-{samples}"
            folder.mkdir()
            environ = dict(RATES)
            if name == "broker":
                environ |= {
                    "VANTAGE_ROLE": "ingest",
                    "VANTAGE_BROKER_URL": broker.url,
                    "VANTAGE_METADATA_URL": f"sqlite:///{folder / 'metadata.db'}",
                }
            subjects.append(
                Subject(
                    f"{name}, {samples} samples",
                    lambda port, folder=folder: vantage(folder / "data", port),
                    lambda *_, body=body: body,
                    samples,
                    environ,
                )
            )
    for server in interleave(subjects, rounds=rounds, seconds=seconds, log=work / "ingest.log"):
        server.stop()
    print("\n### 13 Ingest into the broker, against the embedded store (packed requests)\n")
    print("| | req/s | thousand samples/s | a core | p50 / p99 ms | ratio (must: 0.60) | ratio a core |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for base, ours in zip(subjects[::2], subjects[1::2], strict=True):
        for subject in (base, ours):
            pairs = list(zip(subject.results, base.results, strict=True))
            print(
                f"| {subject.name} | {subject.median('per_s'):.0f} | {subject.median('samples_per_s') / 1000:.0f} "
                f"| {subject.samples / subject.median('cpu_us') * 1000:.0f} "
                f"| {subject.median('p50_ms'):.1f} / {subject.median('p99_ms'):.1f} "
                f"| {_median([a['per_s'] / b['per_s'] for a, b in pairs]):.2f} "
                f"| {_median([b['cpu_us'] / a['cpu_us'] for a, b in pairs]):.2f} |"
            )


def bench_visible(clickhouse: ClickHouseServer, work: Path, *, posts: int) -> None:
    with running_kafka() as broker:
        stage = Stage(work, broker, clickhouse, partitions=6)
        with embedded(work) as servers:
            base_s = sorted(seconds_until_visible(*servers, posts))
        with split(stage) as servers:
            took_s = sorted(seconds_until_visible(*servers, posts))
    print(f"\n### 14 From a POST to a query that counts its sample, {posts} posts\n")
    print("| | median s (must: 2) | p95 s |")
    print("| --- | --- | --- |")
    for name, each_s in (("embedded", base_s), ("ingest, worker, api", took_s)):
        print(f"| {name} | {_median(each_s):.3f} | {each_s[int(len(each_s) * 0.95)]:.3f} |")
    print(f"\n{_median(took_s) / _median(base_s):.0f} × the embedded store's")


def bench_queries(clickhouse: ClickHouseServer, plan: Plan, work: Path) -> None:
    folder = work / "queries"
    folder.mkdir()
    os.environ[SERVER_URL] = clickhouse.new_database()
    run = measure(plan, folder, subjects=(ON_CLICKHOUSE, ON_SERVER), queries=tuple(QUERIES))
    chdb, server = (run.results[subject.name] for subject in (ON_CLICKHOUSE, ON_SERVER))
    print(f"\n### 15 Queries of a server, against its engine in the process: {plan.samples / 1e6:g} million samples\n")
    print("| | chdb ms (first) | server ms (first) | ratio (must: 1.50) |")
    print("| --- | --- | --- | --- |")
    for query, title in QUERIES.items():
        first, second = chdb.median_ms(query), server.median_ms(query)
        print(
            f"| {title} | {first:.1f} ({chdb.first_ms(query):.0f}) "
            f"| {second:.1f} ({server.first_ms(query):.0f}) | {second / first:.2f} |"
        )


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)
