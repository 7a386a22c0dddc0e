"""From the broker to ClickHouse: how fast workers empty a topic, against bare inserts of the same columns."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.pipeline.messages import publish
from benchmarks.pipeline.processes import Stage, cpu_s
from benchmarks.storage.data import Plan, all_series, windows
from benchmarks.storage.subject import nbytes
from tests.support.clickhouse_server import ClickHouseServer
from tests.support.kafka_broker import running_kafka
from vantage.storage.clickhouse.server_url import parse_server_url

LOOK_S: Final = 0.1
TIMEOUT_S: Final = 600.0
ROWS: Final = 10_000  # of a bare insert: what a worker writes at once by default
_WRITES: Final = "vantage_worker_db_write_duration_seconds"
_BARE: Final = """
CREATE TABLE {database}.bare (
    service_name LowCardinality(String), metric_name LowCardinality(String), series_id UInt64,
    timestamp DateTime64(3, 'UTC'), value Float64
) ENGINE = MergeTree PARTITION BY toYYYYMM(timestamp) ORDER BY (service_name, metric_name, series_id, timestamp)
"""


@dataclass(frozen=True, slots=True)
class Topic:
    """A filled topic, and who empties it. ``samples`` are those of a message."""

    samples: int
    partitions: int = 6
    workers: int = 1
    batch_rows: int = ROWS


@dataclass(frozen=True, slots=True)
class Moved:
    """What was stored between two looks, and the time and CPU time that it took. Bytes are those of a sample;
    ``write_s`` is the mean time of writing a range."""

    samples: int
    wall_s: float
    cpu_s: float
    clickhouse_cpu_s: float
    broker_cpu_s: float = 0.0
    broker_nbytes: float = 0.0
    clickhouse_nbytes: float = 0.0
    write_s: float = 0.0

    @property
    def per_s(self) -> float:
        return self.samples / self.wall_s

    @property
    def per_core_s(self) -> float:
        return self.samples / self.cpu_s

    def minus(self, other: Moved) -> Moved:
        return Moved(
            self.samples - other.samples,
            self.wall_s - other.wall_s,
            self.cpu_s - other.cpu_s,
            self.clickhouse_cpu_s - other.clickhouse_cpu_s,
            self.broker_cpu_s - other.broker_cpu_s,
        )


def move(work: Path, clickhouse: ClickHouseServer, topic: Topic, plan: Plan) -> Moved:
    """Fill a topic, start the workers, and measure from the first range that is stored to the last."""
    with running_kafka() as broker:
        stage = Stage(work, broker, clickhouse, partitions=topic.partitions)
        asyncio.run(publish(broker.url, plan, topic.samples, partitions=topic.partitions))
        broker_nbytes = nbytes(broker._folder / "log", "metrics-raw-*/*.log")
        # Without telemetry of their own, which would be stored as well.
        environ = {"VANTAGE_BATCH_ROWS": str(topic.batch_rows), "VANTAGE_SELF_TELEMETRY": "false"}
        with stage.serving(*["worker"] * topic.workers, **environ) as workers:

            def look() -> Moved:
                return Moved(
                    stage.stored(),
                    time.perf_counter(),
                    sum(cpu_s(worker.process) for worker in workers),
                    cpu_s(clickhouse._process),
                    cpu_s(broker._process),
                )

            moved = _watch(look, plan.samples, [worker.wait_ready for worker in workers])
            counts = [worker.counts() for worker in workers]
        sizes = stage.stored_nbytes()
        clickhouse.query(f"DROP DATABASE {stage.database} SYNC")
    return replace(
        moved,
        broker_nbytes=broker_nbytes / plan.samples,
        clickhouse_nbytes=sum(sizes.values()) / plan.samples,
        write_s=sum(each[f"{_WRITES}_sum"] for each in counts) / sum(each[f"{_WRITES}_count"] for each in counts),
    )


def _watch(look: Any, samples: int, ready: list[Any]) -> Moved:
    """Look until all is stored; return the difference of the last look to the first with something stored."""
    end_s = time.monotonic() + TIMEOUT_S
    while not (first := look()).samples:
        assert time.monotonic() < end_s, "nothing was stored"
        time.sleep(LOOK_S)
    for wait in ready:
        wait()  # raises when a worker has ended
    while (last := look()).samples < samples:
        assert time.monotonic() < end_s, f"{last.samples} of {samples} were stored"
        time.sleep(LOOK_S)
    assert last.samples == samples, f"{last.samples} of {samples} were stored"
    return last.minus(first)


def insert_bare(clickhouse: ClickHouseServer, plan: Plan) -> Moved:
    """Insert five columns of the same samples with the driver alone, into a table without views, dictionaries of ids or
    waiting for the disk."""
    import clickhouse_driver

    url = parse_server_url(clickhouse.new_database())
    clickhouse.query(f"CREATE DATABASE {url.database}")
    clickhouse.query(_BARE.format(database=url.database))
    client: Any = clickhouse_driver.Client(
        "127.0.0.1", port=clickhouse.port, database=url.database, compression="lz4", settings={"use_numpy": True}
    )
    series = all_series()
    services = np.array([item.service for item in series], object)
    metrics = np.array([item.metric for item in series], object)
    ids = np.array([item.id for item in series], np.uint64)
    wall_s = taken_s = 0.0
    before_s = cpu_s(clickhouse._process)
    for columns in chain.from_iterable(window.batches() for window in windows(plan)):
        began_s, began_cpu_s = time.perf_counter(), time.thread_time()
        index = columns.index
        rows = [services[index], metrics[index], ids[index], columns.time_ms, columns.value]
        client.execute("INSERT INTO bare VALUES", rows, columnar=True)
        wall_s += time.perf_counter() - began_s
        taken_s += time.thread_time() - began_cpu_s
    clickhouse_s = cpu_s(clickhouse._process) - before_s
    client.disconnect()
    clickhouse.query(f"DROP DATABASE {url.database} SYNC")
    return Moved(plan.samples, wall_s, taken_s, clickhouse_s)
